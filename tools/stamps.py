"""Stamps what all chapters share: links, badges, and hidden solutions.

    python tools/stamps.py

Run it when a chapter came, went or got another title. What `notebooks.normalise` says
about metadata is written here too, without running a cell.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a file: the other tools are beside it
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.notebooks import (
    ROOT,
    STAMP,
    chapters,
    hidden,
    is_solution,
    setup_cell,
    stamp_text,
    text_of,
    write,
)

# At the end of the line: after a comment at its start, Markdown is not rendered.
MARK = "<!-- path -->"
PATH = re.compile(rf"\n*^.*{MARK}\s*\Z", re.MULTILINE)
TITLE = re.compile(r"# (\d\d) · ([^\n:]+)")
# what authors write; more on that line would give the solution away
FIRST_LINE = re.compile(
    r"# (?:@title )?[Ss]olution( \d+)?(?:, to|:) unfold after trying"
)


def title(name: str, book: dict) -> str:
    """The number and title, `02 DETR`, of the notebook in a file of this name.

    Raises ValueError where the first cell does not begin with '# NN · Title', or the
    last one cannot hold the links.
    """
    found = TITLE.match(text_of(book["cells"][0]["source"]))
    if not found:
        raise ValueError(f"{name}: the first cell must begin with '# NN · Title'")
    if book["cells"][-1]["cell_type"] != "markdown":
        raise ValueError(f"{name}: the last cell must be Markdown")
    return f"{found[1]} {found[2].strip()}"


def path_line(index: int, names: list[str], titles: list[str]) -> str:
    """The last line of a chapter: links to the one before and the one after it."""
    link = lambda i: f"[{titles[i]}]({names[i]})"  # noqa: E731
    before = [f"← {link(index - 1)}"] if index else []
    after = [f"{link(index + 1)} →"] if index + 1 < len(names) else []
    return f"{' · '.join(before + after)} {MARK}"


def with_path(book: dict, line: str) -> None:
    """Puts the line at the end of the last cell, in place of an older one."""
    last = book["cells"][-1]
    text = PATH.sub("", text_of(last["source"])).rstrip("\n")
    last["source"] = f"{text}\n\n{line}".splitlines(keepends=True)


def with_badge(name: str, book: dict) -> None:
    """Makes the marked badge lead to this file of the repository that is published."""
    repo, tag = re.search(STAMP.pattern.replace(".*?", "(.*?)"), setup_cell(0)).groups()
    for cell in book["cells"]:
        before = text_of(cell["source"])
        after = stamp_text(before, repo, tag, own=name)
        if after != before:
            cell["source"] = after.splitlines(keepends=True)


def hide(book: dict) -> None:
    """Hides the solutions, the set-up cell's code, and what a solution's check says."""
    for cell in book["cells"]:
        kept = {k: cell["metadata"][k] for k in ("tags",) if k in cell["metadata"]}
        cell["metadata"] = kept | hidden(cell)
        if is_solution(cell):
            text = titled(text_of(cell["source"]))
            cell["source"] = text.splitlines(keepends=True)
            for output in cell["outputs"]:
                fold(output.get("data", {}))


def titled(text: str) -> str:
    """A solution under a title that gives nothing away; a hint becomes its next line.

    Its number, if it has one, is the exercise's, and stays.
    """
    first, _, rest = text.partition("\n")
    found = FIRST_LINE.match(first)
    hint = re.sub(r"^([:;,.]|#)? *", "", first[found.end() if found else 0 :])
    lines = [f"# @title Solution{found and found[1] or ''}: unfold after trying"]
    if hint:  # where there was no title, the first line is code or a comment: keep it
        lines.append(f"# {hint}" if found else first)
    return "\n".join([*lines, rest])


def fold(data: dict) -> None:
    """Gives a kept verdict the form that it has when a solution is run."""
    text = text_of(data.get("text/plain", ""))
    if text[:2] in ("✓ ", "✗ "):
        from detr_steps.check import Verdict

        html = Verdict(text[0] == "✓", text[2:], folded=True)._repr_html_()
        data["text/html"] = html.splitlines(keepends=True)


def stamp(root: Path = ROOT) -> list[Path]:
    """Stamps every chapter there is; returns those that changed.

    Raises ValueError that names the chapter which lacks its title or its last text.
    """
    paths = chapters(root)
    texts = [path.read_text(encoding="utf-8") for path in paths]
    books = [json.loads(text) for text in texts]
    names = [path.name for path in paths]
    titles = list(map(title, names, books))
    for index, book in enumerate(books):
        with_path(book, path_line(index, names, titles))
        with_badge(names[index], book)
        hide(book)
    changed = [
        (path, book)
        for path, text, book in zip(paths, texts, books)
        if json.loads(text) != book
    ]
    for path, book in changed:
        write(path, book)
    return [path for path, _ in changed]


def main() -> int:
    try:
        changed = stamp()
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(f"stamped {path.name}" for path in changed) or "nothing to stamp")
    return 0


if __name__ == "__main__":
    sys.exit(main())
