"""The part of the compiled op that computes on NVIDIA GPUs: how it is built.

A torch with CUDA builds it by torch.utils.cpp_extension (compiled_extension.py); a
torch for CPUs, which cannot, by nvcc itself (compiled_objects.py): so the same sources
are compiled, linked and loaded by tests on machines without a GPU. Either way there are
several objects: only the binding includes torch, and a step's kernels for float32 are
in one object, those for 16 bits in another (about equal work for Colab's two cores,
also after an edit).
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch

from .building import NotCompiled, check_compiler, compiler, does_not_build, run
from .compiled_extension import Capability, build_extension
from .compiled_objects import Unit, make_objects
from .compiled_tools import Part, check_torch, load, torch_includes, torch_libraries

OLDEST_GPU = (7, 5)  # Turing: Colab's T4


def _about() -> tuple[str, ...]:
    made = compile_command(Unit(""), Path(), Path(), architectures())
    return (*made, compiler(), toolkit(), str(torch.version.cuda))


def _check() -> None:
    check_compiler()
    check_torch()
    _check_cuda()
    _check_gpus()
    _check_nvcc()


def _build(part: Part, folder: Path, work: Path) -> None:
    print(  # nobody likes a first step that hangs for no reason
        "deformable attention is compiled for this GPU, once: 10 to 30 seconds",
        file=sys.stderr,
        flush=True,
    )
    if torch.backends.cuda.is_built():
        built = build_extension(part, units(part), folder, architectures())
        shutil.copyfile(built, work / part.file)
    else:
        load(build_library(part, folder, work, architectures()))


def build_library(
    part: Part, folder: Path, work: Path, capabilities: Sequence[Capability]
) -> Path:
    """Build a part in `work` for GPUs of these capabilities, by nvcc itself.

    Raises: NotCompiled with the compiler's first complaint.
    """

    def command(unit: Unit, target: Path) -> list[str]:
        return compile_command(unit, folder, target, capabilities)

    about = (*command(Unit(""), Path()), toolkit(), torch.__version__)
    objects = make_objects(units(part), folder, about, command, work)
    library = work / part.file
    run(link_command(objects, library, capabilities), does_not_build)
    return library


# What takes longest comes first, so that no core waits for it at the end.
KERNEL_FILES = (
    "cuda/forward_tiles.cu",
    "cuda/backward_sorted.cu",
    "cuda/backward_vectors.cu",
    "cuda/naive.cu",
)
ALL_AT_ONCE = ("cuda/naive.cu",)
HEADERS = ("levels.h", "ms_deform_attn.h", "ms_deform_attn_cuda.h", "cuda/*")
KERNELS = Part(
    "detr_steps_cuda",
    ("ms_deform_attn_cuda.cpp", *KERNEL_FILES),
    HEADERS,
    _about,
    _check,
    _build,
)
STEPS = Part(
    "detr_steps_steps",
    ("ms_deform_attn_steps.cpp", "cuda/forward_steps.cu", *KERNEL_FILES),
    HEADERS,
    _about,
    _check,
    _build,
)


def units(part: Part) -> list[Unit]:
    """What there is to compile for a part: most kernels by the size of numbers."""
    return [
        Unit(source, size)
        for source in part.sources
        for size in (_SIZES if _by_size(source) else (0,))
    ]


_SIZES = (2, 4)  # bytes; the first takes longer, with two types


def _by_size(source: str) -> bool:
    return source.endswith(".cu") and source not in ALL_AT_ONCE


def compile_command(
    unit: Unit, folder: Path, target: Path, capabilities: Iterable[Capability]
) -> list[str]:
    """The call of nvcc that compiles a unit for GPUs of these capabilities."""
    return [
        *_nvcc_for(capabilities),
        *flags(),
        *([f"-DBYTES={unit.bytes}"] if unit.bytes else []),
        *("-c", str(folder / unit.source), "-o", str(target)),
    ]


def link_command(
    objects: Iterable[Path], library: Path, capabilities: Iterable[Capability]
) -> list[str]:
    """The call of nvcc that makes a library of objects."""
    return [
        *_nvcc_for(capabilities),
        *("-shared", "-cudart=shared", *map(str, objects), "-o", str(library)),
        *("-Xlinker", "--no-as-needed", *torch_libraries()),
    ]


def _nvcc_for(capabilities: Iterable[Capability]) -> list[str]:
    names = [f"{major}{minor}" for major, minor in capabilities]
    codes = [f"-gencode=arch=compute_{name},code=sm_{name}" for name in names]
    return [nvcc() or "nvcc", *codes, "-ccbin", compiler().split()[0]]


def flags() -> list[str]:
    """What nvcc needs to compile, whatever for.

    -O1 is for the little that runs on the CPU; kernels are always optimised. Names are
    hidden, as those of torch's stable headers are: two parts may hold the same kernels.
    """
    hidden = ("-std=c++17", "-O1", "-Xcompiler=-fPIC,-fvisibility=hidden")
    return [*hidden, "-DUSE_CUDA", *torch_includes()]


# --- what there is ------------------------------------------------------------------


def gpu_present() -> bool:
    """Whether there is an NVIDIA GPU, or at least its driver, whatever torch says."""
    return bool(shutil.which("nvidia-smi")) or Path("/proc/driver/nvidia").exists()


def architectures() -> list[tuple[int, int]]:
    """The compute capabilities of the GPUs that torch sees, each once."""
    count = torch.cuda.device_count()
    return sorted({torch.cuda.get_device_capability(i) for i in range(count)})


def cuda_tool(name: str, beside: Iterable[Path] = ()) -> str | None:
    """Where a program of CUDA is: CUDA_HOME, PATH, `beside`, where it usually is."""
    homes = [os.environ.get(variable) for variable in ("CUDA_HOME", "CUDA_PATH")]
    folders = [str(Path(home, "bin")) for home in homes if home]
    folders += [os.environ.get("PATH", os.defpath), *map(str, beside)]
    path = os.pathsep.join([*folders, "/usr/local/cuda/bin"])
    return shutil.which(name, path=path)


def nvcc() -> str | None:
    """Where NVIDIA's compiler is."""
    return cuda_tool("nvcc")


