"""The compiled loops of `kernels/`: built on first use, kept for the next time.

What is built depends on the sources, the flags, the compiler, the version of torch and
the kind of processor; it is kept under a name made of all five, so that a change of any
builds anew.
"""

import contextlib
import hashlib
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

NAME = "detr_steps_kernels"
FILE = f"{NAME}.so"
SOURCES = ("ms_deform_attn.cpp",)
HEADERS = ("rows.h", "ms_deform_attn.h", "ms_deform_attn_cpu.h")
OLDEST = (2, 10)  # the first torch whose stable interface has all that we use
DAY = 24 * 60 * 60  # seconds


class NotCompiled(RuntimeError):
    """The compiled loops cannot be had here; says why, and what to do about it."""


def load_library(device: str = "cpu") -> None:
    """Register the compiled loops with torch, built first if need be; call it once.

    Raises: NotCompiled, naming cause and cure.
    """
    folder = sources()
    built = cache() / key(folder) / FILE
    if not built.is_file():
        build_and_load(folder, built)
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
    for folder in (package / "_kernels", package.parent / "kernels"):
        if all((folder / name).is_file() for name in SOURCES + HEADERS):
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


def key(folder: Path) -> str:
    """A name for what would be built: another one whenever that would differ."""
    content = hashlib.sha256()
    for name in SOURCES + HEADERS:
        content.update((folder / name).read_bytes())
    about = (*_flags(), _compiler(), torch.__version__, sys.platform, _processor())
    content.update("\n".join(about).encode())
    return content.hexdigest()[:16]


def build_and_load(folder: Path, built: Path) -> None:
    """Build in a folder of our own, then put the library in its place at once.

    So processes may build at the same time, and one that was stopped leaves no lock
    behind for which all others would wait for ever.
    Raises: NotCompiled, naming cause and cure.
    """
    check_tools()
    shelf = built.parent.parent
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        _sweep(shelf)
        with tempfile.TemporaryDirectory(
            prefix="building-", dir=shelf, ignore_cleanup_errors=True
        ) as work:
            _compile_and_load(folder, work)
            ready = Path(work, "ready")
            ready.mkdir()
            shutil.copy(Path(work, built.name), ready)
            _put(ready, built.parent)
    except OSError as error:
        raise NotCompiled(
            f"it cannot be kept in {shelf} ({error.strerror or error}): set "
            "TORCH_EXTENSIONS_DIR to a folder that can be written"
        ) from error


def check_tools() -> None:
    """Raise NotCompiled where torch is too old, or a tool of the build is missing."""
    if sys.platform == "win32":
        raise NotCompiled(
            "its vector types are those of GCC and Clang: on Windows use WSL "
            "(wsl --install)"
        )
    if torch.torch_version.TorchVersion(torch.__version__) < OLDEST:
        raise NotCompiled(
            f"torch {torch.__version__} is too old for it: install torch 2.10 or newer"
        )
    if not shutil.which(_compiler().split()[0]):
        raise NotCompiled(
            f"no C++ compiler ({_compiler()}): install one (Debian, Ubuntu: apt "
            "install g++; macOS: xcode-select --install)"
        )
    with _own_tools():
        if not shutil.which("ninja"):
            raise NotCompiled("no ninja, which builds it: pip install ninja")


def _compile_and_load(folder: Path, work: str) -> None:
    try:
        from torch.utils.cpp_extension import load  # slow to import: only to build
    except ImportError as error:
        raise NotCompiled(f"{error}: pip install setuptools") from error
    try:
        with _own_tools():
            load(
                NAME,
                [str(folder / name) for name in SOURCES],
                extra_cflags=_flags(),
                extra_include_paths=[str(folder)],
                build_directory=work,
                is_python_module=False,
            )
    except RuntimeError as error:
        raise NotCompiled(f"it does not build: {_fault(str(error))}") from error


def _fault(output: str) -> str:
    """The line of a compiler's output that names the fault."""
    lines = output.strip().splitlines()
    named = [line for line in lines if "error" in line.lower()]
    return (named[1:] or named or lines or ["no reason given"])[0].strip()


@contextlib.contextmanager
def _own_tools() -> Iterator[None]:
    """Find what pip installed beside this Python, also in an inactive environment."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{before}{os.pathsep}{Path(sys.executable).parent}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _sweep(shelf: Path) -> None:
    """Remove what builds that were stopped have left behind."""
    for left in shelf.glob("building-*"):
        if time.time() - left.stat().st_mtime > DAY:
            shutil.rmtree(left, ignore_errors=True)


def _put(ready: Path, place: Path) -> None:
    try:
        os.replace(ready, place)
    except OSError:
        if not (place / FILE).is_file():  # unless another process was faster
            raise


def _flags() -> list[str]:
    here = "-mcpu" if platform.machine().lower() in ("arm64", "aarch64") else "-march"
    target = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # loads into 2.10 and later
    return ["-O3", f"{here}=native", "-fno-math-errno", "-fno-trapping-math", target]


def _processor() -> str:
    """What `native` among the flags depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    told = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(told)}))


def _compiler() -> str:
    return os.environ.get("CXX") or "c++"
