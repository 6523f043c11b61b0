"""Any checkpoint by its name or path: the model it belongs to, with its weights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from .. import zoo
from ..describable import from_json
from ..systems.panoptic import PanopticDETR
from ..systems.scheme import PLAIN
from .classes import fits, names_of
from .finding import Found, find
from .layouts import layout_of, own_names
from .loading import (
    Report,
    compare_config,
    compare_options,
    compare_settings,
    put,
    sign_of,
)
from .names import SIGNS
from .recognising import (
    HF,
    OF_SCHEMES,
    Foreign,
    class_rows,
    config_class,
    presets,
    recognise,
)
from .unwrapping import CheckpointError

# settings of a config that change what a model computes, but maybe no weight's shape
HIDDEN = "heads", "refine", "query_source", "encoder_sampling", "decoder_sampling"
# what is said beside the weights: their name -> the setting of our configs
IN_CONFIG = {  # config.json
    "decoder_attention_heads": "heads",
    "dilation": "dilate_last",
    "with_box_refine": "refine",
    "num_queries": "queries",
}
IN_OPTIONS = {
    "nheads": "heads",
    "dilation": "dilate_last",
    "num_queries": "queries",
    "group_detr": "groups",  # Group DETR
    "num_queries_one2one": "queries",  # H-DETR, as are these
    "num_queries_one2many": "more_queries",
    "k_one2many": "repeats",
    "lambda_one2many": "many_weight",
}
OURS = "detr_steps itself"  # how SIGNS calls weights under our own names


class Opened(NamedTuple):
    """A model ready to detect, its classes' names, and `resize` in pixels: the short
    side that pictures are scaled to and the longest side allowed.

    `report` says how it was found; `description` is that of a run of ours, or None.
    """

    model: nn.Module
    class_names: list[str]
    resize: tuple[int, int]
    report: Report
    description: dict | None

    @property
    def named(self) -> bool:
        """Whether anybody knows the classes' names; else they are numbered."""
        return self.class_names != _numbered(len(self.class_names))


def _numbered(classes: int) -> list[str]:
    return [f"class {label}" for label in range(classes)]


def open_checkpoint(
    source: str | Path,
    preset: str | None = None,
    device: torch.device | str = "cpu",
) -> Opened:
    """Make the model of a checkpoint, whoever made it, and load it.

    `source`: a name in the zoo; the folder of a run or one of its files; a file of the
    authors of DETR or Deformable DETR; a folder from the Hugging Face hub, its file or
    its index of several files. The model is recognised by its weights; `preset`, one of
    `interop.presets()`, decides what no weight shows: a dilated last stage, the heads.
    Raises: CheckpointError, with what it is instead or what to do.
    """
    found = find(source)
    if found.description is not None:
        return _open_own(source, found, device)
    foreign = _recognise(source, found)
    config = _config(source, foreign, preset)
    model = config.build()
    report = _load_foreign(model, found, foreign, head="load")
    names = names_of(found.config, config.classes)
    names = names or _numbered(config.classes)
    report = replace(report, notes=(f"recognised as {_called(config)}", *report.notes))
    return Opened(model.to(device).eval(), names, found.size, report, None)


def load(
    model: nn.Module, source: str | Path, class_names: Sequence[str] | None = None
) -> Report:
    """Load a checkpoint into a model, to go on from there; then switch to eval.

    `source` as in `open_checkpoint`; `class_names` those the model is to tell apart.
    The class head is taken over exactly where it fits: the same number of classes and,
    where both sides' names are known, the same names; `report.class_head` says it. A
    `PanopticDETR` takes a DETR as well, and keeps its own mask head.
    Raises: CheckpointError, with nothing changed.
    """
    found = find(source)
    if isinstance(model, PanopticDETR) and not _has_masks(found):
        detector = model.config.detector.build()
        report = _load(detector, found, source, class_names)
        model.load_state_dict(detector.state_dict(), strict=False)
        model.eval()
        kept = tuple(sorted(model.state_dict().keys() - detector.state_dict().keys()))
        note = "a detector without mask head: that of the model starts anew"
        return replace(report, kept=report.kept + kept, notes=(*report.notes, note))
    return _load(model, found, source, class_names)


def _has_masks(found: Found) -> bool:
    return any(name.startswith("mask_head.") for name in found.state)


def _load(
    model: nn.Module,
    found: Found,
    source: str | Path,
    class_names: Sequence[str] | None,
) -> Report:
    sign = sign_of(found.state) if found.description is None else OURS
    ours = (model.config.classes, class_names)
    if sign == OURS or SIGNS[sign].startswith(OURS):
        theirs = _own_classes(model, found)
        fit, why = _fits(_own_config(model, found), model, theirs, ours)
        return _load_own(model, found, "load" if fit else "keep", why)
    foreign = _recognise(source, found)
    classes = foreign.classes
    theirs = classes, names_of(found.config, classes)
    fit, why = _fits(config_class(foreign.system).coco_r50(), model, theirs, ours)
    report = _load_foreign(model, found, foreign, "load" if fit else "keep")
    return replace(report, class_head=why)


