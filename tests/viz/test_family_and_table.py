"""The map of the course, tables, and pictures with few colours."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.patches import FancyBboxPatch
from PIL import Image

from detr_steps.boxes import giou, iou
from detr_steps.viz import claims, family_map, small_png, style, table, two_boxes
from detr_steps.viz.chapters.family import CHAPTERS


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def words(figure):
    return [text.get_text() for text in figure.axes[0].texts]


def test_the_map_shows_every_chapter_and_where_we_are():
    shown = words(family_map(here="08"))
    assert set(CHAPTERS) <= set(shown)
    assert shown.count("you are here") == 1


@pytest.mark.parametrize("here", CHAPTERS)
def test_you_are_here_hides_neither_a_box_nor_an_upright_arrow(here):
    figure = family_map(here=here)
    (ax,) = figure.axes
    figure.canvas.draw()
    (mark,) = (text for text in ax.texts if text.get_text() == "you are here")
    room = mark.get_window_extent()
    boxes = [p.get_window_extent() for p in ax.patches if isinstance(p, FancyBboxPatch)]
    assert not any(room.overlaps(box) for box in boxes)
    arrows = [text for text in ax.texts if getattr(text, "arrow_patch", None)]
    for arrow in arrows:
        ends = ax.transData.transform([arrow.xy, arrow.xyann])
        (x0, y0), (x1, y1) = ends
        if abs(x0 - x1) < 1:
            low, high = sorted((y0, y1))
            assert not (room.x0 < x0 < room.x1 and room.y0 < high and low < room.y1)


@pytest.mark.parametrize("here", CHAPTERS)
def test_where_we_are_covers_no_other_word(here):
    with plt.rc_context():
        style()  # as every chapter does
        figure = family_map(here)
        figure.canvas.draw()
    texts = {text.get_text(): text for text in figure.axes[0].texts}
    mark = texts.pop("you are here").get_window_extent()
    hidden = [t for t, each in texts.items() if mark.overlaps(each.get_window_extent())]
    assert not hidden


def test_every_chapter_stands_on_earlier_ones():
    for number, stop in CHAPTERS.items():
        assert all(before < number for before in stop.after)


def test_no_such_chapter_is_named():
    with pytest.raises(KeyError, match="'14'"):
        family_map(here="14")


def test_table_in_a_notebook_and_in_a_terminal():
    scores = table(("name", "AP"), [("blobs", 0.375), ("none", None)])
    assert scores._repr_markdown_().splitlines() == [
        "| name | AP |",
        "| :-- | --: |",
        "| blobs | 0.38 |",
        "| none | – |",
    ]
    assert repr(scores).splitlines() == ["name   AP", "blobs  0.38", "none   –"]


def test_a_ragged_row_is_refused():
    with pytest.raises(ValueError, match="1 cells under 2"):
        table(("a", "b"), [(1,)])


def test_claims_may_be_said_by_others():
    assert claims([("x", "1", True)], said="it is said").header[0] == "it is said"


def test_claims_have_a_verdict():
    text = repr(claims([("x", "1", True), ("y", "2", False), ("z", "3", "open")]))
    assert [line.split("  ")[-1].strip() for line in text.splitlines()] == [
        "verdict",
        "holds",
        "does not hold here",
        "open",
    ]


def test_pictures_have_few_colours_and_keep_them():
    figure = plt.figure(figsize=(2, 2))
    rgb = np.random.default_rng(0).random((64, 64, 3)) * 0.1 + (0.8, 0.1, 0.1)
    figure.add_axes((0, 0, 1, 1)).imshow(rgb)
    with Image.open(io.BytesIO(small_png(figure))) as few:
        assert few.mode == "P"
        middle = np.asarray(few.convert("RGB"))[50, 50] / 255
    assert np.abs(middle - (0.85, 0.15, 0.15)).max() < 0.12


def test_two_boxes_show_what_the_measures_say():
    a, b = torch.tensor([[2.0, 2, 6, 5]]), torch.tensor([[8.0, 2, 12, 5]])
    plane, path = two_boxes(a, b, {"IoU": iou, "GIoU": giou}).axes
    assert path.get_title() == "IoU 0.00, GIoU -0.20"
    lines = {line.get_label(): line for line in path.lines}
    x, y = lines["IoU"].get_data()
    assert y.max() == pytest.approx(1, abs=0.02)  # on the way B lies on A
    assert x[y.argmax()] == pytest.approx(2)
    assert len(plane.patches) == 3


def test_a_zero_has_no_sign():
    assert "| 0.00 | -0.01 |" in table(("a", "b"), [(-0.001, -0.006)])._repr_markdown_()
