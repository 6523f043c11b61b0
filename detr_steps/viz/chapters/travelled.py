"""Where sampling points went since the star they started from."""

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from torch import Tensor

from ..engine.plots import COLOURS

BINS = [0.5 * edge - 0.25 for edge in range(26)]  # whole pixels inside, not on an edge


def travelled(offsets: Tensor, star: Tensor, title: str = "") -> Figure:
    """Draw offsets `[n, M, K, 2]` of queries around their star `[M, K, 2]`, in pixels.

    On the left each as a dot in the colour of its head, crosses the star; on the right
    how far from the reference they lie, beside the star. Built in
    chapters/06_deformable_attention.ipynb.
    Raises: ValueError where the star has other heads or points.
    """
    if offsets.shape[1:] != star.shape:
        raise ValueError(
            f"offsets {tuple(offsets.shape)} and a star {tuple(star.shape)}: give "
            "[n, M, K, 2] and [M, K, 2]"
        )
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.6, 3.6))
    for head, (dots, tip) in enumerate(zip(offsets.unbind(1), star[:, -1])):
        left.plot(*dots.reshape(-1, 2).T, ".", ms=1.5, c=COLOURS[head % len(COLOURS)])
        left.text(*(tip * 1.3), head + 1, ha="center", va="center", size=9)
    left.plot(*star.reshape(-1, 2).T, "kx", ms=5, mew=1.2, label="the star")
    wide = 1.25 * max(float(offsets.abs().flatten().quantile(0.995)), float(star.max()))
    left.set(xlim=(-wide, wide), ylim=(wide, -wide), aspect="equal")
    left.set(xlabel="dx, pixels", ylabel="dy, pixels", title=title)
    left.legend(loc="upper right", fontsize=8)
    far, from_star = offsets.norm(dim=-1).flatten(), star.norm(dim=-1).flatten()
    bins = [*BINS, max(BINS[-1] + 1, float(far.max()))]  # the rest in the last one
    right.hist(from_star, bins, density=True, alpha=0.35, color="#888", label="star")
    look = {"histtype": "step", "color": COLOURS[0], "lw": 2}
    right.hist(far, bins, density=True, label="trained", **look)
    right.set(xlabel="distance from the reference, pixels", ylabel="share per pixel")
    right.set(xlim=(0, BINS[-1]))
    right.legend(fontsize=8)
    return figure
