"""The built book: quiet, whole, linked both ways, and readable on a phone."""

import ast
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlparse

import pytest
from bs4 import BeautifulSoup
from pages import assert_figures_live, cut_off
from PIL import Image

from tools.book import pdf
from tools.chromium import find_chromium
from tools.notebooks import ROOT, chapters, is_folded, text_of

CHAPTERS = chapters()
PRINTED = "05_deformable_conv"  # the one chapter that is printed here
PHONE = {"width": 390, "height": 844}
DESKTOP = {"width": 1440, "height": 900}
# A frame like the interactive figures': it shows what the page told it.
LISTENER = """<iframe id="listener" sandbox="allow-scripts" srcdoc="<script>
onmessage = event => { document.title = JSON.stringify(event.data) }</script>">
</iframe>"""


@pytest.fixture(scope="module")
def book(tmp_path_factory) -> SimpleNamespace:
    """The book as `course.py book` builds it, and what the build said."""
    folder = tmp_path_factory.mktemp("site") / "book"
    command = [sys.executable, "-m", "tools.book", "--out", str(folder)]
    command += ["--pdf", PRINTED[:2]] if find_chromium() else []
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.resolve(): Page(path) for path in pages_of(folder)}
    said, warned = done.stdout, done.stderr
    return SimpleNamespace(folder=folder, pages=pages, said=said, warned=warned)


def pages_of(folder: Path) -> list[Path]:
    """All pages: no HTML is anything else."""
    return sorted(folder.rglob("*.html"))


def soup(path: Path) -> BeautifulSoup:
    return BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser")


