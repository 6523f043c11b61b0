"""An archive of runs, to carry them from one machine to another.

A zip file of run folders and of `archive.json`, which lists every file with its
checksum. Whatever is read from an archive is taken to be hostile: members have one
of a few names, sizes have a bound before anything is written, nothing is unpickled, and
no path of the archive is ever used as it is.
"""

import hashlib
import json
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ..files import write_whole
from .reading import own_seed, ships_weights
from .runs import RUNS, Run, runs_in

LIST = "archive.json"
FORMAT = 1
RECIPE, RECORD = "recipe.json", "record.jsonl"
MODEL, CHECKPOINT = "model.safetensors", "checkpoint.safetensors"
MEMBER = re.compile(
    r"([a-z0-9][a-z0-9-]*)-seed(0|[1-9]\d{0,8})/"
    r"(recipe\.json|record\.jsonl|(?:model|checkpoint|kept/\d{6,9})\.safetensors)"
)
MEGABYTE = 1 << 20
MOST_FILES, MOST_TOTAL = 20_000, 8 << 30
MOST_BYTES = {LIST: 8 * MEGABYTE, RECIPE: MEGABYTE, RECORD: 64 * MEGABYTE}
# what zipfile raises over a damaged file; RuntimeError for features it has not
DAMAGE = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    OSError,
    RuntimeError,
    ValueError,
)


@dataclass
class Packed:
    """One run in an archive: its name, its seed, and the members that it has."""

    name: str
    seed: int
    members: dict[str, zipfile.ZipInfo] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"


def pack(file: Path, root: Path = RUNS, records_only: bool = False) -> list[str]:
    """Put all runs below `root` into an archive; says of each what went in.

    Of a finished run the record, and where the zoo is to have weights of it those and
    what a film needs; of an unfinished one its checkpoint. `records_only` leaves out
    all tensors and with them the unfinished runs.
    Raises: ValueError where there is no run to pack.
    """
    said, chosen = [], {}
    for run in runs_in(root):
        parts = [] if run.process is not None else _parts(run, records_only)
        if parts:
            chosen[run] = parts
            step = run.steps if run.finished else run.step
            said.append(f"{run}: step {step} of {run.steps}, {len(parts)} files")
        elif run.process is not None:
            said.append(f"{run}: left out, process {run.process} is at work in it")
    if not chosen:
        raise ValueError("; ".join([f"no runs to pack in {root}", *said]))
    write_whole(Path(file), lambda part: _write(part, chosen))
    return said


def _parts(run: Run, records_only: bool) -> list[str]:
    """Which files of a run an archive holds; none where it has barely begun."""
    if records_only:
        return [RECIPE, RECORD] if run.finished else []
    kept = sorted(f"kept/{p.name}" for p in (run.folder / "kept").glob("*.safetensors"))
    if not run.finished:
        there = (run.folder / CHECKPOINT).is_file()
        return [RECIPE, RECORD, CHECKPOINT, *kept] if there else []
    if run.seed == own_seed(run.name) and ships_weights(run.name):
        return [RECIPE, RECORD, MODEL, *kept]
    return [RECIPE, RECORD]


def _write(path: Path, chosen: dict[Run, list[str]]) -> None:
    files = {}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for run, parts in chosen.items():
            for part in parts:
                content = _content(run, part)
                member = f"{run.name}-seed{run.seed}/{part}"
                archive.writestr(member, content)
                files[member] = {"sha256": hashlib.sha256(content).hexdigest()}
        about = {"format": FORMAT, "torch": torch.__version__, "device": _device()}
        archive.writestr(LIST, json.dumps(about | {"files": files}, indent=1))


def _content(run: Run, part: str) -> bytes:
    if part != RECORD:
        return (run.folder / part).read_bytes()
    # not the file itself: a run that was killed has left half a line at its end
    return "".join(json.dumps(line) + "\n" for line in run.record).encode()


def _shown(foreign: object) -> str:
    """What comes out of an archive, on one short line of plain characters."""
    return ascii(str(foreign))[:120]


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


