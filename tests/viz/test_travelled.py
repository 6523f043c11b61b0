"""Offsets around the star they started from."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from detr_steps import viz
from detr_steps.nn.deform_attention import star


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_each_offset_is_a_dot_of_its_head():
    start = star(8, 1, 4)[:, 0]  # [M, K, 2]
    offsets = start + torch.tensor([0.5, 0.0])
    left, right = viz.travelled(offsets.expand(3, -1, -1, -1), start, "here").axes
    dots = [line for line in left.lines if line.get_marker() == "."]
    assert len(dots) == 8 and left.get_title() == "here · x: the star"
    assert np.allclose(dots[2].get_xydata()[:4], offsets[2])
    crosses = next(line for line in left.lines if line.get_marker() == "x")
    assert len(crosses.get_xydata()) == 32
    assert [text.get_text() for text in left.texts] == [str(m) for m in range(1, 9)]
    assert {text.get_text() for text in right.get_legend().texts} == {"star", "trained"}


def test_whole_distances_lie_inside_their_bins():
    """The star's points lie 1 to 4 pixels away: no edge may cut there."""
    _, right = viz.travelled(torch.zeros(1, 4, 4, 2), star(4, 1, 4)[:, 0]).axes
    bars = [
        (bar.get_x(), bar.get_width(), bar.get_height()) for bar in right.patches[:25]
    ]
    filled = [x + width / 2 for x, width, high in bars if high > 0]
    assert filled == pytest.approx([1.0, 2.0, 3.0, 4.0])


def test_far_points_are_counted_though_not_shown():
    near, far = torch.zeros(1, 2, 1, 2), torch.full((1, 2, 1, 2), 40.0)
    start = torch.ones(2, 1, 2)
    _, right = viz.travelled(torch.cat((near, far)), start).axes
    outline = right.patches[-1].get_xy()
    assert outline[:, 1].max() == pytest.approx(1.0)  # half of them in half a pixel


def test_a_star_of_other_heads_is_refused():
    with pytest.raises(ValueError, match=r"give \[n, M, K, 2\]"):
        viz.travelled(torch.zeros(3, 8, 4, 2), star(4, 1, 4)[:, 0])


def test_the_star_has_a_line_and_a_number_for_each_head():
    ax = viz.star_points(star(8, 1, 4)[:, 0], "a star")
    lines = [line.get_xydata() for line in ax.lines if line.get_marker() == "o"]
    assert len(lines) == 8 and ax.get_title() == "a star"
    assert np.allclose(lines[1], [[k, k] for k in (1, 2, 3, 4)])
    assert max(ax.get_xlim()) > 4 and ax.get_ylim()[0] > ax.get_ylim()[1]  # y down


def test_reads_stand_where_they_are_on_the_map():
    """Shares become pixels; dots are as large as their weights."""
    values = 10 * torch.arange(5.0)[:, None] + torch.arange(7.0)
    references = torch.tensor([[0.5, 0.5], [1 / 7, 0.5]])
    locations = torch.tensor([[[4.5 / 7, 0.5], [0.5, 0.3]], [[1.5 / 7, 0.5]] * 2])
    weights = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    ax = viz.reads_of_map(values, references, locations, weights)
    numbers = {text.get_text() for text in ax.texts}
    assert {"0", "46", "A", "B"} <= numbers and len(ax.texts) == 37
    crosses = [line.get_xydata()[0] for line in ax.lines if line.get_marker() == "x"]
    assert np.allclose(crosses, [[3.5, 2.5], [1, 2.5]])
    first, second = ax.collections
    assert np.allclose(first.get_offsets(), [[4.5, 2.5], [3.5, 1.5]])
    assert np.allclose(first.get_sizes(), [225, 75])
    assert np.allclose(second.get_offsets()[0], [1.5, 2.5])
