"""Still plots with matplotlib: images with boxes, attention maps, training curves."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.container import BarContainer
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from ...boxes import cxcywh_to_xyxy
from .inline import use_small_pictures

# Okabe and Ito's colours: told apart by colour-blind readers
COLOURS = (
    "#0072B2",
    "#E69F00",
    "#009E73",
    "#D55E00",
    "#CC79A7",
    "#56B4E9",
    "#F0E442",
    "#666666",
)


def style() -> None:
    """Set the look of all figures of the course: once, in the setup cell."""
    use_small_pictures()
    plt.rcParams.update(
        {
            "figure.dpi": 80,
            "savefig.dpi": 80,
            "figure.constrained_layout.use": True,
            "font.size": 10,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": plt.cycler(color=COLOURS),
            "axes.grid": False,
            "image.cmap": "viridis",
            "legend.frameon": False,
            "lines.linewidth": 1.8,
        }
    )


def _array(rgb: Tensor) -> np.ndarray:
    return rgb.detach().cpu().clamp(0, 1).permute(1, 2, 0).numpy()


def picture(rgb: Tensor, ax: Axes | None = None, title: str = "") -> Axes:
    """Show one image `[3, H, W]` in [0, 1] without axes."""
    ax = ax or plt.subplots(figsize=(3.2, 3.2))[1]
    height, width = rgb.shape[-2:]
    ax.imshow(_array(rgb), extent=(0, width, height, 0), interpolation="nearest")
    ax.set(xticks=[], yticks=[], title=title)
    ax.spines[:].set_visible(False)
    return ax


def boxes_on(
    ax: Axes,
    xyxy: Tensor,
    names: Sequence[str] | None = None,
    colours: Sequence[str] | str = "white",
    style: str = "-",
) -> None:
    """Draw corner boxes `[n, 4]` in pixels on an image, with names if given."""
    for index, box in enumerate(xyxy.tolist()):
        x0, y0, x1, y1 = box
        colour = colours if isinstance(colours, str) else colours[index]
        frame = plt.Rectangle(
            (x0, y0), x1 - x0, y1 - y0, fill=False, lw=1.6, ec=colour, ls=style
        )
        # a dark rim keeps a light frame visible on a light image
        frame.set_path_effects(
            [patheffects.Stroke(linewidth=3, foreground="#0008"), patheffects.Normal()]
        )
        ax.add_patch(frame)
        if names:
            _name_beside(ax, box, names[index], colour)


def _name_beside(ax: Axes, box: list[float], name: str, colour: str) -> Text:
    """Write above the box and to the right, unless that is out of the picture."""
    x0, y0, x1, y1 = box
    right, bottom = max(ax.get_xlim()), max(ax.get_ylim())
    x, side = (x1 - 1, "right") if x0 > 0.72 * right else (max(x0, 0) + 1, "left")
    y, edge = (y1 + 1, "top") if y0 < 0.09 * bottom else (y0 - 1, "bottom")
    if edge == "top" and y1 > 0.25 * bottom:  # a tall box: inside, under its top
        y = max(y0, 0) + 1
    red, green, blue = to_rgb(colour)
    ink = "black" if 0.3 * red + 0.6 * green + 0.1 * blue > 0.55 else "white"
    plate = {"fc": colour, "ec": "none", "pad": 0.8, "alpha": 0.85}
    return ax.text(x, y, name, color=ink, size=7, ha=side, va=edge, bbox=plate)


def gallery(
    rgb: Tensor,
    targets: Sequence[dict] | None = None,
    class_names: Sequence[str] | None = None,
    columns: int = 6,
) -> Figure:
    """Show images `[B, 3, H, W]` in [0, 1], with their targets' boxes if given."""
    rows = -(-len(rgb) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(1.75 * columns, 1.75 * rows), squeeze=False
    )
    for ax in axes.flat[len(rgb) :]:
        ax.set_visible(False)
    for index, (ax, image) in enumerate(zip(axes.flat, rgb)):
        picture(image, ax)
        if targets is not None:
            height, width = image.shape[-2:]
            scale = torch.tensor([width, height, width, height])
            target = targets[index]
            names = class_names and [class_names[i] for i in target["labels"]]
            boxes_on(ax, cxcywh_to_xyxy(target["boxes"]) * scale, names)
    return figure


def attention(
    ax: Axes,
    rgb: Tensor,
    weights: Tensor,
    box: Tensor | None = None,
    title: str = "",
) -> None:
    """Lay one attention map `[h, w]` over an image: it glows where attention is.

    The brightest cell is scaled to 1: maps show where, not how much.
    """
    height, width = rgb.shape[-2:]
    grey = _array(rgb).mean(-1, keepdims=True).repeat(3, -1)
    heat = (weights / weights.max().clamp(min=1e-12)).detach().cpu().numpy()
    colours = plt.get_cmap("inferno")(heat)  # [h, w, 4]
    colours[..., 3] = 0.35 + 0.45 * heat  # let the picture through where it is dark
    extent = (0, width, height, 0)
    ax.imshow(grey, extent=extent, interpolation="nearest")
    ax.imshow(colours, extent=extent, interpolation="bilinear")
    ax.set(xticks=[], yticks=[], title=title)
    ax.spines[:].set_visible(False)
    if box is not None:
        boxes_on(ax, box[None])


def bar_values(
    ax: Axes, bars: BarContainer, digits: int = 2, times: float = 1.0
) -> list[Text]:
    """Write the value of each upright bar, `times` a factor, beyond its end.

    What rounds to zero has no sign, and stands above the axis.
    """
    texts = []
    for bar, value in zip(bars, bars.datavalues):
        words = f"{times * value:z.{digits}f}"
        step, side = (-1, "top") if words.startswith("-") else (1, "bottom")
        at = bar.get_x() + bar.get_width() / 2, value
        look = {"textcoords": "offset points", "ha": "center", "va": side, "size": 8}
        texts.append(ax.annotate(words, at, (0, step), **look))
    return texts


def curves(
    ax: Axes,
    records: Mapping[str, Sequence[dict]],
    key: str = "AP",
    x: str = "step",
) -> None:
    """Plot one number of several training records against steps, each curve named."""
    for name, record in records.items():
        points = [(line[x], line[key]) for line in record if line.get(key) is not None]
        if points:
            ax.plot(*zip(*points), label=name, marker="o", markersize=3)
    ax.set(xlabel=x, ylabel=key)
    ax.legend()
