"""The same kernels on a graphics card: nvcc makes a library, ctypes calls it."""

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..ops.building import NotCompiled, digest, kept, run
from ..ops.compiled import sources
from ..ops.compiled_cuda import nvcc
from .faults import TEXT, CompileFault, KernelFault
from .signature import (
    Parameter,
    Size,
    check_array,
    launch,
    paired,
    parameters,
    scalar,
)

# The kernel's address and the addresses of its arguments: that is all a launch takes.
_ENTRY = """
extern "C" int detr_steps_entry(const unsigned* grid, const unsigned* block,
                                unsigned shared_bytes, void** arguments) {{
  const dim3 blocks(grid[0], grid[1], grid[2]), threads(block[0], block[1], block[2]);
  const cudaError_t started = cudaLaunchKernel(
      (const void*){name}, blocks, threads, arguments, shared_bytes, 0);
  const cudaError_t ended = cudaDeviceSynchronize();
  cudaGetLastError();  // or a later launch is blamed for this one
  return started != cudaSuccess ? started : ended;
}}
extern "C" const char* detr_steps_reason(int error) {{
  return cudaGetErrorString((cudaError_t)error);
}}
"""


def check() -> None:
    """Raise NotCompiled where kernels cannot be compiled for a card, or not run."""
    if not nvcc():
        raise NotCompiled("no nvcc: install the CUDA toolkit (on Colab it is there)")
    if not torch.cuda.is_available():
        raise NotCompiled(
            "torch sees no graphics card: use where='emulator', or on Colab choose "
            "Runtime > Change runtime type > T4 GPU"
        )


def compile(text: str, name: str) -> "CudaKernel":
    """Make the kernel `__global__ void name(...)` of a CUDA text ready for the card.

    Raises: CompileFault in the lines of the text; ValueError where it has no such
    kernel; NotCompiled where there is no nvcc or no card.
    Built in chapters/07_cuda_kernel.ipynb.
    """
    check()
    wanted = parameters(text, name)
    major, minor = torch.cuda.get_device_capability()
    built = build(text, name, f"sm_{major}{minor}")
    return CudaKernel(name, wanted, built)


def build(text: str, name: str, architecture: str) -> Path:
    """The library of a kernel's text for one kind of card; needs nvcc but no card."""
    asked = [str(nvcc()), architecture, name, text]
    folder = kept(
        f"gpu-{digest(asked)}", lambda work: _build(text, name, architecture, work)
    )
    return folder / f"{TEXT}.so"


def command(source: str, target: str, architecture: str) -> list[str]:
    """How a source becomes a library that the card runs."""
    folder = sources()
    return [
        nvcc() or "nvcc", "-shared", "-Xcompiler", "-fPIC", "-std=c++17", "-O3",
        "-lineinfo", f"-arch={architecture}", "-I", str(folder), "-I",
        str(folder / "cuda"), "-o", target, source,
    ]  # fmt: skip


def _build(text: str, name: str, architecture: str, work: Path) -> None:
    source = work / f"{TEXT}.cu"
    entry = f'#line 1 "entry"{_ENTRY.format(name=name)}'
    source.write_text(f'#line 1 "{TEXT}"\n{text}\n{entry}', "utf-8")
    call = command(str(source), str(work / f"{TEXT}.so"), architecture)
    run(call, functools.partial(CompileFault.of, text=text))


class CudaKernel:
    """A kernel that runs on the card: `kernel(grid, block, *arguments)`.

    Built in chapters/07_cuda_kernel.ipynb.
    """

    where = "cuda"

    def __init__(self, name: str, wanted: list[Parameter], file: Path):
        self.name, self.parameters = name, wanted
        library = ctypes.CDLL(str(file))
        self._entry, self._reason = library.detr_steps_entry, library.detr_steps_reason
        self._reason.restype = ctypes.c_char_p

    def __call__(
        self,
        grid: Size,
        block: Size,
        *arguments: Any,
        schedule: int = 0,
        trace: bool = False,
        shared_bytes: int = 0,
    ) -> None:
        """Run it on tensors, in place, and numbers; one for each parameter.

        What lies on the CPU is copied to the card and back. A card decides by itself
        in which order threads run: `schedule` changes nothing.
        Raises: KernelFault with what the card reports; ValueError for a trace, which
        only the emulator can make; TypeError or ValueError for arguments that do not
        suit its parameters.
        """
        if trace:
            raise ValueError("a card cannot trace: compile with where='emulator'")
        pairs = paired(self.parameters, arguments, self.name)
        there = [_on_card(*pair) if pair[0].pointer else None for pair in pairs]
        passed = [
            scalar(*pair) if moved is None else ctypes.c_void_p(moved.data_ptr())
            for pair, moved in zip(pairs, there, strict=True)
        ]
        torch.cuda.synchronize()  # it does not run on torch's stream
        if error := launch(self._entry, grid, block, shared_bytes, passed):
            raise KernelFault("card", _told(self._reason(error)), kernel=self.name)
        for (parameter, given), moved in zip(pairs, there, strict=True):
            if moved is not None and moved is not given and not parameter.const:
                torch.as_tensor(given).copy_(moved)

    def milliseconds(
        self,
        grid: Size,
        block: Size,
        *arguments: Any,
        repeats: int = 20,
        shared_bytes: int = 0,
    ) -> float:
        """How long it takes: the median of some runs, with tensors on the card.

        Each run is waited for, which adds some microseconds: time long runs.
        Raises: as a call does; ValueError for a tensor on the CPU.
        """
        if any(isinstance(one, Tensor) and not one.is_cuda for one in arguments):
            raise ValueError("move the tensors to the card first: .cuda()")
        taken = []
        for _ in range(repeats + 1):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            self(grid, block, *arguments, shared_bytes=shared_bytes)
            end.record()
            end.synchronize()
            taken.append(start.elapsed_time(end))
        return sorted(taken[1:])[repeats // 2]  # the first one loads the kernel


def _on_card(parameter: Parameter, given: Any) -> Tensor:
    check_array(parameter, given)
    return torch.as_tensor(given).cuda()


def _told(reason: bytes) -> str:
    return (
        f"{reason.decode()}. Run it with where='emulator' to see which thread did "
        "what; after an illegal access the card serves this Python no more: restart it"
    )
