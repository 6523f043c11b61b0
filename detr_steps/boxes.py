"""Boxes: the two formats, area, IoU and GIoU (chapters/00_start_here.ipynb)."""

import torch
from torch import Tensor

TINY = 1e-12  # keeps 0 / 0 of two empty boxes at 0; far below any real area


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Turn centres and sizes into corners: `[..., 4] -> [..., 4]`, same unit."""
    cx, cy, w, h = boxes.unbind(-1)
    return torch.stack((cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2), dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Turn corners into centres and sizes: `[..., 4] -> [..., 4]`, same unit."""
    x0, y0, x1, y1 = boxes.unbind(-1)
    return torch.stack(((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0), dim=-1)


def area(xyxy: Tensor) -> Tensor:
    """Area of corner boxes `[..., 4] -> [...]`; swapped corners give 0."""
    size = (xyxy[..., 2:] - xyxy[..., :2]).clamp(min=0)  # [..., 2]
    return size[..., 0] * size[..., 1]


def _intersection_and_union(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    top_left = torch.maximum(a[..., :2], b[..., :2])
    bottom_right = torch.minimum(a[..., 2:], b[..., 2:])
    shared = area(torch.cat((top_left, bottom_right), dim=-1))
    return shared, area(a) + area(b) - shared


def paired_iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of broadcast corner boxes `[..., 4], [..., 4] -> [...]`, in [0, 1]."""
    shared, union = _intersection_and_union(a, b)
    return shared / union.clamp(min=TINY)


def paired_giou(a: Tensor, b: Tensor) -> Tensor:
    """Generalised IoU of broadcast corner boxes `[..., 4], [..., 4] -> [...]`.

    IoU minus the empty share of the smallest box around both: in (-1, 1], and it has
    a gradient even where the boxes do not touch.
    Source: Rezatofighi et al. 2019, algorithm 1; DETR, appendix A.2.
    """
    shared, union = _intersection_and_union(a, b)
    top_left = torch.minimum(a[..., :2], b[..., :2])
    bottom_right = torch.maximum(a[..., 2:], b[..., 2:])
    hull = area(torch.cat((top_left, bottom_right), dim=-1))
    iou = shared / union.clamp(min=TINY)
    return iou - (hull - union) / hull.clamp(min=TINY)


def iou(a: Tensor, b: Tensor) -> Tensor:
    """IoU of each corner box of `a [n, 4]` with each of `b [m, 4]`: `[n, m]`."""
    return paired_iou(a[..., :, None, :], b[..., None, :, :])


def giou(a: Tensor, b: Tensor) -> Tensor:
    """GIoU of each corner box of `a [n, 4]` with each of `b [m, 4]`: `[n, m]`."""
    return paired_giou(a[..., :, None, :], b[..., None, :, :])


def iof(a: Tensor, b: Tensor) -> Tensor:
    """Share of each corner box of `a [n, 4]` that lies in each of `b [m, 4]`: `[n, m]`.

    "Intersection over foreground": in [0, 1], and 1 for a box within another.
    Source: Gao et al. 2022 (AdaMixer), section 3.4.
    """
    a, b = a[..., :, None, :], b[..., None, :, :]
    shared, _ = _intersection_and_union(a, b)
    return shared / area(a).clamp(min=TINY)


def nms(xyxy: Tensor, scores: Tensor, labels: Tensor, threshold: float) -> Tensor:
    """Keep the best of every heap of boxes: indices `[k]`, best score first.

    A box goes when a better one of the same label overlaps it by more than `threshold`
    IoU. DETR does not use it; chapter 02 measures what it would change.
    """
    order = scores.argsort(dim=0, descending=True, stable=True)
    overlap = iou(xyxy[order], xyxy[order])  # [n, n]
    rival = (overlap > threshold) & (labels[order][:, None] == labels[order])
    alive = torch.ones(len(order), dtype=torch.bool, device=scores.device)
    for index in range(len(order)):
        if alive[index]:
            alive[index + 1 :] &= ~rival[index, index + 1 :]
    return order[alive]
