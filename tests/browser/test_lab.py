"""The course in a real JupyterLab: chapters run, figures live, sliders move."""

import json
from urllib.parse import urlparse

import pytest
from pages import BADGE_HOST, SLOW, assert_figures_live, move, settled, stage
from playwright.sync_api import expect
from small import small_figure

from tools.notebooks import find

pytestmark = pytest.mark.browser

FIGURE = """
from detr_steps import viz, zoo
from detr_steps.data.scenes import Scenes

model, scene = zoo.load("detr-tiny"), Scenes("val").draw([7])
viz.decoder_attention(model, scene)
"""
COVER = "viz.live.cover(model, scene)"
SLIDERS = """
import matplotlib.pyplot as plt

def line(width=1):
    "A line."
    plt.plot([0, 1], linewidth=width)

viz.play(line, width=(1, 9, 1, 2))
"""
# what of a page's pictures somebody would see, in a notebook's outputs
PICTURES = """() => [...document.querySelectorAll(".jp-OutputArea img")].map(
    image => image.complete && image.naturalWidth > 0 && image.checkVisibility())"""


def without_outputs(chapter: str) -> dict:
    """A chapter of somebody who has not run it yet."""
    book = json.loads(find(chapter).read_text("utf-8"))
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return book


def kinds(outputs: list[dict]) -> list[str]:
    return [kind for output in outputs for kind in output.get("data", {})]


def errors(outputs: list[dict]) -> list[str]:
    failed = [each for each in outputs if each["output_type"] == "error"]
    return [f"{each['ename']}: {each['evalue']}" for each in failed]


@pytest.fixture(scope="module")
def figure() -> dict:
    """The output of a cell with an interactive figure."""
    return small_figure()._repr_mimebundle_()


def test_an_untrusted_notebook_shows_the_poster(lab, page, watch, figure):
    lab.open(page, lab.write("untrusted.ipynb", "figure", outputs=figure))
    poster = page.locator(".jp-OutputArea img[src^='data:image/']")
    poster.wait_for()
    assert page.evaluate(PICTURES) == [True]
    assert page.locator("iframe").count() == 0
    assert len(poster.get_attribute("alt")) > 20
    assert watch.errors == watch.outside == []


def test_a_trusted_notebook_is_alive_without_running(lab, page, watch, figure):
    path = lab.write("trusted.ipynb", "figure", outputs=figure)
    lab.trust(path)
    lab.open(page, path)
    page.locator(".jp-OutputArea iframe").wait_for()
    assert assert_figures_live(page, watch) == 1
    assert watch.outside == []


def test_figures_just_run(lab, page, watch):
    """Frames live, the patch asks Python, a slider draws anew: no network in any."""
    book = lab.open(page, lab.write("run.ipynb", FIGURE, COVER, SLIDERS))
    book.run_all()
    assert errors(book.outputs()) == []
    assert assert_figures_live(page, watch) == 1
    drag_the_patch(page)
    move_the_slider(page)
    assert watch.errors == watch.outside == []


def drag_the_patch(page) -> None:
    """Python looks again, and sends new maps."""
    output = page.locator(".jp-Cell").nth(1).locator(".jp-OutputArea")
    canvas = stage(output)
    canvas.scroll_into_view_if_needed()
    host = output.evaluate_handle(
        "area => [...area.querySelectorAll('*')].find(each => each.detrFigure)"
    )
    before = settled(canvas), host.evaluate("host => host.detrFigure.bundle.data")
    move(page, canvas, 0.5, 0.5)  # the patch lies in the middle at first
    page.mouse.down()
    move(page, canvas, 0.25, 0.15)
    page.mouse.up()
    page.wait_for_function(
        "([host, before]) => host.detrFigure.bundle.data !== before",
        arg=[host, before[1]],
        timeout=SLOW,
    )
    page.mouse.move(0, 0)
    assert settled(canvas) != before[0]


def move_the_slider(page) -> None:
    """The still is replaced in place, by another one."""
    output = page.locator(".jp-Cell").nth(2).locator(".jp-OutputArea")
    still = output.locator("img")
    before = still.get_attribute("src")
    output.locator(".widget-slider .noUi-handle").focus()
    page.keyboard.press("ArrowRight")
    expect(still).not_to_have_attribute("src", before, timeout=SLOW)


def test_a_chapter_runs_from_top_to_bottom(lab, page, watch):
    path = lab.folder / "02_detr.ipynb"
    path.write_text(json.dumps(without_outputs("02")), encoding="utf-8")
    book = lab.open(page, path)
    book.run_all()
    outputs = book.outputs()
    assert errors(outputs) == []
    pictures = page.evaluate(PICTURES)
    assert len(pictures) >= kinds(outputs).count("image/png") > 5 and all(pictures)
    assert page.locator(".jp-OutputArea .widget-slider").count() > 0
    assert_figures_live(page, watch)
    assert {urlparse(url).netloc for url in watch.outside} <= {BADGE_HOST}
