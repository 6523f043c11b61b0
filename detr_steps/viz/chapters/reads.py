"""Who reads what: one load of a warp, on a picture of the memory it reads from."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...cuda_lab import Trace

SECTOR = 32  # bytes: a GPU's memory comes in pieces of this size
NUMBER = 4  # bytes of a float32
EACH = SECTOR // NUMBER
UNUSED = "#ccc"

Load = Sequence[tuple[int, int]]  # (lane, which number of the memory it reads)


def warp_loads(
    trace: Trace, argument: str, block: int = 0, warp: int = 0
) -> list[Load]:
    """What one warp reads of an argument, load after load: `(lane, number)` each.

    The n-th load of all lanes, which is one instruction where they took the same way.
    Built in chapters/07_cuda_kernel.ipynb.
    """
    mine = trace.of(argument, "load")
    mine = mine[(mine["block"] == block) & (mine["thread"] // 32 == warp)]
    lanes = [mine[mine["thread"] == thread] for thread in set(mine["thread"].tolist())]
    return [
        [(int(each["thread"][n]) % 32, int(each["element"][n])) for each in lanes]
        for n in range(min(map(len, lanes), default=0))
    ]


def sectors(load: Load) -> int:
    """How many sectors of 32 bytes one load of a warp touches, 4 bytes a lane.

    Built in chapters/07_cuda_kernel.ipynb.
    """
    return len({number // EACH for _, number in load})


def reads(loads: Mapping[str, Load], rows: int, width: int) -> Figure:
    """Draw memory as `rows` pixels of `width` numbers, and what a warp's load reads.

    `loads` by the title of each panel. A coloured cell is read, its colour is the lane;
    a grey one is moved with its sector, and not used.
    Built in chapters/07_cuda_kernel.ipynb.
    """
    figure, axes = plt.subplots(
        1, len(loads), figsize=(4.4 * len(loads), 3.6), squeeze=False, sharey=True
    )
    for ax, (title, load) in zip(axes[0], loads.items()):
        _panel(ax, load, rows, width)
        count, used = sectors(load), NUMBER * len({number for _, number in load})
        ax.set_title(f"{title}\n{count} sectors: {SECTOR * count} bytes, {used} used")
    axes[0, 0].set_ylabel("pixel of the map")
    shades = plt.cm.ScalarMappable(plt.Normalize(0, 31), "viridis")
    ticks = {"ticks": (0, 8, 16, 24, 31), "aspect": 30}
    figure.colorbar(shades, ax=axes[0], label="lane of the warp", **ticks)
    grey = Rectangle((0, 0), 1, 1, fc=UNUSED)
    words = ["moved with its sector, not used"]
    figure.legend([grey], words, loc="outside lower center")
    return figure


def _panel(ax: Axes, load: Load, rows: int, width: int) -> None:
    for sector in {number // EACH for _, number in load}:
        row, column = divmod(sector * EACH, width)
        ax.add_patch(Rectangle((column, row), EACH, 1, fc=UNUSED, ec="none"))
    colours = plt.get_cmap("viridis")
    for lane, number in load:
        row, column = divmod(number, width)
        ax.add_patch(Rectangle((column, row), 1, 1, fc=colours(lane / 31), ec="none"))
    for x in range(0, width + 1, EACH):
        ax.axvline(x, color="#bbb", lw=0.5, zorder=0)
    ax.set(xlim=(0, width), ylim=(rows, 0), xticks=range(0, width + 1, EACH))
    ax.set(xlabel="channel: numbers side by side in memory")
