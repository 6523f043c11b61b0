"""The part of the compiled op that computes on the CPU: how it is built."""

import contextlib
import os
import platform
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from .building import NotCompiled, check_compiler, compiler, does_not_build
from .compiled_tools import TARGET, Part, check_torch


def _about() -> tuple[str, ...]:
    """What a build depends on besides its files."""
    return (*_flags(), compiler(), sys.platform, _processor())


def _check() -> None:
    """Raise NotCompiled where a tool of the build is missing."""
    check_compiler()
    check_torch()
    with own_tools():
        if not shutil.which("ninja"):
            raise NotCompiled("no ninja, which builds it: pip install ninja")


def _build(part: Part, folder: Path, work: Path) -> None:
    try:
        from torch.utils.cpp_extension import load  # slow to import: only to build
    except ImportError as error:
        raise NotCompiled(f"{error}: pip install setuptools") from error
    try:
        with own_tools():
            load(
                part.name,
                [str(folder / name) for name in part.sources],
                extra_cflags=_flags(),
                extra_include_paths=[str(folder)],
                build_directory=str(work),
                is_python_module=False,
            )
    except RuntimeError as error:
        _, _, output = str(error).partition("\n")  # what torch says comes first
        raise does_not_build(output or str(error)) from error


@contextlib.contextmanager
def own_tools() -> Iterator[None]:
    """Find what pip installed beside this Python, also in an inactive environment."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{before}{os.pathsep}{Path(sys.executable).parent}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


def _flags() -> list[str]:
    here = "-mcpu" if platform.machine().lower() in ("arm64", "aarch64") else "-march"
    return ["-O3", f"{here}=native", "-fno-math-errno", "-fno-trapping-math", TARGET]


def _processor() -> str:
    """What `native` among the flags depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    told = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(told)}))


LOOPS = Part(
    "detr_steps_cpu",
    ("ms_deform_attn.cpp",),
    ("rows.h", "ms_deform_attn.h", "ms_deform_attn_cpu.h"),
    _about,
    _check,
    _build,
)
