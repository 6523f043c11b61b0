"""Reading a map between its pixels: the one convention of the library.

A location (x, y) is a share of the map: (0, 0) its top left corner, (1, 1) its bottom
right. Pixel (column j, row i) is a square, its value sits in the centre, at
((j + 0.5) / W, (i + 0.5) / H). Everything outside the map is zero. Chapters 05 and 06
build on this; forgetting the half pixel is the classic mistake.
"""

import torch
from torch import Tensor
from torch.nn import functional


def sample(value: Tensor, locations: Tensor) -> Tensor:
    """Read maps at any places: `[N, C, H, W]` at `[N, ..., 2]` gives `[N, C, ...]`.

    `locations` (x, y), shares of the map; a place beyond it reads zero, infinitely far
    as well, and a NaN reads NaN. Computed in float32 or better: half precision cannot
    tell two pixels of a wide map apart. The result has the dtype of `value`; both
    arguments get gradients.
    It mixes the `four_corners` of each location, several times faster than by hand.
    Built in chapters/05_deformable_conv.ipynb.
    """
    dtype = torch.promote_types(value.dtype, locations.dtype)
    dtype = torch.promote_types(dtype, torch.float32)
    # grid_sample counts from -1 to 1 between the map's outer edges, not between the
    # centres of its outermost pixels: that would be align_corners=True.
    grid = 2 * within_reach(locations.to(dtype)) - 1
    grid = grid.flatten(1, -2)[:, None]  # [N, 1, P, 2]
    read = functional.grid_sample(
        value.to(dtype), grid, "bilinear", "zeros", align_corners=False
    )  # [N, C, 1, P]
    return read.to(value.dtype).view(*value.shape[:2], *locations.shape[1:-1])


def within_reach(locations: Tensor) -> Tensor:
    """Bring places far beyond the map to one map's side from it; NaN stays.

    They read zero there as well, without a gradient. Left where they are they could
    overflow: infinity less infinity is NaN, and so are shares computed from it.
    """
    return locations.clamp(-1, 2)


def four_corners(locations: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Find the pixels that `sample` mixes: their places in a flat map, their shares.

    `locations [..., 2]` (x, y), `size (H, W)`; returns indices into the H·W pixels and
    shares, both `[..., 4]`: top left, top right, bottom left, bottom right. The nearer
    a corner, the larger its share; they add up to 1, or less at the border, because
    corners outside have share 0 (and any index).
    Source: Dai et al. 2017, equations 3 and 4. Built in
    chapters/05_deformable_conv.ipynb.
    """
    height, width = size
    locations = within_reach(locations)
    x = locations[..., :1] * width - 0.5  # in pixels, 0 is the centre of the first
    y = locations[..., 1:] * height - 0.5
    columns = x.floor() + x.new_tensor([0, 1, 0, 1])  # [..., 4]
    rows = y.floor() + y.new_tensor([0, 0, 1, 1])
    share = (1 - (x - columns).abs()) * (1 - (y - rows).abs())
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    index = rows.clamp(0, height - 1) * width + columns.clamp(0, width - 1)
    return index.long(), share * inside


def sample_by_hand(value: Tensor, locations: Tensor) -> Tensor:
    """Do what `sample` does, with the four corners in sight.

    Built in chapters/05_deformable_conv.ipynb.
    """
    index, share = four_corners(locations, tuple(value.shape[-2:]))  # [N, ..., 4]
    flat = index.flatten(1)[:, None].expand(-1, value.shape[1], -1)  # [N, C, P·4]
    corners = value.flatten(2).gather(2, flat)  # [N, C, P·4]
    corners = corners.view(*value.shape[:2], *index.shape[1:])  # [N, C, ..., 4]
    return (corners * share[:, None]).sum(-1)
