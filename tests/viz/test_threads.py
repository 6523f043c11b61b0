"""Pictures of threads and of exchanges: their cells and sums are right."""

import matplotlib.pyplot as plt
import pytest

from detr_steps.viz import butterfly, threads


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def words(ax) -> list[str]:
    return [text.get_text() for text in ax.texts]


def test_each_thread_is_a_cell_and_each_block_a_frame():
    (ax,) = threads(2, 96).axes
    assert len(ax.patches) == 2 * 96 + 2
    assert words(ax).count("warp 2") == 2 and "block 1" in words(ax)


def test_a_thread_is_named_by_its_numbers():
    (ax,) = threads(2, 96, shown=133).axes
    assert any("blockIdx.x = 1, threadIdx.x = 37" in word for word in words(ax))
    ring = ax.patches[-1]
    assert ring.get_x() == 37 % 32 and not ring.get_fill()


def test_all_lanes_end_with_the_sum():
    (ax,) = butterfly(8).axes
    numbers = [int(word) for word in words(ax)]
    assert numbers[:8] == list(range(1, 9)) and numbers[-8:] == [36] * 8
    assert len(numbers) == 4 * 8 and len(ax.lines) == 3 * 8 * 2
    thick = [line for line in ax.lines if line.get_linewidth() == 2]
    assert len(thick) == 2 * (4 + 2 + 1)


@pytest.mark.parametrize("lanes", [0, 1, 6])
def test_only_powers_of_two_can_be_halved(lanes):
    with pytest.raises(ValueError, match="cannot be halved"):
        butterfly(lanes)
