"""What an interactive figure shows, in NumPy: the reference for its canvas.

What figure.mjs shows is computed here once more from the same arrays: posters are made
of it, and the tests compare it with the canvas pixel by pixel.
"""

import numpy as np
from matplotlib import colormaps

# matplotlib's inferno: dark to light, told apart by colour-blind readers
LUT = (colormaps["inferno"](np.arange(256))[:, :3] * 255).round().astype(np.uint8)


def size_of(figure) -> tuple[int, int]:
    """Height and width of the stage in pixels: the picture's, or the map's shape."""
    if figure.picture is not None:
        return figure.picture.shape[:2]
    maps = figure.arrays.get("maps")
    height, width = maps.shape[-2:] if maps is not None else (1, 1)
    scale = 256 / max(height, width)
    return round(height * scale), round(width * scale)


def head_map(maps: np.ndarray, peaks: np.ndarray, head: int) -> np.ndarray:
    """One map in 0..255: of a head, or for -1 the mean of all, scaled to its maximum.

    `maps` uint8 `[M, h, w]`, each scaled to its own `peaks [M]`.
    """
    if head >= 0:
        return maps[head].astype(np.float64)
    mean = np.zeros(maps.shape[1:])
    for one, peak in zip(maps, peaks):  # in the module's order: the same roundings
        mean += one * np.float64(peak)
    return mean * (255 / (mean.max() or 1))


def spread_out(
    values: np.ndarray, size: tuple[int, int], cover: tuple[float, float] = (1, 1)
) -> np.ndarray:
    """Values of cells `[h, w]` at the pixels of a picture of `size`, bilinear.

    `cover` (x, y): the share of the picture that the map spans; cells that stick out
    of the picture make it more than 1. Pixel and cell centres lie at +0.5.
    """
    (h, w), (height, width) = values.shape, size
    y = np.clip((np.arange(height) + 0.5) / height / cover[1] * h - 0.5, 0, h - 1)
    x = np.clip((np.arange(width) + 0.5) / width / cover[0] * w - 0.5, 0, w - 1)
    top, left = y.astype(int), x.astype(int)
    below, right = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
    fy, fx = (y - top)[:, None], x - left
    lines = values[top] * (1 - fy) + values[below] * fy  # [H, w]
    return lines[:, left] * (1 - fx) + lines[:, right] * fx  # [H, W]


def grey_of(picture: np.ndarray) -> np.ndarray:
    """The picture without its colours: `[H, W, 3] -> [H, W]`, uint8."""
    return np.floor(picture.mean(-1, dtype=np.float64) + 0.5).astype(np.uint8)


def glow(
    grey: np.ndarray, values: np.ndarray, cover: tuple[float, float] = (1, 1)
) -> np.ndarray:
    """Lay a map `[h, w]` in 0..255 over a grey picture `[H, W]`: uint8 `[H, W, 3]`.

    As viz.attention does it: the stronger the weight, the thicker its colour.
    """
    level = np.floor(spread_out(values, grey.shape, cover) + 0.5).astype(int)
    alpha = (0.35 + 0.45 * level / 255)[..., None]
    mixed = grey[..., None] * (1 - alpha) + LUT[level] * alpha
    return np.floor(mixed + 0.5).astype(np.uint8)


def peak_of(maps: np.ndarray, peaks: np.ndarray, head: int) -> float:
    """The weight of the heaviest cell: of a head, or for -1 of the mean of all."""
    if head >= 0:
        return float(peaks[head])
    return float(
        np.tensordot(peaks.astype(np.float64) / 255, maps, 1).max() / len(maps)
    )


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """IoU of two boxes (cxcywh)."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    low = np.maximum(a[:2] - a[2:] / 2, b[:2] - b[2:] / 2)
    high = np.minimum(a[:2] + a[2:] / 2, b[:2] + b[2:] / 2)
    both = np.prod(np.maximum(high - low, 0))
    return float(both / (np.prod(a[2:]) + np.prod(b[2:]) - both or 1))


def total_cost(parts: np.ndarray, weights: list[float] | None = None) -> np.ndarray:
    """Weighted sum of the parts of a cost: `[P, Q, N] -> [Q, N]`."""
    weights = np.ones(len(parts)) if weights is None else np.asarray(weights)
    return np.tensordot(weights, parts.astype(np.float64), 1)


def tinted(state) -> np.ndarray:
    """Segments in the colours of their classes over the grey picture.

    Void is darkened, stuff tinted less than things, the state's own item more than all.
    Returns uint8 `[H, W, 3]`.
    """
    grey = grey_of(state.figure.shown)
    owner = state.arrays["owner"][state.frame]
    rows, columns = (
        ((np.arange(new) + 0.5) * old / new).astype(int)
        for new, old in zip(grey.shape, owner.shape)
    )
    inks, shares = [(0, 0, 0)], [0.7]
    for item in range(state.items):
        colour, label = state.colour(item), state.at("labels", item)
        inks.append([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
        share = 0.55 if label < state.notes["things"] else 0.2
        shares.append(share + 0.2 * (item == state.item))
    ids = owner[rows[:, None], columns]  # [H, W]
    share = np.array(shares)[ids][..., None]
    mixed = grey[..., None] * (1 - share) + np.array(inks)[ids] * share
    return np.floor(mixed + 0.5).astype(np.uint8)
