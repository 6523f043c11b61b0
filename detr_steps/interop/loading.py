"""Translate, check everything, and only then change the model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor, nn

from .files import CheckpointError, read, weights_in
from .layouts import Layout, layout_of
from .names import HF_RENAMED, SIGNS, rename, split_fused

SHOWN = 4  # names of each kind that a report prints

ClassHead = Literal["load", "keep"]


@dataclass(frozen=True)
class Report:
    """What happened to every weight; names are ours, `str(report)` is for people.

    `missing` in the checkpoint, `unexpected` in it, `wrong_shape` (name, theirs, ours),
    `kept` weights of the model that were left alone on request.
    """

    loaded: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong_shape: tuple[tuple[str, tuple, tuple], ...] = ()

    @property
    def complete(self) -> bool:
        """True when every weight has found its place."""
        return not (self.missing or self.unexpected or self.wrong_shape)

    def __str__(self) -> str:
        shapes = [f"{name} {a} for {b}" for name, a, b in self.wrong_shape]
        lines = [f"{len(self.loaded)} weights fit"]
        for what, names in (
            ("kept as they were", self.kept),
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", shapes),
        ):
            if names:
                more = ", …" if len(names) > SHOWN else ""
                lines.append(f"{len(names)} {what}: {', '.join(names[:SHOWN])}{more}")
        return "\n  ".join(lines)


def load_official(
    model: nn.Module, path: str | Path, class_head: ClassHead = "load"
) -> Report:
    """Load a checkpoint of a system's authors, then switch to eval.

    `model` a `DETR` (facebookresearch/detr), a `DeformableDETR` (fundamentalvision/
    Deformable-DETR), a `ConditionalDETR` (Atten4Vis/ConditionalDETR) or a `DABDETR`
    (IDEA-Research/DAB-DETR); `path` a `.pth` with the key "model", a plain state dict
    or a safetensors file of the same names. `class_head="keep"` leaves the model's own
    class heads alone: to fine-tune on other classes.
    Raises: CheckpointError, with nothing changed; TypeError for another system.
    Used in chapters/02_detr.ipynb.
    """
    layout = layout_of(model)
    state = read(Path(path))
    _refuse_strangers(state, layout.official_sign)
    _compare_settings(model, layout, state)
    ours = split_fused(rename(state, layout.official(model.config)))
    return _load(model, layout, ours, class_head, "load_official(model, path")


def load_hf(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    class_head: ClassHead = "load",
) -> Report:
    """Load weights of transformers, then switch to eval.

    `model` a `DETR` (its `DetrForObjectDetection`), a `DeformableDETR`, a
    `ConditionalDETR` or a `DABDETR` (named alike); `source` a folder with
    model.safetensors or pytorch_model.bin (and config.json, which is compared with the
    model), or a state dict; names of transformers 5 or 4. `class_head` and errors as in
    `load_official`.
    """
    layout = layout_of(model)
    if isinstance(source, Mapping):
        state = dict(source)
    else:
        _compare_config(layout.hf_settings(model.config), Path(source))
        state = read(weights_in(Path(source)))
    _refuse_strangers(state, layout.hf_sign)
    _compare_settings(model, layout, state)
    ours = rename(rename(state, HF_RENAMED), layout.hf(model.config))
    return _load(model, layout, ours, class_head, "load_hf(model, folder")


def _load(
    model: nn.Module,
    layout: Layout,
    theirs: dict[str, Tensor],
    class_head: ClassHead,
    call: str,
) -> Report:
    if class_head not in get_args(ClassHead):
        raise ValueError(f"class_head={class_head!r}: one of {get_args(ClassHead)}")
    ours = model.state_dict()
    if class_head == "keep":
        head = {
            name: ours[name] for name in ours if name.startswith(layout.class_heads)
        }
        theirs = theirs | head
    else:
        head = {}
    # frozen batch norm counts nothing
    theirs = {k: v for k, v in theirs.items() if not k.endswith("num_batches_tracked")}
    report = _compare(ours, theirs, tuple(head))
    if not report.complete:
        advice = _diagnose(type(model.config), layout, ours, theirs, report, call)
        raise CheckpointError(f"{advice}. Nothing was loaded:\n  {report}")
    model.load_state_dict(theirs)
    model.eval()  # ready to detect; model.train() switches dropout on again
    return report


def _compare(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], kept: tuple[str, ...]
) -> Report:
    shapes = {
        name: (name, tuple(theirs[name].shape), tuple(value.shape))
        for name, value in ours.items()
        if name in theirs and theirs[name].shape != value.shape
    }
    fit = (n for n in ours if n in theirs and n not in shapes and n not in kept)
    return Report(
        loaded=tuple(fit),
        kept=kept,
        missing=tuple(name for name in ours if name not in theirs),
        unexpected=tuple(name for name in theirs if name not in ours),
        wrong_shape=tuple(shapes.values()),
    )


def _diagnose(
    config: type,
    layout: Layout,
    ours: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    report: Report,
    call: str,
) -> str:
    wrong = [name for name, _, _ in report.wrong_shape]
    if wrong and all(name.startswith(layout.class_heads) for name in wrong):
        mine, other = (len(x[wrong[0]]) - layout.no_object for x in (ours, theirs))
        return (
            f"the checkpoint knows {other} classes, the model {mine}: build the model "
            f"with classes={other} (as {config.__name__}.coco_r50(classes={other}) "
            f"does), or keep its own class head and train that: {call}, "
            'class_head="keep")'
        )
    if wrong and set(wrong) <= set(layout.queries):
        mine, other = (len(x[wrong[0]]) for x in (ours, theirs))
        return (
            f"the checkpoint has {other} queries, the model {mine}: build the model "
            f"with queries={other}"
        )
    if report.missing and not report.unexpected and not wrong:
        return (
            f"{len(report.missing)} of {len(ours)} weights are missing: a partial "
            "checkpoint, or one of a model with fewer layers"
        )
    return (
        "the checkpoint belongs to a model of another size: compare its backbone, its "
        f"layers and its channels with the model's {config.__name__}"
    )


def _compare_settings(
    model: nn.Module, layout: Layout, state: Mapping[str, Tensor]
) -> None:
    for name, value in layout.settings_shown(state).items():
        mine = getattr(model.config, name)
        if mine != value:
            raise CheckpointError(
                f"the checkpoint is of a model with {name}={value}, this one has "
                f"{name}={mine}: build the model with {name}={value}"
            )


def _refuse_strangers(state: Mapping[str, Tensor], own: str) -> None:
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{name!r} is a {type(value).__name__}, not a tensor: this is no state "
                'dict. Give the weights alone, e.g. checkpoint["model"]'
            )
    for sign, kind in SIGNS.items():
        if any(sign in name for name in state):
            if sign == own:
                return
            raise CheckpointError(f"this is a checkpoint of {kind}")
    raise CheckpointError(
        f"no DETR in it: its {len(state)} names begin with {sorted(state)[:SHOWN]}"
    )


def _compare_config(ours: Mapping[str, object], folder: Path) -> None:
    # things that change what a model computes, but not the shape of any weight
    file = folder / "config.json"
    if not file.is_file():
        return
    theirs = json.loads(file.read_text(encoding="utf-8"))
    for key, value in ours.items():
        if theirs.get(key, value) != value:
            raise CheckpointError(
                f"{file} says {key} = {theirs[key]!r}, this model needs {value!r}: "
                "choose another checkpoint or another config"
            )