class Page(HTMLParser):
    """A page's ids, and the addresses that its links and files lead to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[str] = []
        self.files: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.ids.add(given.get("id"))
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        name = "href" if tag == "link" else "src"
        if given.get(name):
            self.files.append(given[name])


# --- what is built --------------------------------------------------------------


def test_it_builds_without_a_warning_and_says_where_it_is(book):
    assert "warning" not in book.warned.lower()
    assert book.said.rstrip().endswith(str(book.folder / "index.html"))
    assert not book.folder.with_name("book-work").exists()


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_chapter_has_its_page_with_everything_in_it(book, path):
    page = soup(book.folder / "chapters" / f"{path.stem}.html")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [c for c in cells if c["cell_type"] == "code" and text_of(c["source"])]
    assert {f"cell-{cell['id']}" for cell in code} <= {
        each["id"] for each in page.select("[id^=cell-]")
    }
    solved = [c for c in code if "solution" in c["metadata"].get("tags", ())]
    folds = page.select("details.hide")
    assert len(folds) == len(solved) + sum(map(is_folded, code))
    assert not [fold for fold in folds if fold.has_attr("open")]
    pictures = [
        output
        for cell in code
        for output in cell["outputs"]
        if "image/png" in output.get("data", {})
        and "text/html" not in output.get("data", {})
    ]
    assert len(page.select(".cell_output img[src^='../_images']")) == len(pictures)
    copy = book.folder / "notebooks" / path.name
    assert copy.read_bytes() == path.read_bytes()
    assert f"../notebooks/{path.name}" in [a.get("href") for a in page.select("a")]


def test_every_link_inside_the_book_leads_somewhere(book):
    lost = []
    for path, page in book.pages.items():
        for address in page.links + page.files:
            parts = urlparse(address)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve()
            target = path if not parts.path else target
            there = target.exists()
            if there and parts.fragment and address in page.links:
                there = unquote(parts.fragment) in book.pages[target].ids
            if not there:
                lost.append(f"{path.name}: {address}")
    assert len(book.pages) > 50
    assert lost == []


def test_no_page_loads_anything_from_elsewhere(book):
    asked = {
        address
        for page in book.pages.values()
        for address in page.files
        if urlparse(address).scheme not in ("", "data")
    }
    assert asked == set()


# --- what leads to what ---------------------------------------------------------


def names_of(meaning) -> set[str]:
    """The ids of the terms that a definition of the glossary stands under."""
    names = set()
    for before in meaning.find_previous_siblings():
        if before.name == "dd":
            break
        names.add(before["id"])
    return names


def test_glossary_and_chapters_lead_to_each_other(book):
    page = soup(book.folder / "glossary.html")
    terms = {dt["id"] for dt in page.select("dl.glossary dt")}
    used = 0
    for back in page.select("a.seen"):
        chapter, _, anchor = back["href"].partition("#")
        text = (book.folder / chapter).read_text(encoding="utf-8")
        at = text.index(f'id="{anchor}"')
        there = re.findall(r'href="\.\./glossary\.html#([^"]+)"', text[at:])
        there = there if anchor == "words" else there[:1]  # right behind the anchor
        assert set(there) & names_of(back.find_parent("dd")), back["href"]
        used += anchor != "words"
    linked = {
        link.partition("#")[2]
        for page in book.pages.values()
        for link in page.links
        if link.startswith("../glossary.html#")
    }
    assert used > 20 and linked <= terms and len(linked) > 20


def test_the_ledger_holds_every_claim_of_every_chapter(book):
    rows = []
    for path in CHAPTERS:
        for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
            if "viz.claims(" in text_of(cell["source"]):
                for output in cell["outputs"]:
                    text = text_of(output.get("data", {}).get("text/markdown", ""))
                    rows += text.splitlines()[2:]
    shown = soup(book.folder / "claims.html").select("table.claims tbody tr")
    assert len(shown) == len(rows) >= 15
    for link in page_links(book.folder / "claims.html"):
        chapter, _, anchor = link.partition("#")
        mark = soup(book.folder / chapter).find(id=anchor)
        table = mark.find_next("table")  # the table itself, not the long cell above it
        assert mark.find_parent(class_="cell_output") and "verdict" in table.get_text()
    for row, line in zip(shown, rows):
        assert row.select("td")[1].get_text() == line.split("|")[2].strip()


def page_links(path: Path) -> set[str]:
    """Where the links in the table of claims lead."""
    return {link["href"] for link in soup(path).select("table.claims a")}


def built_in() -> list[tuple[str, str, str]]:
    """(module, name, chapter) for each docstring that names its chapter."""
    found = []
    for path in sorted((ROOT / "detr_steps").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        module = module.removesuffix(".__init__")
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                said = re.search(r"Built in chapters/(\d\d_\w+)\.ipynb", text)
                if said and node.name[0] != "_":
                    found.append((module, node.name, said[1]))
    return found


def test_the_library_leads_to_the_chapters_that_build_it(book):
    there = {path.stem for path in CHAPTERS}
    told = [each for each in built_in() if each[2] in there]
    assert len(told) > 15
    for module, name, chapter in told:
        page = soup(book.folder / "api" / f"{module}.html")
        entry = page.find(id=f"{module}.{name}").find_parent("dl")
        links = [a["href"] for a in entry.select("p.chapters a")]
        assert f"../chapters/{chapter}.html" in links, f"{module}.{name}"


@pytest.mark.parametrize(
    ("chapter", "name", "cell"),
    [
        ("00_start_here", "detr_steps.boxes.iou", "ch00-22"),
        ("01_attention", "detr_steps.nn.attention.attend", "ch01-22"),
        ("02_detr", "detr_steps.systems.detr.DETR", "ch02-25"),
    ],
)
def test_what_a_chapter_proves_is_linked_both_ways(book, chapter, name, cell):
    module = name.rpartition(".")[0]
    page = soup(book.folder / "chapters" / f"{chapter}.html")
    row = page.find("a", href=f"../api/{module}.html#{name}").find_parent("tr")
    cell = row.find("a", string=re.compile("proved"))["href"].removeprefix("#")
    entry = soup(book.folder / "api" / f"{module}.html").find(id=name)
    back = entry.find_parent("dl").select("p.chapters a")
    assert f"../chapters/{chapter}.html#{cell}" in [a["href"] for a in back]


# --- on paper -------------------------------------------------------------------


@pytest.mark.browser
def test_a_chapter_is_printed_and_linked_only_where_it_was(book):
    made = book.folder / pdf.FOLDER
    assert [path.stem for path in made.iterdir()] == [PRINTED]
    linked = {
        path.stem
        for path in (book.folder / "chapters").glob("*.html")
        if ".pdf" in path.read_text(encoding="utf-8")
    }
    assert linked == {PRINTED}
    content = (made / f"{PRINTED}.pdf").read_bytes()
    assert content.startswith(b"%PDF-") and content.rstrip().endswith(b"%%EOF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) > 8
    boxes = re.findall(rb"MediaBox \[0 0 (\d+)\S* (\d+)", content)
    assert set(boxes) == {(b"595", b"842")}  # A4
    assert b"/Title (Solutions and answers)" in content  # a bookmark
    assert b"https://arxiv.org" in content  # links to the web stay
    assert b"file:" not in content and os.fsencode(book.folder) not in content


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_paper_is_what_a_chapter_says_and_no_figure_is_cut(book, page, scheme):
    page.set_viewport_size({"width": 673, "height": 994})  # A4 between its margins
    page.emulate_media(media="print", color_scheme=scheme)
    page.goto((book.folder / "chapters" / f"{PRINTED}.html").as_uri())
    frames = page.locator("iframe").count()
    folds = page.locator("details.hide").count()
    moved = page.evaluate(pdf.PREPARE, pdf.LATER)
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate("document.documentElement.dataset.theme") == "light"
    assert moved == page.locator(".later a").count() >= 3 and frames >= 1 and folds
    assert page.locator("iframe, details.hide, .at-the-end details").count() == 0
    for gone in (".bd-sidebar-primary", ".prev-next-area", ".actions", ".swipe"):
        assert not page.locator(gone).first.is_visible(), gone
    assert page.locator(".bd-article h1").is_visible()
    last = page.locator(".bd-article h2").last
    assert last.inner_text() == "Solutions and answers"
    figures = page.locator(".cell_output > img:visible, .still").evaluate_all(
        """all => all.map(e => e.getBoundingClientRect())
            .map(box => [box.left, box.right, box.height])"""
    )
    assert len(figures) > frames
    assert all(
        left >= 0 and right <= 673 and high < 960 for left, right, high in figures
    )
    still = page.locator(".still").first  # as high as its picture, nothing empty
    assert still.evaluate("e => e.clientHeight - e.firstChild.clientHeight") <= 2
    over = page.locator(".bd-article pre, .bd-article table").evaluate_all(
        "all => all.filter(e => e.getBoundingClientRect().right > 674).length"
    )
    assert over == 0


# --- in a browser ---------------------------------------------------------------


# Room for wider fonts than this machine has: WCAG 2.2, criterion 1.4.12 (text spacing).
SPACED = "* { letter-spacing: 0.12em !important; word-spacing: 0.16em !important }"
# A name without a place to break it, in place of every word of a page.
LONG = """long => {
    const unseen = "script, style, svg, mjx-container";
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        const text = texts.currentNode;
        if (text.data.trim() && !text.parentElement.closest(unseen)) text.data = long;
    }
}"""


def addresses(folder: Path) -> list[Path]:
    """All pages; of the library's sources only those with the longest names."""
    found = pages_of(folder)
    sources = [path for path in found if "_modules" in path.parts]
    longest = sorted(sources, key=lambda path: len(path.stem))[-3:]
    return [path for path in found if path not in sources] + longest


