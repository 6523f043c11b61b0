"""Runs of the zoo's recipes on this machine: where they lie, how far they came."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from safetensors import SafetensorError, safe_open

from ..describable import KINDS
from ..training.folder import at_work, read_record
from .publishing import record_file
from .reading import (
    own_seed,
    recipe,
    recipes,
    record_files,
    records,
    ships_weights,
)

RUNS = Path("runs") / "zoo"  # below the folder in which the command is given
IMPORTED = "imported.json"  # marks a run that another machine has made
FOLDER = re.compile(r"([a-z0-9][a-z0-9-]*)-seed(0|[1-9]\d{0,8})")


@dataclass(frozen=True)
class Run:
    """One seed of one recipe, and the folder in which it is trained."""

    name: str
    seed: int
    folder: Path

    @classmethod
    def of(cls, name: str, seed: int, root: Path = RUNS) -> "Run":
        """The run of a recipe and a seed, whether it has begun or not."""
        return cls(name, seed, Path(root) / f"{name}-seed{seed}")

    def __str__(self) -> str:
        return f"{self.name} seed {self.seed}"

    @property
    def steps(self) -> int:
        """How many steps the recipe has."""
        return recipe(self.name)["recipe"]["steps"]

    @property
    def step(self) -> int:
        """From which step a resume would go on: that of the checkpoint, else 0."""
        return checkpoint_step(self.folder / "checkpoint.safetensors")

    @property
    def record(self) -> list[dict]:
        """What was recorded so far."""
        return read_record(self.folder / "record.jsonl")

    @property
    def finished(self) -> bool:
        """Whether all steps are done, published or not."""
        there = (self.folder / "model.safetensors").is_file()
        return there and complete(self.record, self.steps)

    @property
    def process(self) -> int | None:
        """The process that trains it right now, None where nobody does."""
        return at_work(self.folder)

    @property
    def published(self) -> list[dict]:
        """The record that the zoo has of this seed; empty where it has none."""
        return read_record(record_file(self.name, self.seed))


def complete(record: list[dict], steps: int) -> bool:
    """Whether a record goes to the last step."""
    return bool(record) and record[-1]["step"] >= steps


def checkpoint_step(file: Path) -> int:
    """The step of a checkpoint, from its header; 0 for no file or a damaged one."""
    if not file.is_file():
        return 0
    try:
        with safe_open(file, framework="pt") as opened:
            return json.loads(opened.metadata()["notes"])["step"]
    except (SafetensorError, ValueError, KeyError, TypeError):
        return 0


def runs_in(root: Path = RUNS) -> list[Run]:
    """All runs of our recipes that have a folder below `root`."""
    found, known = [], set(recipes())
    for place in sorted(Path(root).glob("*-seed*")):
        parts = FOLDER.fullmatch(place.name)
        if parts and parts[1] in known and (place / "recipe.json").is_file():
            found.append(Run(parts[1], int(parts[2]), place))
    return found


def trainable(name: str) -> bool:
    """Whether a recipe's data can be drawn here; COCO, say, must be given by hand."""
    description = recipe(name)
    parts = (description["data"], description["validation"])
    return all(part.get("kind") in KINDS for part in parts)


def has_weights(name: str) -> bool:
    """Whether weights, record and result of an entry are published and whole."""
    return "sha256" in recipe(name)


def missing(
    name: str, seeds: int, root: Path = RUNS, *, publish_weights: bool = False
) -> list[Run]:
    """The runs without which the zoo has not `seeds` complete records of a recipe.

    The recipe's own seed is one of them, also where it lacks the weights it is to ship,
    and with `publish_weights` wherever the zoo has not those of that very run. Other
    seeds are the smallest numbers that are free.
    """
    own = own_seed(name)
    done = complete_seeds(name)
    order = [own, *(seed for seed in range(seeds + 1) if seed != own)]
    free = [Run.of(name, seed, root) for seed in order if seed not in done]
    wanted = free[: max(0, seeds - len(done))]
    first = Run.of(name, own, root)
    if publish_weights:
        again = not has_weights(name) or first.published != first.record
    else:
        again = ships_weights(name) and not has_weights(name)
    return [first, *wanted] if again and first not in wanted else wanted


def complete_seeds(name: str) -> list[int]:
    """The seeds of which the zoo has a record to the last step, its own first."""
    steps = recipe(name)["recipe"]["steps"]
    files = record_files(name).items()
    return [seed for seed, file in files if complete(read_record(file), steps)]


def minutes(name: str, root: Path = RUNS) -> float | None:
    """About how long one run of a recipe takes; None where nothing is known.

    Measured on this machine where a run has begun, else by the zoo's own records.
    """
    here = [
        run.record
        for run in runs_in(root)
        if run.name == name and not (run.folder / IMPORTED).exists()
    ]
    for found in (here, records(name)):
        paces = [each[-1]["seconds"] / each[-1]["step"] for each in found if each]
        if paces:
            return median(paces) * recipe(name)["recipe"]["steps"] / 60
    return None


def minutes_left(run: Run, root: Path = RUNS) -> float | None:
    """About how long a run still takes; None where nothing is known."""
    if run.finished:
        return 0.0
    whole = minutes(run.name, root)
    return None if whole is None else whole * (1 - run.step / run.steps)
