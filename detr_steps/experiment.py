"""From a description in JSON to a run: what `detr-steps train NAME` does."""

from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from . import zoo
from .evaluation import evaluate
from .training import Recipe, train


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
    recipe = Recipe(**description["recipe"])
    model = build(description)
    data = data or zoo.revive(description["data"])
    validation = validation or zoo.revive(description["validation"])
    notes = {key: description[key] for key in ("model", "start", "data", "validation")}
    return train(
        model,
        data,
        recipe,
        out,
        validate=validator(model, validation, recipe),
        device=device,
        resume=resume,
        notes=notes,
    )


def build(description: dict) -> nn.Module:
    """Make the described model, with the parts it starts from already loaded.

    `start` maps a part of the model to the zoo entry that part is taken from.
    """
    torch.manual_seed(description["recipe"].get("seed", 0))
    model = zoo.revive(description["model"]).build()
    for part, name in description["start"].items():
        prefix = part + "."
        taken = {
            key.removeprefix(prefix): value
            for key, value in zoo.weights(name).items()
            if key.startswith(prefix)
        }
        getattr(model, part).load_state_dict(taken)
    return model


def validator(
    model: nn.Module, validation: object, recipe: Recipe
) -> Callable[[nn.Module], dict]:
    """What is measured while training: AP, or accuracy for a classifier."""
    limit = recipe.evaluate_images
    if hasattr(model, "accuracy"):
        return lambda m: m.accuracy(validation, limit)
    return lambda m: evaluate(m, validation, limit=limit)
