"""The steps of chapter 07: which kernel each one is, and what its warps get done.

Built in chapters/07_cuda_kernel.ipynb.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..ops import compiled
from .disassembly import Kernel, Loop
from .instructions import compile_kernels, find
from .roofline import CORNERS, WARP

WIDTH, POINTS = 32, 16  # D and P of the published models
TYPES = {"fp32": "float", "fp16": "half_bits", "bf16": "bfloat_bits"}
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
WIDE = 16  # bytes of the widest load
TILE = 64  # queries of a square
FIND = 0  # turns: the points of a query over the lanes that find them
FOUND = r"STS\.(U\.)?128"
FOUR = r"RED\S*F32x4"  # adds four numbers


@dataclass(frozen=True)
class Step:
    """One kernel, with what is known about its walk over the points.

    `kernel`: its name with template arguments, `{T}` for the type. `scalar`: a lane
    takes one channel, else 16 bytes. `marks`: the loads that every sample needs, each
    lane `each` of them; loops that hold them walk over the points, and `around` says
    how often those turn that have another such loop inside, from the outermost one
    (FIND: once for each point that a lane finds). `rounds`: how many queries a group of
    lanes takes in turn. `block`: threads of a block that share the samples of a tile, 0
    where each group has its own. `entries`: corners of a tile on one level that
    its groups walk in a loop that adds to memory, once they are sorted.
    """

    direction: str
    name: str
    kernel: str
    scalar: bool = False
    marks: str = r"LDG\.E\.128"
    each: int = CORNERS
    around: tuple[int, ...] = ()
    rounds: int = 1
    block: int = 0
    entries: int = 0
    idle: str = ""  # what only heads wider than a warp do
    file: str = ""  # of kernels/cuda, where the kernel's name is another one

    def instance(self, dtype: str) -> str:
        """The kernel for values of this type."""
        return self.kernel.replace("{T}", TYPES[dtype])

    def lanes(self, dtype: str) -> int:
        """How many lanes of a warp share a query and head."""
        return WIDTH if self.scalar else WIDTH * BYTES[dtype] // WIDE

    def of_group(self, dtype: str) -> int:
        """How many samples the lanes that share a query and head work off."""
        if self.block:
            return TILE * POINTS * self.lanes(dtype) // self.block
        return POINTS * self.rounds

    def samples(self, dtype: str) -> int:
        """How many samples a warp works off."""
        return WARP // self.lanes(dtype) * self.of_group(dtype)


STEPS = (
    Step("forward", "naive", "forward_naive<{T}>", True, r"LDG", 7, (4,)),
    Step("forward", "points", "forward_points<{T}, 32, 16>", True, r"LDG"),
    Step("forward", "vectors", "forward_vectors<{T}, 32, 16>"),
    Step("forward", "tiles", "forward_tiles<{T}, 32, 16, Given>", around=(4,),
         rounds=4),
    Step("forward", "fused", "forward_tiles<{T}, 32, 16, Asked>", around=(4,),
         rounds=4),
    Step("backward", "naive", "backward_naive<{T}, Floating<float> >", True, r"LDG", 8,
         (4,), idle="LDS"),
    Step("backward", "vectors", "backward_vectors<{T}, 32, Given>", around=(FIND,)),
    Step("backward", "sorted", "backward_sorted<{T}, 32, Given, Floating<float> >",
         around=(4, 1), block=256, entries=1024),
    Step("backward", "fixed", "backward_sorted<{T}, 32, Given, FixedPoint>",
         around=(4, 1), block=256, entries=1024, file="backward_fixed"),
    Step("backward", "fused", "backward_sorted<{T}, 32, Asked, Floating<float> >",
         around=(4, 1), block=256, entries=1024),
)  # fmt: skip


def find_step(direction: str, name: str) -> Step:
    """The step of this name. Raises: LookupError."""
    for step in STEPS:
        if (step.direction, step.name) == (direction, name):
            return step
    raise LookupError(f"no step {name!r} {direction}")


def source(steps: Iterable[Step], dtypes: Iterable[str]) -> str:
    """CUDA source that makes the compiler produce these steps' kernels."""
    names = [step.instance(dtype) for step in steps for dtype in dtypes]
    files = sorted({step.file or step.kernel.split("<")[0] for step in steps})
    kept = ",\n".join(f"  (void *)&{name}" for name in dict.fromkeys(names))
    lines = [f'#include "cuda/{file}.cuh"' for file in files]
    lines += ["using namespace detr_steps::cuda;", f"void *kept[] = {{\n{kept}\n}};"]
    return "\n".join(lines) + "\n"


def compile_steps(
    steps: Iterable[Step] = STEPS,
    dtypes: Iterable[str] = ("fp32",),
    arch: str = "sm_90",
    folder: Path | None = None,
) -> dict[tuple[str, str, str], Kernel]:
    """Compile steps of `kernels/`: `{(direction, name, dtype): kernel}`.

    Raises: NotCompiled where a tool is missing.
    """
    steps, dtypes = tuple(steps), tuple(dtypes)
    kernels = compile_kernels(source(steps, dtypes), arch, folder or compiled.sources())
    return {
        (step.direction, step.name, dtype): find(kernels, f" {step.instance(dtype)}(")
        for step in steps
        for dtype in dtypes
    }