@pytest.mark.browser
def test_every_page_is_quiet_asks_nobody_and_fits_a_phone(book, page, watch):
    page.set_viewport_size(PHONE)
    # the theme's icons take most of a page's time; the chapters' tests load them
    page.route("**/fontawesome.js*", lambda route: route.fulfill(body=""))
    wrong = {}
    for path in addresses(book.folder):
        page.goto(path.as_uri())
        wrong[path.name] = cut_off(page)
        page.add_style_tag(content=SPACED)
        wrong[f"{path.name}, wider letters"] = cut_off(page)
    assert {name: lost for name, lost in wrong.items() if lost} == {}
    assert watch.errors == [] and watch.outside == []


@pytest.mark.browser
@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_names_of_any_length_fit(book, page, size):
    page.set_viewport_size(size)
    wrong = {}
    for path in one_of_each_kind(book.folder):
        page.goto(path.as_uri())
        page.evaluate(LONG, "a_name_that_nobody_would_choose" * 8)
        wrong[path.name] = cut_off(page)
    assert {name: lost for name, lost in wrong.items() if lost} == {}


@pytest.mark.browser
@pytest.mark.parametrize("side", ["primary", "secondary"])
def test_what_a_phone_slides_in_holds_names_of_any_length(book, page, side):
    page.set_viewport_size(PHONE)
    page.goto((book.folder / "api" / "detr_steps.boxes.html").as_uri())
    page.locator(f".{side}-toggle").first.click()
    page.locator(f".bd-sidebar-{side} a").last.wait_for()
    page.evaluate(LONG, "a_name_that_nobody_would_choose" * 8)
    assert cut_off(page) == []


