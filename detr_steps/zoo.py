"""Our own checkpoints: weights, record and recipe of every system, by name.

They lie in `data/zoo/<name>/` of a clone and inside an installed package; each is made
again by `detr-steps train <name>`.
"""

import hashlib
import json
from dataclasses import fields, is_dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from .analysis import film as filming
from .data.scenes import Scenes
from .evaluation import evaluate
from .files import read_tensors, write_json, write_tensors, write_whole
from .nn.backbone import SmallConfig
from .nn.deform_attention import Sampling
from .nn.dense import Dense
from .nn.patches import PatchConfig
from .nn.point_weights import FromKeys, FromQuery, Learned, Uniform
from .nn.resnet import ResNetConfig
from .nn.within_levels import WithinLevels
from .objective.focal import FocalWeights
from .objective.losses import LossWeights
from .objective.matching import CostWeights
from .systems.classifier import ClassifierConfig
from .systems.deformable_detr import DeformableDETRConfig
from .systems.detr import DETRConfig
from .training.folder import latest_weights, read_description, read_record

FILMED = (277, 333)  # validation pictures of a film: one crowded, one with small things

# what a description in a recipe.json may name: dataclasses, never code
DESCRIBABLE = {
    kind.__name__: kind
    for kind in (
        ClassifierConfig,
        CostWeights,
        DETRConfig,
        DeformableDETRConfig,
        Dense,
        FocalWeights,
        FromKeys,
        FromQuery,
        Learned,
        LossWeights,
        PatchConfig,
        ResNetConfig,
        Sampling,
        Scenes,
        SmallConfig,
        Uniform,
        WithinLevels,
    )
}


def folder() -> Path:
    """Find the zoo: in a clone's `data/`, else inside the installed package."""
    return _data("zoo")


def _data(part: str) -> Path:
    here = Path(__file__).resolve().parent
    for place in (here.parent / "data" / part, here / "_data" / part):
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


def describe(value: object) -> object:
    """Turn a config (a dataclass of dataclasses) into plain JSON values."""
    if is_dataclass(value):
        inner = {f.name: describe(getattr(value, f.name)) for f in fields(value)}
        return {"kind": type(value).__name__, **inner}
    if isinstance(value, tuple | list):
        return [describe(item) for item in value]
    return value


def revive(value: object) -> object:
    """Undo `describe`. Raises: ValueError for a kind that is not ours."""
    if isinstance(value, list):
        return tuple(revive(item) for item in value)
    if not isinstance(value, dict):
        return value
    inner = {key: revive(item) for key, item in value.items() if key != "kind"}
    kind = value.get("kind")
    if kind not in DESCRIBABLE:
        raise ValueError(f"unknown kind {kind!r}: one of {sorted(DESCRIBABLE)}")
    return DESCRIBABLE[kind](**inner)


def _entry(name: str | Path) -> Path:
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
    return read_description(_entry(name))


def record(name: str | Path) -> list[dict]:
    """Read a training record, one dict for each line of `record.jsonl`."""
    return read_record(_entry(name) / "record.jsonl")


def records(name: str | Path) -> list[list[dict]]:
    """Read the records of all seeds that were run; the recipe's own seed comes first.

    Those of other seeds lie beside it, as `record-seed1.jsonl`.
    """
    others = sorted(_entry(name).glob("record-seed*.jsonl"))
    return [record(name), *map(read_record, others)]


def scores(name: str | Path, key: str = "AP") -> list[float]:
    """Read the last score of every seed's run, as in `records`."""
    return [[line[key] for line in lines if key in line][-1] for lines in records(name)]


def load(name: str | Path, device: torch.device | str = "cpu") -> nn.Module:
    """Load a model by the name of a checkpoint or the folder of a run, ready to detect.

    Of a run that was stopped, its last checkpoint; `best.safetensors` in its folder,
    given as the name, loads the best one.
    Raises: KeyError for an unknown name; ValueError when the weights are damaged.
    """
    model = revive(recipe(name)["model"]).build()
    model.load_state_dict(weights(name))
    return model.to(device).eval()


