"""How much of a chapter's code teaches: `python tools/teaching.py`.

A line of code *teaches* unless its statement is

- an import;
- a plot or its layout: it calls pyplot, `viz`, or a figure or axes made by them;
- a table or a line of results: an expression that calls nothing but what brings known
  values into form (`print`, `round`, `.tolist()`, `.mean()`, …);
- an assignment of the same kind that only such statements read: rows of a table;
- an `assert` at the level of the cell, which is there for the tests;
- `predict` or `reveal`;
- a loop, a condition or a function that holds nothing else, or a function that draws.

Blank lines and lines of comment count nowhere, and folded cells (set-up, solutions,
those tagged `folded`) count on neither side. No syntax tells the harness of a
measurement from what it measures: it counts as teaching until somebody folds it.
"""

from __future__ import annotations

import ast
import json
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import UnionType

if __name__ == "__main__":  # run as a file: the other tools are beside it
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.notebooks import chapters, is_folded, is_run, is_solution, text_of

DRAWING = frozenset({"plt", "viz"})
GUESSING = frozenset({"predict", "reveal"})
FORM = frozenset(
    "print len round str list tuple dict set zip enumerate range int float bool sorted "
    "map min max sum repr any all tolist item mean std sum append extend update items "
    "keys values join ljust rjust center format upper replace numpy".split()
)
BLOCKS = (ast.For, ast.While, ast.If, ast.With, ast.Try)


@dataclass(frozen=True)
class Count:
    """What a chapter holds: lines of code, those that teach, words, code cells."""

    lines: int
    teaching: int
    words: int
    cells: int

    @property
    def share(self) -> float:
        """The part of the code that teaches, in [0, 1]; 1 where there is no code."""
        return self.teaching / self.lines if self.lines else 1.0


def count(book: dict) -> Count:
    """Counts one notebook, as read from its file.

    Raises:
        SyntaxError: a cell that is no plain Python, a magic for example.
    """
    shown = [text_of(cell["source"]) for cell in book["cells"] if is_shown(cell)]
    code = Code(shown)
    lines = {(i, n) for i, text in enumerate(shown) for n in code_lines(text)}
    cells = sum(map(is_run, book["cells"]))
    return Count(len(lines), len(lines & code.teaching()), prose_words(book), cells)


def is_shown(cell: dict) -> bool:
    """True for a code cell that a reader sees unfolded."""
    return is_run(cell) and not (is_folded(cell) or is_solution(cell))


def code_lines(text: str) -> set[int]:
    """The numbers, from 1, of the lines that hold more than a comment."""
    numbered = enumerate(text.splitlines(), 1)
    return {n for n, line in numbered if line.strip() and line.strip()[0] != "#"}


def prose_words(book: dict) -> int:
    """Words in Markdown cells, less folds, code and links' addresses."""
    cells = [c for c in book["cells"] if c["cell_type"] == "markdown"]
    text = "\n".join(text_of(cell["source"]) for cell in cells)
    # the badge, and the links to the neighbours
    text = re.sub(r"(?s)<!-- colab.*?/colab -->|[^\n]*<!-- path -->", " ", text)
    text = re.sub(r"(?s)<details.*?</details>|```.*?```|<!--.*?-->", " ", text)
    text = re.sub(r"\]\([^)]*\)|<[^>]+>|\$[^$]*\$", " ", text)
    return len(re.findall(r"[^\W\d_]+(?:['’-][^\W\d_]+)*", text))


class Code:
    """The statements of a notebook's cells, and which of them teach."""

    def __init__(self, sources: Iterable[str]) -> None:
        self.cells = [ast.parse(source).body for source in sources]
        self.painters = set(DRAWING)  # pyplot, viz, and functions that draw
        self.shown: set[ast.stmt] = set()  # for show only: see the module's docstring
        every = []
        for cell in self.cells:
            nodes = [each for top in cell for each in inner(top)]
            self.shown |= self._for_show(nodes)
            every += nodes
        self._add_prepared([node for node in every if not isinstance(node, BLOCKS)])

    def teaching(self) -> set[tuple[int, int]]:
        """(cell, line) of all lines that teach, cells from 0 and lines from 1."""
        return {
            (index, line)
            for index, cell in enumerate(self.cells)
            for node in cell
            for line in self._lines(node)
        }

    def _lines(self, node: ast.stmt) -> set[int]:
        if not self._teaches(node):
            return set()
        inside = children(node)
        own = span(node).difference(*map(span, inside))
        return own.union(*map(self._lines, inside))

    def _teaches(self, node: ast.stmt) -> bool:
        inside = children(node)
        return any(map(self._teaches, inside)) if inside else node not in self.shown

    def _for_show(self, nodes: list[ast.stmt]) -> set[ast.stmt]:
        """The statements of one cell that draw, print what is known, guess, import."""
        axes = set()  # names of this cell's figures and axes
        for node in nodes:
            axes |= axes_of(node, self.painters | axes)
            if isinstance(node, ast.FunctionDef) and draws(node, self.painters):
                self.painters.add(node.name)
        return {n for n in nodes if is_for_show(n, self.painters | axes)}

    def _add_prepared(self, nodes: list[ast.stmt]) -> None:
        """Add the assignments that only bring values into form for a plot or table."""
        reads = {n: read(n) for n in nodes}
        form = {n: stored(n) for n in nodes if is_form(n, ast.Assign | ast.AugAssign)}
        while True:
            users = Counter(
                name for n in nodes if n not in self.shown for name in reads[n]
            )
            more = {
                n
                for n in form.keys() - self.shown
                if not any(users[name] > (name in reads[n]) for name in form[n])
            }
            if not more:
                return
            self.shown |= more