def one_of_each_kind(folder: Path) -> list[Path]:
    """The pages at the top, and of each folder the longest page and the shortest."""
    kinds: dict[Path, list[Path]] = {}
    for path in pages_of(folder):
        kinds.setdefault(path.parent, []).append(path)
    top = kinds.pop(folder)
    sizes = [
        sorted(kind, key=lambda path: path.stat().st_size) for kind in kinds.values()
    ]
    return top + [path for kind in sizes for path in {kind[0], kind[-1]}]


@pytest.mark.browser
def test_the_names_on_the_map_stay_in_their_boxes(book, page):
    page.set_viewport_size(DESKTOP)
    page.goto((book.folder / "index.html").as_uri())
    stops = page.locator(".course-map .stop").evaluate_all(
        """all => all.map(stop => ["rect", ".number", ".name"]
            .map(part => stop.querySelector(part).getBBox())
            .map(box => [box.x, box.x + box.width]))"""
    )
    assert len(stops) > 10
    for box, number, name in stops:
        assert box[0] < number[0] < number[1] < name[0] < name[1] < box[1]


@pytest.mark.browser
def test_the_front_page_shows_its_figure_and_a_readable_lead_at_once(book, page):
    page.set_viewport_size(DESKTOP)
    page.goto((book.folder / "index.html").as_uri())
    box = page.locator(".hero-figure iframe").bounding_box()
    assert box["y"] > 0 and box["y"] + box["height"] < DESKTOP["height"]
    assert box["x"] + box["width"] < DESKTOP["width"] and box["width"] == 820
    weight, size = page.locator(".lead").evaluate(
        "e => [getComputedStyle(e).fontWeight, getComputedStyle(e).fontSize]"
    )
    assert int(weight) >= 400 and float(size.removesuffix("px")) >= 18


@pytest.mark.browser
def test_pages_bring_their_own_letters(book, page, watch):
    page.goto((book.folder / "notation.html").as_uri())
    loaded = page.evaluate(
        """async () => {
        await document.fonts.ready;
        return [...document.fonts].filter(font => font.status === "loaded")
            .map(font => font.family.replaceAll('"', ""))}"""
    )
    for part, family in ((".bd-article p", "Inter"), (".bd-article h1", "Literata")):
        names = page.locator(part).first.evaluate("e => getComputedStyle(e).fontFamily")
        assert names.startswith(family) and family in loaded
    assert watch.errors == [] and watch.outside == []


# The lines of a title, as they are broken.
LINES = """title => {
    const range = document.createRange(), lines = [];
    const texts = document.createTreeWalker(title, NodeFilter.SHOW_TEXT);
    let top = -Infinity; // letters of one line may reach into the next
    while (texts.nextNode()) {
        const text = texts.currentNode;
        for (let i = 0; i < text.data.length; i++) {
            range.setStart(text, i);
            range.setEnd(text, i + 1);
            const box = range.getBoundingClientRect();
            if (box.width && box.top > top + box.height / 2) lines.push("");
            if (box.width) top = Math.max(top, box.top);
            lines[lines.length - 1] += text.data[i];
        }
    }
    return lines;
}"""


@pytest.mark.browser
def test_a_long_title_breaks_after_a_dot(book, page):
    page.set_viewport_size(PHONE)
    module = "detr_steps.systems.deformable_detr"
    file = book.folder / "_modules" / f"{module.replace('.', '/')}.html"
    page.goto(file.as_uri())
    title = page.locator(".bd-article h1")
    assert module in title.text_content()
    lines = title.evaluate(LINES)
    assert len(lines) > 1
    assert all(line[-1] in " ." for line in lines[:-1]), lines


@pytest.mark.browser
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_figures_fit_their_column_and_live(book, page, watch, path):
    page.goto((book.folder / "chapters" / f"{path.stem}.html").as_uri())
    wide = page.evaluate(
        """() => {
        const right = e => e.getBoundingClientRect().right;
        return [...document.querySelectorAll(".cell_output :is(img, iframe)")]
            .filter(e => right(e) > right(e.closest(".cell")) + 1).length}"""
    )
    assert wide == 0
    live = assert_figures_live(page, watch)
    kept = path.read_text(encoding="utf-8").count("<iframe srcdoc")
    assert live == kept and watch.outside == []


