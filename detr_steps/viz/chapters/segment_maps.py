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
SHADES = (1.0, 0.7, 1.3)  # of that for the first, second, third segment of a class
SEAM = "#d62728"  # between two segments of one class
LEAST = 40  # pixels of a segment that has room for its name


def segment_map(
    ax: Axes,
    rgb: Tensor,
    ids: Tensor,
    labels: Mapping[int, int],
    things: int,
    names: Sequence[str] | Mapping[int, str] = (),
    title: str = "",
) -> None:
    """Tint each segment of a picture in the colour of its class, with its name.

    `rgb [3, H, W]` in [0, 1], `ids [H, W]` of segments, 0 for void, which stays black;
    `labels` of the ids. Stuff, the labels from `things` on, is tinted less; segments of
    one class differ in shade, and the border between two of them is red, others are
    white. `names` of the classes, or a mapping of ids to what stands on each segment;
    without them nothing is written. Built in chapters/03_panoptic.ipynb.
    """
    grey = rgb.mean(0, keepdim=True).repeat(3, 1, 1).permute(1, 2, 0).cpu().numpy()
    where = ids.cpu().numpy()
    shown = np.zeros_like(grey)
    for number, label in labels.items():
        share, colour = _tint(number, labels, things), COLOURS[label % len(COLOURS)]
        mask = where == number
        shown[mask] = (1 - share) * grey[mask] + share * np.array(to_rgb(colour))
    picture(rgb.new_tensor(shown).permute(2, 0, 1), ax, title)
    kinds = classes_of(where, labels)
    lines = borders(where), borders(where, kinds)
    for each, colour, wide in zip(lines, ("white", SEAM), (0.8, 1.6)):
        ax.add_collection(LineCollection(each, colors=colour, linewidths=wide))
    for number, label in labels.items():
        mask = where == number
        if len(names) and mask.sum() > LEAST:
            _name(ax, mask, names[number if isinstance(names, Mapping) else label])


def _tint(number: int, labels: Mapping[int, int], things: int) -> float:
    """How much colour a segment gets: another shade for the next one of its class."""
    label = labels[number]
    earlier = [n for n in labels if labels[n] == label].index(number)
    return TINT[label < things] * SHADES[earlier % len(SHADES)]


def classes_of(ids: np.ndarray, labels: Mapping[int, int]) -> np.ndarray:
    """The class of each pixel, -1 for void: `[H, W] -> [H, W]`."""
    kinds = np.full(ids.shape, -1)
    for number, label in labels.items():
        kinds[ids == number] = label
    return kinds


def borders(ids: np.ndarray, kinds: np.ndarray | None = None) -> list:
    """The lines between pixels of different ids: [(x, y), (x, y)] each, in pixels.

    With the class of each pixel only those inside a class, where two segments of it
    meet.
    """
    right, below = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    if kinds is not None:
        right = right & (kinds[:, 1:] == kinds[:, :-1])
        below = below & (kinds[1:] == kinds[:-1])
    right, below = np.argwhere(right), np.argwhere(below)
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
