"""Translate, check everything, and only then change the model."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from torch import Tensor, nn

from ..files import read_json
from .differing import differences
from .files import read_contents, weights_in
from .layouts import OwnNames, layout_of
from .names import HF_RENAMED, SIGNS, rename, split_fused
from .unwrapping import CheckpointError, strip

SHOWN = 4  # names of each kind that a report prints

ClassHead = Literal["load", "keep"]


@dataclass(frozen=True)
class Report:
    """What happened to every weight; names are ours, `str(report)` is for people.

    `missing` in the checkpoint, `unexpected` in it, `wrong_shape` (name, theirs, ours),
    `kept` weights of the model that were left alone; `class_head` whether those that
    tell classes were, and why; `notes` how the weights were found, where that is worth
    a word: under which key, without which prefix.
    """

    loaded: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    unexpected: tuple[str, ...] = ()
    wrong_shape: tuple[tuple[str, tuple, tuple], ...] = ()
    class_head: str = ""
    notes: tuple[str, ...] = ()

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
        lines += [note for note in (self.class_head, *self.notes) if note]
        return "\n  ".join(lines)


def load_official(
    model: nn.Module, path: str | Path, class_head: ClassHead = "load"
) -> Report:
    """Load a checkpoint of a system's authors, then switch to eval.

    `model` a `DETR` or a `PanopticDETR` (facebookresearch/detr), a `DeformableDETR`
    (fundamentalvision/Deformable-DETR), a `ConditionalDETR`
    (Atten4Vis/ConditionalDETR), a `DABDETR` (IDEA-Research/DAB-DETR) or an `AdaMixer`
    (MCG-NJU/AdaMixer); `path` a `.pth` with the key "model", a plain state dict or a
    safetensors file of the same names. `class_head="keep"` leaves the model's own class
    heads alone: to fine-tune on other classes.
    Raises: CheckpointError, with nothing changed; TypeError for another system.
    Used in chapters/02_detr.ipynb.
    """
    layout = layout_of(model)
    state, notes, options = read_contents(Path(path))
    refuse_strangers(state, layout.official_sign)
    compare_settings(model, layout, state)
    compare_options(model, options)
    ours = split_fused(rename(state, layout.official(model.config)))
    return put(model, layout, ours, class_head, "load_official(model, path", notes)


def load_hf(
    model: nn.Module,
    source: str | Path | Mapping[str, Tensor],
    class_head: ClassHead = "load",
) -> Report:
    """Load weights of transformers, then switch to eval.

    `model` a `DETR` (its `DetrForObjectDetection`), a `PanopticDETR` (its
    `DetrForSegmentation`), a `DeformableDETR`, a `ConditionalDETR` or a `DABDETR`
    (named alike); `source` a folder with model.safetensors or pytorch_model.bin (and
    config.json, which is compared with the model), or a state dict; names of
    transformers 5 or 4. `class_head` and errors as in `load_official`.
    """
    layout = layout_of(model)
    if layout.hf is None:
        raise CheckpointError(
            f"transformers has no {type(model).__name__}: load the authors' file, with "
            "load_official"
        )
    if isinstance(source, Mapping):
        state, notes = strip(dict(source))
    else:
        compare_config(layout.hf_settings(model.config), Path(source))
        state, notes, _ = read_contents(weights_in(Path(source)))
    refuse_strangers(state, layout.hf_sign)
    compare_settings(model, layout, state)
    ours = rename(rename(state, HF_RENAMED), layout.hf(model.config))
    return put(model, layout, ours, class_head, "load_hf(model, folder", notes)


def put(
    model: nn.Module,
    layout: OwnNames,
    theirs: dict[str, Tensor],
    class_head: ClassHead,
    call: str,
    notes: tuple[str, ...] = (),
) -> Report:
    """Put weights under our names into a model if every one of them fits.

    `call` the beginning of a call, for advice. Raises: CheckpointError, with nothing
    changed.
    """
    if class_head not in get_args(ClassHead):
        raise ValueError(f"class_head={class_head!r}: one of {get_args(ClassHead)}")
    ours = model.state_dict()
    if class_head == "keep":
        head = {name: ours[name] for name in ours if _is_head(name, layout)}
        others = {n: v for n, v in theirs.items() if not _is_head(n, layout)}
        theirs = others | head
    else:
        head = {}
    # frozen batch norm counts nothing
    theirs = {k: v for k, v in theirs.items() if not k.endswith("num_batches_tracked")}
    report = replace(_compare(ours, theirs, tuple(head)), notes=notes)
    if not report.complete:
        advice = _diagnose(type(model.config), layout, ours, theirs, report, call)
        raise CheckpointError(f"{advice}. Nothing was loaded:\n  {report}")
    model.load_state_dict(theirs)
    model.eval()  # ready to detect; model.train() switches dropout on again
    return report


def _is_head(name: str, layout: OwnNames) -> bool:
    return name.startswith(layout.class_heads)


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
    layout: OwnNames,
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
            f"with queries={other}{_scheme_for(other, mine)}"
        )
    other_sizes = differences(theirs, ours)
    if report.missing and not report.unexpected and not wrong:
        return (
            f"{len(report.missing)} of {len(ours)} weights are missing: a partial "
            f"checkpoint, or one of a model with fewer layers{_said(other_sizes)}"
        )
    if not report.loaded and not wrong:
        return "none of its weights has a name that this model knows"
    if other_sizes:
        return (
            "the checkpoint belongs to a model of another size"
            f"{_said(other_sizes)} ({config.__name__} has the settings)"
        )
    return (
        f"{len(report.missing)} weights are missing, {len(report.unexpected)} "
        f"unexpected and {len(wrong)} of another shape, for a model of the same size: "
        f"compare what it was made with and the model's {config.__name__}"
    )


def _scheme_for(theirs: int, ours: int) -> str:
    """Which training schemes leave so many queries where inference has ours."""
    if theirs <= ours:
        return ""
    groups = f"scheme=Groups({theirs // ours}) if it is a Group DETR, "
    hybrid = f"scheme=Hybrid(queries={theirs - ours}) if it is an H-DETR"
    return f"; or with {'' if theirs % ours else groups}{hybrid}"


def _said(differences: list[str]) -> str:
    return f": it has {'; '.join(differences)}" if differences else ""


def compare_settings(
    model: nn.Module, layout: OwnNames, state: Mapping[str, Tensor]
) -> None:
    """Raise CheckpointError where a checkpoint's names show another kind of model."""
    for name, value in layout.settings_shown(state).items():
        mine = getattr(model.config, name)
        if mine != value:
            raise CheckpointError(
                f"the checkpoint is of a model with {name}={value}, this one has "
                f"{name}={mine}: build the model with {name}={value}"
            )


