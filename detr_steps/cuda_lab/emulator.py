"""Kernels run on the CPU, thread by thread, with every access watched."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch

from ..ops.building import compiler, digest, kept
from .emulator_library import SECONDS, EmulatorLibrary, Watched
from .faults import TEXT
from .library_kernels import backward, forward, library
from .signature import (
    Parameter,
    Size,
    check_array,
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
    "compile",
    "forward",
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
        arrays = {i: _watched(*each) for i, each in enumerate(pairs) if each[0].pointer}
        numbers = {i: scalar(*each) for i, each in enumerate(pairs) if i not in arrays}
        how = {"schedule": schedule, "trace": trace, "seconds": seconds}
        session = self._library.session(arrays.values(), shared_bytes, **how)
        with session as addresses:
            passed = dict(zip(arrays, addresses, strict=True)) | numbers
            in_order = [passed[i] for i in range(len(pairs))]
            entry = self._library.function("detr_steps_entry")
            launch(entry, grid, block, shared_bytes, in_order)
            return self._trace(arguments, arrays) if trace else None

    def _trace(self, arguments: Sequence[Any], arrays: dict[int, Watched]) -> Trace:
        events = self._library.events()
        shapes = [tuple(getattr(each, "shape", ())) for each in arguments]
        items = [arrays[i].item_bytes if i in arrays else 1 for i in range(len(shapes))]
        accesses = numpy.zeros(len(events), ACCESS)
        for name in ("block", "thread", "step", "bytes"):
            accesses[name] = events[name]
        accesses["kind"], accesses["instruction"] = events["access"], events["site"]
        accesses["argument"] = numpy.array([*arrays, 0])[events["array"]]
        item = numpy.array(items)[accesses["argument"]]
        accesses["element"] = events["byte"] // item
        sites, which = numpy.unique(events["site"], return_inverse=True)
        lines = [line for _, line in self._library.lines(sites.tolist())]
        accesses["line"] = numpy.array([*lines, 0])[which]
        names = tuple(one.name for one in self.parameters)
        return Trace(accesses, names, tuple(shapes), tuple(items))


def _watched(parameter: Parameter, given: Any) -> Watched:
    """The memory of a tensor or array on the CPU, which a kernel works on in place.

    Raises: TypeError or ValueError where it does not suit the parameter.
    """
    check_array(parameter, given)
    if isinstance(given, torch.Tensor) and given.device.type != "cpu":
        raise ValueError(
            f"{parameter.name} is on {given.device}; the emulator works on the CPU: "
            "use .cpu()"
        )
    tensor = isinstance(given, torch.Tensor)
    address = given.data_ptr() if tensor else given.ctypes.data
    return Watched(
        parameter.name,
        address,
        given.nbytes,
        given.itemsize * parameter.numbers,  # 16 of a `float4*`
        given.itemsize,
        not parameter.const,
    )
