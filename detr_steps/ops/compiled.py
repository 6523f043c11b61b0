"""The compiled loops of `kernels/`: built on first use, kept for the next time.

There is a part for the CPU and one for GPUs, and each is built when a tensor of its
kind first needs it. What is built depends on the sources, the flags, the
compiler, the version of torch and the kind of processor; it is kept under a name made
of all five, so that a change of any builds anew.
"""

import hashlib
import os
import shutil
import tempfile
import time
from pathlib import Path

import torch

from .compiled_cpu import LOOPS
from .compiled_cuda import KERNELS, STEPS
from .compiled_tools import NotCompiled, Part

# By the device that computes; the single steps are for those who study the kernels.
PARTS = {"cpu": LOOPS, "cuda": KERNELS, "steps": STEPS}
DAY = 24 * 60 * 60  # seconds


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
        build_and_load(part, folder, built)
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


def cache() -> Path:
    """Where built libraries are kept: where torch keeps all extensions.

    Raises: NotCompiled for a user who has no home.
    """
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(root or Path(home, "torch_extensions")) / "detr_steps"
    try:
        return folder.expanduser().absolute()
    except RuntimeError as error:
        raise NotCompiled(f"{error}: set TORCH_EXTENSIONS_DIR to a folder") from error


def key(part: Part, folder: Path) -> str:
    """A name for what would be built: another one whenever that would differ."""
    content = hashlib.sha256()
    for pattern in part.sources + part.headers:
        for path in sorted(folder.glob(pattern)):
            content.update(path.name.encode() + path.read_bytes())
    content.update("\n".join((*part.about(), torch.__version__)).encode())
    return content.hexdigest()[:16]


def build_and_load(part: Part, folder: Path, built: Path) -> None:
    """Build in a folder of our own, then put the library in its place at once.

    So processes may build at the same time, and one that was stopped leaves no lock
    behind for which all others would wait for ever.
    Raises: NotCompiled, naming cause and cure.
    """
    part.check()
    shelf = built.parent.parent
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        _sweep(shelf)
        with tempfile.TemporaryDirectory(
            prefix="building-", dir=shelf, ignore_cleanup_errors=True
        ) as work:
            part.build(part, folder, Path(work))
            ready = Path(work, "ready")
            ready.mkdir()
            shutil.copy(Path(work, built.name), ready)
            _put(ready, built)
    except OSError as error:
        raise NotCompiled(
            f"it cannot be kept in {shelf} ({error.strerror or error}): set "
            "TORCH_EXTENSIONS_DIR to a folder that can be written"
        ) from error


def _sweep(shelf: Path) -> None:
    """Remove what builds that were stopped have left behind."""
    for left in shelf.glob("building-*"):
        if time.time() - left.stat().st_mtime > DAY:
            shutil.rmtree(left, ignore_errors=True)


def _put(ready: Path, built: Path) -> None:
    try:
        os.replace(ready, built.parent)
    except OSError:
        if not built.is_file():  # unless another process was faster
            raise
