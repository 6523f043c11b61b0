"""Levels of a padded picture: what counts as picture, and marks on each."""

import matplotlib.pyplot as plt
import pytest
import torch

from detr_steps import viz

SIZES, SHARES = ((8, 16), (2, 4)), torch.tensor([0.3125, 0.5])
PLACES = {"last column": (36.0, (36.0, 57.6), 36.0), "middle": (20, (20, 32), 64)}


@pytest.fixture
def figure():
    yield viz.padded_levels(SIZES, SHARES, (128, 64), 40, PLACES)
    plt.close("all")


def test_each_level_shows_its_own_share_and_its_cells(figure):
    for ax, (h, w), share in zip(figure.axes, SIZES, SHARES.tolist()):
        whole, picture = ax.patches
        assert whole.get_width() == 128 and picture.get_width() == 128 * share
        assert len(ax.collections[0].get_segments()) == w + 1
        assert f"{h} × {w}" in ax.get_title() and f"{share:.4f}" in ax.get_title()


def test_marks_of_a_level_are_its_own(figure):
    for level, ax in enumerate(figure.axes):
        end, *marks = ax.lines
        assert set(end.get_xdata()) == {40}
        x = [float(mark.get_xdata()[0]) for mark in marks]
        assert x == [36.0, PLACES["last column"][1][level], 36.0,
                     20, PLACES["middle"][1][level], 64]  # fmt: skip
        heights = [float(mark.get_ydata()[0]) for mark in marks]
        assert len(set(heights[:3])) == len(set(heights[3:])) == 1


def test_every_mark_has_a_legend_and_every_row_its_name(figure):
    legend = figure.axes[-1].get_legend()
    assert [each.get_text() for each in legend.get_texts()] == [
        "its place", "by the rule", "without it"]  # fmt: skip
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == list(PLACES)
