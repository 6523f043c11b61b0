"""Anchors: where learned queries start (built in chapters/09_dab_anchors.ipynb)."""

import torch
from torch import Tensor, nn

from .references import inverse_sigmoid


@torch.no_grad()
def set_anchors(anchors: nn.Embedding, boxes: Tensor) -> None:
    """Let learned anchors start at given boxes; training moves them on from there.

    `anchors` of a model, e.g. `DABDETR(...).anchors`; `boxes [Q, 4]` cxcywh (or
    `[Q, 2]` points), shares of the image. They may hang over its border with a corner,
    not with their centre.
    Raises: ValueError for another number of them, and for one that is no such box.
    """
    rows, numbers = anchors.weight.shape
    if tuple(boxes.shape) != (rows, numbers):
        raise ValueError(
            f"boxes of shape {list(boxes.shape)}, the model has {rows} anchors of "
            f"{numbers} numbers: give [{rows}, {numbers}]"
        )
    _check(boxes, ~boxes.isfinite(), "is not finite")
    outside = (boxes < 0) | (boxes > 1)
    outside[:, 2:] = False
    _check(boxes, outside, "has its centre outside of the picture")
    sizes = (boxes <= 0) | (boxes > 1)
    sizes[:, :2] = False
    _check(boxes, sizes, "has a side of no size, or one larger than the picture")
    anchors.weight.copy_(inverse_sigmoid(boxes))


def _check(boxes: Tensor, wrong: Tensor, fault: str) -> None:
    if wrong.any():
        index = int(wrong.any(1).nonzero()[0])
        numbers = ", ".join(f"{x:g}" for x in boxes[index].tolist())
        raise ValueError(
            f"anchor {index} ({numbers}) {fault}: give shares of the image between 0 "
            "and 1, (cx, cy, w, h), not pixels or corners"
        )
