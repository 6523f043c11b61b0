"""Floors as bars: the longest is named, what a card measured is a line."""

import matplotlib.pyplot as plt
import pytest

from detr_steps.viz import floors

STEPS = {
    "first": {"dram": 30e-6, "issue": 400e-6},
    "second": {"dram": 30e-6, "issue": 20e-6},
}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def texts(ax) -> list[str]:
    return [text.get_text().strip() for text in ax.texts]


def test_each_step_names_its_floor():
    (ax,) = floors({"forward": STEPS}).axes
    assert texts(ax) == ["400 µs", "30 µs"]
    assert [label.get_text() for label in ax.get_yticklabels()] == list(STEPS)
    assert sorted(round(bar.get_width()) for bar in ax.patches) == [20, 30, 30, 400]
    assert not ax.lines


def test_titles_name_the_card_and_panels_say_that_their_scales_differ():
    both = floors({"forward": STEPS, "backward": STEPS}, card="H200").axes
    assert [ax.get_title() for ax in both] == ["forward, H200", "backward, H200"]
    assert all("scale of this panel" in ax.get_xlabel() for ax in both)
    (alone,) = floors({"forward": STEPS}).axes
    assert alone.get_title() == "forward" and alone.get_xlabel() == "µs, at least"


def test_resources_are_in_the_legend_once_and_only_those_there_are():
    more = {"third": {"dram": 1e-6, "reductions": 2e-6}}
    figure = floors({"forward": STEPS, "backward": more})
    names = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert names == ["memory", "instructions", "adds in the L2"]


def test_what_a_card_measured_is_drawn_where_it_belongs():
    measured = {("backward", "second"): 100e-6}
    forward, backward = floors({"forward": STEPS, "backward": STEPS}, measured).axes
    assert not forward.lines
    (line,) = backward.lines
    assert [round(x) for x in line.get_xdata()] == [100, 100]
    assert list(line.get_ydata()) == [1 - 0.42, 1 + 0.42]
    legend = [text.get_text() for text in forward.get_legend().get_texts()]
    assert legend[-1] == "measured"
