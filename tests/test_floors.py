"""Imports go down only: which part of the library may know which other."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "detr_steps"
# From the roof down. Parts of one floor may know each other.
FLOORS = [
    {"cli", "check", "notebook", "__main__"},
    {"report"},
    {"experiment"},
    {"zoo", "interop"},
    {"viz"},
    {"analysis"},
    {"training"},
    {"evaluation"},
    {"systems"},
    {"objective"},
    {"nn"},
    {"cuda_lab"},
    {"ops"},
    {"data"},
    {"boxes", "describable", "detections", "images", "distributed", "files"},
]
HEIGHT = {part: -depth for depth, floor in enumerate(FLOORS) for part in floor}


def part_of(path: Path) -> str:
    """detr_steps/nn/attention.py -> 'nn'; detr_steps/boxes.py -> 'boxes'."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(source: str, depth: int) -> set[str]:
    """The parts of detr_steps that a module imports, inside functions too.

    depth: how many folders below detr_steps/ the module lies.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [name.name.split(".") for name in node.names]
            found |= {(name[1:] or ["detr_steps"])[0] for name in names
                      if name[0] == "detr_steps"}  # fmt: skip
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").split(".") if node.module else []
            if node.level == 0 and module[:1] == ["detr_steps"]:
                module = module[1:]
            elif node.level != depth + 1:
                continue  # another package, or a module of the same part
            found |= set(module[:1] or [name.name for name in node.names])
    return found


def faults(path: Path, source: str) -> list[str]:
    """What is wrong with one module's imports, in words."""
    mine = part_of(path)
    if mine == "__init__":
        return []  # the front door names what is fixed; nothing below may use it
    if mine not in HEIGHT:
        return [f"{mine} has no floor: add it to FLOORS"]
    wrong = []
    for part in imported_parts(source, len(path.relative_to(PACKAGE).parts) - 1):
        if part not in HEIGHT:
            # A name of the front door, detr_steps/__init__.py: only the roof may.
            if HEIGHT[mine] < 0:
                wrong.append(f"{mine} imports {part} from the front door")
        elif HEIGHT[part] > HEIGHT[mine]:
            wrong.append(f"{mine} imports {part}, which is above it")
    return wrong


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: str(p.relative_to(PACKAGE))
)
def test_imports_go_down(path):
    assert faults(path, path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("nn/attention.py", "from ..systems.detr import DETR"),
        ("nn/attention.py", "from .. import training"),
        ("boxes.py", "def f():\n    from .data import scenes"),
        ("data/scenes.py", "import detr_steps.viz"),
        ("objective/losses.py", "from detr_steps import DETR"),
        ("systems/detr.py", "from .. import __version__"),
        ("attic.py", "import torch"),
        ("ops/sample.py", "from ..nn.attention import Attention"),
        ("cuda_lab/traffic.py", "from ..nn import attention"),
    ],
)
def test_imports_upwards_are_found(name, source):
    assert faults(PACKAGE / name, source)


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("systems/detr.py", "from ..nn.attention import Attention"),
        ("nn/layers.py", "from .attention import Attention\nfrom . import heads"),
        ("training/__init__.py", "from ..evaluation import coco_ap"),
        ("cli.py", "from . import __version__, zoo\nimport torch.nn as nn"),
        ("evaluation/coco.py", "from ..boxes import iou\nfrom data import thing"),
    ],
)
def test_imports_downwards_pass(name, source):
    assert faults(PACKAGE / name, source) == []
