"""Tables: what was claimed, what was measured."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Rows under a header; a notebook shows a real table, a terminal aligned text.

    `header` names of the columns; `rows` as many cells each. Floats are shown with
    `digits` decimals, zero without a sign, None as a dash.
    Built in chapters/00_start_here.ipynb.
    Raises: ValueError for a row of another length than the header.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[object]]
    digits: int = 2

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.header):
                raise ValueError(f"{len(row)} cells under {len(self.header)}: {row}")

    def _lines(self) -> list[list[str]]:
        cells = [[self._text(cell) for cell in row] for row in self.rows]
        return [[str(name) for name in self.header], *cells]

    def _text(self, cell: object) -> str:
        if cell is None:
            return "–"
        return f"{cell:z.{self.digits}f}" if isinstance(cell, float) else str(cell)

    def _repr_markdown_(self) -> str:
        head, *body = self._lines()
        numbers = [
            all(isinstance(row[i], int | float | None) for row in self.rows)
            for i in range(len(head))
        ]
        rule = ["--:" if number else ":--" for number in numbers]
        return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))

    def __repr__(self) -> str:
        lines = self._lines()
        widths = [max(map(len, column)) for column in zip(*lines)]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()
            for line in lines
        )


def table(
    header: Sequence[str], rows: Sequence[Sequence[object]], digits: int = 2
) -> Table:
    """Make a table to be shown as the last value of a cell."""
    return Table(header, rows, digits)


def claims(
    rows: Sequence[tuple[str, str, bool | str]], said: str = "the paper says"
) -> Table:
    """Make a table of (what a paper says, what we measured, does it hold?).

    `said`: the title of the first column, "it is said" where not all are a paper's.
    """
    words = {True: "holds", False: "does not hold here"}
    return Table(
        (said, "we measured", "verdict"),
        [(claim, seen, words.get(holds, holds)) for claim, seen, holds in rows],
    )
