"""Runs chapters without a browser, and stamps a fork's name into them.

Called through `course.py run` and `course.py publish`. What it writes is lean:
outputs in the order of the cells, counts 1..N, no widget state, no timings.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SETUP_CELL = Path(__file__).resolve().parent / "setup_cell.py"
METADATA = {
    "kernelspec": {
        "display_name": "Python 3",
        "language": "python",
        "name": "python3",
    },
    "language_info": {"name": "python"},
}
SETUP = "# @title Setup"  # how every set-up cell begins
# Hidden in JupyterLab, on Colab, and by nbconvert, also without an option: `transient`
# is where its own preprocessors put what its templates leave out.
FOLDED = {"jupyter": {"source_hidden": True}, "cellView": "form"}
SOLVED = {
    "jupyter": {"source_hidden": True, "outputs_hidden": True},
    "collapsed": True,
    "cellView": "form",
    "transient": {"remove_source": True},
}
STAMP = re.compile(r'(?m)^REPO, TAG = ".*?", ".*?"(?=  # stamped by)')
BADGE = re.compile(
    r"(<!-- colab(?: (?P<file>[\w.-]+\.ipynb))? -->).*?(<!-- /colab -->)", re.S
)


def setup_cell(chapter: int) -> str:
    """The source of every notebook's set-up cell, for one chapter."""
    text = SETUP_CELL.read_text(encoding="utf-8").rstrip("\n")
    return text.replace("chapter=0)", f"chapter={chapter})")


def chapters(root: Path = ROOT) -> list[Path]:
    """All numbered notebooks, in order."""
    return sorted((root / "chapters").glob("[0-9][0-9]_*.ipynb"))


def find(name: str, root: Path = ROOT) -> Path:
    """'2', '02', '02_detr', or a path -> the chapter's notebook.

    Raises FileNotFoundError, with the chapters there are, where none matches.
    """
    stem = Path(name).name.removesuffix(".ipynb")
    stem = stem.zfill(2) if stem.isdigit() else stem
    for path in chapters(root):
        if stem in (path.stem, path.stem[:2]):
            return path
    there = ", ".join(path.stem for path in chapters(root)) or "none yet"
    raise FileNotFoundError(f"No chapter {name!r}. There are: {there}.")


# --- reading and writing --------------------------------------------------------


def text_of(source: str | list[str]) -> str:
    """A cell's source as one string, however the file keeps it."""
    return source if isinstance(source, str) else "".join(source)


def write(path: Path, book: dict) -> None:
    """Writes in nbformat's own layout, under another name first."""
    text = json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    replace(path, text)


def replace(path: Path, text: str) -> None:
    """Puts text into path; the old file stays whole until the new one is."""
    beside = path.with_name(path.name + ".tmp")
    beside.write_text(text, encoding="utf-8", newline="\n")
    os.replace(beside, path)


# --- running --------------------------------------------------------------------


def run(path: Path, save: bool) -> bool:
    """Runs one chapter, cell by cell; True where no cell failed.

    The executed copy goes to a temporary folder, or with `save` over the chapter.
    """
    import nbformat
    from nbclient.exceptions import CellExecutionError

    book = nbformat.read(path, as_version=4)
    began = time.monotonic()
    print(f"{path.stem}: {sum(map(is_run, book.cells))} cells", flush=True)
    try:
        client(book, path.parent).execute()
    except CellExecutionError as error:
        print(f"\n{error}", file=sys.stderr)
        return False
    target = path if save else Path(tempfile.mkdtemp(prefix="chapter-")) / path.name
    book = json.loads(nbformat.writes(normalise(book)))
    write(target, book)
    print(f"{path.stem}: {time.monotonic() - began:.0f} s, written to {target}")
    return True


def is_run(cell: dict) -> bool:
    return cell["cell_type"] == "code" and bool(text_of(cell["source"]).strip())


def client(book: dict, folder: Path):
    """An nbclient for the notebook that prints a line per cell."""
    from nbclient import NotebookClient

    count, total, began = 0, sum(map(is_run, book.cells)), 0.0

    def start(cell, cell_index):
        nonlocal count, began
        count, began = count + 1, time.monotonic()
        lines = [line for line in cell.source.splitlines() if line.strip("# ")]
        print(f"  [{count:2}/{total}] {lines[0][:60]:60}", end=" ", flush=True)

    def end(cell, cell_index, execute_reply):
        print(f"{time.monotonic() - began:6.1f} s", flush=True)

    return NotebookClient(
        book,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        timeout=1200,
        coalesce_streams=True,
        record_timing=False,
        extra_arguments=["--log-level=40"],  # the kernel's own warnings: not ours
        store_widget_state=False,
        on_cell_execute=start,
        on_cell_executed=end,
    )


