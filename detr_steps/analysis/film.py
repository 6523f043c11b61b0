"""A film of a training: what a model saw and said at the steps whose weights are kept.

Built in chapters/02_detr.ipynb.
"""

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data.dataset import Dataset
from ..files import read_tensors, write_tensors
from ..images import ImageBatch, denormalise
from ..objective.matching import pad_targets
from .attention import (
    by_query,
    decoder_maps,
    effective_cells,
    extent,
    pack,
    run_with_trace,
)


@dataclass(frozen=True)
class Shot:
    """One picture through a training of F kept steps; one decoder layer, all heads.

    `rgb [3, H, W]` uint8; `queries [Q]` numbers of those shown; `maps [F, Q, M, h, w]`
    uint8 of the `peaks [F, Q, M]` (of sampling points their density); cells over which
    the mean of the heads, `spread [F, Q]`, and each head, `spread_heads [F, Q, M]`, is
    spread; `boxes [F, Q, 4]` cxcywh, `scores`, `labels` of the best class and `matched
    [F, Q]` object or -1; `truth [N, 4]`, `truth_labels [N]`.
    """

    rgb: Tensor
    queries: Tensor
    maps: Tensor
    peaks: Tensor
    spread: Tensor
    spread_heads: Tensor
    boxes: Tensor
    scores: Tensor
    labels: Tensor
    matched: Tensor
    truth: Tensor
    truth_labels: Tensor


@dataclass(frozen=True)
class Film:
    """Shots of some pictures at the same training `steps`.

    `scenes` the numbers of the pictures in the validation set, one a shot; `layer` of
    the decoder, from 1; class `names`; `curve [2, n]` steps and AP of the record.
    """

    steps: list[int]
    scenes: list[int]
    shots: list[Shot]
    layer: int
    names: list[str]
    curve: Tensor | None = None


def record(
    model: nn.Module,
    weights: Iterable[tuple[int, dict[str, Tensor]]],
    data: Dataset,
    scenes: Sequence[int],
    *,
    queries: int = 10,
) -> Film:
    """Show the same pictures to a model as it was at several steps.

    `weights` pairs of a step and the state it had then, in order; `data[scene]` gives
    normalised pixels and a target. Of each picture the last decoder layer is kept, and
    those of its `queries` that were matched most often, lastly matched ones first.
    The model itself is left as it is. Raises: ValueError without any weights.
    """
    actor = copy.deepcopy(model)
    items = [data[scene] for scene in scenes]
    steps, takes = [], [[] for _ in scenes]
    for step, state in weights:
        actor.load_state_dict(state)
        steps.append(int(step))
        for take, (pixels, target) in zip(takes, items):
            take.append(_take(actor, pixels, target))
    if not steps:
        raise ValueError("no weights were kept: train with steps in the recipe's keep")
    shots = [
        _shot(take, pixels, target, queries)
        for take, (pixels, target) in zip(takes, items)
    ]
    layer = len(actor.decoder)
    return Film(steps, list(scenes), shots, layer, list(data.class_names))


def _take(model: nn.Module, pixels: Tensor, target: dict) -> dict[str, Tensor]:
    """What the last layer says about one picture: fields of a Shot, of all queries."""
    batch = ImageBatch.from_pixels(pixels[None])
    seen = run_with_trace(model, batch)
    real = extent(batch, 0, seen.trace.sizes[0])
    weights = decoder_maps(seen, real)[-1]  # [Q, M, h, w]
    small, peaks = pack(weights)
    config = model.config
    probabilities = config.classification.probabilities(seen.logits[-1, 0])
    scores, labels = probabilities.max(-1)  # [Q]
    padded = pad_targets([target], config.classes, "cpu")
    matched = by_query(model.match(seen, padded)[-1, 0], len(scores))
    return {
        "maps": small,
        "peaks": peaks,
        "spread": effective_cells(weights.mean(1)),
        "spread_heads": effective_cells(weights),
        "boxes": seen.boxes[-1, 0],
        "scores": scores,
        "labels": labels,
        "matched": matched,
    }


def _shot(takes: list[dict], pixels: Tensor, target: dict, queries: int) -> Shot:
    whole = {key: torch.stack([take[key] for take in takes]) for key in takes[0]}
    chosen = cast(whole["matched"], queries)
    parts = {key: value[:, chosen] for key, value in whole.items()}
    return Shot(
        rgb=denormalise(pixels.cpu()).mul(255).round().to(torch.uint8),
        queries=chosen.to(torch.int16),
        maps=parts["maps"],
        peaks=parts["peaks"],
        spread=parts["spread"].half(),
        spread_heads=parts["spread_heads"].half(),
        boxes=parts["boxes"].half(),
        scores=parts["scores"].half(),
        labels=parts["labels"].to(torch.int16),
        matched=parts["matched"].to(torch.int16),
        truth=target["boxes"].float().cpu(),
        truth_labels=target["labels"].to(torch.int16).cpu(),
    )


def cast(matched: Tensor, count: int) -> Tensor:
    """Pick the queries worth showing `[Q]`: matched lastly, then most often.

    `matched [F, Q]` object or -1; returned in their order.
    """
    busy = (matched >= 0).float()  # [F, Q]
    worth = busy.mean(0) + busy[-1]
    return worth.argsort(descending=True, stable=True)[:count].sort().values


def save(path: Path, film: Film) -> None:
    """Write a film into one safetensors file; the curve stays with the record."""
    tensors = {
        f"{index}.{part.name}": getattr(shot, part.name)
        for index, shot in enumerate(film.shots)
        for part in fields(Shot)
    }
    notes = {
        "steps": film.steps,
        "scenes": film.scenes,
        "layer": film.layer,
        "names": film.names,
    }
    write_tensors(Path(path), tensors, notes)


def read(path: Path, record: Sequence[dict] = ()) -> Film:
    """Read a film; `record` lines with an AP become its curve.

    Raises: FileNotFoundError; ValueError for a damaged file or one of another kind.
    """
    tensors, notes = read_tensors(Path(path))
    names = [part.name for part in fields(Shot)]
    try:
        shots = [
            Shot(*(tensors[f"{index}.{name}"] for name in names))
            for index in range(len(notes["scenes"]))
        ]
        film = Film(
            notes["steps"], notes["scenes"], shots, notes["layer"], notes["names"]
        )
    except KeyError as error:
        raise ValueError(f"{path} is no film: it has no {error}") from error
    points = [(x["step"], x["AP"]) for x in record if x.get("AP") is not None]
    if not points:
        return film
    return replace(film, curve=torch.tensor(points, dtype=torch.float32).T)
