"""How a scene is painted: shapes, textures, colours (chapters/00_start_here.ipynb).

Everything that decides a *target* uses only + - * / and comparisons of float32, one
operation at a time, and tables made on the host. IEEE 754 fixes the result of each, so
targets are the same on every machine; colours may use sin and differ in the last bits.
"""

import math
from functools import lru_cache

import torch
from torch import Tensor

from . import hashing

SHAPES = ("disc", "box", "triangle", "cross", "ring", "moon")
STUFF = ("stripes", "checks", "clouds", "gravel")
ANGLES = 64  # rotations come from a table, so that no cosine is computed on a device
TILE = 256  # side of the repeating noise tile


@lru_cache
def _angle_table() -> Tensor:
    turns = [2 * math.pi * i / ANGLES for i in range(ANGLES)]
    rows = [
        (round(math.cos(t) * 1024) / 1024, round(math.sin(t) * 1024) / 1024)
        for t in turns
    ]
    return torch.tensor(rows)


def directions(index: Tensor) -> tuple[Tensor, Tensor]:
    """Look up cosine and sine of angle number `index` (0 … 63), rounded to 1/1024."""
    table = _angle_table().to(index.device)[index]
    return table[..., 0], table[..., 1]


@lru_cache
def size_table(smallest: float, largest: float) -> Tensor:
    """256 sizes in pixels from smallest to largest, evenly spaced in the logarithm."""
    ratio = largest / smallest
    sizes = [smallest * ratio ** (i / 255) for i in range(256)]
    return torch.tensor([round(s * 16) / 16 for s in sizes])


@lru_cache
def stretch_table() -> Tensor:
    """256 factors from 1 to √2: a shape's longer side over the mean of its sides."""
    return torch.tensor([round(1024 * 2 ** (i / 510)) / 1024 for i in range(256)])


def _disc(u: Tensor, v: Tensor) -> Tensor:
    return u * u + v * v <= 1


def _box(u: Tensor, v: Tensor) -> Tensor:
    return torch.maximum(u.abs(), v.abs()) <= 1


def _triangle(u: Tensor, v: Tensor) -> Tensor:
    au = u.abs()
    return (v.abs() <= 1) & (au + au <= v + 1)


def _cross(u: Tensor, v: Tensor) -> Tensor:
    return _box(u, v) & (torch.minimum(u.abs(), v.abs()) <= 0.3125)


def _ring(u: Tensor, v: Tensor) -> Tensor:
    return _disc(u, v) & (u * u + v * v >= 0.28125)


def _moon(u: Tensor, v: Tensor) -> Tensor:
    bite = (u - 0.625) * (u - 0.625) + v * v
    return _disc(u, v) & (bite > 0.5625)


INSIDE = (_disc, _box, _triangle, _cross, _ring, _moon)  # in the order of SHAPES


def inside_shape(u: Tensor, v: Tensor, shape: Tensor) -> Tensor:
    """Say which points lie in a shape.

    `u, v [k, P, P]` are the point's coordinates in the shape's own frame, where the
    shape fills [-1, 1]²; `shape [k]` indexes `SHAPES`. Returns bool `[k, P, P]`.
    """
    result = torch.zeros_like(u, dtype=torch.bool)
    for index, inside in enumerate(INSIDE):
        rows = (shape == index).nonzero()[:, 0]
        result[rows] = inside(u[rows], v[rows])
    return result


@lru_cache
def _noise_tile(device: torch.device) -> Tensor:
    """Noise in [-1, 1] to cut windows from: three fine channels, one cloudy one.

    The tile repeats every `TILE` pixels; the copies cover the largest window.
    """
    keys = torch.arange(4 * TILE * TILE)
    fine = hashing.uniform(hashing.words(keys, 2)).sum(-1) - 1  # triangular, [-1, 1]
    tile = fine.view(4, TILE, TILE)
    cloud = tile[3]
    for shift in (1, 2, 4, 8):  # repeated box blurs: soft blobs that wrap around
        for axis in (0, 1):
            cloud = cloud + cloud.roll(shift, axis)
    tile[3] = cloud / cloud.abs().max()
    return tile.repeat(1, 3, 3).to(device)  # [4, 3 T, 3 T]


def noise(offset: Tensor, size: int) -> Tensor:
    """Cut a window of noise for each scene: `offset [B, 2] -> [B, 4, S, S]`."""
    tile = _noise_tile(offset.device)
    rows = [tile[:, y : y + size, x : x + size] for y, x in offset.tolist()]
    return torch.stack(rows)


def saturated_colours(random_words: Tensor) -> Tensor:
    """Lively colours for things: `[..., 4] words -> [..., 3]` in [0, 1]."""
    value = hashing.uniform(random_words)
    high = 0.7 + 0.3 * value[..., 0]
    low = 0.25 * value[..., 1]
    ramp = torch.stack((high, low, low + (high - low) * value[..., 2]), dim=-1)
    orders = torch.tensor(
        [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)],
        device=value.device,
    )
    return ramp.gather(-1, orders[hashing.pick(random_words[..., 3], 6)])


def muted_colours(random_words: Tensor) -> Tensor:
    """Greyish colours for stuff: `[..., 4] words -> [..., 3]` in [0, 1]."""
    value = hashing.uniform(random_words)
    return 0.25 + 0.45 * value[..., :1] + 0.16 * (value[..., 1:] - 0.5)


def texture_fields(random_words: Tensor, soft: Tensor, fine: Tensor) -> Tensor:
    """Paint the four stuff textures over whole scenes, each in [-1, 1].

    `random_words [B, 4]`, `soft`/`fine` noise `[B, S, S]` -> `[B, 4, S, S]`.
    """
    size = soft.shape[-1]
    cos, sin = directions(hashing.pick(random_words[:, 0], ANGLES))  # [B]
    period = (8 + 10 * hashing.uniform(random_words[:, 1])) * size / 128  # px
    step = torch.arange(size, device=soft.device) * (2 * math.pi)
    along = (step * (cos / period)[:, None])[:, None, :] + (
        step * (sin / period)[:, None]
    )[:, :, None]  # [B, S, S]
    across = (step * (-sin / period)[:, None])[:, None, :] + (
        step * (cos / period)[:, None]
    )[:, :, None]
    wave = along.sin()
    # sign() of a sine near zero may differ between machines; a steep ramp may not
    checks = ((wave * across.sin()) * 8).clamp(-1, 1)
    return torch.stack((wave, checks, soft, fine), dim=1)