@dataclass(frozen=True)
class Walk:
    """How often a kernel's loops turn when a warp works off its samples."""

    turns: tuple[float, ...]
    skipped: frozenset[int]  # what unrolling leaves over: no sample is left for it
    adds: frozenset[int]  # what adds to memory where sorted entries change pixels


def walk(kernel: Kernel, step: Step, dtype: str = "fp32") -> Walk:
    """Work out the turns from the loads: each sample needs `step.each` in each lane.

    Innermost loops with such loads turn until all samples of the group have theirs;
    `step.around` knows the turns of those around them.
    Raises: ValueError where loads and samples do not come out even.
    """
    marks = [loop.count(step.marks) // step.each for loop in kernel.loops]
    depths = [_depth(kernel, i) for i in range(len(marks))]
    deepest = min(len(step.around), max(depths, default=0))
    for i, depth in enumerate(depths):
        marks[i] *= depth >= deepest or _holds(kernel, i, marks)
    turns = [
        _turns(kernel, i, marks, depths[i], step, dtype) for i in range(len(marks))
    ]
    left_over, adds = _left_over(kernel, step, marks), _adds(kernel, step, marks)
    found = Walk(tuple(turns), left_over, adds)
    _check(kernel, step, found, dtype)
    return found


def _depth(kernel: Kernel, i: int) -> int:
    outer = kernel.loops[i].outer
    return 0 if outer is None else 1 + _depth(kernel, outer)


def _holds(kernel: Kernel, i: int, marks: list[int]) -> bool:
    """Whether a loop has another one inside that walks."""
    return any(mark and loop.outer == i for loop, mark in zip(kernel.loops, marks))


def _turns(
    kernel: Kernel, i: int, marks: list[int], depth: int, step: Step, dtype: str
) -> float:
    finds = POINTS // step.lanes(dtype)
    around = [often or finds for often in step.around]
    if not marks[i]:
        return _aside(kernel.loops[i], step, dtype)
    if _holds(kernel, i, marks):
        return around[depth]
    return step.of_group(dtype) / marks[i] / math.prod(around[:depth])


def _aside(loop: Loop, step: Step, dtype: str) -> float:
    """Turns of a loop that reads no corners.

    One that adds to memory walks its group's share of the entries, and one more; each
    is as many numbers as there are values in 16 bytes. One that reads points and stores
    what they become takes as many at a time as a group has lanes, and stores two pieces
    of each. All others (which list the levels) end after one turn.
    """
    if step.entries and loop.count("RED"):
        added = loop.count("RED") + 3 * loop.count(FOUR)  # numbers
        each = step.entries * step.lanes(dtype) / step.block + 1
        return each * WIDE / BYTES[dtype] / added
    stored = loop.count(FOUND) / 2 if loop.count("LDG") else 0
    return POINTS / step.lanes(dtype) / stored if stored else 1


def _left_over(kernel: Kernel, step: Step, marks: list[int]) -> frozenset[int]:
    """Blocks outside the walk that could load a whole sample, and idle ones."""
    idle = kernel.holding(step.idle, 1) if step.idle else set()
    walks = [i for i, mark in enumerate(marks) if mark and not _holds(kernel, i, marks)]
    if not walks:
        return frozenset(idle)
    inside = frozenset().union(*(kernel.loops[i].blocks for i in walks))
    return frozenset(kernel.holding(step.marks, step.each) - inside | idle)


def _adds(kernel: Kernel, step: Step, marks: list[int]) -> frozenset[int]:
    """Blocks of the loop over entries that add to memory."""
    if not step.entries:
        return frozenset()
    walks = [loop.blocks for loop, mark in zip(kernel.loops, marks)
             if not mark and loop.count("RED")]  # fmt: skip
    inside = frozenset().union(*walks)
    return frozenset(kernel.holding("RED", 1) & inside)


def _check(kernel: Kernel, step: Step, found: Walk, dtype: str) -> None:
    """Every sample of a lane has `step.each` loads, and few others look like them."""
    wanted = step.of_group(dtype) * step.each
    loads = kernel.issued(found.turns, step.marks, found.skipped)
    if not wanted <= loads < 1.3 * wanted:
        raise ValueError(
            f"{loads:g} loads like {step.marks} for {wanted} that the samples of a "
            f"lane need; turns {found.turns}. {kernel.describe()}"
        )


def per_sample(
    kernel: Kernel,
    step: Step,
    dtype: str = "fp32",
    what: str = "",
    grouped: bool = False,
) -> float:
    """Instructions that one warp issues for one sample, prologue and end included.

    `what` counts only those that begin like this. Where entries are sorted, each of
    them is taken to change the pixel and to add a row to memory: the most that can be;
    with `grouped` none is: the least.
    """
    found = walk(kernel, step, dtype)
    skipped = found.skipped | (found.adds if grouped else frozenset())
    return kernel.issued(found.turns, what, skipped) / step.samples(dtype)