# --- ours --------------------------------------------------------------------------


def _open_own(source: str | Path, found: Found, device: torch.device | str) -> Opened:
    model = from_json(found.description["model"]).build()
    if not hasattr(model, "detect"):
        raise CheckpointError(
            f"{source} is a {type(model).__name__} and finds no boxes: name a detector"
        )
    report = _load_own(model, found, "load", "")
    names = zoo.class_names(found.description)
    resize = zoo.resize_rule(found.description)
    return Opened(model.to(device).eval(), names, resize, report, found.description)


def _own_config(model: nn.Module, found: Found) -> object:
    if found.description is None:
        return model.config  # nothing else is known
    return from_json(found.description["model"])


def _own_classes(model: nn.Module, found: Found) -> tuple[int | None, list[str] | None]:
    rows = class_rows(found.state, own_names(model).class_heads)
    if found.description is None or rows is None:
        extra = model.config.classification.outputs(0)
        return (None if rows is None else rows - extra), None
    config = from_json(found.description["model"])
    return getattr(config, "classes", None), zoo.class_names(found.description)


def _load_own(model: nn.Module, found: Found, head: str, why: str) -> Report:
    theirs = _own_config(model, found)
    if type(theirs) is not type(model.config):
        raise CheckpointError(
            f"the checkpoint is of a {type(theirs).__name__.removesuffix('Config')}, "
            f"the model is a {type(model).__name__}: take a recipe of the same system"
        )
    for setting in HIDDEN:
        mine, other = (getattr(c, setting, None) for c in (model.config, theirs))
        if mine != other:
            raise CheckpointError(
                f"the checkpoint is of a model with {setting}={other}, this one has "
                f"{setting}={mine}: build the model with {setting}={other}"
            )
    call = "interop.load(model, source"
    report = put(model, own_names(model), found.state, head, call, found.notes)
    return replace(report, class_head=why)


# --- theirs ------------------------------------------------------------------------


def _recognise(source: str | Path, found: Found) -> Foreign:
    stated = {
        here: place[there]
        for place, names in ((found.config, IN_CONFIG), (found.options, IN_OPTIONS))
        for there, here in names.items()
        if there in place
    }
    if "dilate_last" not in stated and "dc5" in Path(source).name.lower():
        stated["dilate_last"] = True  # changes no weight: the name is all there is
    try:
        return recognise(found.state, **stated)
    except CheckpointError as error:
        if OURS in str(error):
            raise CheckpointError(
                f"{source} has weights of {OURS}, and no recipe.json beside it says of "
                "which model: put both into one folder"
            ) from error
        raise CheckpointError(f"{source}: {error}") from error


def _config(source: str | Path, foreign: Foreign, preset: str | None) -> object:
    if preset is not None and preset not in presets():
        raise CheckpointError(f"no preset {preset!r}: there are {', '.join(presets())}")
    chosen = presets()[preset]() if preset else None
    if chosen is not None and type(chosen) is not config_class(foreign.system):
        raise CheckpointError(
            f"{source} is a checkpoint of {foreign.system.__name__}, and {preset} is a "
            "preset of another system"
        )
    if chosen is not None:
        said = {k: v for k, v in foreign.stated.items() if k in OF_SCHEMES}
        foreign = replace(foreign, stated=said)  # the preset decides all else
    try:
        return foreign.config(chosen)
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from error


def _load_foreign(
    model: nn.Module, found: Found, foreign: Foreign, head: str
) -> Report:
    layout = layout_of(model)
    if not isinstance(model, foreign.system):
        raise CheckpointError(
            f"the checkpoint is of a {foreign.system.__name__}, the model is a "
            f"{type(model).__name__}: take a recipe of the same system"
        )
    if foreign.style == HF and found.folder is not None:
        compare_config(layout.hf_settings(model.config), found.folder)
    compare_settings(model, layout, found.state)
    compare_options(model, found.options)
    ours = foreign.renamed(model.config)
    return put(model, layout, ours, head, "interop.load(model, source", found.notes)


def _fits(
    their_config: object,
    model: nn.Module,
    theirs: tuple[int | None, Sequence[str] | None],
    ours: tuple[int, Sequence[str] | None],
) -> tuple[bool, str]:
    kinds = [
        type(getattr(config, "classification", None)).__name__
        for config in (their_config, model.config)
    ]
    if kinds[0] != kinds[1]:
        return False, (
            f"class head started anew: {kinds[0]} tells the checkpoint's classes apart,"
            f" {kinds[1]} the model's"
        )
    return fits(theirs, ours)


def _called(config: object) -> str:
    """The preset that a config is, but for the number of its classes and queries."""
    free = {name: getattr(config, name) for name in ("classes", "queries", "scheme")}
    trained = "" if config.scheme == PLAIN else f", trained with {config.scheme}"
    for name, make in presets().items():
        preset = make()
        if type(preset) is type(config) and replace(preset, **free) == config:
            counts = f"{config.classes} classes, {config.queries} queries"
            return f"{name}, {counts}{trained}"
    kind = type(config).__name__.removesuffix("Config")
    return f"a {kind} of its own size{trained}"