def compare_options(model: nn.Module, options: Mapping[str, object]) -> None:
    """Raise CheckpointError where a training script's options are not the model's.

    `options` of the official codes; those that change what is computed, but no shape.
    """
    dilated = getattr(model.config.backbone, "dilate_last", False)
    for key, mine in (("nheads", model.config.heads), ("dilation", dilated)):
        if options.get(key, mine) != mine:
            raise CheckpointError(
                f"the checkpoint was trained with {key}={options[key]!r}, this model "
                f"has {mine!r}: choose another checkpoint or another config"
            )


def refuse_strangers(state: Mapping[str, Tensor], own: str) -> None:
    """Raise CheckpointError that says what a checkpoint is, unless it has our sign."""
    sign = sign_of(state)
    if sign != own:
        raise CheckpointError(f"this is a checkpoint of {SIGNS[sign]}")


def sign_of(state: Mapping[str, Tensor]) -> str:
    """The part of a name that shows what kind of checkpoint this is: a key of SIGNS.

    Raises: CheckpointError where there is none, or the values are no tensors.
    """
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(
                f"{name!r} is a {type(value).__name__}, not a tensor: this is no state "
                'dict. Give the weights alone, e.g. checkpoint["model"]'
            )
    for sign in SIGNS:
        if any(sign in name for name in state):
            return sign
    raise CheckpointError(
        f"no DETR in it: its {len(state)} names begin with {sorted(state)[:SHOWN]}"
    )


def compare_config(ours: Mapping[str, object], folder: Path) -> None:
    """Raise CheckpointError where a folder's config.json says what we cannot compute.

    That is what changes the answer of a model, but not the shape of any weight.
    """
    file = folder / "config.json"
    theirs = read_json(file, "download it again") if file.is_file() else {}
    for key, value in ours.items():
        if theirs.get(key, value) != value:
            raise CheckpointError(
                f"{file} says {key} = {theirs[key]!r}, this model needs {value!r}: "
                "choose another checkpoint or another config"
            )
