"""Who answers for which object: the matching cost and the Hungarian algorithm.

Built in chapters/02_detr.ipynb.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .. import boxes as box_ops
from ..describable import describable


class NonFiniteCost(ValueError):
    """The matching cost holds NaN or infinity: predictions have already diverged."""


@dataclass(frozen=True)
class PaddedTargets:
    """Targets of a batch in padded tensors: N is the largest number of objects.

    `boxes [B, N, 4]` cxcywh, `labels [B, N]`, `mask [B, N]` False where padded,
    `counts` objects of each image.
    """

    boxes: Tensor
    labels: Tensor
    mask: Tensor
    counts: list[int]

    def repeat(self, times: int) -> "PaddedTargets":
        """Every object `times` times, for matching one to many (H-DETR)."""
        if times == 1:
            return self
        counts, n = [times * count for count in self.counts], self.labels.shape[1]
        # object j of an image becomes j·times …: real objects stay in front
        index = torch.arange(n, device=self.labels.device).repeat_interleave(times)
        parts = (part[:, index] for part in (self.boxes, self.labels, self.mask))
        return PaddedTargets(*parts, counts)

    def class_agnostic(self) -> "PaddedTargets":
        """The same objects, all of class 0."""
        return replace(self, labels=torch.zeros_like(self.labels))


EDGE = 1e-3  # how far rounding may push a side out of the image, in image sides


def pad_targets(
    targets: list[dict], classes: int, device: torch.device | str
) -> PaddedTargets:
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
    mask = torch.arange(n) < torch.tensor(counts)[:, None]
    parts = (x.to(device, non_blocking=True) for x in (boxes, labels, mask))
    return PaddedTargets(*parts, counts)


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


def box_cost(boxes: Tensor, targets: PaddedTargets, weights: CostWeights) -> Tensor:
    """L1 and GIoU cost of each query for each object: `[P, B, Q, 4] -> [P, B, Q, N]`.

    Source: Carion et al. 2020, equation 10. Built in chapters/02_detr.ipynb.
    """
    distance = torch.cdist(boxes, targets.boxes.to(boxes.dtype)[None], p=1)  # [P,B,Q,N]
    overlap = box_ops.giou(
        box_ops.cxcywh_to_xyxy(boxes),
        box_ops.cxcywh_to_xyxy(targets.boxes.to(boxes.dtype))[None],
    )  # [P, B, Q, N]
    return weights.box * distance - weights.giou * overlap


FORBIDDEN = 1e6  # cost of a pair that must not be: above any sum of allowed ones


def assign(
    cost: Tensor,
    counts: list[int],
    allowed: Tensor | None = None,
    **predictions: Tensor,
) -> Tensor:
    """Solve every assignment problem: which query answers for which object.

    `cost [P, B, Q, N]` of all sets and images, moved to the host once; `counts [B]`
    objects of each image; `allowed`, of the cost's shape, False for pairs that must not
    be. Returns `[P, B, N]`: the query of each object, -1 where there is no object or no
    (allowed) query left. Source: Kuhn 1955; by way of scipy, which solves it as Jonker
    and Volgenant 1987 do.
    Raises: NonFiniteCost, which names those of the `predictions [P, B, Q, …]` that are
    to blame. Built in chapters/02_detr.ipynb.
    """
    table = cost.detach().float().cpu().numpy()  # the one transfer of a step
    forbidden = None if allowed is None else ~allowed.expand_as(cost).cpu().numpy()
    sets, images, _, n = table.shape
    result = np.full((sets, images, n), -1, dtype=np.int64)
    for where in np.ndindex(sets, images):
        block = table[where][:, : counts[where[1]]]  # [Q, n]
        if not np.isfinite(block).all():
            raise NonFiniteCost(_explain(block, *where, predictions))
        never = None if forbidden is None else forbidden[where][:, : block.shape[1]]
        queries, objects = _cheapest(block, never)
        result[where][objects] = queries
    return torch.from_numpy(result).to(cost.device, non_blocking=True)


def _cheapest(
    block: np.ndarray, never: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    if never is None:
        return linear_sum_assignment(block)
    queries, objects = linear_sum_assignment(np.where(never, FORBIDDEN, block))
    fine = ~never[queries, objects]  # taken only because nothing allowed was left
    return queries[fine], objects[fine]


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
