"""The compiled loops of `kernels/`: built on first use, kept for the next time.

There is a part for the CPU and one for GPUs, and each is built when a tensor of its
kind first needs it. What is built depends on the sources, the flags, the compiler, the
version of torch and the kind of processor.
"""

import shutil
from pathlib import Path

import torch

from .building import NotCompiled, cache, digest, keep
from .compiled_cpu import LOOPS
from .compiled_cuda import KERNELS, STEPS
from .compiled_tools import Part

# By the device that computes; the single steps are for those who study the kernels.
PARTS = {"cpu": LOOPS, "cuda": KERNELS, "steps": STEPS}


def load_library(device: str = "cpu") -> None:
    """Register one of PARTS with torch, built first if need be; call it once for each.

    Raises: NotCompiled, naming cause and cure.
    """
    part = PARTS[device]
    folder = sources()
    if part is not LOOPS:
        part.check()  # what is built already needs a GPU, but no compiler on a CPU
    built = cache() / key(part, folder) / part.file
    if not built.is_file():
        build_and_load(part, folder, built.parent)
        return
    try:
        torch.ops.load_library(built)
    except OSError as error:
        raise NotCompiled(
            f"{built} does not load ({error}): delete that file, it is built again"
        ) from error


def sources() -> Path:
    """The folder of the sources: inside the package, or `kernels/` of a clone.

    Raises: NotCompiled where there is neither.
    """
    package = Path(__file__).resolve().parents[1]
    wanted = {name for part in PARTS.values() for name in part.sources + part.headers}
    for folder in (package / "_kernels", package.parent / "kernels"):
        if all(any(folder.glob(name)) for name in wanted):
            return folder
    raise NotCompiled("its sources are missing: clone or install the course again")


def key(part: Part, folder: Path) -> str:
    """A name for what would be built: another one whenever that would differ."""
    patterns = part.sources + part.headers
    files = (path for pattern in patterns for path in sorted(folder.glob(pattern)))
    return digest([*files, *part.about(), torch.__version__])


def build_and_load(part: Part, folder: Path, place: Path) -> None:
    """Build a part; what does not load is not kept.

    Raises: NotCompiled, naming cause and cure.
    """
    part.check()

    def build(ready: Path) -> None:
        part.build(part, folder, ready.parent)
        shutil.copy(ready.parent / part.file, ready)

    keep(place, build)
