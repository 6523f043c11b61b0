"""Kernels run on the CPU, thread by thread, with every access watched."""

from pathlib import Path
from typing import Any

import numpy

from ..ops.building import compiler, digest, kept
from .emulator_library import SECONDS, EmulatorLibrary, Watched
from .faults import TEXT
from .library_kernels import backward, backward_fused, forward, forward_fused, library
from .signature import (
    Array,
    Parameter,
    Size,
    array,
    launch,
    paired,
    parameters,
    scalar,
)
from .trace import ACCESS, Trace
from .watching import (
    READER_SLOTS,
    emulator_objects,
    make_library,
    watch,
    watched_sources,
)

__all__ = [
    "EmulatedKernel",
    "backward",
    "backward_fused",
    "compile",
    "forward",
    "forward_fused",
    "library",
]
_ENTRY = """
extern "C" int detr_steps_entry(const unsigned* grid, const unsigned* block, unsigned,
                                void* const* arguments) {{
  emulator::launch("{name}", dim3(grid[0], grid[1], grid[2]),
                   dim3(block[0], block[1], block[2]), {name}, arguments);
  return 0;
}}
"""


def compile(text: str, name: str, *, folder: Path | None = None) -> "EmulatedKernel":
    """Make the kernel `__global__ void name(...)` of a CUDA text ready to run.

    `folder`: of the files that it may include, `kernels/` by default.
    Raises: CompileFault in the lines of the text; ValueError where it has no such
    kernel; NotCompiled where there is no compiler.
    Built in chapters/07_cuda_kernel.ipynb.
    """
    wanted = parameters(text, name)
    included = watched_sources(folder)
    asked = [included.name, emulator_objects().name, compiler(), name, text]
    built = kept(
        f"kernel-{digest(asked)}", lambda work: _build(text, name, included, work)
    )
    return EmulatedKernel(name, wanted, EmulatorLibrary(built / f"{TEXT}.so"))


def _build(text: str, name: str, folder: Path, work: Path) -> None:
    watched, _ = watch(text, READER_SLOTS)
    source = work / f"{TEXT}.cpp"
    entry = f'#line 1 "entry"{_ENTRY.format(name=name)}'
    source.write_text(f'#line 1 "{TEXT}"\n{watched}\n{entry}', "utf-8")
    make_library(folder, source, text=text)


class EmulatedKernel:
    """A kernel that runs in the emulator: `kernel(grid, block, *arguments)`.

    Built in chapters/07_cuda_kernel.ipynb.
    """

    where = "emulator"

    def __init__(self, name: str, wanted: list[Parameter], library: EmulatorLibrary):
        self.name, self.parameters, self._library = name, wanted, library

    def __call__(
        self,
        grid: Size,
        block: Size,
        *arguments: Any,
        schedule: int = 0,
        trace: bool = False,
        shared_bytes: int = 0,
        seconds: float = SECONDS,
    ) -> Trace | None:
        """Run it on tensors and arrays in place, and numbers; one for each parameter.

        `grid` and `block`: sizes, a number or up to three. `schedule`: in which order
        threads and blocks get their turns (0 upwards, 1 downwards, others shuffled); a
        correct kernel gives the same with each, but for the rounding of sums.
        `shared_bytes`: of an `extern __shared__` array. With `trace` returns what it
        has touched.
        Raises: KernelFault, and then no argument is changed; TypeError or ValueError
        for arguments that do not suit its parameters.
        """
        pairs = paired(self.parameters, arguments, self.name)
        arrays = {i: array(*pair) for i, pair in enumerate(pairs) if pair[0].pointer}
        numbers = {i: scalar(*pair) for i, pair in enumerate(pairs) if i not in arrays}
        watched = [_watched(self.parameters[i], one) for i, one in arrays.items()]
        with self._library.session(
            watched, schedule=schedule, trace=trace, shared_bytes=shared_bytes,
            seconds=seconds,
        ) as addresses:  # fmt: skip
            passed = dict(zip(arrays, addresses, strict=True)) | numbers
            entry = self._library.function("detr_steps_entry")
            launch(
                entry, grid, block, shared_bytes, [passed[i] for i in sorted(passed)]
            )
            return self._trace(list(arrays), list(arrays.values())) if trace else None

    def _trace(self, numbers, arrays) -> Trace:
        events = self._library.events()
        shapes, items = [()] * len(self.parameters), [1] * len(self.parameters)
        for number, one in zip(numbers, arrays, strict=True):
            shapes[number] = one.shape
            items[number] = _item(self.parameters[number], one)
        accesses = numpy.zeros(len(events), ACCESS)
        for name in ("block", "thread", "step", "bytes"):
            accesses[name] = events[name]
        accesses["kind"], accesses["instruction"] = events["access"], events["site"]
        accesses["argument"] = numpy.array([*numbers, 0])[events["array"]]
        item = numpy.array(items)[accesses["argument"]]
        accesses["element"] = events["byte"] // item
        sites, which = numpy.unique(events["site"], return_inverse=True)
        lines = [line for _, line in self._library.lines(sites.tolist())]
        accesses["line"] = numpy.array([*lines, 0])[which]
        names = tuple(one.name for one in self.parameters)
        return Trace(accesses, names, tuple(shapes), tuple(items))


def _item(parameter: Parameter, one: Array) -> int:
    """Bytes of what a kernel calls an element: 16 of a `float4*`."""
    return one.number_bytes * parameter.numbers


def _watched(parameter: Parameter, one: Array) -> Watched:
    return Watched(
        parameter.name,
        one.address,
        one.bytes,
        _item(parameter, one),
        one.number_bytes,
        not parameter.const,
    )
