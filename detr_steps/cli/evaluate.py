"""`detr-steps evaluate`: score a checkpoint with pycocotools."""

import argparse
import hashlib
import sys
from pathlib import Path

from .. import experiment, interop
from ..data.coco import CocoFolder
from ..data.dataset import Dataset
from ..data.problems import one_line
from ..data.transforms import Augment
from ..evaluation import (
    Relabelled,
    detect,
    evaluate_panoptic,
    results_of,
    score,
    write_results,
)
from ..evaluation.names import distinct, is_class
from ..training.device import memory_named, pick_device
from . import segments
from .arguments import add_folder, new_file, whole
from .models import add_model, say_how


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `evaluate`."""
    parser = commands.add_parser(
        "evaluate",
        help="score a checkpoint with pycocotools",
        description="Without --data on the run's own validation data. Categories are "
        "matched with the run's classes by name; their ids may differ.",
    )
    add_model(parser, "model")
    parser.add_argument("--limit", type=whole(1), help="only so many images")
    parser.add_argument("--device")
    add_folder(parser, "--data", "score on this COCO-format folder")
    parser.add_argument(
        "--results",
        type=new_file,
        metavar="FILE",
        help="write all detections in COCO's results format",
    )
    parser.add_argument(
        "--panoptic",
        action="store_true",
        help="score masks and segments of all pixels as well (PQ); the JSON of --data "
        "is a panoptic one",
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Score a checkpoint on its own validation data, or on a folder."""
    device = pick_device(options.device or "cpu")
    opened = interop.open_checkpoint(options.model, options.preset, device)
    say_how(opened.report)
    recipe = opened.description["recipe"] if opened.description else {}
    batch = recipe.get("batch", 16)
    if options.panoptic:
        return _run_panoptic(options, opened, batch)
    model, data = opened.model, _data(options, opened)
    with memory_named(device, f"batches of {batch} images"):
        pairs = detect(model, data, batch=batch, limit=options.limit)
    _print(score(pairs, data), data.class_names)
    if options.results:
        write_results(options.results, results_of(pairs, data))
        _say(f"detections of {len(pairs)} images: {options.results}")
    return 0


def _run_panoptic(
    options: argparse.Namespace, opened: interop.Opened, batch: int
) -> int:
    segments.require_masks(opened, options.model)
    if options.results:
        raise ValueError(
            "--results with --panoptic: detr-steps predict --panoptic --results FILE "
            "writes segments"
        )
    data = segments.panoptic_data(options.data, opened, options.model)
    device = next(opened.model.parameters()).device
    with memory_named(device, f"batches of {batch} images"):
        found = evaluate_panoptic(opened.model, data, batch=batch, limit=options.limit)
    _print(found, data.class_names)
    return 0


def _say(text: str) -> None:
    """For people; the scores go to stdout."""
    print(one_line(text), file=sys.stderr)


def _print(result: dict, class_names: list[str]) -> None:
    per_class = result.pop("per_class")
    shown = {n for name, n in zip(class_names, distinct(class_names)) if is_class(name)}
    classes = [(one_line(name), ap) for name, ap in per_class.items() if name in shown]
    for name, value in [*result.items(), *classes]:  # a class may be called "AP"
        print(f"{name:10} {'–' if value is None else f'{value:.4f}'}")


def _data(options: argparse.Namespace, opened: interop.Opened) -> Dataset:
    """What to score on; says where the numbers are not what one may think."""
    if options.data:
        return _open(options.data, opened)
    description = opened.description
    if description is None:
        raise ValueError(
            f"{options.model} says nothing about pictures: add --data IMAGES JSON"
        )
    place = description["validation"]
    if place.get("kind") != experiment.FOLDER and "class_names" in description:
        place = {}  # somebody's own pictures, of a run that did not note where they lie
    elif place.get("kind") != experiment.FOLDER:
        return experiment.open_data(description)[1]
    if "images" not in place:
        raise ValueError(
            f"{options.model} does not say which pictures to score on: add "
            "--data IMAGES JSON (COCO: --data val2017 annotations/"
            "instances_val2017.json)"
        )
    if place == description["data"]:
        _say(
            "AP is measured on the training pictures, as the run had no --val: "
            "--data IMAGES JSON scores on others"
        )
    data = _open((Path(place["images"]), Path(place["annotations"])), opened)
    if place.get("sha256", "") not in ("", _sum(place["annotations"])):
        _say(f"{place['annotations']} has changed since the run was begun")
    return data


def _sum(file: str) -> str:
    return hashlib.sha256(Path(file).read_bytes()).hexdigest()


def _open(pair: experiment.Pair, opened: interop.Opened) -> Relabelled:
    try:
        folder = CocoFolder(*pair, augment=Augment.none(*opened.resize))
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} (--data IMAGES JSON says where the pictures are)"
        ) from error
    if text := folder.left_out():
        print(text, file=sys.stderr)
    data = Relabelled(folder, _names(opened, folder))
    if data.unknown:
        names = ", ".join(map(repr, data.unknown))
        _say(f"{folder.file}: the model does not know {names}, which have no object")
    return data


def _names(opened: interop.Opened, folder: CocoFolder) -> list[str]:
    """The model's classes; where nobody named them, the folder's in their order."""
    if opened.named or len(folder.class_names) != len(opened.class_names):
        return opened.class_names
    _say(
        "the checkpoint does not name its classes: they are taken to be those of "
        f"{folder.file}, in the order of their ids"
    )
    return folder.class_names