class Archive:
    """An archive that is open and whose list is right; a context manager.

    `runs` what it holds. Raises: FileNotFoundError; ValueError for a file that is no
    archive, or has a member that does not belong in one, with its name.
    """

    def __init__(self, file: Path) -> None:
        self.file = Path(file)
        if not self.file.is_file():
            raise FileNotFoundError(f"no file {self.file}")
        try:
            self.zip = zipfile.ZipFile(self.file)
        except DAMAGE as error:
            raise self._no_archive(_shown(error)) from error
        try:
            self.runs = self._sorted(self.zip.infolist())
            self.listed = self._list()
        except BaseException:
            self.zip.close()
            raise

    def __enter__(self) -> "Archive":
        return self

    def __exit__(self, *error: object) -> None:
        self.zip.close()

    def _no_archive(self, why: str) -> ValueError:
        return ValueError(f"{self.file} is no archive of runs: {why}; nothing is taken")

    def _sorted(self, infos: list[zipfile.ZipInfo]) -> list[Packed]:
        """The members by run, each of them checked by what the zip says of it."""
        if len(infos) > MOST_FILES:
            raise self._no_archive(f"{len(infos)} files, more than {MOST_FILES}")
        total = sum(info.file_size for info in infos)
        if total > MOST_TOTAL:
            raise self._no_archive(f"{total} bytes, more than {MOST_TOTAL}")
        found: dict[tuple[str, int], Packed] = {}
        for info in infos:
            shown = _shown(info.filename)
            parts = MEMBER.fullmatch(info.filename)
            if not parts and info.filename != LIST:
                raise self._no_archive(f"it holds {shown}")
            if stat.S_ISLNK(info.external_attr >> 16):
                raise self._no_archive(f"{shown} is a link")
            if info.flag_bits & 1 or info.compress_type not in (
                zipfile.ZIP_STORED,
                zipfile.ZIP_DEFLATED,
            ):
                raise self._no_archive(f"{shown} is encrypted, or oddly compressed")
            if parts:
                run = (parts[1], int(parts[2]))
                members = found.setdefault(run, Packed(*run)).members
                if parts[3] in members:
                    raise self._no_archive(f"it holds {shown} twice")
                members[parts[3]] = info
        return list(found.values())

    def _list(self) -> dict[str, dict]:
        infos = [info for info in self.zip.infolist() if info.filename == LIST]
        if len(infos) != 1:
            raise self._no_archive(f"it has no {LIST}, or several")
        try:
            content = json.loads(b"".join(self._chunks(infos[0], MOST_BYTES[LIST])))
            files = content["files"]
            form = content["format"]
            listed = {name: files[name]["sha256"] for name in files}
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._no_archive(f"its {LIST} cannot be read ({error!r})") from error
        if form != FORMAT:
            raise self._no_archive(f"its format is {form!r:.20}, not {FORMAT}")
        there = {i.filename for i in self.zip.infolist()} - {LIST}
        if there != set(listed):
            odd = _shown(sorted(there ^ set(listed))[0])
            raise self._no_archive(f"{odd} is in only one of list and file")
        return listed

    def _chunks(self, info: zipfile.ZipInfo, most: int) -> Iterator[bytes]:
        """The content of a member; it is refused, before it is read, when too large."""
        shown, size = _shown(info.filename), info.file_size
        if size > most:
            raise self._no_archive(f"{shown} has {size} bytes: {most} at most")
        try:
            with self.zip.open(info) as member:  # gives no more than file_size
                while chunk := member.read(MEGABYTE):
                    yield chunk
        except DAMAGE as error:
            raise self._no_archive(f"{shown} is damaged ({_shown(error)})") from error

    def extract(self, run: Packed, into: Path, most_weights: int) -> None:
        """Write the files of a run into a folder, each compared with its checksum.

        `most_weights` bytes that weights of this run can have; a checkpoint has up to
        four times as many: weights, their average and two moments of Adam.
        """
        for part, info in run.members.items():
            factor = 4 if part == CHECKPOINT else 1
            most = MOST_BYTES.get(part, factor * most_weights + MEGABYTE)
            target, sha = into / part, hashlib.sha256()  # `part` matched MEMBER
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "wb") as file:
                for chunk in self._chunks(info, most):
                    sha.update(chunk)
                    file.write(chunk)
            if sha.hexdigest() != self.listed[info.filename]:
                raise self._no_archive(f"the checksum of {info.filename} differs")
