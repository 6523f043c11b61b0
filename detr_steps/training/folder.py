"""The folder of a run: lock, record, checkpoints; nothing is ever half written."""

import json
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from ..describable import from_json, to_json
from ..files import (
    read_json,
    read_notes,
    read_tensors,
    remove_parts,
    write_json,
    write_tensors,
    write_whole,
)
from .lock import RunLock, owner
from .recipe import Recipe

# about publishing, in the recipe.json of a zoo; what the sealed annotations say
NOT_SETTINGS = ("sha256", "ship", "category_ids")
LOCK = "run.lock"
PLACES = ("images", "annotations")  # where data lie, in the description of a folder


class RunFolder:
    """One run's files: `recipe.json`, `record.jsonl`, `checkpoint.safetensors` (the
    last), `best.safetensors` (weights of the best score), `model.safetensors` (at the
    end), and `kept/<step>.safetensors` for the steps a recipe keeps.

    Raises: FileExistsError when another run is at work in the folder, or when it holds
    a run and `resume` is False; ValueError when the recipe is not the one begun with.
    """

    def __init__(self, path: Path, recipe: Recipe, notes: dict, resume: bool) -> None:
        self.path = Path(path)
        self.recipe_file = self.path / "recipe.json"
        self.record_file = self.path / "record.jsonl"
        self.checkpoint_file = self.path / "checkpoint.safetensors"
        self.best_file = self.path / "best.safetensors"
        self.model_file = self.path / "model.safetensors"
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(self.path / LOCK)
        try:
            self._begin({"recipe": asdict(recipe), **notes}, resume)
        except BaseException:
            self.unlock()
            raise

    def _begin(self, description: dict, resume: bool) -> None:
        description = json.loads(json.dumps(description))  # as it comes back from disk
        if holds_run(self.path):
            if not resume:
                raise FileExistsError(
                    f"{self.path} already holds a run: add --resume (resume=True) to "
                    "go on with it, or name another folder"
                )
            if self.recipe_file.exists():
                self._check_same(description)
        self._remove_parts()
        write_json(self.recipe_file, description)

    def _check_same(self, now: dict) -> None:
        changed = differences(read_description(self.path), now)
        if changed:
            said = "; ".join(f"{key}: {how}" for key, how in changed.items())
            raise ValueError(
                f"the run in {self.path} was begun with other settings ({said}): "
                "resume with the same ones, or name another folder"
            )

    def _remove_parts(self) -> None:
        """Of processes killed as they wrote: under the lock, nobody else's."""
        kept = (self.path / "kept").glob("*.safetensors.part*")
        kept = {part.with_name(part.name.rpartition(".part")[0]) for part in kept}
        files = self.recipe_file, self.record_file, self.checkpoint_file
        for file in (*files, self.best_file, self.model_file, *kept):
            remove_parts(file)

    def unlock(self) -> None:
        """Let other runs use the folder."""
        self._lock.release()

    def append(self, line: dict) -> None:
        """Add one line to the record."""
        try:
            with open(self.record_file, "a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:  # a full disk does not say whose
            where = str(self.record_file)
            raise OSError(error.errno, error.strerror, where) from error

    def cut_record(self, step: int) -> None:
        """Forget what was recorded after a step: it will be done again."""
        kept = [line for line in read_record(self.record_file) if line["step"] <= step]
        text = "".join(json.dumps(line) + "\n" for line in kept)
        write_whole(self.record_file, lambda p: p.write_text(text, encoding="utf-8"))

    def save(
        self,
        notes: dict,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        average: dict[str, Tensor],
        sums: dict[str, Tensor],
    ) -> None:
        """Write everything a resume needs into one file, at once.

        `notes` has the `step`; `average` are the moving average's weights, `sums` those
        of the losses since the last line of the record.
        """
        tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in average.items()}
        tensors |= {f"sums.{k}": v for k, v in sums.items()}
        names = {id(p): name for name, p in model.named_parameters()}
        for parameter, state in optimiser.state.items():
            for key, value in state.items():
                tensors[f"optimiser.{key}.{names[id(parameter)]}"] = value
        write_tensors(self.checkpoint_file, tensors, notes)

    def keep(self, step: int, weights: dict[str, Tensor]) -> None:
        """Put a step's weights aside in half precision, for looking back later."""
        half = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
        write_tensors(kept_file(self.path, step), half, {"step": step})

    def keep_best(self, step: int, score: float, weights: dict[str, Tensor]) -> None:
        """Put the weights of the best evaluation so far aside."""
        write_tensors(self.best_file, weights, {"step": step, "score": score})

    def best(self) -> tuple[int, float]:
        """Step and score of the best evaluation so far; (0, -inf) before the first.

        Of the file, not of the record, which a resume cuts: what is not better than
        the weights that lie here must not replace them.
        """
        if not self.best_file.exists():
            return 0, float("-inf")
        notes = read_notes(self.best_file)
        return notes["step"], notes["score"]

    def evaluations_since(self, step: int) -> int:
        """How many lines of the record behind a step have a score."""
        record = read_record(self.record_file)
        return sum(line["step"] > step and score(line) is not None for line in record)

    def restore(
        self,
        model: nn.Module,
        optimiser: torch.optim.Optimizer,
        average: dict[str, Tensor],
    ) -> tuple[dict, dict[str, Tensor]]:
        """Go back to the last checkpoint: its notes and sums; step 0 if none.

        Raises: ValueError when it is damaged or another model's.
        """
        if not self.checkpoint_file.exists():
            return {"step": 0}, {}
        tensors, notes = read_tensors(self.checkpoint_file)
        parts: dict[str, dict] = {"model": {}, "average": {}, "optimiser": {}}
        parts["sums"] = {}
        for name, value in tensors.items():
            part, rest = name.split(".", 1)
            parts[part][rest] = value
        try:
            model.load_state_dict(parts["model"])
            for name, value in average.items():
                value.copy_(parts["average"][name])
            _restore_optimiser(model, optimiser, parts["optimiser"])
        except (KeyError, RuntimeError) as error:
            raise ValueError(
                f"{self.checkpoint_file} is not of this model: resume with the model "
                f"that it was made with ({error})"
            ) from error
        return notes, parts["sums"]


