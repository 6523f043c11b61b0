"""Who answers for which object: the matching cost and the Hungarian algorithm.

Built in chapters/02_detr.ipynb.
"""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .. import boxes as box_ops
from ..describable import describable


class NonFiniteCost(ValueError):
    """The matching cost holds NaN or infinity: predictions have already diverged."""


@dataclass(frozen=True)
class Packed:
    """Targets of a batch in padded tensors: N is the largest number of objects.

    `boxes [B, N, 4]` cxcywh, `labels [B, N]`, `real [B, N]` False where padded,
    `counts` objects of each image.
    """

    boxes: Tensor
    labels: Tensor
    real: Tensor
    counts: list[int]


EDGE = 1e-3  # how far rounding may push a side out of the image, in image sides


def pack(targets: list[dict], classes: int, device: torch.device | str) -> Packed:
    """Check targets and put them into padded tensors on a device.

    `targets`: one dict per image with `boxes [n, 4]` cxcywh in [0, 1] and `labels [n]`.
    Raises: ValueError that names the image, the object and the fault.
    """
    for index, target in enumerate(targets):
        _check_target(index, target, classes)
    counts = [len(target["labels"]) for target in targets]
    n = max(counts, default=0)
    boxes = torch.full((len(targets), n, 4), 0.5)
    labels = torch.zeros(len(targets), n, dtype=torch.int64)
    for index, target in enumerate(targets):
        boxes[index, : counts[index]] = target["boxes"]
        labels[index, : counts[index]] = target["labels"]
    real = torch.arange(n) < torch.tensor(counts)[:, None]
    parts = (x.to(device, non_blocking=True) for x in (boxes, labels, real))
    return Packed(*parts, counts)


def _check_target(index: int, target: dict, classes: int) -> None:
    _check_shapes(index, target)
    boxes, labels = target["boxes"].detach().cpu().double(), target["labels"].cpu()
    corners = box_ops.cxcywh_to_xyxy(boxes)
    outside = ((corners < -EDGE) | (corners > 1 + EDGE)).any(-1)
    faults = (
        (~boxes.isfinite().all(-1), "a coordinate is NaN or infinite"),
        (
            (boxes[:, 2:] <= 0).any(-1),
            "width or height is not positive: swapped corners, or xyxy instead of "
            "cxcywh? See detr_steps.boxes.xyxy_to_cxcywh",
        ),
        (
            outside,
            "it leaves the image, [0, 1]: divide pixels by width and height, give "
            "cxcywh (not xyxy), clip boxes to the image",
        ),
        (
            (labels < 0) | (labels >= classes),
            f"its label is not one of 0 … {classes - 1}",
        ),
    )
    for wrong, reason in faults:
        if wrong.any():
            at = int(wrong.nonzero()[0, 0])
            raise ValueError(
                f"target of image {index}, object {at}: box {boxes[at].tolist()}, "
                f"label {int(labels[at])}: {reason}"
            )


def _check_shapes(index: int, target: dict) -> None:
    absent = {"boxes", "labels"} - set(target)
    if absent:
        raise ValueError(
            f"target of image {index} has no {' and no '.join(sorted(absent))}: give "
            "empty tensors [0, 4] and [0] for an image without objects"
        )
    boxes, labels = target["boxes"], target["labels"]
    if labels.dim() != 1 or boxes.shape != (len(labels), 4):
        raise ValueError(
            f"target of image {index}: boxes {list(boxes.shape)} and labels "
            f"{list(labels.shape)} do not belong together, expected [n, 4] and [n]"
        )
    if labels.is_floating_point() and len(labels):
        raise ValueError(
            f"target of image {index}: labels are {labels.dtype}, not int64"
        )


@describable
@dataclass(frozen=True)
class CostWeights:
    """How much each disagreement costs in the matching (DETR, section 3.1, A.4)."""

    classification: float = 1.0
    box: float = 5.0
    giou: float = 2.0


def softmax_class_cost(logits: Tensor, labels: Tensor) -> Tensor:
    """Minus the probability of each object's class: `[Y,B,Q,C+1], [B,N] -> [Y,B,Q,N]`.

    The probability itself, not its logarithm: no single mistake can cost more than 1.
    Source: Carion et al. 2020, equation 1. Built in chapters/02_detr.ipynb.
    """
    probability = logits.softmax(-1)
    index = labels[None, :, None, :].expand(*logits.shape[:3], -1)
    return -probability.gather(-1, index)


def box_cost(boxes: Tensor, packed: Packed, weights: CostWeights) -> Tensor:
    """L1 and GIoU cost of each query for each object: `[Y, B, Q, 4] -> [Y, B, Q, N]`.

    Source: Carion et al. 2020, equation 10. Built in chapters/02_detr.ipynb.
    """
    distance = torch.cdist(boxes, packed.boxes.to(boxes.dtype)[None], p=1)  # [Y,B,Q,N]
    overlap = box_ops.giou(
        box_ops.cxcywh_to_xyxy(boxes),
        box_ops.cxcywh_to_xyxy(packed.boxes.to(boxes.dtype))[None],
    )  # [Y, B, Q, N]
    return weights.box * distance - weights.giou * overlap


def assign(cost: Tensor, counts: list[int], **predictions: Tensor) -> Tensor:
    """Solve every assignment problem: which query answers for which object.

    `cost [Y, B, Q, N]` of all layers and images, moved to the host once; `counts [B]`
    objects of each image. Returns `[Y, B, N]`: the query of each object, -1 where there
    is no object or no query left. Source: Kuhn 1955, by way of scipy.
    Raises: NonFiniteCost, which names those of the `predictions [Y, B, Q, …]` that are
    to blame. Built in chapters/02_detr.ipynb.
    """
    table = cost.detach().float().cpu().numpy()  # the one transfer of a step
    layers, images, _, n = table.shape
    result = np.full((layers, images, n), -1, dtype=np.int64)
    for layer in range(layers):
        for image, count in enumerate(counts):
            block = table[layer, image, :, :count]
            if not np.isfinite(block).all():
                raise NonFiniteCost(_explain(block, layer, image, predictions))
            queries, objects = linear_sum_assignment(block)
            result[layer, image, objects] = queries
    return torch.from_numpy(result).to(cost.device, non_blocking=True)


def _explain(
    block: np.ndarray, layer: int, image: int, predictions: dict[str, Tensor]
) -> str:
    query, target = np.argwhere(~np.isfinite(block))[0]
    guilty = [
        name
        for name, values in predictions.items()
        if not values[layer, image, query].isfinite().all()
    ]
    blame = f" (its {' and '.join(guilty)} are not finite)" if guilty else ""
    return (
        f"matching cost of decoder layer {layer}, image {image}, query {query}, object "
        f"{target} is {block[query, target]}{blame}: the predictions have diverged "
        "(the targets were checked). Lower the learning rate, clip gradients, or look "
        "for NaN in the pixels"
    )
