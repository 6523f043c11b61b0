"""The library's pages: one for each floor, one for each module, links to chapters."""

from .chapters import Chapter
from .library import FLOORS, Floor, Library, Public, first_sentence, part_of, short
from .uses import Use

Uses = dict[str, dict[str, Use]]  # by chapter's stem, then by full name


class Api:
    """Writes the reStructuredText that Sphinx's autodoc fills with docstrings."""

    def __init__(self, library: Library, chapters: list[Chapter], uses: Uses) -> None:
        self.library, self.uses = library, uses
        self.labels = {chapter.stem: chapter.label for chapter in chapters}

    def pages(self) -> dict[str, str]:
        """All pages by their path."""
        found = {"api/index.rst": self.index()}
        for floor in FLOORS:
            found[f"api/{floor.stem}.rst"] = self.floor(floor)
            for module in self.library.on(floor):
                found[f"api/{module}.rst"] = self.module(module)
        return found

    def index(self) -> str:
        """The library's first page: the floors from the ground up."""
        lines = [*title("The library"), INTRODUCTION]
        for floor in FLOORS:
            lines += [f":doc:`{floor.title} <{floor.stem}>`", f"   {floor.about}", ""]
        lines += [".. toctree::", "   :hidden:", ""]
        return "\n".join(lines + [f"   {floor.stem}" for floor in FLOORS]) + "\n"

    def floor(self, floor: Floor) -> str:
        """One floor: its modules, and the names in each."""
        lines = [*title(floor.title), floor.about, ""]
        names = self.library.on(floor)
        for name in names:
            about = first_sentence(self.library.modules[name].__doc__ or "")
            # chapters are linked on the module's own page
            about = about.split(" (chapters/")[0].split(" (built in ")[0].rstrip(".:")
            links = ", ".join(map(name_link, self.library.names[name]))
            lines += [f":doc:`{short(name)} <{name}>`", f"   {escaped(about)}.", ""]
            lines += ["   .. rst-class:: names", "", f"   {links}", ""]
        lines += [".. toctree::", "   :hidden:", ""]
        lines += [f"   {short(name)} <{name}>" for name in names]
        return "\n".join(lines) + "\n"

    def module(self, name: str) -> str:
        """One module: its docstring, then its public names in the file's order."""
        lines = [*title(short(name)), f".. automodule:: {name}", ""]
        for public in self.library.names[name]:
            kind = "autoclass" if public.is_class else "autofunction"
            lines += [f".. {kind}:: {public.full}"]
            lines += ["   :members:"] if public.is_class else []
            lines += ["", *self.back(public)]
        return "\n".join(lines) + "\n"

    def back(self, public: Public) -> list[str]:
        """Backlinks: the chapters that build, prove or use a name."""
        told = []
        if public.built_in in self.labels:
            told.append(f"built in {self.chapter(public.built_in)}")
        proved, used = [], []
        for stem, uses in self.uses.items():
            use = uses.get(public.full)
            if use and use.proofs:
                proved.append(self.cell(stem, use.proofs[0]))
            elif use and stem != public.built_in:
                used.append(self.cell(stem, use.cell))
        told += [f"proved equal in {', '.join(proved)}"] if proved else []
        told += [f"used in {', '.join(used)}"] if used else []
        if not told:
            return []
        text = "; ".join(told)
        return [
            "   .. rst-class:: chapters",
            "",
            f"   {text[:1].upper()}{text[1:]}.",
            "",
        ]

    def chapter(self, stem: str) -> str:
        return f":doc:`{self.labels[stem]} </chapters/{stem}>`"

    def cell(self, stem: str, cell: str) -> str:
        return f":ref:`{self.labels[stem]} <cell-{cell}>`"


INTRODUCTION = """\
``detr_steps`` is what the chapters build. Its parts lie on floors: a module may use
what lies below it, and never what lies above. Here they are from the ground up, as the
course meets them. Each entry leads to the chapter that builds or proves it, and to its
source.

.. rst-class:: floors
"""


def title(text: str) -> list[str]:
    """A page's title."""
    return [text, "=" * len(text), ""]


def name_link(public: Public) -> str:
    return f":py:obj:`{public.name} <{public.full}>`"


def escaped(text: str) -> str:
    """A docstring's sentence as reStructuredText, code kept as code."""
    parts = text.split("`")
    return "".join(
        rf"\ ``{part}``\ " if i % 2 else part.replace("*", r"\*").replace("_", r"\_")
        for i, part in enumerate(parts)
    )


def in_chapter(chapter: Chapter, library: Library, uses: Uses) -> str:
    """The end of a chapter's page: its names in the library, as Markdown.

    What it proves or builds is a table, what it only uses a line. The checks of the
    exercises are left out: they are not what the chapter is about.
    """
    rows, used = [], []
    for public in library.public:
        use = uses[chapter.stem].get(public.full)
        built = public.built_in == chapter.stem
        if part_of(public.module) in ("check", "notebook") or not (use or built):
            continue
        link = f"{{py:obj}}`{public.called} <{public.full}>`"
        if built or use.proofs:
            rows.append(row_in_chapter(public, link, use))
        else:
            used.append(link)
    head = ["| in the library | what it does | here |", "| :-- | :-- | :-- |"]
    parts = ["## Where this is in the library\n"]
    parts += ["\n".join(head + [line for _, line in sorted(rows)]) + "\n"] * bool(rows)
    parts += [f"**Used here:** {', '.join(used)}.\n"] * bool(used)
    return "\n".join(parts)


def row_in_chapter(public: Public, link: str, use: Use | None) -> tuple[int, str]:
    """A name's rank, the proved ones first, and its line of the table."""
    proofs = use.proofs if use else []
    here = "built&nbsp;here" if use else "belongs to this chapter"
    if proofs:
        here = f'<a href="#cell-{proofs[0]}">proved&nbsp;equal</a>'
    summary = public.summary.replace("|", "\\|")
    return 1 - bool(proofs), f"| {link} | {summary} | {here} |"
