"""The patch covers what it should; the figure follows, with and without anywidget."""

import sys

import nbformat
import pytest
import torch
from nbclient import NotebookClient
from small import small_detr

from detr_steps import ImageBatch, viz
from detr_steps.analysis.attention import extent
from detr_steps.data.scenes import Scenes
from detr_steps.images import normalise
from detr_steps.viz.engine.play import VIEW
from detr_steps.viz.models import live
from detr_steps.viz.models.opened import open_up
from tools.notebooks import normalise as lean

CELL = """
from small import small_detr
from detr_steps import viz
from detr_steps.data.scenes import Scenes

model = small_detr(classes=6, queries=9)
viz.live.cover(model, Scenes("val", size=64).draw([3]))
"""


@pytest.fixture(scope="module")
def scenes():
    return Scenes("val", size=64).draw([3, 5])


@pytest.fixture
def model():
    return small_detr(classes=6, queries=9)


def test_the_patch_is_grey_where_it_lies_and_only_there():
    scenes = Scenes("val", size=72).draw([3, 5]).rgb
    rgb = [scenes[0], scenes[1, :, :40, :50]]
    batch = ImageBatch.from_list([normalise(x) for x in rgb])
    one = ImageBatch(batch.pixels[1:], batch.padding[1:], True)
    real = extent(one, 0, (9, 9))
    covered = live.grey_patch(one, (0.5, 0.25), (0.2, 0.2), real)
    changed = (covered.pixels != one.pixels).any(1)[0]  # [H, W]
    rows, columns = changed.any(1).nonzero()[:, 0], changed.any(0).nonzero()[:, 0]
    assert (rows.min(), rows.max()) == (6, 13)  # 40 px: 10 - 4 … 10 + 4
    assert (columns.min(), columns.max()) == (20, 29)  # 50 px: 25 - 5 … 25 + 5
    assert covered.pixels[0, :, 6:14, 20:30].eq(0).all()


def test_it_shows_what_the_model_says_about_the_covered_picture(model, scenes):
    pytest.importorskip("anywidget")
    shown = viz.live.cover(model, scenes, 1, at=(0.3, 0.6))
    assert shown.point == (0.3, 0.6)
    assert viz.live.cover(model, scenes).point == (0.5, 0.5)
    one = ImageBatch(scenes.images.pixels[1:], scenes.images.padding[1:], False)
    real = open_up(model, one, 0).real
    covered = live.grey_patch(one, shown.point, shown.patch, real)
    wanted = viz.decoder_attention(model, covered, targets=scenes.targets[1:])
    assert (shown.figure.arrays["maps"] == wanted.arrays["maps"]).all()
    assert (shown.figure.arrays["matched"] == wanted.arrays["matched"]).all()
    assert model.training  # as it was


def test_it_opens_on_the_query_asked_for_and_stays_there(model, scenes):
    shown = viz.live.cover(model, scenes, query=4)
    assert shown.figure.notes["start"]["item"] == 4
    shown.move(0.2, 0.8)
    assert shown.figure.notes["start"]["item"] == 4


def test_the_model_looks_again_when_the_front_end_moves_the_patch(model, scenes):
    pytest.importorskip("anywidget")
    shown = viz.live.cover(model, scenes)
    before = shown.widget.bundle
    shown.widget.point = [0.9, 0.1]  # as the front end does
    after = shown.widget.bundle
    assert after["data"] != before["data"] and after["picture"] != before["picture"]
    assert after["arrays"] == before["arrays"]  # the same queries, so nothing jumps
    assert after["notes"]["live"]["patch"][:2] == [0.9, 0.1]
    assert "live" not in shown.figure.notes  # a page has nobody to ask
    shown.widget.point = [7.0, -3.0]
    assert shown.point == (1.0, 0.0)


def test_without_anywidget_the_figure_says_what_to_install(model, scenes, monkeypatch):
    monkeypatch.setitem(sys.modules, "anywidget", None)
    shown = viz.live.cover(model, scenes)
    assert shown.widget is None
    data, metadata = shown._repr_mimebundle_()
    assert "pip install anywidget" in data["text/html"] and VIEW not in data
    first = shown.figure.arrays["maps"].copy()
    shown.move(0.9, 0.1)
    assert (shown.figure.arrays["maps"] != first).any()


def test_a_still_is_the_same_with_and_without_anywidget(model, scenes, monkeypatch):
    pytest.importorskip("anywidget")
    shown = viz.live.cover(model, scenes)._repr_mimebundle_()[0]
    assert VIEW in shown
    monkeypatch.setitem(sys.modules, "anywidget", None)
    alone = viz.live.cover(model, scenes)._repr_mimebundle_()[0]
    assert shown["text/html"] == alone["text/html"]
    assert shown["text/plain"] == alone["text/plain"]


def test_a_notebook_keeps_the_figure_when_the_kernel_is_gone(monkeypatch):
    pytest.importorskip("anywidget")
    monkeypatch.setenv("PYTHONPATH", "tests")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(book, timeout=120, store_widget_state=False).execute()
    (output,) = book.cells[0].outputs
    assert {VIEW, "text/html", "text/plain"} == set(output.data)
    assert "0x" not in output.data["text/plain"]
    (kept,) = lean(book)["cells"][0]["outputs"]
    assert {"text/html", "text/plain"} == set(kept["data"])


def test_the_front_end_is_the_figures_own():
    pytest.importorskip("anywidget")
    widget = viz.live.cover(small_detr(), _noise()).widget
    assert "export default" in widget._esm and "render" in widget._esm


def _noise():
    return ImageBatch.from_pixels(torch.rand(1, 3, 64, 64))


def test_faults_are_named(model, scenes):
    with pytest.raises(ValueError, match="image 2 of a batch of 2"):
        viz.live.cover(model, scenes, 2)
    with pytest.raises(TypeError, match="got Tensor"):
        viz.live.cover(model, scenes.rgb)
    with pytest.raises(TypeError, match="ask the model itself"):
        viz.live.cover(model(scenes.images, trace=True), scenes)
