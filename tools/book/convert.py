"""Turns a notebook into a page of the book. The notebook itself stays as it is."""

import json
import re
from base64 import b64decode
from pathlib import Path

from tools.notebooks import BADGE, ROOT, SETUP, is_folded, is_solution, text_of

from . import dark, ledger
from .chapters import CLAIMS, FOLD, HEADING, Chapter, Claim, Fault, is_words
from .glossary import Glossary
from .markdown import LINK, plain, table_rows

WEB = re.compile(r"[a-z]+:|#")
# What `predict` and `reveal` print where nobody guessed: a page takes no guesses.
NO_GUESS = re.compile(
    r"(?m)^(Your guess\? Write it into predict\(.*|you expected: +\(no guess\))\n?"
)


class Converter:
    """Knows what the pages link to: the other chapters, the library, the glossary."""

    def __init__(
        self, glossary: Glossary, modules: set[str], repo: tuple[str, str]
    ) -> None:
        self.glossary = glossary
        self.modules = modules  # that have a page: detr_steps.systems.detr
        self.repo = repo

    def page(self, chapter: Chapter, ending: str) -> str:
        """The text of the page's notebook; `ending` is Markdown to put at its end."""
        seen: set[str] = set()
        cells = [markdown(head(chapter))]
        section = chapter.label
        for index, cell in enumerate(chapter.cells):
            if cell["cell_type"] != "markdown":
                made = code(cell, section, words_after(chapter, index))
                cells += [markdown(f"(cell-{cell['id']})="), made]
                continue
            text = self.prose(chapter, body(cell["source"]) if not index else
                              cell["source"], seen)  # fmt: skip
            cells.append(markdown(text))
            headings = HEADING.findall(cell["source"])
            section = plain(headings[-1][1]) if headings else section
        cells.append(markdown(ending))
        for number, cell in enumerate(cells):
            cell["id"] = f"page-{number}"
        book = {"cells": cells, "metadata": {"kernelspec": KERNEL}}
        return json.dumps(book | {"nbformat": 4, "nbformat_minor": 5})

    def prose(self, chapter: Chapter, text: str, seen: set[str]) -> str:
        """One Markdown cell, its links and its terms made to lead inside the book."""
        text = LINK.sub(lambda link: f"({self.target(chapter, link[1])})", text)
        made, end = "", 0
        for fold in FOLD.finditer(text):
            before = text[end : fold.start()]
            made += self.glossary.link(before, chapter.stem, seen)
            made += self.fold(chapter, fold, seen)
            end = fold.end()
        return made + self.glossary.link(text[end:], chapter.stem, seen)

    def fold(self, chapter: Chapter, fold: re.Match, seen: set[str]) -> str:
        """A fold, with the empty lines that make its inside Markdown."""
        summary, inside = fold[1], fold[2].strip()
        if is_words(summary):
            seen = seen | {entry.names[0] for entry in self.glossary.entries}
            mark = '<span id="words"></span>'
        else:
            mark = ""
        inside = self.glossary.link(inside, chapter.stem, seen)
        return (
            f"\n\n<details>{mark}<summary>{summary}</summary>\n\n"
            f"{inside}\n\n</details>\n\n"
        )

    def target(self, chapter: Chapter, link: str) -> str:
        """Where a chapter's link leads in the book.

        Chapters and modules to their pages, other files to the repository.
        Raises Fault for a file that is not there.
        """
        if WEB.match(link):
            return link
        path, _, fragment = link.partition("#")
        file = (chapter.path.parent / path).resolve()
        if not file.exists():
            raise Fault(f"{chapter.path.name} links to {link}, which is not there")
        inside = file.relative_to(ROOT)
        if file.suffix == ".ipynb":
            return f"{file.name}#{fragment}" if fragment else file.name
        module = ".".join(inside.with_suffix("").parts)
        if module in self.modules:
            return f"../api/{module}.rst"
        return web_address(inside, file.is_dir(), self.repo)


KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def web_address(path: Path, is_folder: bool, repo: tuple[str, str]) -> str:
    """The address of a file or folder of the repository on the web."""
    kind = "tree" if is_folder else "blob"
    return f"https://github.com/{repo[0]}/{kind}/{repo[1]}/{path.as_posix()}"


