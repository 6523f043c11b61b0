"""What of the library is public, floor by floor, and which chapter builds it."""

import importlib
import inspect
import pkgutil
import re
from dataclasses import dataclass
from types import ModuleType

import detr_steps

from .chapters import Fault


@dataclass(frozen=True)
class Floor:
    """Modules of one height: they may use what lies below, never what lies above."""

    title: str
    about: str
    parts: tuple[str, ...]  # names of modules or packages in detr_steps

    @property
    def stem(self) -> str:
        """The name of the floor's page."""
        return "floor-" + self.parts[0]


# From the ground up, which is the order in which the course builds them.
FLOORS = (
    Floor("Ground: boxes and images", "Box formats and overlap, batches of pictures, "
          "files, processes.",
          ("boxes", "images", "detections", "files", "describable", "distributed")),
    Floor("Data", "Drawn scenes, and any folder in COCO's format.", ("data",)),
    Floor("Operators", "Reading points of maps: torch's operators, compiled loops, and "
          "the driver that builds them.", ("ops",)),
    Floor("CUDA lab", "CUDA kernels compiled, watched and counted.",
          ("cuda_lab",)),
    Floor("Parts of networks", "Backbones, positions, attention, layers, heads.",
          ("nn",)),
    Floor("Objective", "What a set of predictions should be: matching and losses.",
          ("objective",)),
    Floor("Systems", "One paper, one file.", ("systems",)),
    Floor("Evaluation", "Average precision as COCO computes it.", ("evaluation",)),
    Floor("Training", "One loop for all systems: records, exact resume, several "
          "processes.", ("training",)),
    Floor("Analysis", "What the chapters measure about a trained model.",
          ("analysis",)),
    Floor("Pictures", "Plots, tables and interactive figures.", ("viz",)),
    Floor("Weights", "The trained models of the course, and weights from elsewhere.",
          ("zoo", "interop")),
    Floor("Runs", "A system, its data and its recipe put together from their names; "
          "a run on one page.", ("experiment", "report")),
    Floor("Roof", "Set-up and checks of the notebooks, and the command line.",
          ("notebook", "check", "cli")),
)  # fmt: skip
CHAPTER_FILE = re.compile(r"chapters/(\d\d_\w+)\.ipynb")


@dataclass(frozen=True)
class Public:
    """A public class or function of the library."""

    module: str
    name: str
    thing: object
    called: str  # how it is imported: viz.table for detr_steps.viz.table.table

    @property
    def full(self) -> str:
        """detr_steps.boxes.iou"""
        return f"{self.module}.{self.name}"

    @property
    def is_class(self) -> bool:
        return inspect.isclass(self.thing)

    @property
    def summary(self) -> str:
        """The docstring's first sentence."""
        return first_sentence(own_docstring(self.thing))

    @property
    def built_in(self) -> str | None:
        """The chapter, for example 02_detr, that the docstring says builds it."""
        found = CHAPTER_FILE.search(own_docstring(self.thing))
        return found[1] if found else None


def own_docstring(thing: object) -> str:
    """The docstring that the source gives, not one that Python makes or inherits."""
    found = vars(thing).get("__doc__") if inspect.isclass(thing) else thing.__doc__
    text = inspect.cleandoc(found or "")
    return "" if text.startswith(f"{thing.__name__}(") else text


def first_sentence(text: str) -> str:
    """Up to the first full stop that ends a sentence, or the end of the paragraph."""
    paragraph = " ".join(text.split("\n\n")[0].split())
    return re.split(r"(?<=[.?!])\s(?=[A-Z`(])", paragraph)[0]


def short(full: str) -> str:
    """detr_steps.nn.attention -> nn.attention"""
    return full.removeprefix("detr_steps.")


def part_of(module: str) -> str:
    """detr_steps.nn.attention -> nn"""
    return short(module).split(".")[0]


def modules() -> list[ModuleType]:
    """Every module of the library that can be documented, package by package."""
    found = []
    for info in pkgutil.walk_packages(detr_steps.__path__, "detr_steps."):
        if not any(part.startswith("_") for part in info.name.split(".")):
            found.append(importlib.import_module(info.name))
    return found


def doors(modules: list[ModuleType]) -> dict[int, str]:
    """The shortest name under which a package offers a thing, by the thing's id."""
    found: dict[int, str] = {}
    for module in [detr_steps, *modules]:
        for name in getattr(module, "__all__", ()):
            path = short(f"{module.__name__}.{name}")
            found.setdefault(id(getattr(module, name)), path)
    return found


def public_names(module: ModuleType, called: dict[int, str]) -> list[Public]:
    """The public classes and functions that a module itself defines, as in its file."""
    mine = [
        Public(
            module.__name__,
            name,
            thing,
            called.get(id(thing), short(f"{module.__name__}.{name}")),
        )
        for name, thing in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(thing) or inspect.isfunction(thing))
        and thing.__module__ == module.__name__
    ]
    return sorted(mine, key=lambda each: inspect.getsourcelines(each.thing)[1])


class Library:
    """All public names by module, in floors."""

    def __init__(self) -> None:
        self.modules = {module.__name__: module for module in modules()}
        called = doors(list(self.modules.values()))
        self.names = {n: public_names(m, called) for n, m in self.modules.items()}
        self.by_thing = {
            id(public.thing): public for each in self.names.values() for public in each
        }
        homeless = {part_of(name) for name in self.modules}
        homeless -= {part for floor in FLOORS for part in floor.parts}
        if homeless:
            raise Fault(f"no floor in tools/book/library.py for: {sorted(homeless)}")

    def on(self, floor: Floor) -> list[str]:
        """The modules of a floor that have something to show."""
        return [
            name
            for part in floor.parts
            for name in self.modules
            if part_of(name) == part and self.has_page(name)
        ]

    def has_page(self, module: str) -> bool:
        """True for a module that defines public names."""
        return bool(self.names.get(module))

    @property
    def public(self) -> list[Public]:
        """Every public name."""
        return [public for each in self.names.values() for public in each]
