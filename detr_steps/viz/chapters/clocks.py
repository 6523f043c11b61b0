"""Places as clocks, and how alike they are (chapters/01_attention.ipynb)."""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from ..engine.plots import COLOURS
from .small_maps import write_numbers


def clocks(codes: Tensor, products: Tensor) -> Figure:
    """Draw codes of n places as hands of clocks, and the products of each two codes.

    `codes [n, C]` sine and cosine of C / 2 angles in turn, a row of clocks for each;
    as on a clock, an angle of 0 points up and grows clockwise. `products [n, n]`.
    Raises: ValueError for an odd C and for products of another number of places.
    """
    places, channels = codes.shape
    if channels % 2 or products.shape != (places, places):
        raise ValueError(
            f"codes {tuple(codes.shape)} and products {tuple(products.shape)}: "
            "they must be [n, C] with an even C, and [n, n]"
        )
    wide = places / (channels // 2)
    share = {"width_ratios": (wide, 1.25)}
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.9), gridspec_kw=share)
    for hand in range(channels // 2):
        for place in range(places):
            sine, cosine = codes[place, 2 * hand : 2 * hand + 2].tolist()
            _clock(axes[0], place, hand, sine, cosine)
    names = [str(place + 1) for place in range(places)]
    axes[0].set(xlim=(-0.5, places - 0.5), ylim=(channels / 2 - 0.5, -0.5))
    axes[0].set(aspect="equal", title="each column: the code of a place")
    axes[0].set_yticks(
        range(channels // 2), [f"hand {i + 1}" for i in range(channels // 2)]
    )
    axes[0].set_xticks(range(places), names)
    axes[0].tick_params(length=0)
    axes[0].spines[:].set_visible(False)
    write_numbers(axes[1], products, 1)
    axes[1].set(
        title="product of two codes", xticks=range(places), yticks=range(places)
    )
    axes[1].set(xticklabels=names, yticklabels=names, aspect="equal")
    axes[1].set(xlabel="place", ylabel="place")
    return figure


def _clock(ax: Axes, x: int, y: int, sine: float, cosine: float) -> None:
    ax.add_patch(plt.Circle((x, y), 0.42, fill=False, ec="0.6", lw=1))
    end = x + 0.4 * sine, y - 0.4 * cosine  # y grows downwards
    ax.plot((x, end[0]), (y, end[1]), color=COLOURS[y % len(COLOURS)], lw=2.2)
