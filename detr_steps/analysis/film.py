"""A film of a training: what a model saw and said at the steps whose weights are kept.

Built in chapters/02_detr.ipynb.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data.dataset import Dataset
from ..files import read_tensors, write_tensors
from ..images import ImageBatch, denormalise
from .attention import (
    PackedMaps,
    class_probabilities,
    decoder_maps,
    extent,
    map_size,
    matched_objects,
    pack,
    run_with_trace,
    without_crowds,
)
from .states import models_at


@dataclass(frozen=True)
class Shot:
    """One picture through a training of F kept steps; one decoder layer, all heads.

    `rgb [3, H, W]` uint8; `queries [Q]` numbers of those shown; `maps [F, Q, M, h, w]`,
    `peaks`, `spread` and `spread_heads` as of `PackedMaps` (of sampling points their
    density); `boxes [F, Q, 4]` cxcywh, `scores`, `labels` of the best class and
    `matched [F, Q]` object or -1; `truth [N, 4]`, `truth_labels [N]`.
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

    @property
    def packed(self) -> PackedMaps:
        """The maps as figures take them."""
        return PackedMaps(self.maps, self.peaks, self.spread, self.spread_heads)

    def first(self, count: int) -> "Shot":
        """The same with at most so many queries: those matched most often."""
        chosen = cast(self.matched, count)
        whole = ("rgb", "truth", "truth_labels", "queries")
        names = [part.name for part in fields(Shot) if part.name not in whole]
        parts = {name: getattr(self, name)[:, chosen] for name in names}
        return replace(self, queries=self.queries[chosen], **parts)


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
    The model itself is left as it is. Raises: ValueError without any weights, or for
    those of another model.
    """
    items = [(pixels, without_crowds(t)) for pixels, t in (data[s] for s in scenes)]
    steps, takes = [], [[] for _ in scenes]
    for step, actor in models_at(model, weights):
        steps.append(step)
        for take, (pixels, target) in zip(takes, items):
            take.append(_take(actor, pixels, target))
    shots = [_shot(take, *item, queries) for take, item in zip(takes, items)]
    layer = len(model.decoder)
    return Film(steps, list(scenes), shots, layer, list(data.class_names))


# what a file needs to hold of each: enough digits for a figure
KINDS = dict.fromkeys(("spread", "spread_heads", "boxes", "scores"), torch.float16)
KINDS |= dict.fromkeys(("labels", "matched", "truth_labels", "queries"), torch.int16)


def _take(model: nn.Module, pixels: Tensor, target: dict) -> dict[str, Tensor]:
    """What the last layer says about one picture: fields of a Shot, of all queries."""
    batch = ImageBatch.from_pixels(pixels[None])
    seen = run_with_trace(model, batch)
    weights = decoder_maps(seen, extent(batch, 0, map_size(seen.trace)))[-1]
    scores, labels = class_probabilities(seen)[-1].max(-1)
    return pack(weights)._asdict() | {  # of [Q, M, h, w]
        "boxes": seen.boxes[-1, 0],
        "scores": scores,
        "labels": labels,
        "matched": matched_objects(model, seen, target)[-1],
    }


def _shot(takes: list[dict], pixels: Tensor, target: dict, queries: int) -> Shot:
    parts = {key: torch.stack([take[key] for take in takes]) for key in takes[0]}
    parts |= {"truth": target["boxes"].float(), "truth_labels": target["labels"]}
    parts["queries"] = torch.arange(parts["matched"].shape[1])
    parts = {key: value.to(KINDS.get(key, value.dtype)) for key, value in parts.items()}
    rgb = denormalise(pixels.cpu()).mul(255).round().to(torch.uint8)
    return Shot(rgb=rgb, **parts).first(queries)


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
    notes = {key: getattr(film, key) for key in ("steps", "scenes", "layer", "names")}
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
