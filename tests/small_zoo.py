"""Recipes and runs for tests of the zoo: a run takes a second."""

import json
from pathlib import Path

from detr_steps import experiment
from detr_steps.data.scenes import Scenes
from detr_steps.describable import to_json
from detr_steps.files import write_json
from detr_steps.nn.backbone import SmallConfig
from detr_steps.systems.classifier import ClassifierConfig


def tiny(**changes: object) -> dict:
    """A recipe of four steps: a classifier of pictures of 32 x 32 pixels."""
    scenes = {"size": 32, "objects": (1, 1), "lengths": (12.0, 112.0)}
    backbone = SmallConfig(channels=(8, 8), blocks=1)
    recipe = {"steps": 4, "batch": 2, "log_every": 1, "save_every": 2}
    recipe |= {"evaluate_every": 2, "evaluate_images": 4, "precision": "float32"}
    return {
        "model": to_json(ClassifierConfig(backbone=backbone)),
        "start": {},
        "data": to_json(Scenes("train", **scenes)),
        "validation": to_json(Scenes("val", **scenes)),
        "recipe": recipe | changes,
    }


def trained(
    out: Path, description: dict | None = None, resume: bool = False, **changes: object
) -> Path:
    """The folder of a run of that recipe, finished."""
    description = json.loads(json.dumps(description or tiny(**changes)))
    experiment.run(description, out, device="cpu", resume=resume)
    return out


def add(place: Path, name: str, **changes: object) -> dict:
    """Put a tiny recipe into a zoo: an entry without weights or records."""
    ship = {"ship": changes.pop("ship")} if "ship" in changes else {}
    description = tiny(**changes) | ship
    write_json(place / name / "recipe.json", description)
    return description
