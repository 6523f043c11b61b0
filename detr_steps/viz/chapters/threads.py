"""How a GPU's threads are grouped, and how the lanes of a warp exchange numbers."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

WARP = 32  # threads
CELL = {"ec": "white", "lw": 0.4}


def threads(blocks: int = 2, block: int = 96, shown: int | None = None) -> Figure:
    """Draw a grid of `blocks` blocks of `block` threads: a row of cells is a warp.

    A cell is a thread, its colour its lane. `shown` the number, of all, of a thread
    that is ringed and named. Built in chapters/07_cuda_kernel.ipynb.
    """
    warps = -(-block // WARP)
    figure, ax = plt.subplots(figsize=(7, 0.22 * (warps + 1.6) * blocks + 0.5))
    colours = plt.get_cmap("viridis")
    for b in range(blocks):
        top = b * (warps + 1.4)
        for t in range(block):
            warp, lane = divmod(t, WARP)
            ax.add_patch(
                Rectangle((lane, top + warp), 1, 1, fc=colours(lane / 31), **CELL)
            )
        frame = Rectangle((-0.25, top - 0.2), WARP + 0.5, warps + 0.4, fill=False)
        ax.add_patch(frame)
        ax.text(-5.2, top + warps / 2, f"block {b}", ha="right", va="center")
        for warp in range(warps):
            ax.text(-0.7, top + warp + 0.5, f"warp {warp}", ha="right", va="center")
    if shown is not None:
        _ring(ax, *divmod(shown, block), warps, shown)
    ax.set(xlim=(-10, WARP + 0.5), ylim=(blocks * (warps + 1.4) - 0.2, -0.5))
    ax.set(xticks=[0.5, 8.5, 16.5, 24.5, 31.5], xticklabels=[0, 8, 16, 24, 31])
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.set_yticks([])
    ax.spines[:].set_visible(False)
    ax.text(-0.7, -0.75, "lane", ha="right")
    ax.set_title(f"a grid of {blocks} blocks of {block} threads")
    return figure


def _ring(ax: Axes, b: int, thread: int, warps: int, number: int) -> None:
    """Frame one thread, and say under its block what it is called."""
    warp, lane = divmod(thread, WARP)
    place = (lane, b * (warps + 1.4) + warp)
    ax.add_patch(Rectangle(place, 1, 1, fill=False, ec="#E69F00", lw=2.5, zorder=3))
    words = f"thread {number} of all: blockIdx.x = {b}, threadIdx.x = {thread}"
    below = (b + 1) * (warps + 1.4) - 0.65
    ax.text(lane, below, words, color="#D55E00", size=9, va="center")


def butterfly(lanes: int = 8) -> Figure:
    """Draw how lanes add up by exchanges with lane XOR step, the step halved each time.

    Lane i starts with i + 1; lines into lane 0's sums are thick. Raises: ValueError
    unless `lanes` is a power of two. Built in chapters/07_cuda_kernel.ipynb.
    """
    if lanes < 2 or lanes & (lanes - 1):
        raise ValueError(f"{lanes} lanes cannot be halved to one: take 2, 4, 8, 16, 32")
    sums, columns = list(range(1, lanes + 1)), lanes.bit_length()
    steps = [lanes >> column for column in range(1, columns)]
    figure, ax = plt.subplots(figsize=(5.6, 0.3 * lanes + 0.7))
    _numbers(ax, 0, sums)
    for column, step in enumerate(steps):
        for lane in range(lanes):
            for source in (lane, lane ^ step):
                # what lane 0 needs in the end is in as many lanes as the step is wide
                _exchange(ax, column, source, lane, needed=lane < step)
        sums = [sums[lane] + sums[lane ^ step] for lane in range(lanes)]
        _numbers(ax, column + 1, sums)
    names = ["start", *(f"step {step}" for step in steps)]
    ax.set(xticks=range(columns), xticklabels=names, yticks=range(lanes))
    ax.set(xlim=(-0.3, columns - 0.7), ylim=(lanes - 0.5, -0.5), ylabel="lane")
    ax.set_title("thick: what ends in lane 0")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    return figure


def _exchange(ax: Axes, column: int, source: int, lane: int, needed: bool) -> None:
    look = {"color": "#D55E00", "lw": 2.0} if needed else {"color": "#bbb", "lw": 0.8}
    ax.plot([column + 0.13, column + 0.87], [source, lane], zorder=1 + needed, **look)


def _numbers(ax: Axes, column: int, sums: list[int]) -> None:
    for lane, number in enumerate(sums):
        ax.text(column, lane, str(number), ha="center", va="center", size=9)
