"""Who reads what: loads of a warp found in a trace, sectors counted, cells drawn."""

import matplotlib.pyplot as plt
import numpy as np
import pytest

from detr_steps.cuda_lab.trace import ACCESS, Trace
from detr_steps.viz import reads, sectors, warp_loads


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def trace(rows) -> Trace:
    """Rows of block, thread, kind (0 load, 1 store), argument, element."""
    accesses = np.zeros(len(rows), ACCESS)
    for i, (block, thread, kind, argument, element) in enumerate(rows):
        one = accesses[i : i + 1]
        one["block"], one["thread"], one["kind"] = block, thread, kind
        one["argument"], one["element"], one["bytes"] = argument, element, 4
    return Trace(accesses, ("value", "result"), ((64,), (64,)), (4, 4))


def test_loads_of_a_warp_are_put_side_by_side():
    rows = [(0, t, 0, 0, 10 * n + t) for t in (0, 1, 32) for n in range(2)]
    rows += [(1, 0, 0, 0, 5), (0, 0, 1, 1, 7), (0, 1, 0, 1, 9)]
    found = warp_loads(trace(rows), "value")
    assert found == [[(0, 0), (1, 1)], [(0, 10), (1, 11)]]
    assert warp_loads(trace(rows), "value", warp=1) == [[(0, 32)], [(0, 42)]]
    assert warp_loads(trace(rows), "value", block=2) == []


@pytest.mark.parametrize(
    ("numbers", "count"),
    [(range(32), 4), (range(1, 33), 5), (range(0, 256, 8), 32), ([3] * 32, 1)],
)
def test_a_sector_holds_eight_numbers(numbers, count):
    assert sectors(list(enumerate(numbers))) == count


def test_the_picture_shows_what_is_read_and_what_only_moves():
    loads = {"row": [(i, 8 + i) for i in range(8)], "far": [(0, 0), (1, 16), (2, 16)]}
    figure = reads(loads, rows=4, width=8)
    (legend,) = figure.legends
    assert "not used" in legend.get_texts()[0].get_text()
    row, far = figure.axes[:2]
    assert "1 sectors: 32 bytes, 32 used" in row.get_title()
    assert "2 sectors: 64 bytes, 8 used" in far.get_title()
    assert len(row.patches) == 1 + 8 and len(far.patches) == 2 + 3
    read = {(p.get_x(), p.get_y()) for p in far.patches if p.get_width() == 1}
    assert read == {(0, 0), (0, 2)}
