"""From a description in JSON to a run: what `detr-steps train NAME` does."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from . import interop, zoo
from .describable import from_json
from .evaluation import evaluate
from .interop.files import read
from .training import Recipe, train

# by the trainer and by publishing, or about publishing: not the run's own
ADDED = ("recipe", "sha256", "ship")
OFFICIAL_CLASSES = 91  # of the published COCO checkpoints: the highest id, plus one


def run(
    description: dict,
    out: str | Path,
    *,
    data: object | None = None,
    validation: object | None = None,
    resume: bool = False,
    device: str | None = None,
) -> list[dict]:
    """Train what a `recipe.json` describes and return the record.

    `data` and `validation` replace the described data (a COCO-format folder, say).
    """
    if data is None and description["data"].get("kind") == "folder":
        raise ValueError(
            "this recipe needs pictures: add --train IMAGES JSON and --val IMAGES JSON"
        )
    recipe = Recipe(**description["recipe"])
    model = build(description)
    data = data or from_json(description["data"])
    validation = validation or from_json(description["validation"])
    return train(
        model,
        data,
        recipe,
        out,
        validate=validator(model, validation, recipe),
        device=device,
        resume=resume,
        notes={key: description[key] for key in description if key not in ADDED},
    )


def build(description: dict) -> nn.Module:
    """Make the described model, with what it starts from already loaded.

    `start` may name: `backbone`, an entry of the zoo or a file of torchvision's
    ImageNet weights; `weights`, an official checkpoint, whose class head is kept only
    if the number of classes agrees.
    """
    torch.manual_seed(description["recipe"].get("seed", 0))
    model = from_json(description["model"]).build()
    start = description["start"]
    if "backbone" in start:
        _start_backbone(model, start["backbone"])
    if "weights" in start:
        head = "load" if model.config.classes == OFFICIAL_CLASSES else "keep"
        interop.load_official(model, start["weights"], class_head=head)
    return model


def _start_backbone(model: nn.Module, source: str) -> None:
    if str(source).endswith((".pth", ".pt")):
        state = read(Path(source)).items()
        taken = {key: value for key, value in state if not key.startswith("fc.")}
        _load_backbone(model, taken, source)
        return
    taken = {
        key.removeprefix("backbone."): value
        for key, value in zoo.weights(source).items()
        if key.startswith("backbone.")
    }
    _load_backbone(model, taken, source)


def _load_backbone(model: nn.Module, state: dict[str, Tensor], source: str) -> None:
    try:
        model.backbone.load_state_dict(state)
    except RuntimeError as error:
        raise ValueError(
            f"{source} does not fit the backbone {model.config.backbone}: {error}"
        ) from error


def for_classes(description: dict, data: object, size: int | None) -> dict:
    """Change a description to somebody's own data: classes, names, picture size."""
    model = description["model"] | {"classes": data.classes}
    own = {"kind": "folder", "images": str(data.folder)}
    return description | {
        "model": model,
        "data": own,
        "class_names": list(data.class_names),
        "resize": [size or 800, round((size or 800) * 1333 / 800)],
    }


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


def validator(
    model: nn.Module, validation: object, recipe: Recipe
) -> Callable[[nn.Module], dict]:
    """What is measured while training: AP, or accuracy for a classifier."""
    limit = recipe.evaluate_images
    if hasattr(model, "accuracy"):
        return lambda m: m.accuracy(validation, limit)
    return lambda m: evaluate(m, validation, limit=limit)
