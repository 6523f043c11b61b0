"""Every barrier of our kernels is needed: the emulator finds out where one is not."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detr_steps.cuda_lab import KernelFault, emulator, trouble
from detr_steps.cuda_lab.library_kernels import BACKWARD, FORWARD

pytestmark = pytest.mark.skipif(trouble("emulator") is not None, reason=f"{trouble()}")
SOURCES = Path(__file__).resolve().parents[2] / "kernels"
BARRIER = re.compile(r"__sync(?:threads|warp)\(\);")
BACKWARD_ONLY = ("backward_", "reduce.", "gradients.")
# What a launcher has for other widths and numbers of points: seconds of compilation.
OTHERS = re.compile(r"^ *if \(call\.(?:d == (?:16|32|64)|p == \d+)\).*\n", re.MULTILINE)
SHAPES, POINTS = [(9, 7), (5, 4)], [3, 5]  # tiles of 8 x 8 pixels that are not full


def barriers() -> list[tuple[str, int]]:
    """File and line of every barrier."""
    return [
        (path.name, number)
        for path in sorted((SOURCES / "cuda").glob("*.cuh"))
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        if BARRIER.search(line.partition("//")[0])
    ]


def copy(to: Path) -> Path:
    """The sources, with kernels for 8 channels only."""
    folder = Path(shutil.copytree(SOURCES, to / "kernels"))
    path = folder / "cuda" / "pick.cuh"
    text, removed = OTHERS.subn("", path.read_text("utf-8"))
    path.write_text(text, "utf-8")
    assert removed >= 3  # or the pattern no longer finds them
    return folder


def runs(folder: Path, backward: bool, schedule: int = 0) -> dict[str, Callable]:
    """All steps of a direction, ready to run. The queries are the pixels."""
    s = sum(h * w for h, w in SHAPES)
    torch.manual_seed(0)
    value, grad = torch.randn(2, s, 2, 8), torch.randn(2, s, 16)
    wide, wide_grad = torch.randn(2, s, 2, 72), torch.randn(2, s, 144)  # three warps
    places, shares = torch.rand(2, s, 2, 8, 2), torch.rand(2, s, 2, 8)
    call = (value, SHAPES, POINTS)
    asked = (torch.rand(2, s, 2, 2), 4 * places - 2, shares)
    options = {"folder": folder, "schedule": schedule}

    def run(function: str, *arguments) -> Callable:
        return lambda: getattr(emulator, function)(*arguments, **options)

    if not backward:
        steps = {step: run("forward", step, *call, places, shares) for step in FORWARD}
        return steps | {"fused": run("forward", "tiles", *call, *asked)}
    steps = {
        step: run("backward", step, *call, places, shares, grad) for step in BACKWARD
    }
    steps["naive"] = run(
        "backward", "naive", wide, *call[1:], places, shares, wide_grad
    )
    return steps | {
        f"fused {step}": run("backward", step, *call, *asked, grad)
        for step in ("vectors", "sorted")
    }


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_as_they_stand_nothing_is_wrong(backward, tmp_path):
    folder = copy(tmp_path)
    first = {name: run() for name, run in runs(folder, backward).items()}
    for schedule in (1, 2):
        for name, run in runs(folder, backward, schedule).items():
            torch.testing.assert_close(run(), first[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("file", "line"), barriers())
def test_a_barrier_that_is_missing_is_found(file, line, tmp_path):
    folder = copy(tmp_path)
    path = folder / "cuda" / file
    lines = path.read_text("utf-8").splitlines()
    lines[line - 1] = BARRIER.sub(";", lines[line - 1])
    path.write_text("\n".join(lines), "utf-8")
    found = []
    for run in runs(folder, file.startswith(BACKWARD_ONLY)).values():
        try:
            run()
        except KernelFault as fault:
            found.append(fault.kind)
    # A lane that is early reads NaN, or goes where a corner of -1 leads.
    assert found and set(found) <= {"race", "bounds"}
