"""The library's own kernels in the emulator: every step, on tensors of the CPU.

Arrays are those of `kernels/cuda/call.h`: `value [B, S, M, D]`, `shapes` (h, w) of each
level, `points` K of each level (P of them in all), `locations [B, Q, M, P, 2]`,
`weights [B, Q, M, P]`, `slope [B, Q, M·D]`. Locations and weights are float32, or
float64 like the value.
"""

import ctypes
import functools
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from ..ops.building import digest, kept
from .emulator_library import SECONDS, Machine, Watched
from .watching import machine_code, make_library, watched_sources

FORWARD = ("naive", "points", "vectors", "tiles")  # as enum Forward counts them
BACKWARD = ("naive", "vectors", "sorted", "fixed")  # as enum Backward does
TYPES = {
    torch.float32: "float",
    torch.float16: "half_bits",
    torch.bfloat16: "bfloat_bits",
    torch.float64: "double",
}
Shapes = Sequence[tuple[int, int]]


def library(
    dtype: torch.dtype = torch.float32,
    *,
    backward: bool = False,
    folder: Path | None = None,
) -> Machine:
    """The kernels for one type of value and one direction, built on first use.

    `folder`: other sources than those of the library (a copy of `kernels/` in which
    something was changed).
    Raises: NotCompiled; CompileFault for sources that do not compile.
    """
    return _library(dtype, backward, watched_sources(folder))


@functools.cache
def _library(dtype: torch.dtype, backward: bool, folder: Path) -> Machine:
    options = [f"-DEMULATED_TYPE={TYPES[dtype]}"]
    options += ["-DEMULATED_BACKWARD"] if backward else []
    name = f"library-{digest([folder.name, machine_code().name, *options])}"

    def build(work: Path) -> None:
        source = Path(shutil.copy(folder / "emulated.cpp", work))
        make_library(folder, source, options)

    return Machine(kept(name, build) / "emulated.so")


def forward(
    step: str,
    value: Tensor,
    shapes: Shapes,
    points: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    *,
    schedule: int = 0,
    seconds: float = SECONDS,
    folder: Path | None = None,
) -> Tensor:
    """What each query reads, `[B, Q, M·D]`, computed by a step's kernel.

    `schedule`: in which order threads and blocks run (see `EmulatedKernel`).
    Raises: KernelFault; ValueError where the step does not take such a call.
    """
    sizes = _sizes(value, locations.shape[1], shapes)
    result = _empty(value, locations.shape[1])
    given = {"value": value, "locations": locations, "weights": weights}
    machine = library(value.dtype, folder=folder)
    call = (FORWARD.index(step),)
    _run(machine, "emulated", call, sizes, shapes, points, given, {"result": result},
         schedule, seconds)  # fmt: skip
    return result


def forward_fused(
    value: Tensor,
    shapes: Shapes,
    points: Sequence[int],
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    *,
    schedule: int = 0,
    seconds: float = SECONDS,
    folder: Path | None = None,
) -> Tensor:
    """The same from `references [B, Q, L, 2 or 4]`, `offsets [B, Q, M, P, 2]` and
    `logits [B, Q, M, P]`: softmax and locations happen in the kernel.

    Raises: KernelFault; ValueError where the kernel does not take such a call.
    """
    sizes = _sizes(value, offsets.shape[1], shapes)
    result = _empty(value, offsets.shape[1])
    given = {"value": value, "references": references, "offsets": offsets,
             "logits": logits}  # fmt: skip
    machine = library(value.dtype, folder=folder)
    call = (0, references.shape[-1])
    _run(machine, "emulated_fused", call, sizes, shapes, points, given,
         {"result": result}, schedule, seconds)  # fmt: skip
    return result


