"""The part of the compiled op that computes on the CPU: how it is built."""

import platform
import sys
from pathlib import Path

from .building import check_compiler, compiler, does_not_build, run
from .compiled_tools import Part, check_torch, load, torch_includes, torch_libraries


def _about() -> tuple[str, ...]:
    """What a build depends on besides its files."""
    return (*_flags(), compiler(), sys.platform, _processor())


def _check() -> None:
    """Raise NotCompiled where the build must fail."""
    check_compiler()
    check_torch()


def _build(part: Part, folder: Path, work: Path) -> None:
    sources = [str(folder / name) for name in part.sources]
    made = ["-shared", *sources, "-o", str(work / part.file)]
    run([*compiler().split(), *_flags(), *made, *torch_libraries()], does_not_build)
    load(work / part.file)


def _flags() -> list[str]:
    """Vectors of this very processor.

    No errno, no traps: or neither roundings nor choices become vector instructions.
    """
    here = "-mcpu" if platform.machine().lower() in ("arm64", "aarch64") else "-march"
    fast = ("-O3", f"{here}=native", "-fno-math-errno", "-fno-trapping-math")
    # The linker of macOS wants to be told that torch is there when this is loaded.
    later = ("-undefined", "dynamic_lookup") if sys.platform == "darwin" else ()
    return ["-std=c++17", "-fPIC", *fast, *later, *torch_includes()]


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
    ("levels.h", "rows.h", "ms_deform_attn.h", "ms_deform_attn_cpu.h"),
    _about,
    _check,
    _build,
)
