"""Losses of matched boxes, and how terms are added (chapters/02_detr.ipynb)."""

from dataclasses import dataclass

from torch import Tensor

from .. import boxes as box_ops
from ..describable import describable
from ..distributed import mean_over_processes
from .matching import PaddedTargets


@describable
@dataclass(frozen=True)
class LossWeights:
    """How much each term counts (Carion et al. 2020, section A.4)."""

    classification: float = 1.0
    box: float = 5.0
    giou: float = 2.0


def box_losses(
    boxes: Tensor, targets: PaddedTargets, matched: Tensor
) -> tuple[Tensor, Tensor]:
    """L1 and GIoU loss of the matched boxes, one value for each set: `[P], [P]`.

    `boxes [P, B, Q, 4]` cxcywh, `matched [P, B, N]`; both are sums divided by the
    number of objects in the whole batch. Source: Carion et al. 2020, equation 9.
    Built in chapters/02_detr.ipynb.
    """
    index = matched.clamp(min=0)[..., None].expand(-1, -1, -1, 4)
    predicted = boxes.gather(2, index)  # [P, B, N, 4]
    true = targets.boxes.to(boxes.dtype)[None]  # [1, B, N, 4]
    counts = (matched >= 0).to(boxes.dtype)  # [P, B, N]
    objects = count_objects(targets, boxes)
    distance = ((predicted - true).abs().sum(-1) * counts).sum((1, 2))
    overlap = box_ops.paired_giou(
        box_ops.cxcywh_to_xyxy(predicted), box_ops.cxcywh_to_xyxy(true)
    )
    return distance / objects, ((1 - overlap) * counts).sum((1, 2)) / objects


def count_objects(targets: PaddedTargets, like: Tensor) -> Tensor:
    """Objects in the whole batch, per process and at least 1: what losses divide by.

    Summed over the batch, not averaged per image: else a crowd's boxes would count
    less than a loner's.
    """
    count = like.new_tensor(float(sum(targets.counts)))
    return mean_over_processes(count).clamp(min=1)


def name_layers(terms: dict[str, Tensor]) -> dict[str, Tensor]:
    """Name the terms of every layer: `{name: [Y]}` to `name` and `name_y`.

    The last layer keeps the plain name, layer y of the others becomes `name_y`.
    """
    named = {}
    for name, values in terms.items():
        named[name] = values[-1]
        named |= {f"{name}_{y}": value for y, value in enumerate(values[:-1])}
    return named