def backward(
    step: str,
    value: Tensor,
    shapes: Shapes,
    points: Sequence[int],
    locations: Tensor,
    weights: Tensor,
    slope: Tensor,
    *,
    schedule: int = 0,
    seconds: float = SECONDS,
    folder: Path | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of value (float32, or float64), locations and weights by a step's kernel.

    Raises: KernelFault; ValueError where the step does not take such a call.
    """
    sizes = _sizes(value, locations.shape[1], shapes)
    given = {"value": value, "locations": locations, "weights": weights,
             "slope": slope}  # fmt: skip
    made = _slopes(value, locations, weights, ("value", "locations", "weights"))
    machine = library(value.dtype, backward=True, folder=folder)
    number = BACKWARD.index(step)
    size = machine.function("emulated_scratch")
    size.restype = ctypes.c_int64
    scratch = size(number, *_call_numbers(sizes, shapes, points))
    made["scratch"] = torch.zeros(scratch // 4, dtype=torch.int32)
    _run(machine, "emulated", (number,), sizes, shapes, points, given, made, schedule,
         seconds)  # fmt: skip
    return tuple(made.values())[:3]


def backward_fused(
    step: str,
    value: Tensor,
    shapes: Shapes,
    points: Sequence[int],
    references: Tensor,
    offsets: Tensor,
    logits: Tensor,
    slope: Tensor,
    *,
    schedule: int = 0,
    seconds: float = SECONDS,
    folder: Path | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Slopes of value (float32), offsets and logits by a step's kernel.

    Raises: KernelFault; ValueError where the step does not take such a call.
    """
    sizes = _sizes(value, offsets.shape[1], shapes)
    given = {"value": value, "references": references, "offsets": offsets,
             "logits": logits, "slope": slope}  # fmt: skip
    made = _slopes(value, offsets, logits, ("value", "offsets", "logits"))
    machine = library(value.dtype, backward=True, folder=folder)
    call = (BACKWARD.index(step), references.shape[-1])
    _run(machine, "emulated_fused", call, sizes, shapes, points, given, made, schedule,
         seconds)  # fmt: skip
    return tuple(made.values())


def _sizes(value: Tensor, queries: int, shapes: Shapes) -> tuple[int, ...]:
    b, s, m, d = value.shape
    return b, s, m, d, queries, len(shapes)


def _empty(value: Tensor, queries: int) -> Tensor:
    """Full of NaN: what a kernel leaves out shows."""
    b, _, m, d = value.shape
    return value.new_full((b, queries, m * d), torch.nan)


def _slopes(
    value: Tensor, places: Tensor, shares: Tensor, names: tuple[str, ...]
) -> dict[str, Tensor]:
    wide = torch.float64 if value.dtype == torch.float64 else torch.float32
    made = (
        torch.zeros(value.shape, dtype=wide),  # kernels add to it
        torch.full(places.shape, torch.nan, dtype=wide),
        torch.full(shares.shape, torch.nan, dtype=wide),
    )
    return {f"{name}_slope": one for name, one in zip(names, made, strict=True)}


def _run(
    machine: Machine,
    entry: str,
    call: tuple[int, ...],
    sizes: tuple[int, ...],
    shapes: Shapes,
    points: Sequence[int],
    given: dict[str, Tensor],
    made: dict[str, Tensor],
    schedule: int,
    seconds: float,
) -> None:
    given = {name: one.detach().contiguous() for name, one in given.items()}
    arrays = [_watched(name, one, False) for name, one in given.items()]
    arrays += [_watched(name, one, True) for name, one in made.items()]
    numbers = _call_numbers(sizes, shapes, points)
    with machine.session(arrays, schedule=schedule, seconds=seconds) as addresses:
        passed = (ctypes.c_void_p * len(addresses))(*(a.value for a in addresses))
        if not machine.function(entry)(*call, *numbers, passed):
            raise ValueError(f"this step does not take value {sizes}, points {points}")


def _call_numbers(
    sizes: Sequence[int], shapes: Shapes, points: Sequence[int]
) -> tuple[ctypes.Array, ...]:
    """As make_call of kernels/cuda/call.h takes them."""
    return _numbers(sizes), _numbers(sum(map(tuple, shapes), ())), _numbers(points)


def _numbers(given: Sequence[int]) -> ctypes.Array:
    return (ctypes.c_int64 * len(given))(*given)


def _watched(name: str, one: Tensor, writable: bool) -> Watched:
    item = one.element_size()
    return Watched(name, one.data_ptr(), one.numel() * item, item, item, writable)