def weights(name: str | Path) -> dict[str, Tensor]:
    """Read the float32 weights of a checkpoint, after comparing its checksum."""
    if Path(name).is_file():
        return _float(read_tensors(Path(name))[0])
    file = _entry(name) / "model.safetensors"
    wanted = recipe(name).get("sha256")
    if wanted and checksum(file) != wanted:
        raise ValueError(
            f"{file} is not the file that was published (its checksum differs): "
            "restore it with git checkout, or install the package again"
        )
    return _float(latest_weights(_entry(name)))


def _float(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.float() for key, value in tensors.items()}


def checksum(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def publish(run: str | Path, name: str) -> Path:
    """Put a finished run into the zoo: weights in half precision, record and recipe.

    The result on the whole validation set is measured with the rounded weights.
    """
    run, entry = Path(run), folder() / name
    tensors, notes = read_tensors(run / "model.safetensors")
    weights = entry / "model.safetensors"
    write_tensors(weights, {k: v.half() for k, v in tensors.items()}, notes)
    description = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    write_json(entry / "recipe.json", description | {"sha256": checksum(weights)})
    publish_record(run, name)
    publish_film(run, name)
    model = load(name)
    validation = revive(description["validation"])
    if hasattr(model, "detect"):
        result = evaluate(model, validation)
    else:
        result = model.accuracy(validation, len(validation))
    write_json(entry / "result.json", {"images": len(validation)} | result)
    return entry


def publish_record(run: str | Path, name: str) -> Path:
    """Put only the record and the recipe of a run into the zoo, without weights.

    A run with another seed than the recipe's gets a record of its own beside it.
    """
    run, entry = Path(run), folder() / name
    description = json.loads((run / "recipe.json").read_text(encoding="utf-8"))
    if not (entry / "recipe.json").exists():
        write_json(entry / "recipe.json", description)
    seed = description["recipe"].get("seed", 0)
    own = seed == recipe(name)["recipe"].get("seed", 0)
    file = entry / ("record.jsonl" if own else f"record-seed{seed}.jsonl")
    text = (run / "record.jsonl").read_text(encoding="utf-8")
    write_whole(file, lambda p: p.write_text(text, encoding="utf-8"))
    return entry


def publish_film(run: str | Path, name: str) -> Path | None:
    """Put a film of a run's training into the zoo, if the run kept weights on its way.

    Returns the file; None, and no file, where there is nothing to film.
    """
    description, file = recipe(run), folder() / name / "film.safetensors"
    kept = sorted((Path(run) / "kept").glob("*.safetensors"))
    model = revive(description["model"]).build()
    if not kept or not hasattr(model, "match"):
        file.unlink(missing_ok=True)  # of an earlier run
        return None
    states = ((int(path.stem), _float(read_tensors(path)[0])) for path in kept)
    data = revive(description["validation"])
    filming.save(file, filming.record(model, states, data, FILMED))
    return file


def films() -> list[str]:
    """Names of all runs that have a film."""
    return sorted(path.parent.name for path in folder().glob("*/film.safetensors"))


def film(name: str | Path) -> filming.Film:
    """Read the film of a training, with the AP curve of its record.

    Raises: KeyError for an unknown name, FileNotFoundError for a run without a film.
    """
    entry = _entry(name)
    file = entry / "film.safetensors"
    if not file.is_file():
        raise FileNotFoundError(
            f"no film of {entry.name!r} (there are: {', '.join(films()) or 'none'}): "
            "detr-steps train --publish makes one from the steps that the recipe "
            "lists in keep"
        )
    return filming.read(file, record(name))


def result(name: str) -> dict:
    """Read what a checkpoint scores on its whole validation set."""
    return json.loads((_entry(name) / "result.json").read_text(encoding="utf-8"))
