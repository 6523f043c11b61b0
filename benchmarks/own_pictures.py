"""Fine-tuning from shipped weights against training from the backbone alone.

    python -m benchmarks.own_pictures [--steps 150] [--pictures 60] [--threads 1]

`deformable-tiny` on a small folder in COCO's format: Scenes of a world that no shipped
model has seen, with two categories of one's own, so that the class head starts anew.
Both runs see the same batches. One starts from all weights of the zoo's model that fit,
with a small learning rate that keeps what they know, the other from the backbone only,
with the recipe's own. Results: data/measured/own_pictures.json, which the book's page
"Your own pictures" draws.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from detr_steps import experiment, zoo
from detr_steps.data.coco import CocoFolder
from detr_steps.data.export import export
from detr_steps.data.scenes import Scenes
from detr_steps.data.transforms import Augment
from detr_steps.describable import from_json
from detr_steps.training import Recipe, train

from .measuring import MEASURED, machine, save

NAME, SIZE, WORLD = "deformable-tiny", 128, 3
ROUND = "disc", "ring", "moon"  # all others are "angular"
# prefix of the weights that are taken, and the learning rate
STARTS = {"fine-tuned": ("", 5e-5), "backbone alone": ("backbone.", 4e-4)}
VALIDATION = 24  # pictures


def folder(place: Path, split: str, count: int) -> tuple[Path, Path]:
    """Scenes as somebody's own pictures, with two categories."""
    export(Scenes(split, SIZE, WORLD), place, range(count))
    file = place / "annotations" / "instances.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    rounds = {c["id"] for c in content["categories"] if c["name"] in ROUND}
    for annotation in content["annotations"]:
        annotation["category_id"] = 1 if annotation["category_id"] in rounds else 2
    content["categories"] = [{"id": 1, "name": "round"}, {"id": 2, "name": "angular"}]
    file.write_text(json.dumps(content), encoding="utf-8")
    return place / "images", file


def start(classes: int, prefix: str) -> nn.Module:
    """A fresh model with those shipped weights that begin so and have its shapes."""
    torch.manual_seed(0)
    model = from_json(zoo.recipe(NAME)["model"] | {"classes": classes}).build()
    own = model.state_dict()
    taken = {
        key: value
        for key, value in zoo.weights(NAME).items()
        if key.startswith(prefix) and value.shape == own[key].shape
    }
    model.load_state_dict(own | taken)
    return model


def curve(home: Path, name: str, recipe: Recipe, data: list[CocoFolder]) -> list[dict]:
    """Train from one start; the lines of the record with an AP."""
    prefix, lr = STARTS[name]
    model, recipe = start(data[0].classes, prefix), replace(recipe, lr=lr)
    validate = experiment.validator(model, data[1], recipe)
    record = train(model, data[0], recipe, home / name, validate=validate, device="cpu")
    keys = "step", "total", "AP", "AP50"
    return [
        {key: round(line[key], 4) for key in keys} for line in record if "AP" in line
    ]


def main() -> None:
    """Measure and write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    recipe = Recipe(
        steps=options.steps,
        batch=4,
        lr_factors=zoo.recipe(NAME)["recipe"]["lr_factors"],
        warmup=10,
        drops=(round(options.steps * 0.8),),
        evaluate_every=max(1, options.steps // 5),
        evaluate_images=VALIDATION,
        log_every=10,
        save_every=options.steps,
    )
    with tempfile.TemporaryDirectory() as temporary:
        home = Path(temporary)
        # the shipped model has seen one size only: how large a shape of so many pixels
        # is, as a share of the picture, it would have to learn anew for others
        reading = {"augment": Augment(short_sides=(SIZE,), crop=0), "workers": 0}
        trained = folder(home / "train", "train", options.pictures)
        data = [CocoFolder(*trained, **reading)]
        validated = folder(home / "val", "val", VALIDATION)
        data.append(CocoFolder(*validated, like=data[0], **reading))
        curves = {name: curve(home, name, recipe, data) for name in STARTS}
    settings = {"steps": recipe.steps, "batch": recipe.batch}
    settings["lr"] = {name: lr for name, (_, lr) in STARTS.items()}
    settings |= {"pictures": options.pictures, "validation": VALIDATION, "size": SIZE}
    save(
        MEASURED / "own_pictures.json",
        {"machine": machine(), "model": NAME, "settings": settings, "curves": curves},
    )


if __name__ == "__main__":
    main()
