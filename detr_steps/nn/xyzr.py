"""Boxes as centre, scale and aspect: (x, y, z, r), in pixels (AdaMixer).

z = log2 of the square root of the area, r = log2 of height / width: a step of z means
the same for every box, and the pixel stride of a level is a z as well. Built in
chapters/12_more_queries.ipynb.
"""

import math

import torch
from torch import Tensor

from .memory import Memory
from .position import sine_features
from .references import level_extents

THINNEST = 1e-2  # pixels: a side of 0 has no logarithm, and so no z and no r
WIDEST = 1e6  # pixels: no step may make a box that is not finite
FARTHEST = 1000.0  # pixels of x and y that count as 1 in the code (official code)


def image_pixels(memory: Memory, stride: int) -> Tensor:
    """Width and height of each un-padded image: `[B, 1, 2]` pixels.

    `stride` of the memory's first level.
    """
    extent = level_extents(memory.sizes[:1], memory.valid)[0] * stride
    return (memory.valid[:, 0] * extent)[:, None]


def boxes_to_xyzr(boxes: Tensor, pixels: Tensor) -> Tensor:
    """cxcywh as shares of an image `[B, Q, 4]`, `pixels [B, 1, 2]`: `[B, Q, 4]`.

    A side below `THINNEST` counts as that: a box of no area has no logarithm.
    Source: Gao et al. 2022 (AdaMixer), section 3.1.
    """
    centre, size = (part * pixels for part in boxes.split(2, -1))
    width, height = size.clamp(THINNEST, WIDEST).log2().split(1, -1)
    return torch.cat((centre, (width + height) / 2, height - width), -1)


def xyzr_to_boxes(xyzr: Tensor, pixels: Tensor) -> Tensor:
    """Undo `boxes_to_xyzr`: `[B, Q, 4]`, `pixels [B, 1, 2]` -> shares `[B, Q, 4]`."""
    return torch.cat((xyzr[..., :2], xyzr_sides(xyzr)), -1) / pixels.repeat(1, 1, 2)


def xyzr_sides(xyzr: Tensor) -> Tensor:
    """Width and height in pixels: `[..., 4] -> [..., 2]`."""
    z, r = xyzr[..., 2:3], xyzr[..., 3:]
    return _pixels(torch.cat((z - r / 2, z + r / 2), -1))


def refine_xyzr(xyzr: Tensor, deltas: Tensor) -> Tensor:
    """Move boxes: x and y by deltas times their scale, z and r by deltas: `[..., 4]`.

    Source: Gao et al. 2022, equations 2 and 3.
    """
    xy = xyzr[..., :2] + deltas[..., :2] * _pixels(xyzr[..., 2:3])
    return torch.cat((xy, xyzr[..., 2:] + deltas[..., 2:]), -1)


def xyzr_code(xyzr: Tensor, channels: int) -> Tensor:
    """Sine code of all four numbers, a quarter of the channels each: `[B, Q, C]`.

    x and y are divided by 1,000, not by the image, and nothing is stretched to 2π.
    Source: Gao et al. 2022, official code.
    """
    scaled = xyzr / xyzr.new_tensor([FARTHEST, FARTHEST, 1.0, 1.0])
    return sine_features(scaled, channels // 4).flatten(-2)


def _pixels(octaves: Tensor) -> Tensor:
    # cut before, not after: the gradient of an infinity that is cut is NaN
    return octaves.clamp(max=math.log2(WIDEST)).exp2()
