"""The compiled loops of `kernels/`: built on first use, kept for the next time.

What is built depends on the sources, the flags, the version of torch and the kind of
processor; it is kept under a name made of all four, so a change of any builds anew.
"""

import hashlib
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path

import torch

NAME = "detr_steps_kernels"
SOURCES = ("ms_deform_attn.cpp",)
HEADERS = ("ms_deform_attn.h", "ms_deform_attn_cpu.h")
OLDEST = (2, 10)  # the first torch whose stable interface has all that we use


class NotCompiled(RuntimeError):
    """The compiled loops cannot be had here; says why, and what to do about it."""


def load_library() -> None:
    """Register the compiled loops with torch, built first if need be; call it once.

    Raises: NotCompiled, naming cause and cure.
    """
    folder = sources()
    built = cache() / key(folder) / f"{NAME}{_suffix()}"
    if built.is_file():
        torch.ops.load_library(built)
    else:
        _check_tools()
        _build_and_load(folder, built)


def sources() -> Path:
    """The folder of the sources: in a clone `kernels/`, else inside the package.

    Raises: NotCompiled where there is neither.
    """
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_kernels", package.parent / "kernels"):
        if all((folder / name).is_file() for name in SOURCES + HEADERS):
            return folder
    raise NotCompiled("the sources of the compiled op are missing: install again")


def cache() -> Path:
    """Where built libraries are kept: in torch's own folder for such things."""
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(root or Path(home, "torch_extensions")) / "detr_steps"
    return folder.expanduser().absolute()


def key(folder: Path) -> str:
    """A name for what would be built: changes with anything that changes it."""
    content = hashlib.sha256()
    for name in SOURCES + HEADERS:
        content.update((folder / name).read_bytes())
    about = (*_flags(), _compiler(), torch.__version__, sys.platform, _processor())
    content.update("\n".join(about).encode())
    return content.hexdigest()[:16]


def _flags() -> list[str]:
    here = "-mcpu" if platform.machine().lower() in ("arm64", "aarch64") else "-march"
    target = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # loads into 2.10 and later
    return ["-O3", f"{here}=native", "-fno-math-errno", "-fno-trapping-math", target]


def _processor() -> str:
    """What -march=native depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    told = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(told)}))


def _compiler() -> str:
    return os.environ.get("CXX") or ("cl" if sys.platform == "win32" else "c++")


def _suffix() -> str:
    return ".pyd" if sys.platform == "win32" else ".so"


def _check_tools() -> None:
    if torch.torch_version.TorchVersion(torch.__version__) < OLDEST:
        raise NotCompiled(
            f"torch {torch.__version__} is too old for the compiled op: install "
            "torch 2.10 or newer"
        )
    if not shutil.which(_compiler().split()[0]):
        raise NotCompiled(
            f"no C++ compiler ({_compiler()}) for the compiled op: install one "
            "(Debian, Ubuntu: apt install g++; macOS: xcode-select --install)"
        )
    if not shutil.which("ninja"):
        raise NotCompiled("no ninja for the compiled op: pip install ninja")


def _build_and_load(folder: Path, built: Path) -> None:
    """Build in a folder of our own, then put the library in its place at once.

    So two processes can build at the same time, and one that was stopped leaves no lock
    behind for which others would wait for ever.
    """
    try:
        built.parent.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(
            prefix="building-", dir=built.parent.parent, ignore_cleanup_errors=True
        ) as work:
            _compile_and_load(folder, work)
            ready = Path(work, "ready")
            ready.mkdir()
            shutil.copy(Path(work, built.name), ready / built.name)
            _put(ready, built.parent)
    except OSError as error:
        raise NotCompiled(
            f"cannot keep the compiled op in {built.parent.parent} ({error.strerror}): "
            "set TORCH_EXTENSIONS_DIR to a folder that can be written"
        ) from error


def _put(ready: Path, place: Path) -> None:
    try:
        os.replace(ready, place)
    except OSError:
        if not place.is_dir():  # unless another process was faster
            raise


def _compile_and_load(folder: Path, work: str) -> None:
    from torch.utils.cpp_extension import load  # slow to import: only to build

    try:
        load(
            NAME,
            [str(folder / name) for name in SOURCES],
            extra_cflags=_flags(),
            extra_include_paths=[str(folder)],
            build_directory=work,
            is_python_module=False,
        )
    except RuntimeError as error:
        raise NotCompiled(f"the compiled op does not build: {error}") from error