@pytest.mark.browser
def test_search_finds_a_word_and_shows_where(book, page, watch):
    page.goto((book.folder / "index.html").as_uri())
    page.keyboard.press("ControlOrMeta+k")
    page.locator("#pst-search-dialog input").fill("hungarian")
    page.keyboard.press("Enter")
    page.wait_for_url("**/search.html?q=hungarian")
    found = page.locator("#search-results ul.search li")
    found.first.wait_for()
    chapter = found.filter(has=page.locator("a[href*='02_detr']"))
    assert "hungarian" in chapter.first.locator(".excerpt").inner_text().lower()
    assert watch.errors == [] and watch.outside == []
    page.goto((book.folder / "search.html").as_uri() + "?q=iou")
    page.locator("#search-results .excerpt").first.wait_for()
    page.wait_for_function("!/Searching|Preparing/.test(document.body.innerText)")
    said = page.locator("#search-results").inner_text()
    assert "<a" not in said and "<span" not in said
    assert found.filter(has=page.locator("a[href*='glossary.html']")).count() == 1
    page.goto((book.folder / "search.html").as_uri() + "?q=positional+encoding")
    page.locator(".called a").click()
    page.wait_for_url("**?q=positions")
    found.first.wait_for()
    page.goto((book.folder / "search.html").as_uri() + "?q=zeppelin")
    page.get_by_text("did not match any documents").wait_for()


@pytest.mark.browser
def test_search_lists_parts_of_pages_while_typing(book, page, watch):
    page.goto((book.folder / "changes" / "index.html").as_uri())
    page.keyboard.press("ControlOrMeta+k")
    field = page.locator("#pst-search-dialog input")
    found = page.locator("#book-found li:not(.more)")
    field.press_sequentially("hungar")
    found.first.wait_for()
    part = found.filter(has_text="Who answers for which object?").first
    assert "hungar" in part.locator("mark").first.inner_text().lower()
    field.fill("glossary matching")
    field.fill("queri")  # a word may be unfinished, anywhere a letter before it may not
    page.wait_for_function("document.querySelectorAll('#book-found li').length > 5")
    heads = found.locator("a").all_inner_texts()
    assert all("queri" in text.lower() for text in heads)
    field.fill("positional encoding")
    page.get_by_text("Here it is called positions.").wait_for()
    field.fill("zeppelin")
    page.get_by_text("Nothing here has these words.").wait_for()
    assert found.count() == 0
    field.fill("AP75")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_url("**/glossary.html#term-AP75")
    assert watch.errors == [] and watch.outside == []


def test_each_part_to_search_begins_with_its_heading_and_is_there(book):
    script = (book.folder / "_static" / "book-text.js").read_text(encoding="utf-8")
    texts, parts = (
        json.loads(line.partition(" = ")[2].removesuffix(";"))
        for line in script.strip().split("\n")
    )
    assert set(parts) == set(texts) and len(parts["chapters/02_detr"]) > 10
    for page, found in parts.items():
        ids = book.pages[(book.folder / f"{page}.html").resolve()].ids
        units = texts[page].encode("utf-16-le")  # as JavaScript counts
        for begin, anchor, heading in found:
            text = units[2 * begin :].decode("utf-16-le")
            is_name = page.startswith("api/detr") and "." in anchor
            name = heading.split(".")[-1]
            assert name in text[:200] if is_name else text.startswith(heading)
            assert anchor in ids, f"{page}: {anchor}"


@pytest.mark.browser
@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_figures_of_a_phone_are_legible_and_scroll_in_their_frames(book, page, path):
    page.set_viewport_size(PHONE)
    page.goto((book.folder / "chapters" / f"{path.stem}.html").as_uri())
    page.wait_for_load_state("load")
    looks = page.locator("a.figure:visible").evaluate_all(
        """all => all.map(link => [link, link.firstChild]).map(([link, image]) => [
            image.getBoundingClientRect().width / image.naturalWidth,
            getComputedStyle(link).overflowX, link.getBoundingClientRect().right,
            link.scrollWidth > link.clientWidth + 1,
            link.nextElementSibling.checkVisibility()])"""
    )
    assert looks
    for scale, overflow, right, wide, hinted in looks:
        assert scale >= 0.75 and overflow == "auto" and right <= PHONE["width"]
        assert wide == hinted


