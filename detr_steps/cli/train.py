"""`detr-steps train` and `detr-steps evaluate`."""

import argparse
import json
import os
from pathlib import Path

import torch

from .. import experiment, zoo
from ..data.coco import CocoFolder
from ..data.transforms import Augment
from ..describable import from_json
from ..distributed import world
from ..evaluation import evaluate
from .data import say_left_out


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `train` and `evaluate`."""
    train = commands.add_parser(
        "train",
        help="train what a recipe describes",
        description="Train a recipe of the zoo by name, or a recipe.json. Under "
        "torchrun the batch is shared between the processes.",
    )
    train.add_argument("recipe", help=f"one of {', '.join(zoo.recipes())}, or a file")
    train.add_argument("--out", type=Path, help="folder of the run (runs/RECIPE)")
    train.add_argument("--resume", action="store_true", help="go on with a stopped run")
    train.add_argument("--device", help="cpu, cuda, cuda:1 (default: the GPU if any)")
    train.add_argument(
        "--steps",
        type=int,
        help="instead of the recipe's; the learning rate drops after the same share",
    )
    train.add_argument("--batch", type=int, help="images per step, all processes")
    train.add_argument("--seed", type=int)
    train.add_argument(
        "--weights",
        type=Path,
        help="start from a checkpoint of DETR's authors (.pth); classes may differ",
    )
    train.add_argument(
        "--backbone", type=Path, help="ImageNet weights of torchvision (.pth)"
    )
    train.add_argument("--publish", action="store_true", help="put the result into zoo")
    train.add_argument(
        "--publish-record", action="store_true", help="only its record, without weights"
    )
    _add_folder(train, "--train", "train on this COCO-format folder")
    _add_folder(train, "--val", "validate on this one")
    train.add_argument(
        "--size", type=int, help="short side in pixels for one's own data (800)"
    )
    train.set_defaults(run=run_train)
    score = commands.add_parser("evaluate", help="score a checkpoint with pycocotools")
    score.add_argument("model", help="name in the zoo, or folder of a run")
    score.add_argument("--limit", type=int, help="only so many images")
    score.add_argument("--device")
    _add_folder(score, "--data", "score on this COCO-format folder")
    score.set_defaults(run=run_evaluate)


def _add_folder(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    parser.add_argument(name, nargs=2, type=Path, metavar=("IMAGES", "JSON"), help=text)


def run_train(options: argparse.Namespace) -> int:
    """Train; prints the last line of the record."""
    if "WORLD_SIZE" in os.environ and int(os.environ["WORLD_SIZE"]) > 1:
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        torch.distributed.init_process_group(backend)
    description = _describe(options)
    data, validation = _folders(options)
    if data:
        description = experiment.for_classes(description, data, options.size)
    say_left_out(data, validation)
    out = options.out or Path("runs") / Path(options.recipe).stem
    record = experiment.run(
        description,
        out,
        data=data,
        validation=validation or data,
        resume=options.resume,
        device=options.device,
    )
    say_left_out(data, validation, after=True)
    if world()[0] == 0:
        _conclude(options, record, description["recipe"]["steps"], out)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
    return 0


def _describe(options: argparse.Namespace) -> dict:
    file = Path(options.recipe)
    if file.is_file():
        description = json.loads(file.read_text(encoding="utf-8"))
    else:
        description = zoo.recipe(options.recipe)
    if options.steps is not None:
        _set_steps(description["recipe"], options.steps)
    for key in ("batch", "seed"):
        if getattr(options, key) is not None:
            description["recipe"][key] = getattr(options, key)
    for part in ("weights", "backbone"):
        if getattr(options, part):
            description["start"][part] = str(getattr(options, part).resolve())
    return description


def _set_steps(recipe: dict, steps: int) -> None:
    """Another length, the same schedule: a short run learns slowly at its end too."""
    share = steps / recipe["steps"]
    recipe["drops"] = [round(drop * share) for drop in recipe.get("drops", ())]
    recipe["steps"] = steps


def _folders(
    options: argparse.Namespace,
) -> tuple[CocoFolder | None, CocoFolder | None]:
    if not options.train:
        return None, None
    augment = Augment.small(options.size) if options.size else Augment.paper()
    train = CocoFolder(*options.train, augment=augment)
    if not options.val:
        return train, None
    return train, CocoFolder(*options.val, augment=augment, like=train)


def _conclude(
    options: argparse.Namespace, record: list[dict], steps: int, out: Path
) -> None:
    last = {k: v for k, v in record[-1].items() if k != "per_class"} if record else {}
    print(json.dumps(last))
    if last.get("step") != steps:
        print(f"stopped early; go on with --resume --out {out}")
    elif options.publish:
        print(f"published to {zoo.publish(out, Path(options.recipe).stem)}")
    elif options.publish_record:
        print(f"published to {zoo.publish_record(out, Path(options.recipe).stem)}")


def run_evaluate(options: argparse.Namespace) -> int:
    """Score a checkpoint on its own validation data, or on a folder."""
    model = zoo.load(options.model, options.device or "cpu")
    description = zoo.recipe(options.model)
    if options.data:
        short, longest = experiment.resize_rule(description)
        data = CocoFolder(*options.data, augment=Augment.none(short, longest))
    else:
        data = from_json(description["validation"])
    result = evaluate(model, data, limit=options.limit)
    per_class = result.pop("per_class", {})
    for name, value in {**result, **per_class}.items():
        print(f"{name:10} {'–' if value is None else f'{value:.4f}'}")
    return 0
