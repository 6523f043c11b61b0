"""All pages of the book, as Sphinx will read them."""

import shutil
from pathlib import Path

from tools.notebooks import ROOT

from . import api, changes, landing, ledger, own_pictures
from .chapters import Chapter, every_chapter, repository
from .convert import Converter
from .glossary import Glossary
from .library import Library
from .uses import uses_of

BOOK = ROOT / "book"


class Site:
    """Everything that the pages are made from, read once."""

    def __init__(self) -> None:
        self.chapters = every_chapter()
        self.library = Library()
        self.glossary = Glossary(self.chapters)
        self.uses = {c.stem: uses_of(c, self.library) for c in self.chapters}
        pages = {name for name in self.library.modules if self.library.has_page(name)}
        self.converter = Converter(self.glossary, pages, repository())

    def pages(self) -> dict[str, str]:
        """The generated pages by their path."""
        made = {f"chapters/{c.stem}.ipynb": self.chapter(c) for c in self.chapters}
        made["index.md"] = self.front()
        made["glossary.md"] = self.glossary.page(self.chapters)
        made["own_pictures.md"] = own_pictures.page(BOOK / "pages" / "own_pictures.md")
        made["claims.md"] = ledger.page(self.chapters)
        made |= changes.pages(self.chapters)
        return made | api.Api(self.library, self.chapters, self.uses).pages()

    def chapter(self, chapter: Chapter) -> str:
        """One chapter's notebook, with its ending."""
        step = [
            f"[From `{old.name}.py` to `{new.name}.py`]"
            f"(../changes/{changes.stem(old, new)}.md): what changed in the code.\n"
            for old, new in changes.pairs()
            if new.chapter == chapter.stem
        ]
        ending = api.in_chapter(chapter, self.library, self.uses)
        return self.converter.page(chapter, "\n".join([ending, *step]))

    def front(self) -> str:
        """The landing page: book/pages/index.md with the path filled in."""
        text = (BOOK / "pages" / "index.md").read_text(encoding="utf-8")
        asked = landing.questions(BOOK / "questions.toml")
        repo, written = repository()[0], len(self.chapters)
        filled = {
            "needs": landing.needs(repo, written, len(asked)),
            "copy": landing.copy(repo),
            "first": self.chapters[0].stem,
            "figure": landing.figure(),
            "map": landing.path_map(self.chapters),
            "path": landing.path_list(self.chapters, asked),
            "words": str(sum(len(entry.names) for entry in self.glossary.entries)),
            "claims": str(sum(len(chapter.claims) for chapter in self.chapters)),
        }
        for name, value in filled.items():
            text = text.replace("{{" + name + "}}", value)
        return text

    def write(self, folder: Path) -> int:
        """Write all sources into an empty folder; returns how many pages."""
        for path in (BOOK / "pages").glob("*.md"):
            put(folder / path.name, path.read_text(encoding="utf-8"))
        for name, text in self.pages().items():
            put(folder / name, text)
        notebooks = folder / "extra" / "notebooks"
        notebooks.mkdir(parents=True)
        for chapter in self.chapters:
            shutil.copy(chapter.path, notebooks)
        return sum(
            path.suffix in (".md", ".rst", ".ipynb") and "extra" not in path.parts
            for path in folder.rglob("*.*")
        )


def put(path: Path, text: str) -> None:
    """Write one page, its folder made first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")
