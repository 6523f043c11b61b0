"""Markdown without a parser: what is prose, what is code, and safe text for tables."""

import re
from collections.abc import Callable

# What looks like Markdown inside these is not: code, maths, comments, tags, links.
OPAQUE = re.compile(
    r"(```.*?```|~~~.*?~~~|`[^`\n]+`|\$\$.*?\$\$|\$[^$\n]+\$|<!--.*?-->|<[^>\n]+>"
    r"|\]\([^)\n]*\))",
    re.S,
)
# *in italics* or **in bold**: the stars, then the words
EMPHASIS = re.compile(r"(?<![\w*\\])(\*{1,2})(?![*\s])([^*\n]+?)(?<![\s*])\1(?![\w*])")
LINK = re.compile(r"(?<=\])\(([^)\s]+)\)")


def change_prose(text: str, change: Callable[[str], str]) -> str:
    """Text with `change` applied to everything that is not code, maths or a link."""
    parts = OPAQUE.split(text)
    return "".join(part if i % 2 else change(part) for i, part in enumerate(parts))


def escape(text: str) -> str:
    """Text that means itself in a cell of a Markdown table."""
    return re.sub(r"([\\`*_{}\[\]<>#|$^~])", r"\\\1", text).replace("\n", " ")


def plain(text: str) -> str:
    """Markdown without its marks, for titles and alternative texts."""
    return re.sub(r"[*`]|<[^>]+>", "", text).strip()


def table_rows(text: str) -> list[list[str]]:
    """The cells of a Markdown table, header first; the line of dashes is left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [re.split(r"(?<!\\)\|", line.strip()[1:-1]) for line in lines]
    rows = [[cell.strip() for cell in row] for row in rows]
    return [row for i, row in enumerate(rows) if i != 1]
