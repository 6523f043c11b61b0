"""Objects of the part for GPUs: compiled side by side, kept for the next build.

An object is kept under a name made of all that it depends on: its source and the
headers that this includes, the command, and what the caller adds (versions). So an
edit of one kernel compiles the objects which contain it, and no other.

torch.utils.cpp_extension does the like with ninja, but compiles all files with the same
flags, refuses to work with a torch for CPUs, and two builds wait for each other by a
lock that a stopped one leaves behind. Here one way serves users and tests.
"""

import hashlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .compiled_tools import NotCompiled, fault

KEPT = 14 * 24 * 60 * 60  # seconds after its last use
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


@dataclass(frozen=True)
class Unit:
    """A source, by its path in `kernels/`, and for how wide numbers: 0 is for all."""

    source: str
    bytes: int = 0

    @property
    def name(self) -> str:
        """What its object is called during a build."""
        return f"{Path(self.source).stem}-{self.bytes or 'all'}.o"


def files_of(source: Path) -> list[Path]:
    """A source and all it includes by quotes, directly or not; each once, sorted."""
    found, todo = set(), [source.resolve()]
    while todo:
        path = todo.pop()
        if path in found or not path.is_file():
            continue
        found.add(path)
        names = _INCLUDE.findall(path.read_text("utf-8"))
        todo += [(path.parent / name).resolve() for name in names]
    return sorted(found)


def object_key(unit: Unit, folder: Path, about: Sequence[str]) -> str:
    """A name for a unit's object: another one whenever the object would differ."""
    content = hashlib.sha256("\n".join((str(unit.bytes), *about)).encode())
    for path in files_of(folder / unit.source):
        content.update(path.name.encode() + path.read_bytes())
    return content.hexdigest()[:16]


def make_objects(
    units: Sequence[Unit],
    folder: Path,
    about: Sequence[str],
    command: Callable[[Unit, Path], list[str]],
    work: Path,
    shelf: Path,
) -> list[Path]:
    """Put the objects of all units into `work`: those on the shelf are not compiled.

    `command(unit, target)` is the call of the compiler; as many run as there are cores,
    or as MAX_JOBS says. Raises: NotCompiled with the compiler's first complaint.
    """
    shelf.mkdir(exist_ok=True)
    _sweep(shelf)

    def make(unit: Unit) -> Path:
        target = work / unit.name
        kept = shelf / f"{object_key(unit, folder, about)}.o"
        if not _fetch(kept, target):
            _compile(command(unit, target))
            _keep(target, kept)
        return target

    with ThreadPoolExecutor(_jobs()) as pool:
        return list(pool.map(make, units))


def _jobs() -> int:
    wanted = os.environ.get("MAX_JOBS", "")
    return max(1, int(wanted) if wanted.isdigit() else os.cpu_count() or 1)


def _compile(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotCompiled(f"it does not build: {fault(done.stderr or done.stdout)}")


def _fetch(kept: Path, target: Path) -> bool:
    """Copy what is kept, if it is: others may sweep the shelf at any time."""
    try:
        os.utime(kept)
        shutil.copyfile(kept, target)
    except FileNotFoundError:
        return False
    return True


def _keep(made: Path, kept: Path) -> None:
    """Put a copy on the shelf at once, so that nobody finds half of it."""
    copy = made.with_suffix(".copy")
    shutil.copyfile(made, copy)
    os.replace(copy, kept)


def _sweep(shelf: Path) -> None:
    """Remove what no build has used for long."""
    for path in shelf.iterdir():
        try:
            if time.time() - path.stat().st_mtime > KEPT:
                path.unlink()
        except FileNotFoundError:  # another process was faster
            continue
