"""The glossary: one page from the terms that each chapter explains at its end."""

import re
from dataclasses import dataclass, field

from .chapters import FOLD, Chapter, is_words
from .markdown import EMPHASIS, change_prose

# In a fold a term starts a line, or follows a middle dot or a semicolon.
ENTRY = re.compile(r"(?m)(?:^[-\s]*|·\s+|;\s+)\*(?!\*)([^*\n]+)\*")


@dataclass
class Entry:
    """Names for the same thing, and the chapters that explain and use it."""

    names: list[str]
    meanings: list[tuple[str, str]] = field(default_factory=list)  # (stem, text)
    uses: set[str] = field(default_factory=set)  # stems that emphasise the word


def entries_of(words: str) -> list[tuple[list[str], str]]:
    """A fold's text -> [(names, meaning)]; names are separated by commas."""
    body = words.split("\n**")[0]  # what follows is further reading
    starts = list(ENTRY.finditer(body))
    ends = [start.start() for start in starts[1:]] + [len(body)]
    found = []
    for start, end in zip(starts, ends):
        meaning = " ".join(body[start.end() : end].split())
        meaning = re.sub(r"^[:,]\s*|\s*[·;.]\s*$", "", meaning)
        meaning = re.sub(r"^\(([^)]*)\):", r"(\1)", meaning)
        found.append(([name.strip() for name in start[1].split(",")], meaning))
    return found


class Glossary:
    """All terms of all chapters, and where they are explained and used."""

    def __init__(self, chapters: list[Chapter]) -> None:
        self.entries: list[Entry] = []
        self._by_name: dict[str, Entry] = {}
        for chapter in chapters:
            for names, meaning in entries_of(chapter.words):
                self._add(names, meaning, chapter.stem)
        for chapter in chapters:
            for cell in chapter.prose:
                self.link(without_words(cell["source"]), chapter.stem, set())

    def _add(self, names: list[str], meaning: str, stem: str) -> None:
        entry = next(filter(None, map(self.find, names)), None)
        if entry is None:
            entry = Entry([])
            self.entries.append(entry)
        entry.meanings.append((stem, meaning))
        for name in names:
            if self.find(name) is None:
                entry.names.append(name)
                self._by_name[name.lower()] = entry

    def find(self, name: str) -> Entry | None:
        """The entry of a term; capitals and plurals do not matter."""
        key = name.lower()
        forms = key, key.removesuffix("s"), key.removesuffix("es")
        forms = *forms, re.sub("ies$", "y", key)
        return next(filter(None, map(self._by_name.get, forms)), None)

    def explained(self, name: str, stem: str) -> Entry | None:
        """The entry of a term that this very chapter explains.

        Another chapter's word may mean something else: weights of a sum, of attention.
        """
        entry = self.find(name)
        return entry if entry and stem in dict(entry.meanings) else None

    def link(self, text: str, stem: str, seen: set[str]) -> str:
        """Prose with its emphasised terms leading to the glossary.

        The first use of each in a chapter gets an anchor to come back to; `seen`
        holds those that have one, and grows.
        """

        def role(match: re.Match) -> str:
            stars, words = match.groups()
            entry = self.explained(words, stem)
            if entry is None:
                return match[0]
            name, first = entry.names[0], ""
            if name not in seen:
                first = f'<span id="{anchor(name)}"></span>'
                seen.add(name)
                entry.uses.add(stem)
            stars = stars * (len(stars) == 2)  # italics come from the page's style
            return f"{first}{stars}{{term}}`{words} <{name}>`{stars}"

        return change_prose(text, lambda prose: EMPHASIS.sub(role, prose))

    def page(self, chapters: list[Chapter]) -> str:
        """The glossary's page, in Markdown."""
        labels = {chapter.stem: chapter.label for chapter in chapters}
        lines = [ABOUT, "```{glossary}\n:sorted:\n"]
        for entry in self.entries:
            lines += entry.names
            for stem, meaning in entry.meanings:
                back = (
                    f'<a class="seen" href="chapters/{stem}.html#{place(entry, stem)}">'
                    f"{labels[stem]}</a>"
                )
                lines.append(f"  {meaning[:1].upper()}{meaning[1:]}. {back}\n")
        return "\n".join([*lines, "```\n"])


ABOUT = """\
# Glossary

Every word that a chapter explains at its end, in that chapter's words. The link behind
it leads to the place where the chapter first uses it.
"""


def place(entry: Entry, stem: str) -> str:
    """The id in a chapter's page where an entry's term stands."""
    return anchor(entry.names[0]) if stem in entry.uses else "words"


def anchor(name: str) -> str:
    """The id of a term's first use in a chapter."""
    return "use-" + (re.sub(r"\W+", "-", name.lower()).strip("-") or f"{ord(name[0])}")


def without_words(text: str) -> str:
    """A cell's text less the fold that explains terms."""
    return FOLD.sub(lambda fold: "" if is_words(fold[1]) else fold[0], text)