def _restore_optimiser(
    model: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Tensor]
) -> None:
    parameters = dict(model.named_parameters())
    for name, value in state.items():
        key, parameter = name.split(".", 1)
        home = parameters[parameter]
        # AdamW counts its steps on the host
        value = value if key == "step" else value.to(home.device)
        optimiser.state[home][key] = value


def holds_run(path: Path) -> bool:
    """Does a folder hold what a training would overwrite?"""
    names = "record.jsonl", "checkpoint.safetensors", "best.safetensors"
    return any((Path(path) / name).exists() for name in (*names, "model.safetensors"))


def has_checkpoint(run: str | Path) -> bool:
    """Does a run have a step to go on from?"""
    return (Path(run) / "checkpoint.safetensors").exists()


def has_ended(run: str | Path) -> bool:
    """Has a run come to its end, by its steps or its patience?"""
    model = Path(run) / "model.safetensors"
    checkpoint = Path(run) / "checkpoint.safetensors"
    if not model.exists() or not checkpoint.exists():
        return model.exists()
    return read_notes(model)["step"] >= read_notes(checkpoint)["step"]


def at_work(run: str | Path) -> int | None:
    """The process that is at work in a run's folder; None where nobody is."""
    note = owner(Path(run) / LOCK)
    return None if note is None else note.get("pid", 0)


def kept_file(run: Path, step: int) -> Path:
    """Where a run keeps the weights of a step."""
    return Path(run) / "kept" / f"{step:06d}.safetensors"


