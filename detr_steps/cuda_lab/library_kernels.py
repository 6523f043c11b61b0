"""The library's own kernels in the emulator: every step, on tensors of the CPU.

Arrays are those of `kernels/cuda/call.h`: `value [B, S, M, D]`, `shapes` (h, w) of each
level, `points` K of each level (P of them in all), `locations [B, Q, M, P, 2]`,
`weights [B, Q, M, P]`, `grad [B, Q, M·D]`. Locations and weights are float32, or
float64 like the value.
"""

import ctypes
import functools
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..ops.building import digest, kept
from .emulator_library import SECONDS, EmulatorLibrary, Watched
from .watching import emulator_objects, make_library, watched_sources

FORWARD = ("naive", "points", "vectors", "tiles")  # as enum Forward counts them
BACKWARD = ("naive", "vectors", "sorted", "fixed")  # as enum Backward does
FUSED = ("tiles", "vectors", "sorted")  # those that do softmax and locations, too
TYPES = {
    torch.float32: "float",
    torch.float16: "half_bits",
    torch.bfloat16: "bfloat_bits",
    torch.float64: "double",
}
Shapes = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Run:
    """How the emulator runs a step.

    `schedule`: in which order threads and blocks run (see `EmulatedKernel`); `seconds`
    after which it has hung; `folder` of other sources than the library's (a copy of
    `kernels/` in which something was changed).
    """

    schedule: int = 0
    seconds: float = SECONDS
    folder: Path | None = None


def forward(
    step: str,
    value: Tensor,
    shapes: Shapes,
    points: Sequence[int],
    *arrays: Tensor,
    **run: Any,
) -> Tensor:
    """What each query reads, `[B, Q, M·D]`, computed by a step's kernel.

    `arrays`: locations and weights; or what the fused operator takes, references
    `[B, Q, L, 2 or 4]`, offsets `[B, Q, M, P, 2]` and logits `[B, Q, M, P]`: softmax
    and locations then happen in the kernel (FUSED). `run`: the fields of `Run`.
    Raises: KernelFault; ValueError where the step does not take such a call.
    """
    given = _named(step, value, arrays)
    return _Call(FORWARD.index(step), given, shapes, points, Run(**run)).forward()


def backward(
    step: str,
    value: Tensor,
    shapes: Shapes,
    points: Sequence[int],
    *arrays: Tensor,
    **run: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of value, locations (offsets) and weights (logits) by a step's kernel.

    `arrays` as in `forward`, and the gradient of the result `[B, Q, M·D]`. The three
    are float32, or float64 like the value.
    Raises: KernelFault; ValueError where the step does not take such a call.
    """
    *arrays, grad = arrays
    given = _named(step, value, arrays) | {"grad": grad}
    return _Call(BACKWARD.index(step), given, shapes, points, Run(**run)).backward()


def _named(step: str, value: Tensor, arrays: Sequence[Tensor]) -> dict[str, Tensor]:
    """The arrays in the order of kernels/emulated.cpp."""
    kinds = {2: ("locations", "weights"), 3: ("references", "offsets", "logits")}
    if len(arrays) not in kinds or len(arrays) == 3 and step not in FUSED:
        raise ValueError(
            f"step {step!r} does not take {len(arrays)} arrays beside the value: "
            f"expected locations and weights, or for {', '.join(FUSED)} references, "
            "offsets and logits"
        )
    return {"value": value, **dict(zip(kinds[len(arrays)], arrays))}


def library(
    dtype: torch.dtype = torch.float32,
    *,
    backward: bool = False,
    folder: Path | None = None,
) -> EmulatorLibrary:
    """The kernels for one type of value and one direction, built on first use.

    `folder`: as in `Run`. Raises: NotCompiled; CompileFault for sources that do not
    compile.
    """
    return _library(dtype, backward, watched_sources(folder))


@functools.cache
def _library(dtype: torch.dtype, backward: bool, folder: Path) -> EmulatorLibrary:
    options = [f"-DEMULATED_TYPE={TYPES[dtype]}"]
    options += ["-DEMULATED_BACKWARD"] if backward else []
    name = f"library-{digest([folder.name, emulator_objects().name, *options])}"

    def build(work: Path) -> None:
        source = Path(shutil.copy(folder / "emulated.cpp", work))
        make_library(folder, source, options)

    return EmulatorLibrary(kept(name, build) / "emulated.so")


@dataclass(frozen=True)
class _Call:
    """One call of a function in kernels/emulated.cpp; `given` arrays in its order."""

    step: int
    given: dict[str, Tensor]
    shapes: Shapes
    points: Sequence[int]
    run: Run

    @property
    def sizes(self) -> tuple[int, ...]:
        """B, S, M, D, Q, L."""
        weights = self.given.get("weights", self.given.get("logits"))
        return (*self.given["value"].shape, weights.shape[1], len(self.shapes))

    def numbers(self) -> tuple[ctypes.Array, ...]:
        """Sizes, shapes and points as make_call of kernels/cuda/call.h takes them."""
        lists = self.sizes, sum(map(tuple, self.shapes), ()), self.points
        return tuple((ctypes.c_int64 * len(each))(*each) for each in lists)

    def forward(self) -> Tensor:
        value, (b, _, m, d, q, _) = self.given["value"], self.sizes
        result = value.new_full((b, q, m * d), torch.nan)  # what is left out shows
        self._launch(library(value.dtype, folder=self.run.folder), {"result": result})
        return result

    def backward(self) -> tuple[Tensor, ...]:
        value = self.given["value"]
        used = library(value.dtype, backward=True, folder=self.run.folder)
        wide = torch.promote_types(value.dtype, torch.float32)
        made = {"grad_value": torch.zeros(value.shape, dtype=wide)}  # kernels add to it
        for name in list(self.given)[-3:-1]:
            shape = self.given[name].shape
            made[f"grad_{name}"] = torch.full(shape, torch.nan, dtype=wide)
        scratch = used.function("emulated_scratch")
        scratch.restype = ctypes.c_int64
        size = scratch(self.step, *self.numbers()) // 4
        self._launch(used, made | {"scratch": torch.zeros(size, dtype=torch.int32)})
        return tuple(made.values())

    def _launch(self, used: EmulatorLibrary, made: dict[str, Tensor]) -> None:
        given = {name: one.detach().contiguous() for name, one in self.given.items()}
        arrays = [_watched(name, one, False) for name, one in given.items()]
        arrays += [_watched(name, one, True) for name, one in made.items()]
        numbers = given["references"].shape[-1] if "references" in given else 0
        entry = used.function("emulated")
        how = {"schedule": self.run.schedule, "seconds": self.run.seconds}
        with used.session(arrays, **how) as addresses:
            passed = (ctypes.c_void_p * len(addresses))(*(a.value for a in addresses))
            if not entry(self.step, numbers, *self.numbers(), passed):
                raise ValueError(
                    f"this step does not take value {list(self.given['value'].shape)}, "
                    f"points {list(self.points)}"
                )


def _watched(name: str, one: Tensor, writable: bool) -> Watched:
    item = one.element_size()
    return Watched(name, one.data_ptr(), one.numel() * item, item, item, writable)
