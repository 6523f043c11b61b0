"""What both parts of the compiled op (compiled.py) are built with."""

import contextlib
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.torch_version import TorchVersion

OLDEST = (2, 10)  # the first torch whose stable interface has all that we use
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # loads into 2.10 and later


class NotCompiled(RuntimeError):
    """The compiled loops cannot be had here; says why, and what to do about it."""


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


def compiler() -> str:
    """The command of the C++ compiler, possibly with arguments."""
    return os.environ.get("CXX") or "c++"


def check_system() -> None:
    """Raise NotCompiled where torch is too old, or the system not one we know."""
    if sys.platform == "win32":
        raise NotCompiled(
            "its vector types are those of GCC and Clang: on Windows use WSL "
            "(wsl --install)"
        )
    if TorchVersion(torch.__version__) < OLDEST:
        raise NotCompiled(
            f"torch {torch.__version__} is too old for it: install torch 2.10 or newer"
        )


def check_compiler() -> None:
    """Raise NotCompiled where there is no C++ compiler."""
    if not shutil.which(compiler().split()[0]):
        raise NotCompiled(
            f"no C++ compiler ({compiler()}): install one (Debian, Ubuntu: apt "
            "install g++; macOS: xcode-select --install)"
        )


@contextlib.contextmanager
def own_tools() -> Iterator[None]:
    """Find what pip installed beside this Python, also in an inactive environment."""
    before = os.environ.get("PATH", "")
    os.environ["PATH"] = f"{before}{os.pathsep}{Path(sys.executable).parent}"
    try:
        yield
    finally:
        os.environ["PATH"] = before


def fault(output: str) -> str:
    """The line of a compiler's output that names the fault."""
    lines = output.strip().splitlines()
    named = [line for line in lines if "error" in line.lower()]
    return (named or lines or ["no reason given"])[0].strip()
