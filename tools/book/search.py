"""What the book's search looks through: the words of each page, and its parts.

A script holds them (search.js reads it): a page opened from a disk may not fetch files.
"""

import html
import json
import re
from pathlib import Path

from docutils import nodes
from sphinx import addnodes

TAGS = re.compile(r"(?is)<(style|script)\b.*?</\1>|<!--.*?-->|<[^>]*>")


def text_of(doctree: nodes.document) -> tuple[str, list[tuple[int, str, str]]]:
    """A page's words in one line, and its parts as (begin, anchor, heading).

    A part is a section, a name of the library or a term of the glossary; it begins at
    a letter of the text, counted as JavaScript counts (in 16 bits), and ends where the
    next one begins.
    """
    words, parts, at = [], [], 0
    for node in doctree.findall(nodes.TextElement):
        if isinstance(node.parent, nodes.TextElement):
            continue  # told with its parent
        text = " ".join(_words(node).split())
        if anchor := _anchor(node):
            parts.append((at, anchor, _heading(node)))
        if text:
            words.append(text)
            at += len(text.encode("utf-16-le")) // 2 + 1
    return " ".join(words), parts


def script(pages: dict[str, tuple[str, list]]) -> str:
    """The script that sets `bookText` and `bookParts`, each by the page's name."""
    text = {name: text for name, (text, _) in pages.items()}
    parts = {name: parts for name, (_, parts) in pages.items()}
    return "".join(
        f"globalThis.{name} = {json.dumps(value, ensure_ascii=False)};\n"
        for name, value in (("bookText", text), ("bookParts", parts))
    )


def write(pages: dict[str, tuple[str, list]], static: Path) -> None:
    """Write the script among the site's files."""
    path = static / "book-text.js"
    path.write_text(script(pages), encoding="utf-8", newline="\n")


def _anchor(node: nodes.Element) -> str:
    """The id of the part that begins here; empty where none begins."""
    if isinstance(node, nodes.title) and isinstance(node.parent, nodes.section):
        return node.parent["ids"][0]
    if isinstance(node, addnodes.desc_signature | nodes.term) and node["ids"]:
        return node["ids"][0]
    return ""


def _heading(node: nodes.Element) -> str:
    """What a part is called: the title, the term, or DETR.forward."""
    if isinstance(node, addnodes.desc_signature):
        return node.get("fullname") or node["ids"][0]
    return " ".join(node.astext().split())


def _words(node: nodes.Node) -> str:
    """What a reader sees of a part of a page: raw HTML without its tags."""
    if isinstance(node, nodes.raw):
        return html.unescape(TAGS.sub(" ", node.astext()))
    if next(node.findall(nodes.raw), None):
        return "".join(map(_words, node.children))
    return node.astext()
