"""From a description in JSON to a run: what `detr-steps train NAME` does."""

import hashlib
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from . import interop, zoo
from .data.coco import CocoFolder
from .data.dataset import Dataset
from .data.transforms import Augment
from .describable import from_json
from .distributed import world
from .evaluation import evaluate
from .interop.files import read
from .training import Recipe, Teacher, train
from .training.device import memory_named, pick_device
from .training.folder import has_checkpoint
from .training.freezing import belongs
from .zoo import class_names, resize_rule

# by the trainer and by publishing, or about publishing: not the run's own
ADDED = ("recipe", "sha256", "ship")
PARTS = ("recipe", "model", "data", "validation")  # what a description must have
FILES = ".pth", ".pt", ".bin", ".safetensors"  # of somebody else's weights
FOLDER = "folder"  # the kind of data that lie on a disk, in COCO's format

Pair = tuple[Path, Path]  # a folder of pictures and its annotation file


def run(
    description: dict,
    out: str | Path,
    *,
    data: Dataset | None = None,
    validation: Dataset | None = None,
    resume: bool = False,
    device: str | None = None,
) -> list[dict]:
    """Train what a `recipe.json` describes and return the record.

    `data` and `validation` replace the described data. A `teacher` in the description
    matches in place of the model: `{"weights": a run or an entry of the zoo, "steps":
    the first so many}`, without steps throughout. Warns of pictures with more
    objects than the model has queries. Raises: ValueError for a description that is
    none, or data that are not there or have changed; and as `training.train`.
    """
    check(description, "the recipe")
    recipe = Recipe.from_dict(description["recipe"], "the recipe")
    device = pick_device(device)
    if data is None or validation is None:
        described = open_data(description)
        data = described[0] if data is None else data
        validation = described[1] if validation is None else validation
    # a run that goes on has its weights; what it started from may be gone
    model = build(description, start=not (resume and has_checkpoint(out)))
    _warn_of_crowds(model, data)
    teacher = open_teacher(description)
    return train(
        model,
        data,
        recipe,
        out,
        validate=validator(model, validation, recipe),
        device=device,
        resume=resume,
        notes={key: description[key] for key in description if key not in ADDED},
        teacher=teacher,
    )


def check(description: dict, source: object) -> None:
    """Raise ValueError that names the `source` unless all parts of a run are there."""
    for part in PARTS:
        if not isinstance(description.get(part), dict):
            raise ValueError(
                f"{source} does not say its {part}: a recipe.json has "
                f"{', '.join(PARTS)} and start, each an object {{...}}"
            )


def build(description: dict, *, start: bool = True) -> nn.Module:
    """Make the described model, with what it starts from already loaded.

    `start` may name: `backbone`, an entry of the zoo or a file of torchvision's
    ImageNet weights; `weights`, any checkpoint that `interop.open_checkpoint` takes,
    whose class head is kept exactly where it fits, which is said; `parts`, for each of
    some parts of the model (`encoder`, `queries`, …) a run or an entry of the zoo whose
    part of that name it takes over. `start=False` leaves that to a checkpoint.
    Raises: ValueError for a part that either does not have, or of another shape.
    """
    torch.manual_seed(description["recipe"].get("seed", 0))
    model = from_json(description["model"]).build()
    source = description.get("start", {}) if start else {}
    if "backbone" in source:
        _start_backbone(model, source["backbone"])
    if "weights" in source:
        _start_weights(model, source["weights"], description)
    parts = source.get("parts", {})
    if not isinstance(parts, dict):
        raise ValueError(
            f"start: parts are {parts!r}: give an object with a run or an entry of the "
            'zoo for each part, {"encoder": "detr-tiny"}'
        )
    for part, origin in parts.items():
        _start_part(model, part, origin)
    return model


def _start_weights(model: nn.Module, source: str, description: dict) -> None:
    known = "class_names" in description or not has_folders(description)
    names = class_names(description) if known else None
    report = interop.load(model, source, names)
    _refuse_frozen_head(model, source, report)
    if world()[0] == 0:
        for line in (f"{source}: {report.class_head}", *report.notes):
            print(line, file=sys.stderr)


def _refuse_frozen_head(model: nn.Module, source: str, report: interop.Report) -> None:
    """A class head that starts anew and never learns would spoil every answer."""
    anew = any(name.startswith("class_head.") for name in report.kept)
    if anew and getattr(model.config, "freeze_detector", False):
        raise ValueError(
            f"{source}: {report.class_head}; but the detector is frozen and would not "
            "learn it: start from a detector of these classes, or take a recipe that "
            "trains boxes and masks together"
        )


def _start_backbone(model: nn.Module, source: str) -> None:
    if Path(source).suffix in FILES or Path(source).is_file():
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


def _start_part(model: nn.Module, part: str, source: str) -> None:
    """Take over one part of another model, a submodule or a parameter."""
    own = {k: v for k, v in model.state_dict().items() if belongs(k, part)}
    theirs = {k: v for k, v in zoo.weights(source).items() if belongs(k, part)}
    for whose, found in (("the model", own), (source, theirs)):
        if not found:
            raise ValueError(f"start: {whose} has no part {part!r} to take over")
    for name in sorted(own | theirs):
        mine, other = (
            list(state[name].shape) if name in state else "missing"
            for state in (own, theirs)
        )
        if mine != other:
            raise ValueError(
                f"start: {part} of {source} does not fit: {name} is {other} there and "
                f"{mine} here"
            )
    model.load_state_dict(theirs, strict=False)


TEACHER = ("weights", "steps")  # what a description may say of a teacher


