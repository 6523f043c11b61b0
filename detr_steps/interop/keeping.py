"""The weights that inference needs, in a folder of their own.

Schemes that train more queries than a model infers with leave their rows in its
weights; here they are dropped.
"""

import shutil
import tempfile
from pathlib import Path

import torch

from ..describable import to_json
from ..files import write_json, write_tensors
from ..images import ImageBatch
from ..systems.detector import Detector, for_inference
from ..zoo.reading import checksum
from .export import ExportError, example
from .opening import Opened, open_checkpoint

SIZE = 96, 128  # pixels of what the copy is compared on


def keep_for_inference(opened: Opened, folder: str | Path) -> int:
    """Write a folder that `open_checkpoint` opens; how many numbers were dropped.

    It holds the weights, and the `recipe.json` of the run that made them, with the
    model as it is without its training scheme. The copy must answer as the model does,
    bit for bit, before it gets its name.
    Raises: FileExistsError; OSError; ExportError for weights of somebody else, and
    where the answers differ: nothing is kept then.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists: remove it, or choose another")
    if opened.description is None:
        raise ExportError(
            "these are somebody else's weights, without a recipe of ours: in Python, "
            "detr_steps.systems.detector.for_inference(model) drops the same"
        )
    small = for_inference(opened.model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        _write(small, part, opened.description)
        _compare(opened.model, part)
        part.chmod(0o755)  # a temporary folder is for its owner alone
        part.rename(folder)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise
    return _numbers(opened.model) - _numbers(small)


def _write(model: Detector, part: Path, description: dict) -> None:
    file = part / "model.safetensors"
    write_tensors(file, model.state_dict(), {})
    changed = {"model": to_json(model.config), "sha256": checksum(file)}
    write_json(part / "recipe.json", description | changed)


@torch.no_grad()
def _compare(model: Detector, part: Path) -> None:
    weight = next(model.parameters())
    pixels, padding = example(2, SIZE)
    batch = ImageBatch(pixels.to(weight), padding.to(weight.device))
    copy = open_checkpoint(part, device=weight.device).model.to(weight.dtype)
    ours, theirs = (each.predict(batch, [SIZE] * 2)[:2] for each in (model, copy))
    if not all(map(torch.equal, ours, theirs)):
        raise ExportError("the copy answers otherwise than the model; nothing was kept")


def _numbers(model: Detector) -> int:
    return sum(value.numel() for value in model.state_dict().values())
