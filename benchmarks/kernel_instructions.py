"""What our CUDA kernels are made of: instructions per sample, registers, shared memory.

    python -m benchmarks.kernel_instructions [--official PATH]

Needs nvcc and nvdisasm, and no graphics card. A sample is one point of one query and
head: four corner pixels of 32 channels. `per_sample` counts what a warp issues for it,
from the loops of the machine code (detr_steps/cuda_lab/steps.py): 16 points on four
levels, 32 channels; `at_least` counts no row that `sorted` adds to memory, of which
there are fewer the more the queries agree. `--official`: a checkout of
https://github.com/fundamentalvision/Deformable-DETR, whose kernel is counted too, from
its own source, with empty headers in place of torch's, of which it uses nothing.
Result: data/measured/kernel_instructions.json.
"""

import argparse
import tempfile
from collections.abc import Iterable
from pathlib import Path

from detr_steps.cuda_lab import steps
from detr_steps.cuda_lab.disassembly import Kernel
from detr_steps.cuda_lab.instructions import (
    ARCHITECTURES,
    compile_kernels,
    nvcc,
    run,
)
from detr_steps.cuda_lab.steps import STEPS, TYPES, Step

from .measuring import MEASURED, save

# What is worth knowing by kind: what a warp issues of it for one sample.
KINDS = {
    "wide loads": r"LDG\S*\.128",
    "all loads": r"LDG",
    "shared memory": r"LDS|STS|ATOMS",
    "reductions": r"RED",
    "multiply-adds": r"FFMA",
    "exchanges": r"SHFL",
    "barriers": r"BAR|WARPSYNC",
}
HEADERS = ("ATen/ATen.h", "ATen/cuda/CUDAContext.h", "ATen/cuda/Atomic.cuh")
THEIRS = """
#include "ms_deform_im2col_cuda.cuh"
void *kept[] = {
  (void *)&ms_deformable_im2col_gpu_kernel<float>,
  (void *)&ms_deformable_col2im_gpu_kernel_shm_blocksize_aware_reduce_v1<float, 32>};
"""


def counted(kernel: Kernel, step: Step, dtype: str = "fp32") -> dict:
    """One kernel in numbers."""
    each = {
        kind: round(steps.per_sample(kernel, step, dtype, pattern), 2)
        for kind, pattern in KINDS.items()
    }
    return {
        "per_sample": round(steps.per_sample(kernel, step, dtype), 1),
        "at_least": round(steps.per_sample(kernel, step, dtype, grouped=True), 1),
        **taken(kernel),
        "issued": {kind: often for kind, often in each.items() if often},
    }


def taken(kernel: Kernel) -> dict:
    """What a kernel takes of the card: registers of a thread, bytes of a block."""
    names = ("registers", "shared", "spills", "stack")
    return {name: getattr(kernel, name) for name in names}


def ours(dtypes: Iterable[str]) -> dict:
    """`{dtype: {direction: {step: {arch: numbers}}}}`."""
    found: dict = {}
    for arch in ARCHITECTURES:
        kernels = steps.compile_steps(STEPS, dtypes, arch)
        for (direction, name, dtype), kernel in kernels.items():
            of_step = found.setdefault(dtype, {}).setdefault(direction, {})
            step = steps.find_step(direction, name)
            of_step.setdefault(name, {})[arch] = counted(kernel, step, dtype)
    return found


def official(path: Path) -> dict:
    """The same numbers of the paper's kernels, for each arch."""
    source = path / "models" / "ops" / "src" / "cuda" / "ms_deform_im2col_cuda.cuh"
    text = source.read_text("utf-8").replace("THC/THCAtomics", "ATen/cuda/Atomic")
    with tempfile.TemporaryDirectory() as work:
        for name in HEADERS:
            header = Path(work, name)
            header.parent.mkdir(parents=True, exist_ok=True)
            header.touch()
        Path(work, source.name).write_text(text, encoding="utf-8")
        found: dict = {"forward": {}, "backward": {}}
        for arch in ARCHITECTURES:
            for kernel in compile_kernels(THEIRS, arch, Path(work), ["-w"]):
                direction = "forward" if "im2col" in kernel.name else "backward"
                found[direction][arch] = counted_theirs(kernel)
    return found


def counted_theirs(kernel: Kernel) -> dict:
    """Once over the queries, four levels, four points; a warp has one query and head.

    In the backward pass thread 0 of the warp adds up what 32 threads have found.
    """
    inner = [loop.outer is not None and loop.count("LDG") for loop in kernel.loops]
    turns = [4.0 if walks else 1.0 for walks in inner]
    each = round(kernel.issued(turns) / steps.POINTS, 1)
    return {"per_sample": each} | taken(kernel)


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--official", type=Path, help="checkout of Deformable-DETR")
    parser.add_argument(
        "--out", type=Path, default=MEASURED / "kernel_instructions.json"
    )
    chosen = parser.parse_args()
    words = ["python -m benchmarks.kernel_instructions"]
    if chosen.official:
        words += ["--official", "PATH"]  # where that was is nobody's business
    found = ours(TYPES)
    record = {
        "compiler": run([nvcc(), "--version"]).strip().splitlines()[-1],
        "command": " ".join(words),
        "case": "16 points on four levels, 32 channels",
        **found.pop("fp32"),
        "half": found,
    }
    if chosen.official:
        record["official"] = official(chosen.official)
    save(chosen.out, record)


if __name__ == "__main__":
    main()
