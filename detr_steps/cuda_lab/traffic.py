"""How often a backward kernel adds a row to the value's gradient in global memory."""

from typing import NamedTuple

import torch
from torch import Tensor

SIDE = 8  # of a square of queries, in pixels: kernels/cuda/call.h
STRIP = 64  # queries of a block
Sizes = tuple[tuple[int, int], ...]  # (h, w) of each level, finest first


class Adds(NamedTuple):
    """Rows added, level by level: `[L]` each.

    `single`: one for each corner of a point that is on the map and counts. `grouped`:
    those left when a block adds up first, one for each pixel and head that it touches.
    """

    single: Tensor
    grouped: Tensor

    @property
    def saved(self) -> float:
        """How many single rows become one, on all levels together."""
        return (self.single.sum() / self.grouped.sum()).item()


def adds(
    locations: Tensor, sizes: Sizes, order: str = "tiles", queries: int = STRIP
) -> Adds:
    """Count the rows of one layer with `locations [B, Q, M, L, K, 2]` (x, y), shares.

    `order`: a block takes the queries of a square of 8 x 8 pixels ("tiles", where the
    queries are the pixels of the levels of `sizes`), or `queries` that follow one
    another ("strips"). The step `sorted` adds a few more than `grouped`: each of its
    groups of lanes walks a part of the block's list, and a part may end within a pixel.
    Raises: ValueError for another order, or tiles of queries that are no pixels.
    Built in chapters/07_cuda_kernel.ipynb.
    """
    block = blocks(locations.shape[1], sizes, order, queries)
    of_level = zip(locations.unbind(3), sizes, strict=True)
    counts = [_count(one, size, block) for one, size in of_level]
    return Adds(*torch.tensor(counts).unbind(1))


def blocks(
    count: int, sizes: Sizes, order: str = "tiles", queries: int = STRIP
) -> Tensor:
    """Which block takes each of `count` queries: `[Q]`, counted from 0.

    Raises: ValueError for another order, or tiles of queries that are no pixels.
    """
    if order == "strips":
        return torch.arange(count) // queries
    if order != "tiles":
        raise ValueError(f"order {order!r}: there are 'tiles' and 'strips'")
    pixels = sum(h * w for h, w in sizes)
    if count != pixels:
        raise ValueError(
            f"{count} queries are not the {pixels} pixels of the levels: only those "
            "lie in tiles, take order='strips'"
        )
    found, first = [], 0
    for h, w in sizes:
        across = -(-w // SIDE)
        tile = torch.arange(h)[:, None] // SIDE * across + torch.arange(w) // SIDE
        found.append(first + tile.flatten())
        first += across * -(-h // SIDE)
    return torch.cat(found)


def enlarged(offsets: Tensor, size: tuple[int, int]) -> Tensor:
    """Locations on a map of `size`, whose pixels repeat the offsets of a smaller map.

    `offsets [h, w, M, K, 2]` (x, y), in pixels from the centre of each pixel of the
    smaller one. Gives shares of the larger one, `[1, H * W, M, 1, K, 2]`: each of its
    pixels is a query. Built in chapters/07_cuda_kernel.ipynb.
    """
    h, w = size
    row, column = torch.arange(h)[:, None], torch.arange(w)
    moved = offsets[row % offsets.shape[0], column % offsets.shape[1]]
    centres = torch.stack(torch.broadcast_tensors(column + 0.5, row + 0.5), -1)
    places = (centres[:, :, None, None] + moved) / torch.tensor([w, h])
    return places.flatten(0, 1)[None, :, :, None]


def _count(locations: Tensor, size: tuple[int, int], block: Tensor) -> tuple[int, int]:
    """`single` and `grouped` of one level, from `[B, Q, M, K, 2]`."""
    b, _, m, _, _ = locations.shape
    extent = torch.tensor(size).flip(0)  # w, h
    at = locations.detach().cpu() * extent - 0.5  # [B, Q, M, K, 2] in pixels
    # The block of an image and head, as a number of its own.
    image = torch.arange(b)[:, None, None, None]
    head = torch.arange(m)[:, None]
    owner = (image * (block.max() + 1) + block[:, None, None]) * m + head
    rows = []
    for right, lower in ((0, 0), (1, 0), (0, 1), (1, 1)):
        corner = at.floor() + torch.tensor((right, lower))
        on_map = ((corner >= 0) & (corner < extent)).all(-1)
        counts = on_map & ((corner - at).abs() < 1).all(-1)  # its share is not 0
        pixel = (corner[..., 1] * size[1] + corner[..., 0]).long()
        row = owner * (size[0] * size[1]) + pixel  # [B, Q, M, K]
        rows.append(row[counts])
    touched = torch.cat(rows)
    return len(touched), len(touched.unique())
