"""Our docstrings, which are plain prose with `backticks`, made into reStructuredText.

Sphinx calls `process` and `skip` for each thing it documents (book/conf.py).
"""

import ast
import dataclasses
import inspect
import re
import textwrap

from .library import CHAPTER_FILE

FACTS = re.compile(r"(?<=[.)\]:;])\s+(?=(?:Source: |Raises: ))")
BUILT = re.compile(r"\s*Built\s+in\s+chapters/(\d\d_\w+)\.ipynb\.(?=\s|$)")
FACT = re.compile(r"(Source|Raises): ")


class Docstrings:
    """Turns docstrings into reStructuredText that leads to chapters and names."""

    def __init__(self, chapters: dict[str, str], names: dict[str, str]) -> None:
        self.chapters = chapters  # labels by stem: {"02_detr": "02 · DETR"}
        self.names = names  # full names by what code in a docstring may call them

    def process(self, app, what, name, thing, options, lines) -> None:
        """Sphinx's autodoc-process-docstring: changes `lines` in place."""
        text = "\n".join(lines).strip()
        if inspect.isclass(thing) and text.startswith(f"{thing.__name__}("):
            text = ""  # what Python makes for a dataclass without a docstring
        if what in ("class", "function"):
            text = BUILT.sub(self.unless_there, text)  # api.py adds all chapters
        new = self.convert(text)
        if what == "class":
            new += fields_table(thing, self)
        lines[:] = [*new, ""]

    def unless_there(self, sentence: re.Match) -> str:
        return "" if sentence[1] in self.chapters else sentence[0]

    def convert(self, text: str) -> list[str]:
        """A docstring's paragraphs, escaped, its sources and errors on lines of
        their own."""
        lines = []
        for paragraph in filter(str.strip, re.split(r"\n\s*\n", text)):
            for part in FACTS.split(" ".join(paragraph.split())):
                fact = FACT.match(part)
                if fact:
                    part = part[fact.end() :]
                    lines += [".. rst-class:: fact", "", f"**{fact[1]}** "]
                    lines[-1] += self.inline(part)
                else:
                    lines.append(self.inline(part))
                lines.append("")
        return lines

    def inline(self, text: str) -> str:
        """One paragraph: code stays code, chapters become links, the rest is text."""
        parts = re.split(r"`([^`]+)`", text)
        return "".join(
            self.code(part) if i % 2 else self.words(part)
            for i, part in enumerate(parts)
        )

    def code(self, text: str) -> str:
        """Code in a docstring; a public name of the library leads to its entry."""
        full = self.names.get(text.removesuffix("()"))
        return rf"\ :py:obj:`{text} <{full}>`\ " if full else rf"\ ``{text}``\ "

    def words(self, text: str) -> str:
        """Prose; the name of a chapter's file becomes a link to its page."""
        parts = CHAPTER_FILE.split(text)
        return "".join(
            self.chapter(part) if i % 2 else re.sub(r"([\\*`|_])", r"\\\1", part)
            for i, part in enumerate(parts)
        )

    def chapter(self, stem: str) -> str:
        """A link to a chapter's page, or its number where it is not there yet."""
        label = self.chapters.get(stem)
        link = rf"\ :doc:`{label} </chapters/{stem}>`\ "
        return link if label else f"chapter {stem[:2]}"


def fields_table(thing: type, docstrings: Docstrings) -> list[str]:
    """The fields of a dataclass or named tuple with the comments beside them."""
    fields = fields_of(thing)
    if not fields:
        return []
    lines = [".. rst-class:: fields", ""]
    for name, kind, default, comment in fields:
        value = f" = {default}" if default else ""
        lines.append(f"``{name}`` : ``{kind}{value}``")
        lines.append("   " + (docstrings.inline(comment) or r"\ "))
        lines.append("")
    return ["", *lines]


def fields_of(thing: type) -> list[tuple[str, str, str, str]]:
    """(name, type, default, comment) of each field, read from the class's source."""
    if not (dataclasses.is_dataclass(thing) or hasattr(thing, "_fields")):
        return []
    source = textwrap.dedent(inspect.getsource(thing))
    lines = source.splitlines()
    found = []
    for node in ast.parse(source).body[0].body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            after = lines[node.end_lineno - 1][node.end_col_offset :]
            default = ast.unparse(node.value) if node.value else ""
            comment = after.partition("#")[2].strip()
            kind = ast.unparse(node.annotation)
            found.append((node.target.id, kind, shorter(default), comment))
    return found


def shorter(default: str) -> str:
    """field(default_factory=CostWeights) -> CostWeights()"""
    made = re.fullmatch(r"field\(default_factory=(.*)\)", default)
    return f"{made[1]}()" if made else default


def sign(app, what, name, thing, options, signature, returns) -> tuple | None:
    """Sphinx's autodoc-process-signature: a class with fields shows them below."""
    return ("", None) if what == "class" and fields_of(thing) else None


def skip(app, what, name, thing, skipped, options) -> bool | None:
    """Sphinx's autodoc-skip-member: no entries that Python, not we, documented."""
    text = getattr(thing, "__doc__", None) or ""
    return True if text.startswith("Alias for field") else None