def open_teacher(description: dict) -> Teacher | None:
    """Load the model whose assignments a description's run learns by, if it names one.

    Raises: ValueError for a description that is none, and for other class names;
    KeyError, FileNotFoundError for a model that is not there.
    """
    said = description.get("teacher")
    if said is None:
        return None
    if not isinstance(said, dict) or "weights" not in said or set(said) - {*TEACHER}:
        raise ValueError(
            f'the teacher is {said!r}: give {{"weights": a run or an entry of the zoo}}'
            ', and "steps" where it does not teach throughout'
        )
    names, known = class_names(description), class_names(zoo.recipe(said["weights"]))
    if names != known:
        raise ValueError(
            f"the teacher {said['weights']} knows the classes {', '.join(known)}, the "
            f"run {', '.join(names)}: its assignments are of other objects"
        )
    return Teacher(zoo.load(said["weights"]), said.get("steps"))


def with_folders(
    description: dict, train: Pair, validation: Pair | None, size: int | None
) -> dict:
    """Change a description to somebody's own pictures, which lie in folders.

    Without `validation` it is the training pictures. `size` of the short side in
    pixels; without one it is that of the pictures which the recipe was made for.
    """
    short = size or resize_rule(description)[0]
    augment = asdict(Augment.small(short))
    if size is None:
        augment = description.get("augment", augment)  # somebody's own
    return description | {
        "data": _place(*train),
        "validation": _place(*(validation or train)),
        "augment": augment,
        "resize": [short, round(short * 1333 / 800)],
    }


def _place(images: Path, annotations: Path) -> dict:
    return {
        "kind": FOLDER,
        "images": str(Path(images).resolve()),
        "annotations": str(Path(annotations).resolve()),
    }


def for_classes(description: dict, data: CocoFolder) -> dict:
    """Change a description of folders to their classes, and seal the annotations.

    The run goes on only with the very annotations that it was begun with.
    """
    parts = {part: description[part] for part in ("data", "validation")}
    sealed = {part: value | {"sha256": _sum(value)} for part, value in parts.items()}
    model = description["model"] | {"classes": data.classes}
    classes = {"class_names": data.class_names, "category_ids": data.category_ids}
    return description | sealed | {"model": model} | classes


def _sum(place: dict) -> str:
    with open(place["annotations"], "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_folders(description: dict) -> bool:
    """Does a description need pictures from a disk?"""
    return description["data"].get("kind") == FOLDER


def open_data(description: dict, workers: int | None = None) -> tuple[object, object]:
    """Open the described training and validation data.

    `workers`: processes that read pictures, where these lie in folders. Raises:
    ValueError where the description does not name folders, or annotations have
    changed since the run was begun; FileNotFoundError where they have gone.
    """
    if not has_folders(description):
        return from_json(description["data"]), from_json(description["validation"])
    if "images" not in description["data"]:
        raise ValueError(
            "this recipe needs pictures: add --train IMAGES JSON and --val IMAGES JSON"
        )
    options = {"augment": _augment(description), "workers": workers}
    data = _open(description["data"], **options)
    if description["validation"] == description["data"]:
        return data, data
    return data, _open(description["validation"], like=data, **options)


def _augment(description: dict) -> Augment:
    if "augment" not in description:
        return Augment.small(resize_rule(description)[0])
    settings = description["augment"].items()
    return Augment(**{k: tuple(v) if isinstance(v, list) else v for k, v in settings})


def _open(place: dict, **options: object) -> CocoFolder:
    try:
        folder = CocoFolder(place["images"], place["annotations"], **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error} (data that have moved: --train IMAGES JSON and --val IMAGES JSON "
            "say where they are now)"
        ) from error
    if place.get("sha256", "") not in ("", _sum(place)):
        raise ValueError(
            f"{place['annotations']} has changed since the run was begun: put the old "
            "file back, or begin a new run in another folder"
        )
    return folder


def _warn_of_crowds(model: nn.Module, data: Dataset) -> None:
    """Say once that objects beyond the number of queries cannot be learned."""
    queries = getattr(model.config, "queries", None)
    if queries is None or not isinstance(data, CocoFolder) or world()[0]:
        return
    known = data.annotations
    until = np.concatenate(([0], np.cumsum(~known.crowd)))[known.first]  # [I + 1]
    objects = np.diff(until)  # [I]
    crowded = int((objects > queries).sum())
    if crowded:
        most = int(objects.argmax())
        warnings.warn(
            f"{crowded} of {len(objects)} pictures have more objects than the model "
            f"has queries ({queries}), up to {objects[most]} in {known.files[most]}: "
            "those beyond are not learned; take a recipe with more queries",
            stacklevel=2,
        )


def category_ids(description: dict) -> list[int]:
    """COCO ids of the classes, in label order: those of the training annotations.

    Of drawn Scenes those that `detr-steps data export` gives them, from 1.
    """
    numbered = list(range(1, len(class_names(description)) + 1))
    return description.get("category_ids", numbered)


def validator(
    model: nn.Module, validation: Dataset, recipe: Recipe
) -> Callable[[nn.Module], dict]:
    """What is measured while training: AP, or accuracy for a classifier.

    In batches as large as those of training: what fits there, fits here.
    """
    limit = recipe.evaluate_images
    if hasattr(model, "accuracy"):
        return lambda m: m.accuracy(validation, limit)
    batch = max(1, recipe.batch // world()[1])

    def validate(model: nn.Module) -> dict:
        device = next(model.parameters()).device
        with memory_named(device, f"validation batches of {batch} images"):
            return evaluate(model, validation, batch=batch, limit=limit)

    return validate
