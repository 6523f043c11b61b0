"""Objects of the part for GPUs: compiled side by side, kept for the next build.

An object is kept under a name made of all that it depends on: its source and the
headers that this includes, the command, and what the caller adds (versions). So an
edit of one kernel compiles the objects which contain it, and no other.

For a torch without CUDA, with which torch.utils.cpp_extension refuses to work: so that
the kernels are compiled and linked where there is no GPU, too. Users' builds are those
of compiled_extension.py.
"""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from .building import digest, does_not_build, kept, run

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
    return digest([str(unit.bytes), *about, *files_of(folder / unit.source)])


def make_objects(
    units: Sequence[Unit],
    folder: Path,
    about: Sequence[str],
    command: Callable[[Unit, Path], list[str]],
    work: Path,
) -> list[Path]:
    """Put the objects of all units into `work`: those that are kept are not compiled.

    `command(unit, target)` is the call of the compiler; as many run as there are cores,
    or as MAX_JOBS says. Raises: NotCompiled with the compiler's first complaint.
    """

    def compile_(unit: Unit, target: Path) -> None:
        run(command(unit, target), does_not_build)

    def make(unit: Unit) -> Path:
        name, target = f"object-{object_key(unit, folder, about)}", work / unit.name
        place = kept(name, lambda ready: compile_(unit, ready / unit.name))
        try:
            shutil.copyfile(place / unit.name, target)
        except FileNotFoundError:  # another process has just swept it away
            compile_(unit, target)
        return target

    with ThreadPoolExecutor(_jobs()) as pool:
        return list(pool.map(make, units))


def _jobs() -> int:
    wanted = os.environ.get("MAX_JOBS", "")
    return max(1, int(wanted) if wanted.isdigit() else os.cpu_count() or 1)
