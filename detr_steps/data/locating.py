"""Where the pictures of an annotation file lie on the disk."""

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from .pictures import BadPicture, require_file
from .problems import Problem


def name_ends(name: str, folder: Path) -> Iterator[str]:
    """What follows the folder's own name in a listed path: "x.png" of "images/x.png".

    Only there: `train/1.png` must not be taken for the `1.png` in a folder `val`.
    """
    parts = [part for part in name.split("/") if part]
    for end in range(1, len(parts)):
        if parts[end - 1] == folder.absolute().name:
            yield "/".join(parts[end:])


def locate(
    folder: Path, names: Sequence[str]
) -> tuple[list[str], dict[int, BadPicture], list[Problem]]:
    """Find listed pictures in a folder; lists each folder of the disk once.

    A label tool may write `images/x.png` for the `x.png` in a folder `images`, or a
    path of the machine it ran on. What does not lie under its whole name is looked
    for under the end of it, unless two different names would meet in one file.

    Returns the names under which the files lie, why a file cannot be used by its
    position in `names`, and what is worth knowing.
    """
    disk = _Disk()
    found = [disk.find(folder, name) for name in names]
    listed = defaultdict(set)  # file on the disk -> names that lead to it
    for name, place in zip(names, found):
        listed[place].add(name)
    bad, notes = {}, []
    for position, (name, place) in enumerate(zip(names, found)):
        if place is None or (place != Path(name) and len(listed[place]) > 1):
            bad[position] = BadPicture("missing file", folder / name, "no such file")
            continue
        if place != Path(name):
            notes.append(Problem("path shortened", name, None, f"found as {place}"))
        if fault := disk.fault(folder / place):
            bad[position] = fault
    places = [
        name if position in bad else place.as_posix()
        for position, (name, place) in enumerate(zip(names, found))
    ]
    return places, bad, notes


class _Disk:
    """What lies in folders; asking for single files is slow on network drives."""

    def __init__(self) -> None:
        self.folders: dict[str, dict[str, bool]] = {}

    def find(self, folder: Path, name: str) -> Path | None:
        """The listed name, or an end of it, under which there is something."""
        for end in (name, *name_ends(name, folder)):
            if (folder / end).name in self._listing(folder / end):
                return Path(end)
        return None

    def fault(self, path: Path) -> BadPicture | None:
        """Why something that exists is no file to read: a folder, a pipe, a loop."""
        if self._listing(path)[path.name]:
            return None
        try:
            require_file(path)
        except BadPicture as fault:
            return fault
        return None

    def _listing(self, path: Path) -> dict[str, bool]:
        """Names beside `path`, and whether each is a plain file, no link."""
        folder = str(path.parent)
        if folder not in self.folders:
            self.folders[folder] = _list(folder)
        return self.folders[folder]


def _list(folder: str) -> dict[str, bool]:
    try:
        with os.scandir(folder) as entries:
            return {e.name: e.is_file(follow_symlinks=False) for e in entries}
    except (OSError, ValueError):  # ValueError: no file system takes such a name
        return {}
