"""What changed from one system to the next: a readable diff of their files.

Definitions are paired by their names, the system's own class by its role, so that a
reader sees what is new, what is gone and what is different inside what stayed.
"""

import ast
import re
from dataclasses import dataclass
from functools import cached_property

from tools.notebooks import ROOT

from .chapters import Chapter, Fault
from .diffs import diff
from .library import CHAPTER_FILE, first_sentence

# Each system and the one it is set beside, in the course's order: the list to add to.
SYSTEMS = {
    "parser": "classifier",
    "detr": "classifier",
    "deformable_detr": "detr",
    "conditional_detr": "detr",
    "dab_detr": "conditional_detr",
    "encoder_only": "detr",
    "tsp": "encoder_only",
    "panoptic": "detr",
    "adamixer": "deformable_detr",
}
OTHER = "imports and constants"
FOLDER = ROOT / "detr_steps" / "systems"


@dataclass(frozen=True)
class System:
    """One file of detr_steps/systems."""

    name: str
    text: str

    @classmethod
    def read(cls, name: str) -> "System":
        return cls(name, (FOLDER / f"{name}.py").read_text(encoding="utf-8"))

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""

    @property
    def chapter(self) -> str | None:
        """The stem of the chapter that the docstring says builds it."""
        found = CHAPTER_FILE.search(self.docstring)
        return found[1] if found else None

    @property
    def main(self) -> str | None:
        """The class with a config of its own: what the file is about.

        None for a file of parts that several systems share.
        """
        classes = [n for n in self.tree.body if isinstance(n, ast.ClassDef)]
        # a protocol only says what the configs of all systems have in common
        real = {n.name for n in classes if "Protocol" not in map(ast.unparse, n.bases)}
        return next((n.name for n in classes if f"{n.name}Config" in real), None)

    def builds_on(self, old: "System") -> bool:
        """True where it imports the other file, and inherits what it leaves out."""
        return any(
            isinstance(node, ast.ImportFrom) and node.module == old.name
            for node in self.tree.body
        )

    @cached_property
    def pieces(self) -> dict[str, list[str]]:
        """Its lines by what they define: classes by their heads, each method alone.

        The system's own name is a dot in the keys: `·`, `·Config`, `·.forward`.
        """
        lines = self.text.splitlines()
        found: dict[str, list[str]] = {OTHER: []}
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef):
                found |= self._class(node, lines)
            elif isinstance(node, ast.FunctionDef):
                found[f"{node.name}()"] = lines[start(node) - 1 : node.end_lineno]
            elif not is_docstring(node):
                found[OTHER] += lines[start(node) - 1 : node.end_lineno]
        return {key: value for key, value in found.items() if value}

    def _class(self, node: ast.ClassDef, lines: list[str]) -> dict[str, list[str]]:
        methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
        end = start(methods[0]) - 1 if methods else node.end_lineno
        own = re.sub(f"^{self.main}(?=$|Config$)", "·", node.name)
        head = "\n".join(lines[start(node) - 1 : end]).rstrip().splitlines()
        parts = {
            f"{own}.{method.name}()": lines[start(method) - 1 : method.end_lineno]
            for method in methods
        }
        return {own: head} | parts


def start(node: ast.AST) -> int:
    """The first line of a definition, its decorators counted."""
    decorators = getattr(node, "decorator_list", [])
    return min([node.lineno, *(each.lineno for each in decorators)])


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def pairs() -> list[tuple[System, System]]:
    """Each system with the one it is set beside: (old, new), in the course's order.

    Raises Fault for a system of detr_steps/systems that the list does not name.
    """
    files = (System.read(path.stem) for path in FOLDER.glob("*.py"))
    there = {system.name for system in files if system.main}
    new = sorted(there - {*SYSTEMS, *SYSTEMS.values()})
    if new:
        raise Fault(f"add to SYSTEMS in tools/book/changes.py: {', '.join(new)}")
    return [
        (System.read(old), System.read(new))
        for new, old in SYSTEMS.items()
        if {old, new} <= there
    ]


# --- pages ----------------------------------------------------------------------


