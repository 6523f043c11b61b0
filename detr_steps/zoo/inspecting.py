"""Is a run that comes from elsewhere what it says? Nothing of it is believed."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ..describable import from_json
from ..files import read_tensors
from ..training import Recipe
from .comparing import BESIDES, differences
from .reading import recipe
from .runs import trainable

SCORES = ("AP", "accuracy")
KEY = re.compile(r"[A-Za-z0-9_ ]{1,64}")  # of a record: losses, scores, classes
NOTES = "step", "seconds", "summed"  # of a checkpoint


class Refused(ValueError):
    """A run from elsewhere is not what it should be."""


def description_of(name: str, seed: int) -> dict:
    """Our own recipe with this seed, as the trainer would write it into a run."""
    description = recipe(name)
    settings = Recipe(**description["recipe"] | {"seed": seed})
    notes = {key: description[key] for key in description if key not in BESIDES}
    return json.loads(json.dumps(notes | {"recipe": asdict(settings)}))


def check_known(name: str) -> None:
    """Only recipes of ours that can be trained. Raises: Refused."""
    try:
        known = trainable(name)
    except KeyError:
        raise Refused("the zoo has no such recipe") from None
    if not known:
        raise Refused("this recipe cannot be trained without further data")


def fresh(description: dict) -> dict[str, Tensor]:
    """Untrained weights of the described model: their names, shapes and types."""
    return from_json(description["model"]).build().state_dict()


def size(state: dict[str, Tensor]) -> int:
    """Bytes of a file of these weights, with room for its header."""
    header = sum(200 + 2 * len(name) for name in state)
    return header + sum(value.nbytes for value in state.values())


def check_recipe(file: Path, name: str, seed: int) -> None:
    """The same settings as ours, and the seed that it goes by. Raises: Refused."""
    try:
        theirs = json.loads(file.read_text(encoding="utf-8"))
        found = differences(theirs, recipe(name))
        theirs_seed = theirs["recipe"].get("seed", 0)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Refused(f"its recipe cannot be read ({_short(error)})") from error
    if found:
        raise Refused(f"its recipe is another than ours: {_short('; '.join(found))}")
    if theirs_seed != seed:
        raise Refused(f"its recipe has seed {_short(theirs_seed)}")


def read_whole_record(file: Path, settings: Recipe, finished: bool) -> list[dict]:
    """Read a record of a run: every line that the trainer would have written.

    Steps as the recipe logs them, seconds that never fall, finite numbers, a score at
    every evaluation. Raises: Refused.
    """
    try:
        text = file.read_text(encoding="utf-8")
        lines = [json.loads(line, parse_constant=_refuse) for line in text.splitlines()]
        steps = [line["step"] for line in lines]
        seconds = [line["seconds"] for line in lines]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Refused(f"its record cannot be read ({_short(error)})") from error
    expected = list(logged_steps(settings))
    if steps != expected[: len(steps)]:
        odd = next(s for s, e in zip([*steps, None], [*expected, None]) if s != e)
        raise Refused(f"its record goes wrong at step {_short(odd)}")
    if finished and len(steps) < len(expected):
        raise Refused(f"its record ends at step {(steps or [0])[-1]}")
    if not all(map(_line_is_sound, lines)):
        raise Refused("its record holds values that are no finite numbers")
    if any(a > b for a, b in zip([0, *seconds], seconds)):
        raise Refused("the seconds of its record fall")
    _check_scores(lines, settings)
    return lines


def logged_steps(settings: Recipe) -> list[int]:
    """The steps that a whole record has."""
    every = (settings.log_every, settings.evaluate_every)
    steps = range(1, settings.steps + 1)
    return [s for s in steps if s == settings.steps or not all(s % n for n in every)]


def _check_scores(lines: list[dict], settings: Recipe) -> None:
    for line in lines:
        step = line["step"]
        if step % settings.evaluate_every and step != settings.steps:
            continue
        found = [line[key] for key in SCORES if key in line]
        if not found or not all(x is None or 0 <= x <= 1 for x in found):
            raise Refused(f"its record has no score in [0, 1] at step {step}")


def _line_is_sound(line: dict) -> bool:
    inner = line.get("per_class", {})
    plain = {key: value for key, value in line.items() if key != "per_class"}
    if not isinstance(inner, dict) or type(line["step"]) is not int:
        return False
    values = [*plain.items(), *inner.items()]
    named = all(KEY.fullmatch(key) for key, _ in values)
    # AP_L is None where there is no large object
    known = all(value is None or _is_number(value) for _, value in values)
    return named and known and _is_number(line["seconds"])


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e300  # False for NaN


def check_weights(file: Path, wanted: dict[str, Tensor], step: int) -> None:
    """The tensors of our model, all finite, of this step. Raises: Refused."""
    tensors, notes = _read(file)
    if notes != {"step": step}:
        raise Refused(f"{file.name} is not of step {step}")
    _compare(tensors, wanted, file.name)


def check_checkpoint(file: Path, wanted: dict[str, Tensor], settings: Recipe) -> int:
    """Everything a resume needs and nothing else; its step. Raises: Refused."""
    tensors, notes = _read(file)
    step, seconds, summed = (notes.get(key) for key in NOTES)
    if notes.keys() != set(NOTES) or type(step) is not int:
        raise Refused("its checkpoint does not say of which step it is")
    if type(summed) is not int or not 0 <= summed <= step:
        raise Refused(f"its checkpoint has summed the losses of {_short(summed)} steps")
    if not 0 < step <= settings.steps or not _is_number(seconds) or not seconds >= 0:
        raise Refused(f"its checkpoint is of step {step} of {settings.steps}")
    parts: dict[str, dict] = {"model": {}, "average": {}, "sums": {}}
    for key, value in tensors.items():
        part, _, rest = key.partition(".")
        if part == "optimiser":
            part, _, rest = rest.partition(".")
        parts.setdefault(part, {})[rest] = value
    _compare(parts.pop("model"), wanted, file.name)
    _check_sums(parts.pop("sums"))
    average = parts.pop("average")
    _compare(average, wanted if settings.ema else {}, file.name)
    for kind, values in parts.items():
        known = {name: wanted[name] for name in values if name in wanted}
        if kind == "step":
            known = {name: torch.zeros(()) for name in known}
        elif kind not in ("exp_avg", "exp_avg_sq"):
            raise Refused(f"its checkpoint holds {_short(kind)}")
        _compare(values, known, file.name)
    return step


def _check_sums(sums: dict[str, Tensor]) -> None:
    """Losses since the last line of the record: one finite number each."""
    for name, value in sums.items():
        if not KEY.fullmatch(name) or value.dim() or not value.isfinite():
            raise Refused(f"its checkpoint's sum of {_short(name)} is no finite number")


def check_kept(folder: Path, wanted: dict[str, Tensor], settings: Recipe) -> None:
    """Weights of steps that the recipe keeps, in half precision. Raises: Refused."""
    half = {
        name: value.half() if value.is_floating_point() else value
        for name, value in wanted.items()
    }
    for file in sorted(folder.glob("*.safetensors")):
        step = int(file.stem)
        if step not in settings.keep:
            raise Refused(f"step {step} is not one that the recipe keeps")
        check_weights(file, half, step)


def _read(file: Path) -> tuple[dict[str, Tensor], dict]:
    try:
        tensors, notes = read_tensors(file)
    except (OSError, ValueError, RecursionError) as error:
        raise Refused(f"{file.name} cannot be read") from error
    return tensors, notes if isinstance(notes, dict) else {}


def _compare(tensors: dict, wanted: dict[str, Tensor], name: str) -> None:
    if tensors.keys() != wanted.keys():
        odd = sorted(tensors.keys() ^ wanted.keys())[0]
        raise Refused(f"{name} and our model do not both have {_short(odd)}")
    for key, value in tensors.items():
        if (value.shape, value.dtype) != (wanted[key].shape, wanted[key].dtype):
            raise Refused(f"{name}: {key} has another shape or type than our model's")
        if not value.isfinite().all():
            raise Refused(f"{name}: {key} is not finite")


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _short(value: object) -> str:
    """What a foreign file says, on one line and of one kind of characters."""
    return ascii(str(value))[1:-1][:200]
