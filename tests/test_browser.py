"""Chapters as pages in a real Chromium: all pictures load, nothing asks the network."""

import pytest
from nbconvert import HTMLExporter

from tools.notebooks import chapters

pytestmark = pytest.mark.browser


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_a_chapter_reads_well_as_a_page(path, chromium, tmp_path):
    from playwright.sync_api import sync_playwright

    html, _ = HTMLExporter(template_name="lab").from_filename(str(path))
    page_file = tmp_path / "chapter.html"
    page_file.write_text(html, encoding="utf-8")
    with sync_playwright() as browsers:
        browser = browsers.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-gpu"]
        )
        page = browser.new_page(viewport={"width": 1200, "height": 900})
        # formulas and badges come from the web; everything that teaches is inside
        page.route("http*://**", lambda route: route.abort())
        page.goto(page_file.as_uri())
        figures = page.evaluate(
            "[...document.querySelectorAll('.jp-OutputArea img')]"
            ".map(i => [i.complete, i.naturalWidth])"
        )
        errors = page.locator("[data-mime-type='application/vnd.jupyter.error']")
        assert errors.count() == 0
        wide = page.evaluate(
            "[...document.querySelectorAll('.jp-OutputArea img')]"
            ".filter(i => i.getBoundingClientRect().right > innerWidth).length"
        )
        browser.close()
    assert len(figures) >= 3 and all(done and width > 0 for done, width in figures)
    assert wide == 0, f"{wide} figures are wider than the page"
