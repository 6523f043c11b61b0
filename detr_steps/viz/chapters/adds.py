"""Where one block of a backward kernel adds: a strip of queries, or a square."""

import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from ...cuda_lab import traffic
from ...ops.sample import four_corners

AROUND = 8  # pixels of the map that are shown around the blocks
Box = tuple[int, int, int, int]  # of pixels: left, top, right, bottom


def block_adds(locations: Tensor, size: tuple[int, int], head: int = 0) -> Figure:
    """Draw the adds of one head to a map, by a strip of queries and by a tile of them.

    `locations [1, H * W, M, 1, K, 2]`, shares, of a map of `size` (h, w) whose pixels
    are the queries. Each panel shows the block nearest to the middle; its title says
    how many times fewer adds are left where a block sums up first, for that head there
    and for all heads and blocks.
    Raises: ValueError for a map too small for a whole block.
    Built in chapters/07_cuda_kernel.ipynb.
    """
    orders = ("strips", "tiles")
    blocks = [
        _middle(traffic.blocks(size[0] * size[1], (size,), x), size) for x in orders
    ]
    left, top, right, bottom = zip(*(_box(each, size) for each in blocks))
    hits = [_hits(locations[0, mine, head, 0], size) for mine in blocks]
    figure, axes = plt.subplots(2, 1, figsize=(7, 5), sharex=True, sharey=True)
    highest = max(int(each.max()) for each in hits)
    for ax, order, mine, of_block in zip(axes, orders, blocks, hits):
        extent = (0, size[1], size[0], 0)
        shown = ax.imshow(
            of_block.numpy(), cmap="YlGnBu", extent=extent, vmin=0, vmax=highest
        )
        _frame(ax, _box(mine, size))
        saved = traffic.adds(locations, (size,), order).saved
        ax.set_title(_title(order, head, of_block, saved), size=9)
        ax.set_ylabel("row of the map")
    axes[1].set(
        xlim=(min(left) - AROUND, max(right) + AROUND),
        ylim=(max(bottom) + AROUND, min(top) - AROUND),
        xlabel="column of the map; black frame: the queries of the block",
    )
    figure.colorbar(shown, ax=axes, label=f"adds to a pixel by head {head + 1}")
    return figure


def _hits(places: Tensor, size: tuple[int, int]) -> Tensor:
    """How many corners of some points lie on each pixel, `[h, w]`."""
    index, share = four_corners(places, size)
    return torch.bincount(index[share > 0], minlength=size[0] * size[1]).view(size)


def _title(order: str, head: int, hits: Tensor, saved: float) -> str:
    adds, pixels = int(hits.sum()), int((hits > 0).sum())
    return (
        f"one of the {order}, head {head + 1}: {adds:,} adds to {pixels} pixels, "
        f"{adds / pixels:.1f} times fewer\n"
        f"all {order}, all heads: {saved:.1f} times fewer"
    )


def _frame(ax: Axes, box: Box) -> None:
    left, top, right, bottom = box
    sides = right - left, bottom - top
    ax.add_patch(Rectangle((left, top), *sides, fill=False, ec="k", lw=1.5))


def _box(queries: Tensor, size: tuple[int, int]) -> Box:
    """The smallest rectangle that holds these pixels."""
    row, column = queries // size[1], queries % size[1]
    ends = (column.min(), row.min(), column.max() + 1, row.max() + 1)
    return tuple(end.item() for end in ends)


def _middle(block: Tensor, size: tuple[int, int]) -> Tensor:
    """The queries of the whole block, no edge within, nearest to a map's middle."""
    far = {}
    for number in block.unique().tolist():
        mine = (block == number).nonzero()[:, 0]
        left, top, right, bottom = _box(mine, size)
        if len(mine) == traffic.STRIP == (right - left) * (bottom - top):
            x, y = (left + right - size[1]) / 2, (top + bottom - size[0]) / 2
            far[x * x + y * y] = mine
    if not far:
        raise ValueError(f"a map of {size[0]} x {size[1]} pixels holds no whole block")
    return far[min(far)]