def stem(old: System, new: System) -> str:
    """The name of a pair's page."""
    return f"{old.name}-{new.name}"


def pages(chapters: list[Chapter]) -> dict[str, str]:
    """All pages by their path."""
    labels = {chapter.stem: chapter.label for chapter in chapters}
    found = {"changes/index.md": index(labels)}
    for old, new in pairs():
        found[f"changes/{stem(old, new)}.md"] = page(old, new, labels)
    return found


def index(labels: dict[str, str]) -> str:
    """The list of all steps."""
    lines = ["# What changed\n", ABOUT]
    for old, new in pairs():
        at = labels.get(new.chapter)
        at = f" ([{at}](../chapters/{new.chapter}.ipynb))" if at else ""
        counts = ", ".join(f"{len(names)} {word}" for word, names in
                           sorted_pieces(old, new).items() if names)  # fmt: skip
        lines.append(
            f"- [`{old.name}.py` → `{new.name}.py`]({stem(old, new)}.md){at}: {counts}"
        )
    toctree = "\n".join(f"{old.name} → {new.name} <{stem(old, new)}>"
                        for old, new in pairs())  # fmt: skip
    return "\n".join(lines) + f"\n\n```{{toctree}}\n:hidden:\n\n{toctree}\n```\n"


ABOUT = """\
One paper is one file in the library. Each page below sets a system beside the one
before it, definition by definition: what is new, what is gone, what is different.
"""


def sorted_pieces(old: System, new: System) -> dict[str, list[str]]:
    """The names of all pieces: new, changed, unchanged, inherited or gone."""
    both = [key for key in new.pieces if key in old.pieces]
    left = [key for key in old.pieces if key not in new.pieces]
    inherits = new.builds_on(old)
    return {
        "new": [key for key in new.pieces if key not in old.pieces],
        "changed": [key for key in both if old.pieces[key] != new.pieces[key]],
        "unchanged": [key for key in both if old.pieces[key] == new.pieces[key]],
        "inherited": left if inherits else [],
        "gone": [] if inherits else left,
    }


def page(old: System, new: System, labels: dict[str, str]) -> str:
    """One pair's page: what it adds up to, then piece by piece in the new file's
    order."""
    kinds = sorted_pieces(old, new)
    lines = [f"# From `{old.name}.py` to `{new.name}.py`\n"]
    for system in (old, new):
        about = first_sentence(system.docstring).split(" (built in")[0].rstrip(".:")
        at = labels.get(system.chapter)
        at = f" [{at}](../chapters/{system.chapter}.ipynb)." if at else ""
        link = f"{{doc}}`{system.name}.py <../api/detr_steps.systems.{system.name}>`"
        lines.append(f"- {link}: {about}.{at}")
    lines.append("")
    for word, keys in kinds.items():
        system = old if word in ("gone", "inherited") else new
        lines += summary(word, [shown(key, system) for key in keys])
    for key in new.pieces:
        if key not in kinds["unchanged"]:
            lines += section(key, old, new, "changed" if key in old.pieces else "new")
    for key in kinds["gone"]:
        lines += section(key, old, new, "gone")
    return "\n".join(lines)


def summary(word: str, names: list[str]) -> list[str]:
    """Names under a word, the methods of a class on one line with it."""
    lines: dict[str, list[str]] = {}
    for name in names:
        owner, _, last = name.rpartition(".")
        lines.setdefault(f"`{owner}`: " if owner else "", []).append(f"`{last}`")
    listed = [f"- {owner}{', '.join(each)}" for owner, each in lines.items()]
    return [f"**{word.capitalize()}**\n", *listed, ""] if names else []


def section(key: str, old: System, new: System, word: str) -> list[str]:
    """A heading and the diff of one piece."""
    name = shown(key, old if word == "gone" else new)
    return [
        f"## `{name}` [{word}]{{.change .{word}}}\n",
        diff(old.pieces.get(key, []), new.pieces.get(key, [])),
        "",
    ]


def shown(key: str, system: System) -> str:
    """A piece's name as the file has it."""
    return key.replace("·", system.main or "")
