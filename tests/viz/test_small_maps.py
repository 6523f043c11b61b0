"""Small maps with numbers, and scores of seeds."""

import matplotlib.pyplot as plt
import pytest
import torch

from detr_steps import viz


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_each_number_stands_in_its_cell():
    numbers = torch.arange(6.0).view(2, 3) - 2
    figure = viz.number_maps({"a": numbers, "b": -numbers}, (1, 2), columns=3)
    first, second, empty = figure.axes
    assert first.get_title() == "a" and not empty.get_visible()
    texts = {text.get_position(): text.get_text() for text in first.texts}
    assert texts == {(x, y): f"{3 * y + x - 2:.1f}" for y in (0, 1) for x in range(3)}
    assert {text.get_text() for text in second.texts} >= {"0.0", "2.0", "-3.0"}
    frame = first.patches[0]
    assert frame.get_xy() == (1.5, 0.5) and frame.get_width() == 1


def test_zero_is_white_and_the_largest_is_full():
    image = viz.number_maps({"a": torch.tensor([[0.0, -4.0]])}).axes[0].images[0]
    low, high = image.get_clim()
    assert (low, high) == (-4, 4)
    viz.number_maps({"nothing": torch.zeros(2, 2)})  # no division by zero


def test_a_larger_map_beside_a_small_one_has_room():
    small, large = torch.zeros(2, 2), torch.zeros(4, 4)
    wide, high = viz.number_maps({"a": small, "b": large}).get_size_inches()
    assert (wide, high) == tuple(viz.number_maps({"b": large}).get_size_inches())
    figure = viz.number_maps({"a": small, "b": large})
    figure.canvas.draw()
    first, second = figure.axes
    ticks = [label.get_window_extent().x0 for label in second.get_yticklabels()]
    assert min(ticks) > first.get_window_extent().x1


def test_no_maps_are_an_error():
    with pytest.raises(ValueError, match="no maps"):
        viz.number_maps({})


def test_triangles_name_both_layers_and_leave_the_rest_blank():
    table = torch.full((3, 3), torch.nan)
    table[1, 0], table[2, 0], table[2, 1] = 0.04, 0.125, 0.2
    ax, other = viz.triangles({"a": table, "b": table * 0}, "knew better").axes
    texts = {text.get_position(): text.get_text() for text in ax.texts}
    assert texts == {(0, 0): "4", (0, 1): "12", (1, 1): "20"}
    assert [x.get_text() for x in ax.get_xticklabels()] == ["1", "2"]
    assert [x.get_text() for x in ax.get_yticklabels()] == ["2", "3"]
    assert (
        ax.get_xlabel() == "knew better"
        and ax.get_ylabel()
        and other.get_title() == "b"
    )
    with pytest.raises(ValueError, match="no tables"):
        viz.triangles({}, "knew better")


def test_seeds_are_dots_with_a_mean():
    figure = viz.seed_rows({"base": [0.2, 0.4], "new": [0.5], "none yet": []}, "AP")
    (ax,) = figure.axes
    dots = [line for line in ax.lines if line.get_marker() == "o"]
    means = [line for line in ax.lines if line.get_marker() == "|"]
    assert [list(line.get_xdata()) for line in dots] == [[0.2, 0.4], [0.5], []]
    assert [line.get_xdata()[0] for line in means] == pytest.approx([0.3, 0.5])
    assert [label.get_text() for label in ax.get_yticklabels()][2] == "none yet"
    assert not ax.collections
    assert [text.get_text().strip() for text in ax.texts] == ["not measured yet"]
    legend = [text.get_text() for text in ax.get_legend().get_texts()]
    assert legend == ["a seed", "their mean"]  # nothing is shaded
    assert ax.get_xlim()[1] > 0.5  # the last dot is whole


def test_each_base_is_shaded_up_to_the_next():
    scores = {"a": [0.2, 0.4], "a new": [0.5], "b": [0.1], "b new": [], "c": []}
    (ax,) = viz.seed_rows(scores, bases=("a", "b", "c")).axes
    boxes = [band.get_datalim(ax.transData).extents for band in ax.collections]
    assert boxes[0].tolist() == pytest.approx([0.2, -0.4, 0.4, 1.4])
    assert boxes[1].tolist() == pytest.approx([0.1, 1.6, 0.1, 3.4])
    assert len(boxes) == 2  # c has no scores yet
    assert "range of the row" in ax.get_legend().get_texts()[2].get_text()
    with pytest.raises(KeyError, match="nothing"):
        viz.seed_rows(scores, bases=("nothing",))


def test_the_legend_leaves_the_rows_their_room():
    long = {"a name of many words, as runs have": [0.2, 0.4], "another": [0.5]}
    with plt.rc_context({"figure.constrained_layout.use": True}):
        figure = viz.seed_rows(long, bases=list(long)[:1])
        figure.canvas.draw()
        wide = figure.axes[0].get_position().width
        figure.axes[0].get_legend().remove()
        figure.canvas.draw()
    assert wide == pytest.approx(figure.axes[0].get_position().width, rel=0.02)


def test_the_legend_names_a_single_base():
    scores = {"base": [0.2, 0.4], "new": [0.5, 0.6], "third": [0.1, 0.2]}
    for bases, said in (
        (["base"], "range of base"),
        (["base", "third"], "range of the row where it begins"),
    ):
        (ax,) = viz.seed_rows(scores, bases=bases).axes
        assert ax.get_legend().get_texts()[-1].get_text() == said
