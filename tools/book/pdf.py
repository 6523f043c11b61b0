"""Chapters on paper: each page printed by a headless Chromium, with what a book needs.

On paper nothing folds and nothing moves: live figures are their stills, and what a
reader should try first (solutions, answers) stands at the end, linked both ways.
"""

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from tools.chromium import NO_CHROMIUM, find_chromium

from .chapters import Chapter, Fault

FOLDER = "pdf"  # of the site
SLOW = 300_000  # milliseconds that a busy machine may take for one page
BUTTON = "Download the notebook</a>"  # convert.py's; the PDF's link stands behind it
MARGIN = {"top": "16mm", "bottom": "18mm", "left": "16mm", "right": "16mm"}
FOOTER = """<div style="font: 8px sans-serif; color: #56626f; width: 100%;
margin: 0 16mm; display: flex; justify-content: space-between"><span>{title}</span>
<span><span class="pageNumber"></span> / <span class="totalPages"></span></span>
</div>"""
LATER = r"^(solution|answer|what to look for)"  # folds that go to the end
# What CSS cannot do: unfold, move what is to be read later, and cut the links that
# would lead to files of the machine that prints.
PREPARE = """async later => {
    await document.fonts.ready;
    await globalThis.MathJax?.startup?.promise;
    for (const frame of document.querySelectorAll("iframe")) {
        frame.parentElement.classList.add("still");
        frame.remove();
    }
    for (const away of document.querySelectorAll(".bd-article a[href]")) {
        const isHere = away.href.split("#")[0] === location.href.split("#")[0];
        if (away.protocol === "file:" && !isHere) away.replaceWith(...away.childNodes);
    }
    const article = document.querySelector(".bd-article > section");
    const end = document.createElement("section");
    end.className = "at-the-end";
    end.append(Object.assign(document.createElement("h2"), {
        textContent: "Solutions and answers"}));
    const link = (text, id) => Object.assign(document.createElement("a"), {
        textContent: text, href: `#${id}`});
    let heading = article.querySelector("h1"), count = 0;
    for (const each of [...article.querySelectorAll("h1, h2, h3, details")]) {
        if (each.localName !== "details") { heading = each; continue }
        const summary = each.querySelector("summary");
        const words = summary.querySelector(".collapsed") ?? summary;
        const name = words.textContent.trim();
        if (each.matches(".hide") && !/^solution/i.test(name)) {
            each.remove();  // set-up and drawing code: the notebook has it
            continue;
        }
        each.open = true;
        if (!new RegExp(later, "i").test(name)) continue;
        const [here, there] = [`here-${++count}`, `later-${count}`];
        const note = document.createElement("p");
        [note.className, note.id] = ["later", here];
        note.append(link(`${name}: at the end, ${count}`, there));
        each.replaceWith(note);
        const section = heading.cloneNode(true), title = document.createElement("h3");
        section.querySelectorAll(".headerlink").forEach(part => part.remove());
        title.id = there;
        const of = section.textContent.trim();
        title.append(link(`${name} ${count}`, here), `, of ${of}`);
        summary.remove();
        const unfolded = document.createElement("div");
        unfolded.className = "unfolded";
        unfolded.append(...each.childNodes);
        end.append(title, unfolded);
    }
    if (count) article.append(end);
    for (const image of document.images) image.loading = "eager";
    const shown = [...document.images].filter(image => image.checkVisibility());
    await Promise.all(shown.map(image => image.decode()));
    return count;
}"""


def chosen(chapters: Sequence[Chapter], numbers: Sequence[str]) -> list[Chapter]:
    """The chapters of these numbers, or all where none is named. Raises Fault."""
    known = {chapter.number: chapter for chapter in chapters}
    for number in numbers:
        if number not in known:
            raise Fault(
                f"--pdf {number}: no such chapter. There are {', '.join(known)}"
            )
    return [known[number] for number in numbers] or list(chapters)


def browser() -> str:
    """Path of the browser that prints. Raises Fault, with the cure, without one."""
    found = find_chromium()
    if not found:
        raise Fault(f"PDFs need {NO_CHROMIUM.removeprefix('no ')}")
    try:
        import playwright.sync_api  # noqa: F401  is in the course's environment
    except ImportError:
        raise Fault("PDFs need playwright: python3 course.py setup") from None
    return found


def write(site: Path, chapters: Sequence[Chapter], executable: str) -> None:
    """Print chapters of a built site into its folder `pdf`, and link them there.

    Raises Fault where a page cannot be printed.
    """
    from playwright.sync_api import Error, sync_playwright

    (site / FOLDER).mkdir(exist_ok=True)
    sandbox = ["--no-sandbox"] if getattr(os, "geteuid", lambda: 1)() == 0 else []
    name = "the browser"
    try:
        with sync_playwright() as playwright:
            running = playwright.chromium.launch(
                executable_path=executable, args=[*sandbox, "--disable-gpu"]
            )
            for chapter in chapters:
                name = chapter.label
                print(f"  PDF: {name}", flush=True)
                _print(running, site, chapter)
            running.close()
    except Error as error:
        why = str(error).splitlines()[0]
        raise Fault(f"no PDF of {name}: {why}. Chromium: {executable}") from None
    for chapter in chapters:
        _link(site, chapter)


def _print(running, site: Path, chapter: Chapter) -> None:
    """Print one chapter: A4, page numbers, bookmarks."""
    page = running.new_page(color_scheme="light")
    page.set_default_timeout(SLOW)
    page.emulate_media(media="print")
    page.goto((site / "chapters" / f"{chapter.stem}.html").as_uri())
    page.evaluate(PREPARE, LATER)
    page.pdf(
        path=site / FOLDER / f"{chapter.stem}.pdf",
        format="A4",
        margin=MARGIN,
        print_background=True,
        display_header_footer=True,
        header_template="<span></span>",
        footer_template=FOOTER.format(title=escape(chapter.label)),
        outline=True,
        tagged=True,
    )
    page.close()


def _link(site: Path, chapter: Chapter) -> None:
    """Put the link to the PDF behind the one to the notebook."""
    page = site / "chapters" / f"{chapter.stem}.html"
    link = f'<a class="action" href="../{FOLDER}/{chapter.stem}.pdf">PDF</a>'
    text = page.read_text(encoding="utf-8")
    page.write_text(text.replace(BUTTON, BUTTON + link, 1), encoding="utf-8")
