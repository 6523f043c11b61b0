"""Reads the chapters as they are: titles, cells, claims, words."""

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tools.notebooks import ROOT, STAMP, text_of
from tools.notebooks import chapters as paths

from .markdown import plain, table_rows

HEADING = re.compile(r"(?m)^(#{1,3}) (.+)$")
FOLD = re.compile(r"(?s)<details>\s*<summary>(.*?)</summary>(.*?)</details>")
MINUTES = re.compile(r"(?i)read(?:ing)?\W+(\d+)\D+?do(?:ing)?\W+(\d+)")
CLAIMS = ("| the paper says |", "| it is said |")  # how a table of claims begins
NOBODY = "OWNER"  # owns the repository until `course.py publish` stamps a name


class Fault(Exception):
    """What in a source keeps the book from being built, and how to mend it."""


@dataclass(frozen=True)
class Claim:
    """One row of a chapter's table of claims."""

    said: str
    measured: str
    verdict: str
    cell: str  # id of the cell that computes it


@dataclass(frozen=True)
class Chapter:
    """A notebook and what the book wants to know about it."""

    path: Path
    cells: list[dict]

    @classmethod
    def read(cls, path: Path) -> "Chapter":
        """Read one notebook. Raises Fault where its first cell is no title."""
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        cells = [cell | {"source": text_of(cell["source"])} for cell in cells]
        if not cells or not re.match(r"# \d\d · ", cells[0]["source"]):
            raise Fault(f"{path.name}: the first cell must begin with '# NN · Title'")
        return cls(path, cells)

    @property
    def stem(self) -> str:
        """The name of its page: 02_detr."""
        return self.path.stem

    @property
    def number(self) -> str:
        """02"""
        return self.stem[:2]

    @cached_property
    def title(self) -> str:
        """What stands between the number and the question: DETR."""
        return self._heading[0]

    @cached_property
    def question(self) -> str:
        """What the chapter asks: after the title's colon, or the first heading."""
        return self._heading[1]

    @cached_property
    def _heading(self) -> tuple[str, str]:
        headings = HEADING.findall(self.cells[0]["source"])
        title, _, question = headings[0][1].partition(" · ")[2].partition(": ")
        if not question and len(headings) > 1 and headings[1][1].endswith("?"):
            question = headings[1][1]
        return plain(title), plain(question[:1].upper() + question[1:])

    @property
    def label(self) -> str:
        """How other pages name it: 02 · DETR."""
        return f"{self.number} · {self.title}"

    @property
    def minutes(self) -> tuple[int, int] | None:
        """Minutes to read and to do, where the first cell says them."""
        found = MINUTES.search(plain(self.cells[0]["source"]))
        return (int(found[1]), int(found[2])) if found else None

    @property
    def badge(self) -> str | None:
        """Where its badge leads: the notebook on Colab. None before publishing."""
        found = re.search(
            r'<!-- colab -->.*?href="([^"]+)"', self.cells[0]["source"], re.S
        )
        return found[1] if found and f"/{NOBODY}/" not in found[1] else None

    @property
    def code(self) -> list[dict]:
        """The cells that hold code."""
        return [cell for cell in self.cells if cell["cell_type"] == "code"]

    @property
    def prose(self) -> list[dict]:
        """The cells that hold text."""
        return [cell for cell in self.cells if cell["cell_type"] == "markdown"]

    @property
    def words(self) -> str:
        """What stands inside the fold of terms; empty where there is none."""
        for cell in self.prose:
            for summary, body in FOLD.findall(cell["source"]):
                if is_words(summary):
                    return body
        return ""

    @property
    def claims(self) -> list[Claim]:
        """The rows of its tables of claims, from their kept outputs."""
        return [
            Claim(*row, cell=cell["id"])
            for cell in self.code
            if "viz.claims(" in cell["source"]
            for row in claim_rows(self.path.name, cell)
        ]


def is_words(summary: str) -> bool:
    """True for the summary of the fold that explains a chapter's terms."""
    return bool(re.search(r"(?i)\b(terms|words)\b", summary))


def claim_rows(name: str, cell: dict) -> list[list[str]]:
    """The rows of one stored table of claims: said, measured, verdict."""
    for output in cell["outputs"]:
        text = text_of(output.get("data", {}).get("text/markdown", ""))
        head, *rows = table_rows(text) or [[]]
        if len(head) == 3 and all(len(row) == 3 for row in rows):
            return rows
    raise Fault(
        f"{name}, cell {cell['id']}: no table of claims among the kept outputs; "
        f"run the chapter with --save"
    )


def every_chapter(root: Path = ROOT) -> list[Chapter]:
    """All finished chapters, in order."""
    return [Chapter.read(path) for path in paths(root)]


def repository(root: Path = ROOT) -> tuple[str, str]:
    """The repository and the tag that `course.py publish` stamped."""
    text = (root / "tools" / "setup_cell.py").read_text(encoding="utf-8")
    return re.search(STAMP.pattern.replace(".*?", "(.*?)"), text).groups()
