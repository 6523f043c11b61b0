"""What a run has left behind: records, settings, weights, state, and its commands."""

import shlex
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from .. import experiment, zoo
from ..data.coco import CocoFolder
from ..data.dataset import Dataset
from ..files import read_notes, read_tensors
from ..training import Recipe
from ..training.folder import (
    at_work,
    has_checkpoint,
    has_ended,
    latest_weights,
    read_record,
    score,
)
from ..zoo.comparing import differences
from ..zoo.reading import entry, record_files, to_float

KEPT = 4  # of a run's kept weights so many are shown, evenly spaced


@dataclass(frozen=True)
class Moment:
    """Weights of a step; `what` they are: kept, best, last, or several of these."""

    step: int
    what: str
    load: Callable[[], dict[str, Tensor]]


@dataclass(frozen=True)
class Story:
    """A run, or all seeds of an entry of the zoo.

    `place` its folder, None of a record alone; `description` its `recipe.json`, {} of a
    record alone; `records` seed -> lines, the recipe's own seed first.
    """

    name: str
    place: Path | None
    description: dict
    records: dict[int, list[dict]]

    @property
    def recipe(self) -> Recipe | None:
        """The settings of the training, where they are known."""
        settings = self.description.get("recipe")
        return Recipe.from_dict(settings, self.place) if settings else None

    @property
    def lines(self) -> list[dict]:
        """The record of the recipe's own seed."""
        return next(iter(self.records.values()), [])

    @property
    def in_zoo(self) -> bool:
        """Is it an entry of the zoo, and not a run's folder?"""
        home = self.place and self.place.resolve().parent
        return home == zoo.folder().resolve()

    @property
    def is_whole(self) -> bool:
        """Does its description say all that a run is made of?

        A run of `training.train` alone knows its settings, but neither model nor data.
        """
        return all(part in self.description for part in experiment.PARTS)

    def step(self) -> int:
        """The step it has come to: of its weights, or of the record's last line."""
        steps = [lines[-1]["step"] for lines in self.records.values() if lines]
        steps += [moment.step for moment in self.moments() if "last" in moment.what]
        return max(steps, default=0)

    def best(self) -> dict | None:
        """The line of the record with the best score, of the recipe's own seed."""
        scored = [line for line in self.lines if score(line) is not None]
        return max(scored, key=score, default=None)

    def state(self) -> str:
        """Where it stands, in words."""
        if self.place is None:
            return "a record alone"
        if self.in_zoo:
            weights = "with weights" if has_ended(self.place) else "without weights"
            return f"an entry of the zoo, {weights}"
        if has_ended(self.place):
            return "ended" if self.step() >= self.recipe.steps else "ended early"
        if at_work(self.place) is not None:
            return "being trained while this page was made"
        return "stopped" if self.step() else "stopped before its first line"

    def commands(self) -> dict[str, str]:
        """What to type to make it again or to go on, by what it does."""
        if not self.is_whole:
            return {}
        if self.in_zoo:
            return dict(_of_entry(self.name, list(self.records)))
        found = {"Make it again": _command("train", *self._made_by())}
        if not has_ended(self.place):
            words = "train", "--resume", "--out", str(self.place)
            found["Go on with it"] = _command(*words)
        return found

    def _made_by(self) -> list[str]:
        """A recipe of the zoo by name, or else the run's own, which has all options."""
        for name in zoo.recipes():
            known = zoo.recipe(name)
            if not _differ(self.description, known):
                seed = self.recipe.seed
                own = known["recipe"].get("seed", 0) == seed
                seeded = [] if own else ["--seed", str(seed)]
                return [name, *seeded, "--out", str(self.place)]
        again = self.place.with_name(self.place.name + "-again")
        return [str(self.place / "recipe.json"), "--out", str(again)]

    def moments(self) -> list[Moment]:
        """The weights that it has, in order; of those kept at most `KEPT`."""
        if self.place is None:
            return []
        found: dict[int, Moment] = {}
        for step, what, load in _weights(self.place):
            named = f"{found[step].what} and {what}" if step in found else what
            found[step] = Moment(step, named, load)
        return [found[step] for step in sorted(found)]

    def open_data(self) -> tuple[Dataset, Dataset]:
        """The training and the validation data, read in this process.

        Raises: OSError or ValueError where they are gone, changed or not described.
        """
        if not self.is_whole:
            raise ValueError("its recipe.json does not describe model and data")
        return experiment.open_data(self.description, workers=0)

    def left_out(self) -> list[str]:
        """What of the data was not used, or not as it is; [] when all of it was.

        Raises: as `open_data`.
        """
        folders = [d for d in self.open_data() if isinstance(d, CocoFolder)]
        told = (folder.left_out() for folder in dict.fromkeys(folders))
        return [text for text in told if text]


def read_story(run: str | Path) -> Story:
    """Read a run's folder, an entry of the zoo by name, or a `record.jsonl` alone.

    Raises: KeyError for a name that the zoo has not; ValueError for a damaged file.
    """
    path = Path(run)
    if path.suffix == ".jsonl" and path.is_file():
        return Story(path.stem, None, {}, {0: read_record(path)})
    place = entry(run)
    files = record_files(place)
    records = {seed: read_record(file) for seed, file in files.items()}
    return Story(place.resolve().name, place, zoo.recipe(place), records)


def _of_entry(name: str, seeds: list[int]) -> Iterator[tuple[str, str]]:
    for number, seed in enumerate(seeds or [zoo.own_seed(name)]):
        seeded = [] if number == 0 else ["--seed", str(seed)]
        yield f"Train seed {seed}", _command("train", name, *seeded)


def _differ(one: dict, other: dict) -> bool:
    try:
        return bool(differences(one, other))
    except (ValueError, KeyError):  # of a recipe for somebody's own pictures
        return True


def _command(*words: str) -> str:
    return shlex.join(["detr-steps", *words])


def _weights(place: Path) -> Iterator[tuple[int, str, Callable]]:
    kept = sorted((place / "kept").glob("*.safetensors"), key=lambda f: int(f.stem))
    for file in evenly(kept, KEPT):
        yield int(file.stem), "kept", partial(_read, file)
    best = place / "best.safetensors"
    if best.is_file():
        yield read_notes(best)["step"], "best", partial(_read, best)
    if has_ended(place):
        step = read_notes(place / "model.safetensors").get("step", 0)
        yield step, "last", partial(_latest, place)
    elif has_checkpoint(place):
        step = read_notes(place / "checkpoint.safetensors")["step"]
        yield step, "last", partial(_latest, place)


def evenly(items: list, count: int) -> list:
    """At most `count` of the items, evenly spaced, with the first and the last."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _read(file: Path) -> dict[str, Tensor]:
    return to_float(read_tensors(file)[0])


def _latest(place: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():  # the page itself says that the run has not ended
        warnings.simplefilter("ignore")
        return to_float(latest_weights(place))
