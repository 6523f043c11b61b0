"""The map of the course, tables, and pictures with few colours."""

import io

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from detr_steps.viz import claims, family_map, small_png, table
from detr_steps.viz.family import CHAPTERS


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