def is_for_show(node: ast.stmt, painters: set[str]) -> bool:
    """True for a statement that draws, prints what is known, guesses or imports."""
    if isinstance(node, ast.Import | ast.ImportFrom | ast.Assert | ast.Pass):
        return True
    if isinstance(node, BLOCKS):  # judged by what is inside
        return False
    if draws(node, painters) or calls(node) & GUESSING:
        return True
    return is_form(node, ast.Expr)


def is_form(node: ast.stmt, kind: type | UnionType) -> bool:
    """True for a statement of this kind that only brings known values into form."""
    return isinstance(node, kind) and calls(node) <= FORM


def draws(node: ast.AST, painters: set[str]) -> bool:
    """True where something is called that begins with one of these names."""
    called = (each for each in ast.walk(node) if isinstance(each, ast.Call))
    return any(root(each.func) in painters for each in called)


def axes_of(node: ast.stmt, painters: set[str]) -> set[str]:
    """The names to which a statement gives a figure or axes."""
    if isinstance(node, ast.Assign) and root(node.value) in painters:
        return stored(node)
    if not isinstance(node, ast.For):
        return set()
    pairs = [(node.target, node.iter)]
    if calls(node.iter) == {"zip"} and isinstance(node.target, ast.Tuple):
        pairs = list(zip(node.target.elts, node.iter.args, strict=False))
    return set().union(*(stored(t) for t, given in pairs if read(given) & painters))


# --- what a statement holds -----------------------------------------------------


def inner(node: ast.stmt) -> Iterator[ast.stmt]:
    """The statement, and those of its blocks; functions and classes stay whole."""
    yield node
    for child in children(node):
        yield from inner(child)


def children(node: ast.stmt) -> list[ast.stmt]:
    """The statements directly inside a loop, a condition, a `with` or a `try`."""
    if not isinstance(node, BLOCKS):
        return []
    inside = [*node.body, *getattr(node, "orelse", ()), *getattr(node, "finalbody", ())]
    return inside + [n for each in getattr(node, "handlers", ()) for n in each.body]


def span(node: ast.stmt) -> set[int]:
    """The numbers of a statement's lines, its decorators counted."""
    decorators = getattr(node, "decorator_list", [])
    first = min([node.lineno, *(each.lineno for each in decorators)])
    return set(range(first, node.end_lineno + 1))


def root(node: ast.AST) -> str | None:
    """The name that an expression begins with: `axes` of `axes[0].plot(x)`."""
    while isinstance(node, ast.Attribute | ast.Subscript | ast.Call):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def calls(node: ast.AST) -> set[str]:
    """The last names of all that is called: `mean` of `x.mean()`."""
    called = [each.func for each in ast.walk(node) if isinstance(each, ast.Call)]
    return {getattr(each, "attr", getattr(each, "id", "")) for each in called}


def names(node: ast.AST, kind: type) -> set[str]:
    found = (each for each in ast.walk(node) if isinstance(each, ast.Name))
    return {each.id for each in found if isinstance(each.ctx, kind)}


def read(node: ast.AST) -> set[str]:
    """The names that it reads."""
    return names(node, ast.Load)


def stored(node: ast.AST) -> set[str]:
    """The names that it gives a value."""
    return names(node, ast.Store)


def main() -> int:
    print(f"{'chapter':26}{'lines':>7}{'teach':>7}{'share':>7}{'words':>7}{'cells':>7}")
    for path in chapters():
        found = count(json.loads(path.read_text(encoding="utf-8")))
        row = (found.lines, found.teaching, f"{found.share:.0%}", found.words)
        print(f"{path.stem:26}" + "".join(f"{each:>7}" for each in (*row, found.cells)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
