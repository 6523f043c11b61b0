"""`detr-steps train`."""

import argparse
import copy
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch

from .. import experiment, zoo
from ..distributed import world
from ..files import read_json, read_notes
from ..training.device import pick_device
from ..training.folder import differences, has_ended, read_description
from .arguments import add_folder, positive, whole
from .data import say_left_out
from .models import ANY_MODEL, start_from

# option -> the setting of the recipe that it takes the place of
SETTINGS = {
    "batch": "batch",
    "seed": "seed",
    "lr": "lr",
    "evaluate_every": "evaluate_every",
    "limit": "evaluate_images",
    "patience": "patience",
}
STARTS = "weights", "backbone"
# what differs between two descriptions -> the option that decides it
OPTION_OF = {
    **{f"recipe.{setting}": option for option, setting in SETTINGS.items()},
    **{f"start.{part}": part for part in STARTS},
    "recipe.steps": "steps",
    "recipe.drops": "steps",
    "resize": "size",
    "augment": "size",
    "data": "train",
    "class_names": "train",
    "model.classes": "train",
    "validation": "val",
}
SMALLEST = 32  # pixels: one cell of the coarsest map


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `train`."""
    train = commands.add_parser(
        "train",
        help="train what a recipe describes",
        description="Train a recipe of the zoo by name, or a recipe.json. With "
        "--resume --out RUN alone, go on with a stopped run: its folder knows all "
        "options. Under torchrun the batch is shared between the processes.",
    )
    train.add_argument(
        "recipe", nargs="?", help=f"one of {', '.join(zoo.recipes())}, or a file"
    )
    train.add_argument("--out", type=Path, help="folder of the run (runs/RECIPE)")
    train.add_argument("--resume", action="store_true", help="go on with a stopped run")
    train.add_argument(
        "--device", help="cpu, cuda, cuda:1, xpu, mps, gpu (default: the GPU if any)"
    )
    _add_settings(train)
    train.add_argument("--publish", action="store_true", help="put the result into zoo")
    train.add_argument(
        "--publish-record", action="store_true", help="only its record, without weights"
    )
    add_folder(train, "--train", "train on this COCO-format folder")
    add_folder(train, "--val", "validate on this one")
    train.add_argument(
        "--size",
        type=whole(SMALLEST),
        help="short side of one's own pictures in pixels (that of the recipe's)",
    )
    train.add_argument(
        "--workers", type=whole(0), help="processes that read one's own pictures"
    )
    train.set_defaults(run=run_train)


def _add_settings(train: argparse.ArgumentParser) -> None:
    train.add_argument(
        "--steps",
        type=whole(1),
        help="instead of the recipe's; the learning rate drops after the same share",
    )
    train.add_argument("--batch", type=whole(1), help="images per step, all processes")
    train.add_argument("--lr", type=positive, help="learning rate")
    train.add_argument("--seed", type=whole(0))
    train.add_argument(
        "--evaluate-every", type=whole(1), metavar="STEPS", help="steps between scores"
    )
    train.add_argument(
        "--limit", type=whole(1), metavar="IMAGES", help="score only so many of them"
    )
    train.add_argument(
        "--patience",
        type=whole(1),
        metavar="N",
        help="end after N scores that are no better than the best before",
    )
    train.add_argument(
        "--weights",
        metavar="MODEL",
        help=f"start from a checkpoint: {ANY_MODEL}; classes may differ",
    )
    train.add_argument(
        "--backbone",
        help="ImageNet weights of torchvision (.pth), or an entry of the zoo",
    )


def run_train(options: argparse.Namespace) -> int:
    """Train; prints the last line of the record."""
    device = pick_device(options.device)  # before anything that takes time
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        torch.distributed.init_process_group(
            "nccl" if device.type == "cuda" else "gloo"
        )
    try:
        _train(options)
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
    return 0


def _train(options: argparse.Namespace) -> None:
    out = _out(options)
    begun = options.resume and (out / "recipe.json").is_file()
    before = read_description(out) if begun else None
    description = _describe(options, before)
    data, validation = experiment.open_data(description, options.workers)
    if experiment.has_folders(description):
        description = experiment.for_classes(description, data)
        _say_about_pictures(options, description)
    if before:
        _refuse_other_options(out, differences(before, description))
    say_left_out(*dict.fromkeys((data, validation)))  # once if they are one
    record = experiment.run(
        description,
        out,
        data=data,
        validation=validation,
        resume=options.resume,
        device=options.device,
    )
    say_left_out(*dict.fromkeys((data, validation)), after=True)
    if world()[0] == 0:
        _conclude(options, out, record)


def _say(text: str) -> None:
    """For people; what programs read goes to stdout."""
    if world()[0] == 0:
        print(text, file=sys.stderr)


def _out(options: argparse.Namespace) -> Path:
    if options.recipe:
        return options.out or Path("runs") / Path(options.recipe).stem
    if options.publish or options.publish_record:
        raise ValueError("--publish needs the recipe's name: detr-steps train NAME …")
    if not options.resume or not options.out:
        raise ValueError(
            "name what to train (detr-steps train RECIPE; there are "
            f"{', '.join(zoo.recipes())}), or a run to go on with (--resume --out RUN)"
        )
    if not (options.out / "recipe.json").is_file():
        raise ValueError(
            f"{options.out} holds no run to go on with: name its folder with --out, or "
            "a recipe to begin one"
        )
    return options.out


def _describe(options: argparse.Namespace, before: dict | None) -> dict:
    """What is to be trained: a recipe, or the run as it was begun, and the options."""
    if options.recipe is None:
        description = copy.deepcopy(before)
    elif Path(options.recipe).is_file():
        description = read_json(Path(options.recipe), "mend it there")
    else:
        description = zoo.recipe(options.recipe)
    experiment.check(description, options.recipe or options.out / "recipe.json")
    if options.steps is not None:
        _set_steps(description["recipe"], options.steps)
    for option, setting in SETTINGS.items():
        if getattr(options, option) is not None:
            description["recipe"][setting] = getattr(options, option)
    for part in STARTS:
        if getattr(options, part):
            begin = start_from(getattr(options, part))
            description["start"] = description.get("start", {}) | {part: begin}
    return _with_pictures(options, description)


def _set_steps(recipe: dict, steps: int) -> None:
    """Another length, the same schedule: a short run learns slowly at its end too."""
    share = steps / recipe["steps"]
    recipe["drops"] = [round(drop * share) for drop in recipe.get("drops", ())]
    recipe["steps"] = steps


def _with_pictures(options: argparse.Namespace, description: dict) -> dict:
    if not (options.train or options.val or options.size):
        return description
    train = options.train or _pair(description["data"])
    if train is None:
        raise ValueError(
            "--val and --size are for one's own pictures: add --train IMAGES JSON"
        )
    own = description["validation"] != description["data"]
    known = _pair(description["validation"]) if own and not options.recipe else None
    return experiment.with_folders(
        description, train, options.val or known, options.size
    )


def _pair(place: dict) -> experiment.Pair | None:
    if "images" not in place:
        return None
    return Path(place["images"]), Path(place["annotations"])


def _say_about_pictures(options: argparse.Namespace, description: dict) -> None:
    size, longest = description["resize"]
    if options.train and options.size is None:
        _say(
            f"pictures are scaled to a short side of {size} pixels, at most {longest}, "
            f"as those of {options.recipe or 'the recipe'}; --size N takes another"
        )
    if description["validation"] == description["data"]:
        _say("AP is measured on the training pictures: --val IMAGES JSON adds others")


def _refuse_other_options(out: Path, changed: dict[str, str]) -> None:
    """A run goes on as it was begun; say which options are not of it."""
    said: dict[str, str] = {}
    for key, how in changed.items():
        parts = key.split(".")
        prefixes = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        option = next((OPTION_OF[p] for p in prefixes if p in OPTION_OF), None)
        said.setdefault(f"--{option.replace('_', '-')}" if option else key, how)
    if said:
        plain = _command(["train", "--resume", "--out", str(out)])
        raise ValueError(
            f"the run in {out} was begun with other settings: "
            + "; ".join(f"{name} {how}" for name, how in said.items())
            + f". {plain} goes on with its own; for others name another folder"
        )


def _conclude(options: argparse.Namespace, out: Path, record: list[dict]) -> None:
    last = record[-1] if record else {}
    print(json.dumps({k: v for k, v in last.items() if k != "per_class"}))
    if not has_ended(out):
        _say(f"go on with: {_how_to_go_on(options, out)}")
        return
    best = out / "best.safetensors"
    notes = read_notes(best) if best.exists() else {"step": last.get("step")}
    if notes["step"] != last.get("step"):
        _say(
            f"the best score was {notes['score']:.4f}, of step {notes['step']}: name "
            f"{best} as the model to use it"
        )
    if options.publish:
        _say(f"published to {zoo.publish(out, Path(options.recipe).stem)}")
    elif options.publish_record:
        _say(f"published to {zoo.publish_record(out, Path(options.recipe).stem)}")


def _how_to_go_on(options: argparse.Namespace, out: Path) -> str:
    """The shortest command that does it."""
    if options.publish or options.publish_record:  # under the recipe's name
        typed = options.typed
        return _command(typed if options.resume else [*typed, "--resume"])
    words = ["train", "--resume", "--out", str(out)]
    for option in ("device", "workers"):  # of this machine, not of the run
        if getattr(options, option) is not None:
            words += [f"--{option}", str(getattr(options, option))]
    return _command(words)


def _command(words: list[str]) -> str:
    join = subprocess.list2cmdline if os.name == "nt" else shlex.join
    return join(["detr-steps", *words])
