"""What both parts of the compiled op (compiled.py) have in common."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.torch_version import TorchVersion

from .building import NotCompiled

OLDEST = (2, 10)  # the first torch whose stable interface has all that we use
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # loads into 2.10 and later


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


def check_torch() -> None:
    """Raise NotCompiled where torch is too old."""
    if TorchVersion(torch.__version__) < OLDEST:
        raise NotCompiled(
            f"torch {torch.__version__} is too old for it: install torch 2.10 or newer"
        )