def read_description(run: Path) -> dict:
    """Read a run's `recipe.json`: model, data, start, recipe.

    Raises: FileNotFoundError; ValueError that names file and line, and the cure.
    """
    file = Path(run) / "recipe.json"
    cure = "restore it from a copy, or begin a new run in another folder"
    description = read_json(file, cure)
    settings = description.get("recipe")
    Recipe.from_dict(settings if isinstance(settings, dict) else {}, file)
    return description


def differences(before: dict, now: dict) -> dict[str, str]:
    """What differs between two descriptions of runs: key -> "was …, now …".

    Settings that an older description lacks have their defaults. Data that have gone
    from where they were have moved: their new place is none.
    """
    old, new = flat(_complete(before)), flat(_complete(now))
    return {
        key: f"was {old.get(key)}, now {new.get(key)}"
        for key in sorted(old | new)
        if old.get(key) != new.get(key) and not _has_moved(key, old.get(key))
    }


def _complete(description: dict) -> dict:
    whole = description | {"recipe": asdict(Recipe(**description["recipe"]))}
    whole = {key: value for key, value in whole.items() if key not in NOT_SETTINGS}
    for part, value in whole.items():
        whole[part] = _with_defaults(value)
    return json.loads(json.dumps(whole))  # tuples are lists


def _with_defaults(part: object) -> object:
    """A config with the fields that it lacks; as it is where it is of no known kind."""
    try:
        return to_json(from_json(part)) if isinstance(part, dict) else part
    except ValueError:  # a folder of data, or the kind of somebody's own code
        return part


def _has_moved(key: str, place: object) -> bool:
    last = key.rpartition(".")[2]
    return last in PLACES and place is not None and not Path(place).exists()


def flat(value: dict, prefix: str = "") -> dict:
    """Nested dicts as one, with keys joined by dots."""
    joined = {}
    for key, inner in value.items():
        if isinstance(inner, dict):
            joined |= flat(inner, f"{prefix}{key}.")
        else:
            joined[prefix + key] = inner
    return joined


def read_record(path: Path) -> list[dict]:
    """Read a `record.jsonl`: one dict a line; a last line cut short is left out.

    Raises: ValueError that names file and line where something else stands.
    """
    path = Path(path)
    if not path.exists():
        return []
    *whole, last = path.read_bytes().split(b"\n")
    whole = enumerate(whole, start=1)
    lines = [_record_line(path, *pair) for pair in whole if pair[1].strip()]
    try:  # a kill leaves no more of a line than its beginning
        lines.append(_record_line(path, 0, last))
    except ValueError:
        pass
    return lines


def _record_line(path: Path, number: int, text: bytes) -> dict:
    try:
        line = json.loads(text)
    except (ValueError, RecursionError):
        line = None
    if not isinstance(line, dict) or not isinstance(line.get("step"), int):
        raise ValueError(
            f"{path}, line {number}: no line of a record ({text[:40]!r}): delete it; "
            "only the curves lose that point"
        )
    return line


def score(line: dict) -> float | None:
    """What the best checkpoint is chosen by: AP, or a classifier's accuracy."""
    known = [line[key] for key in ("AP", "accuracy") if line.get(key) is not None]
    return known[0] if known else None


def latest_weights(run: Path) -> dict[str, Tensor]:
    """Read the weights of a run: the last ones, with a warning if it has not ended.

    Those of a moving average where the recipe has one. Raises: FileNotFoundError
    before the first checkpoint; ValueError for a damaged file.
    """
    run = Path(run)
    if has_ended(run):
        return read_tensors(run / "model.safetensors")[0]
    if not has_checkpoint(run):
        raise FileNotFoundError(
            f"{run} has no weights yet: the first come with its first checkpoint"
        )
    checkpoint = run / "checkpoint.safetensors"
    warnings.warn(
        f"the run in {run} has not ended: its last checkpoint is used, of step "
        f"{read_notes(checkpoint)['step']}",
        stacklevel=2,
    )
    average = read_tensors(checkpoint, "average.")[0]
    weights = average or read_tensors(checkpoint, "model.")[0]
    return {name.partition(".")[2]: value for name, value in weights.items()}
