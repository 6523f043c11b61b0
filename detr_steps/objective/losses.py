"""What a set of predictions should be: the set loss (chapters/02_detr.ipynb)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .. import boxes as box_ops
from ..describable import describable
from ..distributed import mean_over_processes
from .matching import Packed


@describable
@dataclass(frozen=True)
class LossWeights:
    """How much each term counts, and how little an empty slot (DETR, A.4)."""

    classification: float = 1.0
    box: float = 5.0
    giou: float = 2.0
    no_object: float = 0.1


def class_loss(
    logits: Tensor, packed: Packed, matched: Tensor, no_object: float
) -> Tensor:
    """Cross-entropy of every query, one value for each layer: `[Y]`.

    `logits [Y, B, Q, classes + 1]`, the last class is "no object" and weighs
    `no_object`; `matched [Y, B, N]`. The mean is over the *weights*, not the queries.
    Source: Carion et al. 2020, section 3.1. Built in chapters/02_detr.ipynb.
    """
    empty = logits.shape[-1] - 1
    wanted = wanted_classes(logits, packed, matched, empty)  # [Y, B, Q]
    weight = torch.ones_like(wanted, dtype=logits.dtype)
    weight = weight.masked_fill(wanted == empty, no_object)  # [Y, B, Q]
    surprise = functional.cross_entropy(
        logits.flatten(0, 2), wanted.flatten(), reduction="none"
    ).view_as(weight)
    total = mean_over_processes(weight.sum((1, 2)))  # [Y]
    return (weight * surprise).sum((1, 2)) / total


def wanted_classes(
    logits: Tensor, packed: Packed, matched: Tensor, empty: int
) -> Tensor:
    """Class that each query should name, `empty` for those without an object.

    `logits [Y, B, Q, …]`, only for their shape; `matched [Y, B, N]`. `[Y, B, Q]`.
    """
    y, b, q, _ = logits.shape
    # one more slot than queries: objects without a query are written there, then cut
    wanted = torch.full((y, b, q + 1), empty, device=logits.device)
    slot = torch.where(matched < 0, q, matched)
    labels = torch.where(packed.real, packed.labels, empty)
    wanted.scatter_(2, slot, labels.expand(y, -1, -1))
    return wanted[..., :q]


def box_losses(boxes: Tensor, packed: Packed, matched: Tensor) -> tuple[Tensor, Tensor]:
    """L1 and GIoU loss of the matched boxes, one value for each layer: `[Y], [Y]`.

    `boxes [Y, B, Q, 4]` cxcywh; both are sums divided by the number of objects in the
    whole batch. Source: Carion et al. 2020, eq. 9. Built in chapters/02_detr.ipynb.
    """
    index = matched.clamp(min=0)[..., None].expand(-1, -1, -1, 4)
    mine = boxes.gather(2, index)  # [Y, B, N, 4]
    theirs = packed.boxes.to(boxes.dtype)[None]  # [1, B, N, 4]
    counts = (matched >= 0).to(boxes.dtype)  # [Y, B, N]
    objects = count_objects(packed, boxes)
    distance = ((mine - theirs).abs().sum(-1) * counts).sum((1, 2))
    overlap = box_ops.paired_giou(
        box_ops.cxcywh_to_xyxy(mine), box_ops.cxcywh_to_xyxy(theirs)
    )
    return distance / objects, ((1 - overlap) * counts).sum((1, 2)) / objects


def count_objects(packed: Packed, like: Tensor) -> Tensor:
    """Objects in the whole batch, per process and at least 1: what losses divide by."""
    count = like.new_tensor(float(sum(packed.counts)))
    return mean_over_processes(count).clamp(min=1)


def weighted_terms(
    terms: dict[str, Tensor], weights: dict[str, float]
) -> dict[str, Tensor]:
    """Name the terms of every layer and add them up.

    `terms` maps a name to `[Y]`; the last layer keeps the plain name, layer y becomes
    `name_y`. `total` is the weighted sum of all: every layer learns as if it were last.
    """
    named = {}
    for name, values in terms.items():
        named[name] = values[-1]
        named |= {f"{name}_{y}": value for y, value in enumerate(values[:-1])}
    named["total"] = sum(weights[name] * value.sum() for name, value in terms.items())
    return named
