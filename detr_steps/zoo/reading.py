"""Reading the zoo: names, recipes, records, weights, films, results."""

import hashlib
import json
import os
from pathlib import Path

import torch
from torch import Tensor, nn

from ..analysis import film as filming
from ..describable import from_json
from ..files import read_tensors
from ..training.folder import latest_weights, read_description, read_record

VARIABLE = "DETR_STEPS_ZOO"  # names another folder to read from and to publish to


def folder() -> Path:
    """Find the zoo: in a clone's `data/`, else inside the installed package.

    The environment variable DETR_STEPS_ZOO names another one.
    Raises: FileNotFoundError where there is none.
    """
    own = os.environ.get(VARIABLE)
    if not own:
        return _data("zoo")
    if not Path(own).is_dir():
        raise FileNotFoundError(f"{VARIABLE}={own} is no folder: make it, or unset it")
    return Path(own)


def _data(part: str) -> Path:
    package = Path(__file__).resolve().parents[1]
    for place in (package.parent / "data" / part, package / "_data" / part):
        if place.is_dir():
            return place
    raise FileNotFoundError(
        f"no data/{part} beside the package or inside it: install detr_steps again"
    )


def measured(name: str) -> dict:
    """Read what a benchmark has measured: `data/measured/<name>.json`.

    `python benchmarks/<name>.py` measures it again, on another machine with other
    numbers. Raises: KeyError for an unknown name.
    """
    file = _data("measured") / f"{name}.json"
    if not file.is_file():
        known = ", ".join(sorted(path.stem for path in file.parent.glob("*.json")))
        raise KeyError(f"nothing measured under {name!r}: there are {known}")
    return json.loads(file.read_text(encoding="utf-8"))


def names() -> list[str]:
    """Names of all checkpoints that have weights here."""
    return sorted(path.parent.name for path in folder().glob("*/model.safetensors"))


def recipes() -> list[str]:
    """Names of all recipes: checkpoints, and runs of which only the record is kept."""
    return sorted(path.parent.name for path in folder().glob("*/recipe.json"))


def entry(name: str | Path) -> Path:
    """Find the folder of an entry of the zoo, or of a run: what has a `recipe.json`.

    Raises: KeyError for an unknown name, with those there are.
    """
    path = Path(name)
    if path.suffix == ".safetensors" and path.is_file():
        path = path.parent  # one of the files of a run
    if (path / "recipe.json").is_file():
        return path  # the folder of a run
    path = folder() / str(name)
    if not (path / "recipe.json").is_file():
        raise KeyError(f"no {str(name)!r} in the zoo: it has {', '.join(recipes())}")
    return path


def recipe(name: str | Path) -> dict:
    """Read how a checkpoint was made: model, data, start and recipe of the run."""
    return read_description(entry(name))


def class_names(description: dict) -> list[str]:
    """Names of the classes a described model knows, in label order."""
    if "class_names" in description:
        return description["class_names"]
    return from_json(description["data"]).class_names


def resize_rule(description: dict) -> tuple[int, int]:
    """Short side to scale an image to, and longest side allowed, in pixels."""
    if "resize" in description:
        return tuple(description["resize"])
    size = from_json(description["data"]).size
    return size, 2 * size


def ships_weights(name: str) -> bool:
    """Whether the zoo holds, or is to hold, weights of this entry beside its records.

    Its `recipe.json` may say so, `"ship": "weights"` or `"ship": "record"`; without
    that the entry goes on as it is. Raises: ValueError for another word.
    """
    place = entry(name)
    ship = recipe(place).get("ship")
    if ship is None:
        return (place / "model.safetensors").is_file()
    if ship not in ("weights", "record"):
        raise ValueError(f'{place}/recipe.json: "ship" is {ship!r}: weights or record')
    return ship == "weights"


def record(name: str | Path) -> list[dict]:
    """Read a training record, one dict for each line of `record.jsonl`."""
    return read_record(entry(name) / "record.jsonl")


def sources(description: dict) -> list[str]:
    """The zoo's entries whose weights a described run needs: its start, its teacher."""
    start, teacher = description.get("start", {}), description.get("teacher")
    named = [start.get("backbone"), start.get("weights")]
    for more in (start.get("parts"), teacher):  # a fault in them is the run's to tell
        named += more.values() if isinstance(more, dict) else ()
    known = recipes()
    return [name for name in known if name in named]


def own_seed(name: str | Path) -> int:
    """The seed that the recipe itself names: weights and `record.jsonl` are of it."""
    return recipe(name)["recipe"].get("seed", 0)


def record_files(name: str | Path) -> dict[int, Path]:
    """Where the records of all seeds that were run lie, the recipe's own seed first."""
    place, own = entry(name), own_seed(name)
    found = {own: place / "record.jsonl"}
    for file in place.glob("record-seed*.jsonl"):
        found[int(file.stem.removeprefix("record-seed"))] = file
    seeds = sorted(found, key=lambda seed: (seed != own, seed))
    return {seed: found[seed] for seed in seeds if found[seed].is_file()}


def records(name: str | Path) -> list[list[dict]]:
    """Read the records of all seeds that were run; the recipe's own seed comes first.

    Those of other seeds lie beside it, as `record-seed1.jsonl`.
    """
    return [read_record(file) for file in record_files(name).values()]


def scores(name: str | Path, key: str = "AP") -> list[float]:
    """Read the last score of every seed's run, as in `records`."""
    return [[line[key] for line in lines if key in line][-1] for lines in records(name)]


def load(name: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """Load a model by the name of a checkpoint or the folder of a run, ready to detect.

    Of a run that was stopped, its last checkpoint; `best.safetensors` in its folder,
    given as the name, loads the best one.
    Raises: KeyError for an unknown name; ValueError when the weights are damaged.
    """
    model = from_json(recipe(name)["model"]).build()
    model.load_state_dict(weights(name))
    return model.to(device).eval()


def weights(name: str | Path) -> dict[str, Tensor]:
    """Read the float32 weights of a checkpoint, after comparing its checksum."""
    if Path(name).is_file():
        return to_float(read_tensors(Path(name))[0])
    file = entry(name) / "model.safetensors"
    wanted = recipe(name).get("sha256")
    if wanted and checksum(file) != wanted:
        raise ValueError(
            f"{file} is not the file that was published (its checksum differs): "
            "restore it with git checkout, or install the package again"
        )
    return to_float(latest_weights(entry(name)))


def to_float(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Half precision back to float32; counters stay integers."""
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def films() -> list[str]:
    """Names of all runs that have a film."""
    return sorted(path.parent.name for path in folder().glob("*/film.safetensors"))


def film(name: str | Path) -> filming.Film:
    """Read the film of a training, with the AP curve of its record.

    Raises: KeyError for an unknown name, FileNotFoundError for a run without a film.
    """
    place = entry(name)
    file = place / "film.safetensors"
    if not file.is_file():
        raise FileNotFoundError(
            f"no film of {place.name!r} (there are: {', '.join(films()) or 'none'}): "
            "detr-steps train --publish makes one from the steps that the recipe "
            "lists in keep"
        )
    return filming.read(file, record(name))


def result(name: str) -> dict:
    """Read what a checkpoint scores on its whole validation set."""
    return json.loads((entry(name) / "result.json").read_text(encoding="utf-8"))
