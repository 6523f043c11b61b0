"""Publishing: a finished run becomes an entry of the zoo; nothing is half written."""

import sys
from pathlib import Path

import torch
from torch import Tensor, nn

from ..analysis import film as filming
from ..describable import KINDS, from_json
from ..evaluation import evaluate
from ..files import read_tensors, write_json, write_tensors, write_whole
from ..training.kept import kept_weights
from .comparing import differences
from .reading import checksum, folder, own_seed, recipe, to_float

FILMED = (277, 333)  # validation pictures of a film: one crowded, one with small things


def publish(run: str | Path, name: str, *, device: torch.device | str = "cpu") -> Path:
    """Put a finished run into the zoo: weights in half precision, record and recipe.

    The result on the whole validation set is measured on `device` with the rounded
    weights, before the first file is written. The film comes last: where none can be
    made, one line on stderr says why, and all else is published.
    Raises: FileNotFoundError for a run that has not ended; ValueError where the entry
    is of another recipe or of another seed, or the run was validated on a folder of
    pictures. Returns the entry's folder.
    """
    run, place = Path(run), folder() / name
    description = _check_same_run(run, name)
    if _exists(place) and _seed(description) != own_seed(place):
        raise ValueError(
            f"{run} is of seed {_seed(description)}, and the weights of {name!r} are "
            f"of seed {own_seed(place)}: publish_record keeps its record"
        )
    if description["validation"].get("kind") not in KINDS:
        raise ValueError(
            f"{run} was validated on pictures that the zoo has not: publish_record "
            "keeps its record"
        )
    tensors, notes = read_tensors(run / "model.safetensors")
    half = {k: v.half() if v.is_floating_point() else v for k, v in tensors.items()}
    result = _score(description, half, device)
    if _exists(place) and "ship" in recipe(place):
        description |= {"ship": "weights"}
    # Whatever stops us from here on, the entry can be loaded, and its recipe tells by
    # the checksum, which is written last, that weights, record and result are whole.
    write_json(place / "recipe.json", description)
    write_tensors(place / "model.safetensors", half, notes)
    publish_record(run, name)
    write_json(place / "result.json", result)
    sealed = {"sha256": checksum(place / "model.safetensors")}
    write_json(place / "recipe.json", description | sealed)
    _film_or_say_why(run, name)
    return place


def _score(
    description: dict, weights: dict[str, Tensor], device: torch.device | str
) -> dict:
    """What rounded weights do on the whole validation set."""
    model = _build(description)
    model.load_state_dict(to_float(weights))
    model.to(device).eval()
    validation = from_json(description["validation"])
    count = len(validation)
    if hasattr(model, "accuracy"):
        return {"images": count} | model.accuracy(validation, count)
    return {"images": count} | evaluate(model, validation)


def publish_record(run: str | Path, name: str) -> Path:
    """Put only the record and the recipe of a run into the zoo, without weights.

    A run with another seed than the recipe's gets a record of its own beside it.
    Raises: ValueError where the entry is of another recipe. Returns its folder.
    """
    run, place = Path(run), folder() / name
    description = _check_same_run(run, name)
    if not _exists(place):
        write_json(place / "recipe.json", description)
    text = (run / "record.jsonl").read_text(encoding="utf-8")
    file = record_file(name, _seed(description))
    write_whole(file, lambda part: part.write_text(text, encoding="utf-8"))
    return place


def record_file(name: str, seed: int) -> Path:
    """Where an entry keeps the record of a seed, whether it is there or not."""
    own = seed == own_seed(name)
    return folder() / name / ("record.jsonl" if own else f"record-seed{seed}.jsonl")


def publish_film(run: str | Path, name: str) -> Path | None:
    """Put a film of a run's training into the zoo, if the run kept weights on its way.

    Returns the file; None, and no file, where there is nothing to film.
    """
    description, file = _description(Path(run)), folder() / name / "film.safetensors"
    model, keeps = _build(description), any((Path(run) / "kept").glob("*.safetensors"))
    if not keeps or not hasattr(model, "match"):
        file.unlink(missing_ok=True)  # of an earlier run
        return None
    data = from_json(description["validation"])
    filming.save(file, filming.record(model, kept_weights(run), data, FILMED))
    return file


def _film_or_say_why(run: Path, name: str) -> None:
    try:
        publish_film(run, name)
    except Exception as error:  # of any kind: what is published already matters more
        (folder() / name / "film.safetensors").unlink(missing_ok=True)  # other weights
        reason = str(error).partition("\n")[0]
        print(f"no film of {name}: {type(error).__name__}: {reason}", file=sys.stderr)


def _check_same_run(run: Path, name: str) -> dict:
    """Let only runs of its own recipe into an entry; a new name takes any."""
    description = _description(run)
    place = folder() / name
    found = differences(description, recipe(place)) if _exists(place) else []
    if found:
        raise ValueError(
            f"the run in {run} is not of the recipe of {name!r} ({'; '.join(found)}): "
            f"change {place / 'recipe.json'} first, or publish under another name"
        )
    return description


def _description(run: Path) -> dict:
    if not _exists(run):
        raise FileNotFoundError(f"no run in {run}: it has no recipe.json")
    return {key: value for key, value in recipe(run).items() if key != "sha256"}


def _exists(place: Path) -> bool:
    return (place / "recipe.json").is_file()


def _seed(description: dict) -> int:
    return description["recipe"].get("seed", 0)


def _build(description: dict) -> nn.Module:
    return from_json(description["model"]).build()
