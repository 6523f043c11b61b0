"""`detr-steps evaluate`: score a checkpoint with pycocotools."""

import argparse

from .. import experiment, zoo
from ..data.coco import CocoFolder
from ..data.transforms import Augment
from ..evaluation import evaluate
from ..training.device import memory_named, pick_device
from .arguments import add_folder, whole


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `evaluate`."""
    score = commands.add_parser("evaluate", help="score a checkpoint with pycocotools")
    score.add_argument("model", help="name in the zoo, or folder of a run")
    score.add_argument("--limit", type=whole(1), help="only so many images")
    score.add_argument("--device")
    add_folder(score, "--data", "score on this COCO-format folder")
    score.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Score a checkpoint on its own validation data, or on a folder."""
    device = pick_device(options.device or "cpu")
    model = zoo.load(options.model, device)
    description = zoo.recipe(options.model)
    if options.data:
        short, longest = experiment.resize_rule(description)
        data = CocoFolder(*options.data, augment=Augment.none(short, longest))
    else:
        data = experiment.open_data(description)[1]
    batch = description["recipe"].get("batch", 16)
    with memory_named(device, f"batches of {batch} images"):
        result = evaluate(model, data, batch=batch, limit=options.limit)
    per_class = result.pop("per_class", {})
    for name, value in {**result, **per_class}.items():
        print(f"{name:10} {'–' if value is None else f'{value:.4f}'}")
    return 0