def toolkit() -> str:
    """The version of nvcc, such as 13.0; empty where there is none that tells."""
    where = nvcc()
    if not where:
        return ""
    said = subprocess.run([where, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"release (\d+\.\d+)", said)
    return found[1] if found else ""


# --- what stands in the way ---------------------------------------------------------


def _check_cuda() -> None:
    version = f"torch {torch.__version__}"
    if torch.version.hip:
        raise NotCompiled(f"{version} is for AMD GPUs, the kernels are for NVIDIA's")
    if torch.version.cuda is None and gpu_present():
        raise NotCompiled(
            f"there is an NVIDIA GPU, but {version} is built without CUDA: install a "
            "torch with CUDA (pytorch.org, Get Started)"
        )
    if torch.version.cuda is None:
        raise NotCompiled(f"{version} is built without CUDA, and there is no GPU")
    if not torch.cuda.is_available():
        raise NotCompiled(f"{version} finds no GPU: nvidia-smi must list one")


def _check_gpus() -> None:
    for index in range(torch.cuda.device_count()):
        major, minor = torch.cuda.get_device_capability(index)
        if (major, minor) < OLDEST_GPU:
            raise NotCompiled(
                f"GPU {index} is too old (compute capability {major}.{minor}, 7.5 is "
                "needed): take another one (CUDA_VISIBLE_DEVICES)"
            )


def _check_nvcc() -> None:
    wanted = torch.version.cuda
    if not nvcc():
        raise NotCompiled(
            f"no nvcc: install NVIDIA's CUDA toolkit {wanted}, or set CUDA_HOME to the "
            "folder of one"
        )
    if toolkit().split(".")[0] != wanted.split(".")[0]:
        raise NotCompiled(
            f"{nvcc()} is of CUDA {toolkit() or 'unknown'}, torch of {wanted}: install "
            f"the toolkit of {wanted.split('.')[0]}, or set CUDA_HOME to its folder"
        )