@pytest.mark.browser
def test_claims_are_cards_on_a_phone_in_chapters_too(book, page):
    page.set_viewport_size(PHONE)
    page.goto((book.folder / "chapters" / "11_sqr.html").as_uri())
    table = page.locator(".cell_output table.claims")
    assert (
        table.locator("td").first.evaluate("e => getComputedStyle(e).display") == "grid"
    )
    wide = table.evaluate(
        "e => [e.parentElement.scrollWidth, e.parentElement.clientWidth]"
    )
    assert wide[0] <= wide[1]
    assert table.locator("td").first.get_attribute("data-head") == "it is said"


@pytest.mark.browser
def test_figures_are_told_whether_the_page_is_dark(book, page, watch):
    first = book.folder / "chapters" / f"{CHAPTERS[0].stem}.html"
    text = first.read_text(encoding="utf-8")
    file = first.with_name("listener.html")
    file.write_text(text.replace("</h1>", f"</h1>{LISTENER}", 1), encoding="utf-8")
    try:
        page.goto(file.as_uri())
    finally:
        file.unlink()
    frame = page.locator("#listener").element_handle().content_frame()
    told = "value => document.title === JSON.stringify({type: 'theme', value})"
    frame.wait_for_function(told, arg="light")  # on load, without a click
    for mode in ("dark", "light"):
        page.locator(".theme-switch-button").first.click()
        page.locator(f".theme-change-button[data-mode={mode}]").first.click()
        frame.wait_for_function(told, arg=mode)
    assert watch.errors == []


def test_the_text_to_search_holds_no_tags(book):
    script = (book.folder / "_static" / "book-text.js").read_text(encoding="utf-8")
    first = script.split("\n")[0]  # the second line: where the parts begin
    texts = json.loads(first.partition(" = ")[2].removesuffix(";"))
    tag = re.compile(r"</?(a|span|div|p|td|svg|img|iframe)\b[^>]*[=/]")
    assert [name for name, text in texts.items() if tag.search(text)] == []
    assert "what happened" in " ".join(texts["chapters/02_detr"].split())
    assert "holds" in texts["claims"]  # its table is HTML


@pytest.mark.browser
def test_interactive_figures_need_no_plate_in_the_dark(book, page):
    page.emulate_media(color_scheme="dark")
    page.goto((book.folder / "chapters" / "01_attention.html").as_uri())
    frames = page.locator(".cell_output .text_html:has(iframe)")
    looks = """all => all.map(e => getComputedStyle(e)).map(
        style => [style.backgroundColor, style.padding])"""
    found = frames.evaluate_all(looks)
    assert found and all(look == ["rgba(0, 0, 0, 0)", "0px"] for look in found)


@pytest.mark.browser
def test_pictures_lie_on_a_white_card_in_the_dark(book, page):
    page.emulate_media(color_scheme="dark")
    page.goto((book.folder / "chapters" / f"{CHAPTERS[0].stem}.html").as_uri())
    paper, plate = page.evaluate(
        """() => [document.body, document.querySelector(".cell_output img:not(.plot)")]
        .map(e => getComputedStyle(e).backgroundColor.match(/\\d+/g).slice(0, 3))
        .map(parts => Math.max(...parts.map(Number)))"""
    )
    assert paper < 60 and plate > 250


@pytest.mark.browser
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_plots_follow_the_theme(book, page, theme):
    page.emulate_media(color_scheme=theme)
    page.goto((book.folder / "chapters" / "11_sqr.html").as_uri())
    shown = page.locator("img.plot:visible")
    assert shown.count() > 3
    assert shown.count() == page.locator(f"img.only-{theme}").count()
    assert shown.count() == page.locator("img.plot").count() / 2
    source, paper, plate = shown.first.evaluate(
        """async image => {
        await image.decode();
        const colour = e => getComputedStyle(e).backgroundColor;
        return [image.src, colour(document.body), colour(image)]}"""
    )
    image = Image.open(unquote(urlparse(source).path)).convert("RGB")
    rgb = map(int, re.findall(r"\d+", paper))  # book.css and dark.py agree:
    assert max(abs(a - b) for a, b in zip(image.getpixel((2, 2)), rgb)) <= 1
    assert theme == "light" or plate == "rgba(0, 0, 0, 0)"
