"""A reader's kernel: from its text to something that runs, wherever that may be."""

from typing import Literal

import torch

from ..ops.building import NotCompiled, check_compiler
from . import emulator, gpu

Where = Literal["auto", "emulator", "cuda"]
Kernel = emulator.EmulatedKernel | gpu.CudaKernel


def compile(text: str, name: str, where: Where = "auto") -> Kernel:
    """Make the kernel `__global__ void name(...)` of a CUDA text ready to run.

    `where`: in the emulator, on the graphics card, or on the card if there is one
    (and nvcc) and else in the emulator. What it gives is called like
    `kernel(grid, block, *arguments)`; the same text compiled again is kept.
    Raises: CompileFault in the lines of the text; ValueError where it has no such
    kernel, or `where` is none of the three; NotCompiled where a compiler is missing.
    Built in chapters/07_cuda_kernel.ipynb.
    """
    if where not in ("auto", "emulator", "cuda"):
        raise ValueError(f"where is 'auto', 'emulator' or 'cuda', not {where!r}")
    if where == "auto":
        where = "cuda" if torch.cuda.is_available() and gpu.nvcc() else "emulator"
    return (gpu if where == "cuda" else emulator).compile(text, name)


def trouble(where: Where = "auto") -> str | None:
    """Why kernels cannot be compiled here and what to do; None where they can."""
    try:
        if where == "cuda":
            gpu.check()
        else:
            check_compiler()
    except NotCompiled as error:
        return str(error)
    return None
