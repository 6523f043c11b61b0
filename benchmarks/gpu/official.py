"""The operator that came with the paper, built from its own source.

`path` is a checkout of https://github.com/fundamentalvision/Deformable-DETR, or its
`models/ops`. It has not been built by newer torch as it is: a copy gets two lines
changed (an include that is gone since torch 1.11, a call since 2.6). Nothing of it is
kept here.
"""

import functools
import shutil
import tempfile
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from .cases import Inputs

CHANGES = {
    "ms_deform_im2col_cuda.cuh": ("<THC/THCAtomics.cuh>", "<ATen/cuda/Atomic.cuh>"),
    "ms_deform_attn_cuda.cu": (
        "AT_DISPATCH_FLOATING_TYPES(value.type()",
        "AT_DISPATCH_FLOATING_TYPES(value.scalar_type()",
    ),
}
STEP = 64  # its im2col_step: how many images of a batch one launch takes


def patched(path: Path, folder: Path) -> Path:
    """Copy its sources and change what newer versions of torch need.

    Raises: FileNotFoundError where they are not.
    """
    for source in (path / "models" / "ops" / "src", path / "src"):
        if source.is_dir():
            copied = Path(shutil.copytree(source, folder / "src"))
            for name, (old, new) in CHANGES.items():
                file = copied / "cuda" / name
                file.write_text(file.read_text("utf-8").replace(old, new), "utf-8")
            return copied
    raise FileNotFoundError(f"no models/ops/src in {path}: give a checkout of it")


@functools.cache
def build(path: Path) -> ModuleType:
    """Build it, which takes a minute or two."""
    from torch.utils.cpp_extension import load

    work = Path(tempfile.mkdtemp(prefix="official-"))
    source = patched(path, work)
    files = [source / "vision.cpp", source / "cpu" / "ms_deform_attn_cpu.cpp",
             source / "cuda" / "ms_deform_attn_cuda.cu"]  # fmt: skip
    half = ("HALF_OPERATORS", "HALF_CONVERSIONS", "HALF2_OPERATORS")
    flags = ["-DCUDA_HAS_FP16=1", *(f"-D__CUDA_NO_{name}__" for name in half)]
    return load(
        "MultiScaleDeformableAttention",
        [str(file) for file in files],
        extra_include_paths=[str(source)],
        extra_cflags=["-DWITH_CUDA", "-w"],
        extra_cuda_cflags=["-DWITH_CUDA", "-w", *flags],
        build_directory=str(work),
    )


class Official:
    """Its two functions, with the arguments that they want."""

    def __init__(self, path: Path) -> None:
        self.module = build(path)

    def _arguments(self, given: Inputs) -> tuple[Tensor, ...]:
        shape, device = given.shape, given.value.device
        sizes = torch.tensor(shape.sizes, device=device)
        starts = sizes.prod(1).cumsum(0).roll(1)
        starts[0] = 0
        levels = len(shape.sizes)
        locations = given.locations.unflatten(3, (levels, -1)).contiguous()
        weights = given.weights.unflatten(3, (levels, -1)).contiguous()
        return given.value, sizes, starts, locations, weights

    def forward(self, given: Inputs) -> functools.partial:
        """A call of its forward."""
        arguments = self._arguments(given)
        return functools.partial(self.module.ms_deform_attn_forward, *arguments, STEP)

    def backward(self, given: Inputs) -> functools.partial:
        """A call of its backward."""
        return functools.partial(
            self.module.ms_deform_attn_backward,
            *self._arguments(given),
            given.grad,
            STEP,
        )
