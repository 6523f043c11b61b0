"""Segments over a picture, as a still: the truth, or what a model says."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import to_rgb
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from ..engine.plots import COLOURS, picture

TINT = {True: 0.6, False: 0.25}  # how much colour a thing gets, and stuff
LEAST = 40  # pixels of a segment that has room for its name


def segment_map(
    ax: Axes,
    rgb: Tensor,
    ids: Tensor,
    labels: Mapping[int, int],
    things: int,
    names: Sequence[str] = (),
    title: str = "",
) -> None:
    """Tint each segment of a picture in the colour of its class, with its name.

    `rgb [3, H, W]` in [0, 1], `ids [H, W]` of segments, 0 for void, which stays black;
    `labels` of the ids. Stuff, the labels from `things` on, is tinted less. Without
    `names` none are written. Built in chapters/03_panoptic.ipynb.
    """
    grey = rgb.mean(0, keepdim=True).repeat(3, 1, 1).permute(1, 2, 0).cpu().numpy()
    where = ids.cpu().numpy()
    shown = np.zeros_like(grey)
    for number, label in labels.items():
        share, colour = TINT[label < things], to_rgb(COLOURS[label % len(COLOURS)])
        mask = where == number
        shown[mask] = (1 - share) * grey[mask] + share * np.array(colour)
    picture(rgb.new_tensor(shown).permute(2, 0, 1), ax, title)
    ax.add_collection(LineCollection(borders(where), colors="white", linewidths=0.8))
    for number, label in labels.items():
        mask = where == number
        if len(names) and mask.sum() > LEAST:
            _name(ax, mask, names[label])


def borders(ids: np.ndarray) -> list:
    """The lines between pixels of different ids: [(x, y), (x, y)] each, in pixels."""
    right = np.argwhere(ids[:, 1:] != ids[:, :-1])
    below = np.argwhere(ids[1:] != ids[:-1])
    lines = [[(x + 1, y), (x + 1, y + 1)] for y, x in right]
    return lines + [[(x, y + 1), (x + 1, y + 1)] for y, x in below]


def _name(ax: Axes, mask: np.ndarray, name: str) -> None:
    """Write at the pixel of a segment that is farthest from all others."""
    far = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(far.argmax(), mask.shape)
    x = min(max(x, 0.1 * mask.shape[1]), 0.9 * mask.shape[1])  # room for the name
    rim = [patheffects.Stroke(linewidth=2.2, foreground="black"), patheffects.Normal()]
    words = ax.text(x, y, name, color="white", size=7, ha="center", va="center")
    words.set_path_effects(rim)
