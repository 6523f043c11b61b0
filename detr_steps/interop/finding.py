"""What a name or a path leads to: weights, and what is known beside them."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from .. import zoo
from ..files import read_json
from ..training.folder import has_checkpoint, has_ended
from ..zoo.reading import entry, to_float
from .files import read_contents, weights_in
from .unwrapping import CheckpointError

PAPER_SIZE = (800, 1333)  # pixels: short side, longest allowed; of all COCO checkpoints


class Found(NamedTuple):
    """What a name or a path led to, before anything is known about the weights.

    `description` of the run that made them, if it is one of ours; `config` the
    config.json beside them, `options` of the official training script, `size` of the
    pictures that they want.
    """

    state: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    description: dict | None = None
    config: Mapping[str, object] = {}
    options: Mapping[str, object] = {}
    size: tuple[int, int] = PAPER_SIZE
    folder: Path | None = None


def find(source: str | Path) -> Found:
    """Read what a name or a path leads to. Raises: CheckpointError where to nothing."""
    path = Path(source)
    place = _run_of(path)
    if place is None and not path.is_file() and not _hub_folder(path):
        return _find_by_name(source, path)
    if place is not None:
        return _find_run(path, place)
    file = path if path.is_file() else weights_in(path)
    state, notes, options = read_contents(file)
    folder = file.parent
    config = _json_beside(folder, "config.json")
    return Found(state, notes, None, config, options, _size(folder), folder)


def _hub_folder(path: Path) -> bool:
    if not path.is_dir():
        return False
    return (path / "config.json").is_file() or str(path) not in zoo.recipes()


def _run_of(path: Path) -> Path | None:
    """The folder of the run that a path belongs to, if to any."""
    near = (path,) if path.is_dir() else (path.parent, path.parent.parent)
    if path.is_file() and path.parent.name != "kept":
        near = near[:1]
    if not path.exists() or path.suffix in (".pth", ".pt", ".bin"):
        return None
    return next((x for x in near if (x / "recipe.json").is_file()), None)


def _find_by_name(source: str | Path, path: Path) -> Found:
    if str(source) in zoo.recipes():
        return _find_run(entry(source), entry(source))
    hub = str(source).count("/") == 1 and not path.suffix
    cure = f"; from the hub: hf download {source} --local-dir FOLDER" if hub else ""
    raise CheckpointError(
        f"no file and no folder {source}, and no such name in the zoo: it has "
        f"{', '.join(zoo.recipes())}{cure}"
    )


def _find_run(path: Path, place: Path) -> Found:
    description = zoo.recipe(place)
    notes: tuple[str, ...] = ()
    if path.is_file():
        state, notes, _ = read_contents(path)
        state = to_float(state)
    elif not has_ended(place) and not has_checkpoint(place):
        raise CheckpointError(
            f"{place.name} has a recipe and no weights: train it, or name a file that "
            "has them"
        )
    else:
        state = zoo.weights(place)
    return Found(state, notes, description)


def _json_beside(folder: Path, name: str) -> dict:
    file = folder / name
    return read_json(file, "download it again") if file.is_file() else {}


def _size(folder: Path) -> tuple[int, int]:
    """The size of pictures in a preprocessor_config.json, old form or new."""
    told = _json_beside(folder, "preprocessor_config.json")
    size, longest = told.get("size"), told.get("max_size", PAPER_SIZE[1])
    if isinstance(size, dict):
        size, longest = size.get("shortest_edge"), size.get("longest_edge", longest)
    if isinstance(size, int) and isinstance(longest, int):
        return size, longest
    return PAPER_SIZE
