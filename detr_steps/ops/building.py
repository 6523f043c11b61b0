"""Sources into machine code, kept for the next time: for the op and for cuda_lab/.

What is built is kept under a name made of all that it depends on, so that a change of
any of it builds anew. It is built elsewhere and put in its place at once: processes may
build at the same time, nobody finds half of it, and a build that was stopped leaves no
lock behind for which all others would wait for ever.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

DAY = 24 * 60 * 60  # seconds
UNUSED = 14 * DAY  # after so long without use, what has a kind (`object-…`) goes


class NotCompiled(RuntimeError):
    """Compiled code cannot be had here; says why, and what to do about it."""


def compiler() -> str:
    """The command of the C++ compiler, possibly with arguments; it need not exist."""
    return os.environ.get("CXX") or "c++"


def check_compiler() -> None:
    """Raise NotCompiled where there is no C++ compiler that can build our sources."""
    if sys.platform == "win32":
        raise NotCompiled(
            "the sources are for GCC and Clang: on Windows use WSL (wsl --install)"
        )
    if not shutil.which(compiler().split()[0]):
        raise NotCompiled(
            f"no C++ compiler ({compiler()}): install one (Debian, Ubuntu: apt "
            "install g++; macOS: xcode-select --install)"
        )


def run(command: list[str], fault: Callable[[str], Exception]) -> str:
    """Run a tool and return what it said. Raises: `fault(what it said)`."""
    plain = os.environ | {"LC_ALL": "C"}  # English, and quotes as on a keyboard
    done = subprocess.run(
        command, capture_output=True, text=True, errors="replace", env=plain
    )
    said = done.stderr + done.stdout
    if done.returncode:
        raise fault(said)
    return said


def does_not_build(output: str) -> NotCompiled:
    """The fault of a build that says what the compiler complained about first."""
    lines = output.strip().splitlines()
    named = [line for line in lines if "error" in line.lower()]
    first = (named or lines or ["no reason given"])[0].strip()
    return NotCompiled(f"it does not build: {first}")


def digest(parts: Iterable[str | Path]) -> str:
    """A name for what is made of these; a file counts with its name and content."""
    content = hashlib.sha256()
    for part in parts:
        text = part if isinstance(part, str) else part.name
        content.update(text.encode() + b"\0")
        content.update(part.read_bytes() if isinstance(part, Path) else b"")
    return content.hexdigest()[:16]


def cache() -> Path:
    """Where what was built is kept: where torch keeps all extensions.

    Raises: NotCompiled for a user who has no home.
    """
    root = os.environ.get("TORCH_EXTENSIONS_DIR")
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    folder = Path(root or Path(home, "torch_extensions")) / "detr_steps"
    try:
        return folder.expanduser().absolute()
    except RuntimeError as error:
        raise NotCompiled(f"{error}: set TORCH_EXTENSIONS_DIR to a folder") from error


def kept(name: str, build: Callable[[Path], None]) -> Path:
    """The folder of that name in the cache, built first if need be: see `keep`."""
    place = cache() / name
    if not place.is_dir():
        keep(place, build)
    else:
        with contextlib.suppress(OSError):  # a cache that may only be read will do
            os.utime(place)  # in use: nobody sweeps it away
    return place


def keep(place: Path, build: Callable[[Path], None]) -> None:
    """Let `build(folder)` fill a folder, then put it in its place at once.

    The folder's parent is for what is needed while building; it is removed afterwards.
    Raises: NotCompiled where nothing can be kept, and what `build` raises.
    """
    shelf = place.parent
    try:
        shelf.mkdir(parents=True, exist_ok=True)
        _sweep(shelf)
        with tempfile.TemporaryDirectory(
            prefix="building-", dir=shelf, ignore_cleanup_errors=True
        ) as work:
            ready = Path(work, "ready")
            ready.mkdir()
            build(ready)
            _put(ready, place)
    except OSError as error:
        raise NotCompiled(
            f"it cannot be kept in {shelf} ({error.strerror or error}): set "
            "TORCH_EXTENSIONS_DIR to a folder that can be written"
        ) from error


def _put(ready: Path, place: Path) -> None:
    try:
        os.replace(ready, place)
    except OSError:
        if not place.is_dir():  # unless another process was faster
            raise


def _sweep(shelf: Path) -> None:
    """Remove what stopped builds have left, and what nobody has used for long."""
    for path in shelf.glob("*-*"):
        allowed = DAY if path.name.startswith("building-") else UNUSED
        with contextlib.suppress(FileNotFoundError):  # another process was faster
            if time.time() - path.stat().st_mtime > allowed:
                shutil.rmtree(path, ignore_errors=True)
