"""Taking runs from an archive: results into the zoo, checkpoints into the queue."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files import read_tensors, write_json, write_whole
from ..training import Recipe
from . import inspecting
from .archive import CHECKPOINT, MODEL, RECIPE, RECORD, Archive, Packed
from .inspecting import Refused
from .publishing import publish, publish_record
from .reading import own_seed, ships_weights
from .runs import IMPORTED, RUNS, Run, complete, has_weights


@dataclass(frozen=True)
class Inspected:
    """A run that was checked, in a folder of its own; `step` how far it came."""

    run: Run
    record: list[dict]
    step: int
    finished: bool


def take(file: Path, root: Path = RUNS, say: Callable[[str], None] = print) -> bool:
    """Check an archive and take what we lack; whether nothing had to be refused.

    Every file is compared with its checksum before anything is taken. A run of another
    recipe, or one that is not sound, is refused and the others are taken; nothing that
    is here already is overwritten: what differs is said.
    Raises: FileNotFoundError; ValueError for a file that is no archive, or a damaged
    one: nothing of it is taken.
    """
    Path(root).mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=".import-", dir=root))  # same disk, to rename
    try:
        with Archive(file) as archive:
            unpacked = _unpack(archive, stage)
        fine = True
        for packed, place in unpacked:
            try:
                if isinstance(place, Refused):
                    raise place
                say(f"{packed}: {_take(_inspect(packed, place), root)}")
            except Refused as error:
                fine = False
                say(f"{packed}: REFUSED: {error}")
        return fine
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _unpack(archive: Archive, stage: Path) -> list[tuple[Packed, Path | Refused]]:
    found = []
    for number, packed in enumerate(archive.runs):
        place = stage / str(number)
        try:
            inspecting.check_known(packed.name)
        except Refused as error:  # nothing says how large its files may be
            found.append((packed, error))
            continue
        description = inspecting.description_of(packed.name, packed.seed)
        most = inspecting.size(inspecting.fresh(description))
        archive.extract(packed, place, most)
        found.append((packed, place))
    return found


def _inspect(packed: Packed, place: Path) -> Inspected:
    """Check a run; its recipe and record are then our own writing of the same.

    Raises: Refused.
    """
    name, seed = packed.name, packed.seed
    there = packed.members.keys()
    finished = CHECKPOINT not in there
    if not {RECIPE, RECORD} <= there or (MODEL in there and not finished):
        raise Refused("it lacks a recipe or a record, or is both finished and not")
    inspecting.check_recipe(place / RECIPE, name, seed)
    description = inspecting.description_of(name, seed)
    settings = Recipe(**description["recipe"])
    record = inspecting.read_whole_record(place / RECORD, settings, finished)
    wanted = inspecting.fresh(description)
    step = settings.steps
    if MODEL in there:
        inspecting.check_weights(place / MODEL, wanted, step)
    if not finished:
        step = inspecting.check_checkpoint(place / CHECKPOINT, wanted, settings)
    inspecting.check_kept(place / "kept", wanted, settings)
    write_json(place / RECIPE, description)
    _write_record(place / RECORD, record)
    return Inspected(Run(name, seed, place), record, step, finished)


def _write_record(file: Path, record: Sequence[dict]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in record)
    write_whole(file, lambda part: part.write_text(text, encoding="utf-8"))


def _take(given: Inspected, root: Path) -> str:
    """Put a sound run where it belongs; what became of it. Raises: Refused."""
    run = given.run
    ours = run.published
    there = complete(ours, run.steps)
    if not given.finished:
        return "the zoo has it, finished" if there else _go_on_with(given, root)
    if there and ours != given.record:
        raise Refused(
            f"the zoo has another record of it: {_differs(ours, given.record)}"
        )
    own = run.seed == own_seed(run.name)
    weights = own and (run.folder / MODEL).exists() and ships_weights(run.name)
    if weights and not has_weights(run.name):
        publish(run.folder, run.name)
        return "weights, record and result are in the zoo"
    if there:
        return "the zoo has it already, the same"
    if own and has_weights(run.name):
        raise Refused("the zoo has weights of another run of this seed, without record")
    publish_record(run.folder, run.name)
    return "its record is in the zoo"


def _differs(ours: list[dict], theirs: list[dict]) -> str:
    """Where two whole records part, and how they end."""
    one, other = next((a, b) for a, b in zip(ours, theirs) if a != b)
    key = next(k for k in [*one, *other] if one.get(k) != other.get(k))
    last = [
        next((f"{k} {end[k]:.3f}" for k in inspecting.SCORES if end.get(k)), "no score")
        for end in (ours[-1], theirs[-1])
    ]
    return (
        f"{key} at step {one['step']} is {one.get(key)} here and {other.get(key)} "
        f"there, at the end {last[0]} here and {last[1]} there"
    )


def _go_on_with(given: Inspected, root: Path) -> str:
    """Give an unfinished run to our queue. Raises: Refused where we have begun it."""
    mine = Run.of(given.run.name, given.run.seed, root)
    if mine.process is not None:
        raise Refused(f"process {mine.process} is at work in {mine.folder}")
    if (mine.folder / CHECKPOINT).exists() or mine.record:
        if _same(mine, given):
            return "it is here already, the same"
        raise Refused(
            f"{mine.folder} has another run of it, at step {mine.step} and not "
            f"{given.step}: move that away to take this one"
        )
    write_json(mine.folder / IMPORTED, {"step": given.step})
    parts = [p for p in given.run.folder.rglob("*") if p.is_file()]
    # the checkpoint last: without it the queue begins anew, and loses nothing else
    for part in sorted(parts, key=lambda p: p.name == CHECKPOINT):
        target = mine.folder / part.relative_to(given.run.folder)
        target.parent.mkdir(exist_ok=True)
        os.replace(part, target)
    return f"the queue can go on with it at step {given.step} of {mine.steps}"


def _same(mine: Run, given: Inspected) -> bool:
    if mine.record != given.record:
        return False
    one, other = (
        read_tensors(place / CHECKPOINT) for place in (mine.folder, given.run.folder)
    )
    if one[1] != other[1] or one[0].keys() != other[0].keys():
        return False
    return all(value.equal(other[0][key]) for key, value in one[0].items())