def normalise(book: dict) -> dict:
    """The notebook without what changes from run to run; changes it in place.

    Keeps cell ids and tags. Counts become 1..N over the cells that hold code, a
    cell tagged `strip-output` loses its outputs, widget views go, the set-up cell and
    those tagged `folded` or `solution` are folded away.
    """
    book["metadata"] = json.loads(json.dumps(METADATA))
    count = 0
    for cell in book["cells"]:
        tags = cell["metadata"].get("tags")
        cell["metadata"] = {"tags": tags} if tags else {}
        cell["metadata"] |= hidden(cell)
        if cell["cell_type"] != "code":
            continue
        count += is_run(cell)
        cell["execution_count"] = count if is_run(cell) else None
        if "strip-output" in (tags or ()):
            cell["outputs"] = []
        for output in cell["outputs"]:
            if "execution_count" in output:
                output["execution_count"] = count
            data = output.get("data", {})
            data.pop("application/vnd.jupyter.widget-view+json", None)
            if "text/plain" in data:
                data["text/plain"] = text_of(data["text/plain"])
        cell["outputs"] = [o for o in cell["outputs"] if o.get("data", True)]
    return book


def is_solution(cell: dict) -> bool:
    return "solution" in cell["metadata"].get("tags", ())


def hidden(cell: dict) -> dict:
    """The metadata that folds a solution, or the code alone of other cells; else none.

    Such are the set-up cell and those tagged `folded`: harness, drawings, tables.
    """
    if is_solution(cell):
        return json.loads(json.dumps(SOLVED))
    return json.loads(json.dumps(FOLDED)) if is_folded(cell) else {}


def is_folded(cell: dict) -> bool:
    """True for a cell whose code is folded and whose outputs are seen."""
    is_setup = is_run(cell) and text_of(cell["source"]).startswith(SETUP)
    return is_setup or "folded" in cell["metadata"].get("tags", ())


# --- publishing -----------------------------------------------------------------


def stamp_text(text: str, repo: str, tag: str, own: str = "") -> str:
    """Text with every marked badge and set-up line naming this repo and tag."""

    def badge(found: re.Match) -> str:
        file = found["file"] or own
        if not file:
            return found[0]
        page = f"https://colab.research.google.com/github/{repo}/blob/{tag}"
        # HTML: after a comment at a line's start, Markdown would not be rendered.
        # Words, no picture: without a network it would be broken.
        link = f'<a href="{page}/chapters/{file}">Open in Colab</a>'
        return f"{found[1]}{link}{found[3]}"

    text = STAMP.sub(lambda _: f'REPO, TAG = "{repo}", "{tag}"', text)
    return BADGE.sub(badge, text)


def stamp_notebook(path: Path, repo: str, tag: str) -> bool:
    """Stamps one notebook; True where that changed it."""
    book = json.loads(path.read_text(encoding="utf-8"))
    changed = False
    for cell in book["cells"]:
        before = text_of(cell["source"])
        after = stamp_text(before, repo, tag, own=path.name)
        if after != before:
            changed, cell["source"] = True, after.splitlines(keepends=True)
    if changed:
        write(path, book)
    return changed


def publish(repo: str, tag: str, root: Path = ROOT) -> list[Path]:
    """Stamps all notebooks, the set-up cell's text and the README.

    Returns the files that changed: none on a second call. Raises ValueError for a
    name that GitHub would not take.
    """
    if not re.fullmatch(r"[A-Za-z0-9-]+/[\w.-]+", repo):
        raise ValueError(f"--repo is OWNER/NAME, as in ada/detr_steps; got {repo!r}")
    if not re.fullmatch(r"\w[\w./-]*", tag):
        raise ValueError(f"--tag is the name of a tag or a branch; got {tag!r}")
    changed = [path for path in chapters(root) if stamp_notebook(path, repo, tag)]
    for path in (root / "README.md", root / "tools" / "setup_cell.py"):
        before = path.read_text(encoding="utf-8") if path.exists() else ""
        after = stamp_text(before, repo, tag)
        if after != before:
            replace(path, after)
            changed.append(path)
    return changed


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="course.py")
    commands = parser.add_subparsers(dest="command", required=True)
    running = commands.add_parser("run")
    running.add_argument("chapters", nargs="+")
    running.add_argument("--save", action="store_true")
    publishing = commands.add_parser("publish")
    publishing.add_argument("--repo", required=True)
    publishing.add_argument("--tag", required=True)
    options = parser.parse_args(arguments)
    try:
        if options.command == "run":
            paths = [find(name) for name in options.chapters]
            return 0 if all(run(path, options.save) for path in paths) else 1
        changed = publish(options.repo, options.tag)
    except (FileNotFoundError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print("\n".join(f"stamped {path.relative_to(ROOT)}" for path in changed))
    print(f"{len(changed)} files changed. Commit them, then push the tag.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
