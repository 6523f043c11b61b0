"""Builds the book: `python3 course.py book`, or `python -m tools.book` inside .venv.

`--pdf` prints each chapter too, `--pdf 02 05` only these.

The pages' sources go to build/book-work. The finished site replaces build/book only
when everything went well; a warning counts as an error.
"""

import argparse
import shutil
import sys
import time
import webbrowser
from pathlib import Path

from sphinx.cmd.build import build_main

from tools.notebooks import ROOT

from . import pdf
from .chapters import Fault, every_chapter
from .site import BOOK, Site


def build(out: Path, work: Path, printed: list[str] | None = None) -> Path | None:
    """Build the site into `out`, by way of `work`; its first page, or None.

    `printed`: numbers of the chapters that become PDFs, [] for all, None for none.
    """
    check(out, "searchindex.js")
    check(work, "source")
    if printed is not None:  # what is missing is told before anything is built
        chapters, executable = pdf.chosen(every_chapter(), printed), pdf.browser()
    shutil.rmtree(work, ignore_errors=True)
    source, made = work / "source", work / "site"
    pages = Site().write(source)
    print(f"Building {pages} pages", flush=True)
    options = ["-c", str(BOOK), "-d", str(work / "doctrees"), "-b", "html", "-q"]
    if build_main([*options, "-W", "--keep-going", "-T", str(source), str(made)]):
        return None
    if printed is not None:
        pdf.write(made, chapters, executable)
    shutil.rmtree(out, ignore_errors=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    made.rename(out)
    shutil.rmtree(work)
    return out / "index.html"


def check(folder: Path, mark: str) -> None:
    """Raise Fault unless a folder is ours to replace: a build left `mark` in it."""
    empty = not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    if not (empty or (folder / mark).exists()):
        raise Fault(f"{folder} holds something else: choose an empty folder as --out")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="course.py book")
    parser.add_argument("--open", action="store_true", help="show it in the browser")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "book")
    parser.add_argument("--pdf", nargs="*", metavar="NN", help="and chapters as PDFs")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    out = options.out.resolve()
    try:
        first = build(out, out.with_name(out.name + "-work"), options.pdf)
    except Fault as fault:
        print(fault, file=sys.stderr)
        return 1
    if first is None:
        print("The book was not built: mend the warnings above.", file=sys.stderr)
        return 1
    print(f"{time.monotonic() - began:.0f} s. The book opens with:\n{first}")
    if options.open:
        webbrowser.open(first.as_uri())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