def markdown(text: str) -> dict:
    """A Markdown cell."""
    return {"cell_type": "markdown", "metadata": {}, "source": text}


def words_after(chapter: Chapter, index: int) -> str:
    """The text that follows a cell: the next cell of prose."""
    later = (c for c in chapter.cells[index + 1 :] if c["cell_type"] == "markdown")
    return next(later, {"source": ""})["source"]


def code(cell: dict, section: str, after: str = "") -> dict:
    """A code cell as the book shows it: set-up and solutions folded away.

    `after` is the text that follows: it may name colours of the cell's figures.
    """
    tags, settings = [], {"image": {"alt": f"Figure of “{section}”"}}
    if cell["source"].startswith(SETUP):
        tags.append("hide-cell")
        words = "Set-up: the same first cell in every chapter"
        settings |= {"code_prompt_show": words, "code_prompt_hide": words}
    elif is_solution(cell):
        tags.append("hide-cell")
        settings |= {"code_prompt_show": "Solution", "code_prompt_hide": "Solution"}
        cell = cell | {"outputs": list(map(unfolded, cell["outputs"]))}
    elif is_folded(cell):
        tags.append("hide-input")
        words = cell["source"].splitlines()[0].removeprefix("# @title ")
        settings |= {"code_prompt_show": words, "code_prompt_hide": words}
    outputs = [shown(output, cell["id"]) for output in cell["outputs"]]
    outputs = [o for o in outputs if o.get("data", True) and o.get("text", True)]
    texts = [text_of(o.get("data", {}).get("text/plain", "")) for o in outputs]
    told = [text for text in texts if text and text[0] not in "<✓✗["]
    if told and "\n" not in told[0]:
        settings["image"] = {"alt": told[0]}
    if all_plots(outputs) and not dark.names_neutral(after, cell["source"]):
        settings["image"]["classes"] = "plot"
    metadata = {"tags": tags, "mystnb": settings}
    return {key: cell[key] for key in ("cell_type", "execution_count", "source")} | {
        "metadata": metadata,
        "outputs": outputs,
    }


def all_plots(outputs: list[dict]) -> bool:
    """True for outputs with figures that are plots, all of them."""
    pngs = [text_of(o.get("data", {}).get("image/png", "")) for o in outputs]
    return any(pngs) and all(dark.is_plot(b64decode(png)) for png in pngs if png)


def unfolded(output: dict) -> dict:
    """A solution's output without a fold of its own: the whole cell is in one."""
    data = output.get("data", {})
    if text_of(data.get("text/plain", ""))[:1] not in ("✓", "✗"):
        return output
    return output | {"data": {k: v for k, v in data.items() if k != "text/html"}}


def shown(output: dict, cell: str) -> dict:
    """An output as the book shows it: no asking for guesses, claims as the ledger."""
    if "text" in output:
        return output | {"text": NO_GUESS.sub("", text_of(output["text"]))}
    data = output.get("data", {})
    text = text_of(data.get("text/markdown", ""))
    if not text.startswith(CLAIMS):
        return output
    mark = f'<span id="claims-{cell}"></span>'
    head, *rows = table_rows(text)
    claims = [ledger.parts(Claim(*row, cell=cell)) for row in rows]
    return output | {"data": {"text/html": mark + ledger.table(head, claims)}}


def head(chapter: Chapter) -> str:
    """A page's head: title, question, and what can be done with the notebook."""
    buttons = [
        f'<a class="action" href="../notebooks/{chapter.path.name}" download>'
        "Download the notebook</a>"
    ]
    if chapter.badge:
        buttons.insert(
            0, f'<a class="action first" href="{chapter.badge}">Open in Colab</a>'
        )
    question = f'<p class="question">{chapter.question}</p>' * bool(chapter.question)
    return (
        f"# {chapter.label}\n\n"
        f'<div class="chapter-head">{question}<p class="actions">{"".join(buttons)}'
        "</p></div>"
    )


def body(text: str) -> str:
    """The first cell's text without what the head shows already."""
    text = BADGE.sub("", text)
    title, *rest = HEADING.finditer(text)
    for heading in reversed(rest[:1]):
        if heading[2].endswith("?"):
            text = text[: heading.start()] + text[heading.end() :]
    return (text[: title.start()] + text[title.end() :]).strip()
