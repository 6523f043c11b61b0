"""What both parts of the compiled op (compiled.py) have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.torch_version import TorchVersion

from .building import NotCompiled

OLDEST = (2, 10)  # the first torch whose stable interface has all that we use
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # loads into 2.10 and later
_TORCH = Path(torch.__file__).parent


@dataclass(frozen=True)
class Part:
    """One library of the op: its files, and how it is built.

    `sources` and `headers` are patterns of names in `kernels/`. `about` tells what a
    build depends on besides files; `check` raises NotCompiled where the build or its
    use must fail; `build(part, folder, work)` makes `work/file` and loads it.
    """

    name: str
    sources: tuple[str, ...]
    headers: tuple[str, ...]
    about: Callable[[], tuple[str, ...]]
    check: Callable[[], None]
    build: Callable[["Part", Path, Path], None]

    @property
    def file(self) -> str:
        """The name of its library."""
        return f"{self.name}.so"


def load(library: Path) -> None:
    """Register what was just built with torch: what does not load is not kept.

    Raises: NotCompiled.
    """
    try:
        torch.ops.load_library(library)
    except OSError as error:
        raise NotCompiled(f"it is built but does not load: {error}") from error


def torch_includes() -> list[str]:
    """How a compiler finds the headers of torch's stable interface."""
    include = _TORCH / "include"
    more = include / "torch/csrc/api/include"
    return [TARGET, "-isystem", str(include), "-isystem", str(more)]


def torch_libraries() -> list[str]:
    """How a linker finds torch's libraries; a torch for CPUs has no torch_cuda."""
    names = ("torch_cpu", "torch_cuda", "c10")
    there = [name for name in names if list((_TORCH / "lib").glob(f"lib{name}.*"))]
    return [f"-L{_TORCH / 'lib'}", *(f"-l{name}" for name in there)]


def check_torch() -> None:
    """Raise NotCompiled where torch is too old."""
    if TorchVersion(torch.__version__) < OLDEST:
        raise NotCompiled(
            f"torch {torch.__version__} is too old for it: install torch 2.10 or newer"
        )
