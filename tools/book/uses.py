"""Which names of the library a chapter uses, and which it proves with `same`.

Read from the code cells, without running them. A variable is followed as far as its
kind is known: from a class that is called, or a return annotation.
"""

import ast
import importlib
import inspect
import re
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from torch import nn

from detr_steps import zoo
from detr_steps.check import same

from .chapters import Chapter
from .library import Library, Public


@dataclass
class Use:
    """One public name in one chapter: where it first appears, where it is proved."""

    name: Public
    cell: str
    proofs: list[str] = field(default_factory=list)  # ids of cells


@dataclass(frozen=True)
class Known:
    """What a name in a notebook stands for: a thing, or something of that class."""

    thing: object
    is_instance: bool = False


class Reader(ast.NodeVisitor):
    """Goes through a chapter's cells in order and notes the library's names."""

    def __init__(self, library: Library) -> None:
        self.library = library
        self.known: dict[str, Known] = {}
        self.made_of: dict[str, list[Public]] = {}  # by variable: names in its value
        self.uses: dict[str, Use] = {}
        self.cell = ""

    def read(self, chapter: Chapter) -> dict[str, Use]:
        """All uses in a chapter, by full name, in order of appearance."""
        for cell in chapter.code:
            self.cell = cell["id"]
            source = re.sub(r"(?m)^\s*[%!].*$", "", cell["source"])
            self.visit(ast.parse(source))
        return self.uses

    # --- what names stand for ---

    def kind(self, node: ast.AST) -> Known | None:
        """What an expression stands for, or None where that cannot be told."""
        if isinstance(node, ast.Name):
            return self.known.get(node.id)
        if isinstance(node, ast.Attribute):
            base = self.kind(node.value)
            thing = getattr(base.thing, node.attr, None) if base else None
            return Known(thing) if thing is not None else None
        return self.made(node) if isinstance(node, ast.Call) else None

    def made(self, call: ast.Call) -> Known | None:
        """What a call returns."""
        called = self.kind(call.func)
        if called is None or called.is_instance:
            return None
        if inspect.isclass(called.thing):
            return Known(called.thing, is_instance=True)
        if called.thing is zoo.load and isinstance(call.args[0], ast.Constant):
            return Known(type(zoo.load(call.args[0].value)), is_instance=True)
        try:
            result = typing.get_type_hints(called.thing).get("return")
        except (NameError, TypeError):
            return None
        ours = inspect.isclass(result) and result.__module__.startswith("detr_steps")
        return Known(result, is_instance=True) if ours else None

    def public(self, node: ast.AST) -> Public | None:
        """The library's public name that an expression shows, if any."""
        known = self.kind(node)
        if known is None:
            return None
        found = self.library.by_thing.get(id(known.thing))
        if found or not isinstance(node, ast.Attribute):
            return found if known and not known.is_instance else None
        base = self.kind(node.value)  # a method counts for its class
        return self.library.by_thing.get(id(base.thing)) if base else None

    def shown(self, node: ast.AST) -> list[Public]:
        """All public names inside an expression; an object that is called, too."""
        found = [self.public(each) for each in ast.walk(node)]
        for each in ast.walk(node):
            called = self.kind(each.func) if isinstance(each, ast.Call) else None
            if called and called.is_instance:
                found.append(self.library.by_thing.get(id(called.thing)))
            if isinstance(each, ast.Name) and each.id not in self.known:
                found += self.made_of.get(each.id, [])
        return [each for each in found if each]

    # --- walking ---

    def visit(self, node: ast.AST) -> None:
        if isinstance(node, ast.Name | ast.Attribute):
            public = self.public(node)
            if public:
                self.uses.setdefault(public.full, Use(public, self.cell))
        super().visit(node)

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            if alias.name.split(".")[0] == "detr_steps":
                module = importlib.import_module(alias.name)
                top = importlib.import_module("detr_steps")
                self.known[alias.asname or "detr_steps"] = Known(
                    module if alias.asname else top
                )

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").split(".")[0] != "detr_steps":
            return
        module = importlib.import_module(node.module)
        for alias in node.names:
            self.known[alias.asname or alias.name] = Known(getattr(module, alias.name))

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        kind, parts = self.kind(node.value), self.shown(node.value)
        for target in node.targets:
            for each in ast.walk(target):
                if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store):
                    self.bind(each.id, kind if each is target else None, parts)

    def bind(self, name: str, kind: Known | None, parts: list[Public]) -> None:
        """Notes what a variable holds from here on."""
        self.known.pop(name, None)
        if kind:
            self.known[name] = kind
        self.made_of[name] = parts

    def visit_Call(self, node: ast.Call) -> None:
        known = self.kind(node.func)
        if known and known.thing is same and len(node.args) > 1:
            for public in filter(can_be_proved, self.shown(node.args[1])):
                use = self.uses.setdefault(public.full, Use(public, self.cell))
                if self.cell not in use.proofs:
                    use.proofs.append(self.cell)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.known.pop(node.name, None)
        self.made_of.pop(node.name, None)
        with self.without(node):
            self.generic_visit(node)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        with self.without(node):
            self.generic_visit(node)

    @contextmanager
    def without(self, node: ast.FunctionDef | ast.Lambda) -> Iterator[None]:
        """A function's own names hide the notebook's."""
        before = dict(self.known), dict(self.made_of)
        for argument in ast.walk(node.args):
            if isinstance(argument, ast.arg):
                self.known.pop(argument.arg, None)
                self.made_of.pop(argument.arg, None)
        yield
        self.known, self.made_of = before


def can_be_proved(public: Public) -> bool:
    """Functions and modules with weights can equal another; settings cannot."""
    return not public.is_class or issubclass(public.thing, nn.Module)


def uses_of(chapter: Chapter, library: Library) -> dict[str, Use]:
    """The library's names in a chapter, by full name."""
    return Reader(library).read(chapter)
