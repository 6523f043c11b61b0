"""Chapters as pages in a real Chromium: pictures load, figures live, nothing asks."""

from pathlib import Path
from urllib.parse import urlparse

import nbformat
import pytest
from nbconvert import HTMLExporter
from pages import BADGE_HOST, assert_figures_live, live_figures
from small import small_figure

from tools.notebooks import chapters

pytestmark = pytest.mark.browser

# nbconvert's pages take formulas and widgets from the web; what teaches is inside
SCRIPTS = "mathjax_url", "require_js_url", "jquery_url", "mermaid_js_url"


def show(page, book: nbformat.NotebookNode, folder: Path) -> None:
    """Open a notebook as `jupyter nbconvert` makes a page of it."""
    nowhere = dict.fromkeys(SCRIPTS, "data:text/javascript,")
    html, _ = HTMLExporter(template_name="lab", **nowhere).from_notebook_node(book)
    file = folder / "page.html"
    file.write_text(html, encoding="utf-8")
    page.goto(file.as_uri())


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_a_chapter_reads_well_as_a_page(path, page, watch, tmp_path):
    book = nbformat.read(path, as_version=4)
    show(page, book, tmp_path)
    images = page.locator(".jp-OutputArea img")
    loaded = images.evaluate_all("all => all.map(i => i.complete && i.naturalWidth)")
    assert len(loaded) >= 3 and all(loaded)
    wide = images.evaluate_all(
        "all => all.filter(i => i.getBoundingClientRect().right > innerWidth).length"
    )
    assert wide == 0, f"{wide} figures are wider than the page"
    errors = page.locator("[data-mime-type='application/vnd.jupyter.error']")
    assert errors.count() == 0
    outputs = [out for cell in book.cells for out in cell.get("outputs", [])]
    frames = sum(
        "<iframe" in out.get("data", {}).get("text/html", "") for out in outputs
    )
    assert assert_figures_live(page, watch) == frames
    assert {urlparse(url).netloc for url in watch.outside} <= {BADGE_HOST}


# --- and a page whose figure is broken is found out -----------------------------------


@pytest.fixture(scope="module")
def figure() -> str:
    return small_figure().html()


def show_figure(page, html: str, folder: Path) -> None:
    output = nbformat.v4.new_output("display_data", data={"text/html": html})
    cell = nbformat.v4.new_code_cell("figure", outputs=[output])
    show(page, nbformat.v4.new_notebook(cells=[cell]), folder)


def test_whole_figures_are_live_also_far_down(page, watch, figure, tmp_path):
    far = '<div style="height: 3000px"></div>'
    show_figure(page, figure + far + figure, tmp_path)
    assert assert_figures_live(page, watch) == 2
    assert watch.outside == []


@pytest.mark.parametrize(
    ("part", "instead", "fault"),
    [
        ("await figure.load", "a b", "no figure inside"),
        ("await figure.load", "throw 1; await figure.load", "failed: 1"),
        ("await figure.load", "await {then() {}}; figure.load", "never got ready"),
        ("pointermove", "pointerless", "pointing changes nothing"),
        ("await figure.load", "console.error(`odd`); await figure.load", "odd"),
    ],
    ids=["syntax", "thrown", "stuck", "deaf", "complaining"],
)
def test_a_broken_figure_is_found(page, watch, figure, tmp_path, part, instead, fault):
    assert part in figure
    show_figure(page, figure.replace(part, instead), tmp_path)
    with pytest.raises(AssertionError, match=fault):
        assert_figures_live(page, watch, limit=3000)


ASKING = {
    "fetch": ("fetch(`http://example.org/a`).catch(() => 0)", "http://example.org/a"),
    "encrypted": ("fetch(`https://example.org`).catch(() => 0)", "https://example.org"),
    "picture": ("new Image().src = `http://example.org/b`", "http://example.org/b"),
    "socket": ("new WebSocket(`ws://example.org`)", "https://example.org:80"),
    "worker": (
        "new Worker(`data:text/javascript,fetch('http://example.org/c')`)",
        "http://example.org/c",
    ),
}


@pytest.mark.parametrize(("asks", "address"), ASKING.values(), ids=ASKING)
def test_a_figure_that_asks_the_network_is_found(
    page, watch, figure, tmp_path, asks, address
):
    asking = figure.replace("export default", f"{asks}; export default")
    show_figure(page, asking, tmp_path)
    assert len(list(live_figures(page))) == 1
    assert asked(page, watch) == {address}


def test_a_page_that_asks_the_network_is_found(page, watch, tmp_path):
    show_figure(page, '<img src="http://example.org/d">', tmp_path)
    assert asked(page, watch) == {"http://example.org/d"}


def asked(page, watch) -> set[str]:
    """Whom a page asks; on a busy machine the first request comes late."""
    for _ in range(600):
        if watch.outside:
            break
        page.wait_for_timeout(100)
    return set(watch.outside)
