"""Adds of a block: the right queries, counted as they are drawn."""

import matplotlib.pyplot as plt
import pytest
import torch

from detr_steps.cuda_lab import traffic
from detr_steps.viz import block_adds

SIZE = (24, 70)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def figure(offset=(0.0, 0.0)):
    """Each pixel's two heads read one point, so far from its centre."""
    offsets = torch.tensor(offset).expand(1, 1, 2, 1, 2)
    return block_adds(traffic.enlarged(offsets, SIZE), SIZE)


def test_each_panel_frames_a_whole_block_near_the_middle():
    strips, tiles = (ax.patches[0] for ax in figure().axes[:2])
    assert (strips.get_width(), strips.get_height()) == (64, 1)
    assert (tiles.get_xy(), tiles.get_width(), tiles.get_height()) == ((32, 8), 8, 8)


def test_titles_count_what_is_drawn_and_say_it_of_all_blocks():
    for ax, pixels in zip(figure((0.5, 0.5)).axes[:2], (2 * 65, 9 * 9)):
        shown = ax.images[0].get_array()
        assert shown.sum() == 256 and (shown > 0).sum() == pixels
        title = ax.get_title()
        assert f"head 1: 256 adds to {pixels} pixels, {256 / pixels:.1f} times" in title
        assert "all heads" in title


def test_a_map_without_a_whole_block_is_refused():
    with pytest.raises(ValueError, match="5 x 5"):
        block_adds(torch.rand(1, 25, 1, 1, 1, 2), (5, 5))
