"""Which points of a pyramid may answer for which object: the rule of FCOS.

Tian et al. 2019, "FCOS: Fully Convolutional One-Stage Object Detection"; Sun et al.
2021 let only such pairs match. Built in chapters/04_why_slow.ipynb.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .. import boxes as box_ops
from ..ops.read_points import Sizes

TINY = 1e-6


class Points(NamedTuple):
    """The S cells of all levels: `at [S, 2]` centres (x, y) in pixels, `stride [S]`,
    `level [S]`; `least`, `most [S]` how far the farthest side of an object may be."""

    at: Tensor
    stride: Tensor
    level: Tensor
    least: Tensor
    most: Tensor


def points_of(
    sizes: Sizes, strides: Sequence[int], reach: float, device: torch.device | str
) -> Points:
    """The points of levels of these `sizes (h, w)` and `strides` in pixels.

    A level takes objects whose farthest side is up to `reach` strides from the point,
    and farther than the level before takes; the last level has no limit.
    Source: Tian et al. 2019, section 3.2, where reach = 8: 64, 128, 256, 512 pixels.
    """
    most = [reach * stride for stride in strides[:-1]] + [torch.inf]
    parts = []
    for level, ((h, w), stride) in enumerate(zip(sizes, strides)):
        x = (torch.arange(w, device=device) + 0.5) * stride
        y = (torch.arange(h, device=device) + 0.5) * stride
        at = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).flatten(0, 1)
        least = most[level - 1] if level else -1.0
        numbers = (float(stride), level, least, most[level])
        kinds = (torch.float32, torch.int64, torch.float32, torch.float32)
        columns = [
            torch.full((h * w,), number, dtype=kind, device=device)
            for number, kind in zip(numbers, kinds)
        ]
        parts.append((at, *columns))
    return Points(*map(torch.cat, zip(*parts)))


def objects_of_points(
    points: Points, corners: Sequence[Tensor], radius: float
) -> Tensor:
    """The only object that each point may answer for, -1 for none: `[B, S]`.

    `corners` one `[n, 4]` xyxy per image, in pixels. A point takes an object that it
    lies inside of, no farther than `radius` strides from the middle along x and y, and
    whose size fits its level; of several the one of least area.
    Source: Tian et al. 2019, section 3.2; centre sampling is of its later versions.
    """
    return torch.stack([_objects_of_points(points, each, radius) for each in corners])


def _objects_of_points(points: Points, corners: Tensor, radius: float) -> Tensor:
    if not len(corners):
        return torch.full_like(points.level, -1)
    low, high = corners[:, :2], corners[:, 2:]  # [n, 2]
    middle, near = (low + high) / 2, radius * points.stride[:, None, None]  # [S, 1, 1]
    at = points.at[:, None]  # [S, 1, 2]
    inside = (at > torch.maximum(low, middle - near)).all(-1)
    inside &= (at < torch.minimum(high, middle + near)).all(-1)  # [S, n]
    far = distances(points.at[:, None], corners).amax(-1)
    fits = (far >= points.least[:, None]) & (far <= points.most[:, None])
    area = (high - low).prod(-1).expand_as(far).where(inside & fits, torch.inf)
    least, thing = area.min(-1)
    return thing.where(least.isfinite(), -1)


def distances(at: Tensor, corners: Tensor) -> Tensor:
    """From points `[..., 2]` to the sides of boxes `[..., 4]` xyxy: left, top, right,
    bottom `[..., 4]`, positive inside."""
    return torch.cat((at - corners[..., :2], corners[..., 2:] - at), -1)


def centerness(sides: Tensor) -> Tensor:
    """How near to the middle of a box a point is, by its distances `[..., 4]`: `[...]`.

    1 in the middle, 0 on the border. Source: Tian et al. 2019, equation 3.
    """
    pairs = sides.unflatten(-1, (2, 2))  # (left, top), (right, bottom)
    ratio = pairs.amin(-2) / pairs.amax(-2).clamp(min=TINY)
    return ratio.prod(-1).clamp(min=0).sqrt()


def giou_of_distances(predicted: Tensor, true: Tensor) -> Tensor:
    """Generalised IoU of two boxes around one point, by their distances: `[...]`.

    `[..., 4]` both, in strides. The IoU has 1 added above and below, as in the official
    code: a box of no size still has a gradient.
    """
    area, wanted = _area(predicted), _area(true)
    shared = _area(torch.minimum(predicted, true))
    hull = _area(torch.maximum(predicted, true))
    union = area + wanted - shared
    return (shared + 1) / (union + 1) - (hull - union) / hull.clamp(min=TINY)


def _area(sides: Tensor) -> Tensor:
    left, top, right, bottom = sides.unbind(-1)
    return (left + right) * (top + bottom)


def cheapest_allowed(cost: Tensor, allowed: Tensor) -> Tensor:
    """The cheapest query of each object: `[B, N]`, -1 where none is allowed.

    `cost`, `allowed [B, Q, N]`. Where each query has one allowed object at most, no two
    objects want the same, so this is what the Hungarian algorithm would find, without
    it. Source: Sun et al. 2021, section 4.1.
    """
    best, query = cost.where(allowed, torch.inf).min(1)
    return query.where(best < torch.inf, -1)


def take(rows: Tensor, at: Tensor) -> Tensor:
    """Some rows of each image: `[B, S, C], [B, Q] -> [B, Q, C]`."""
    return rows.gather(1, at[..., None].expand(-1, -1, rows.shape[-1]))


def boxes_of(at: Tensor, sides: Tensor, extents: Tensor) -> Tensor:
    """Boxes around points by distances in pixels: `[B, Q, 4]` cxcywh, image shares.

    What sticks out of the image is cut off.
    """
    corners = torch.cat((at - sides[..., :2], at + sides[..., 2:]), -1)
    shares = corners / extents.repeat(1, 2)[:, None]
    return box_ops.xyxy_to_cxcywh(shares.clamp(0, 1))
