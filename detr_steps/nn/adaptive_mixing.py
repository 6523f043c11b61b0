"""Queries that sample points in space and scale, and mix them by weights of their own.

Gao et al. 2022, "AdaMixer: A Fast-Converging Query-Based Object Detector".
Built in chapters/12_more_queries.ipynb.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..describable import describable
from ..ops.read_points import read_points
from .memory import Memory
from .queries import Queries
from .references import level_extents
from .trace import SamplingPoints
from .xyzr import boxes_to_xyzr, image_pixels, xyzr_sides

SPREAD = 0.5  # of the points at the start, in sides of the box from its centre
FINER = -1.0  # of z at the start: a level finer than the box's own
SOFTNESS = 2.0  # of the choice between levels


@describable
@dataclass(frozen=True)
class Mixing:
    """How a query samples and mixes. Raises: ValueError for numbers below 1."""

    groups: int = 4  # G, of the channels; each samples points of its own
    points: int = 32  # P_in, of each group
    out_points: int = 128  # P_out, that these are mixed to

    def __post_init__(self) -> None:
        for name in ("groups", "points", "out_points"):
            number = getattr(self, name)
            if type(number) is not int or number < 1:
                raise ValueError(f"{name} {number!r}: one at least")

    def build(self, channels: int, strides: Sequence[int]) -> "AdaptiveMixing":
        """Make the module with fresh weights."""
        return AdaptiveMixing(channels, strides, self)


class AdaptiveMixing(nn.Module):
    """3-D sampling, then channel mixing and spatial mixing, instead of attention.

    There are no keys, and no weights of points but those of the levels: what a query
    does with its points is two matrices for each group, both linear in its content,
    M `[C/G, C/G]` over channels and S `[P_out, P_in]` over points. `strides` of the
    levels in pixels.
    Raises: ValueError when G does not divide C, or for fewer than two levels: nothing
    would be chosen along z.
    Source: Gao et al. 2022, sections 3.2 and 3.3.
    """

    def __init__(self, channels: int, strides: Sequence[int], mixing: Mixing) -> None:
        super().__init__()
        groups, points, out_points = mixing.groups, mixing.points, mixing.out_points
        if channels % groups:
            raise ValueError(
                f"{groups} groups do not divide {channels} channels evenly: take "
                f"groups={math.gcd(groups, channels)}"
            )
        if len(strides) < 2:
            raise ValueError(
                f"{len(strides)} level: a query samples between levels, give two maps "
                "of the backbone at least"
            )
        self.mixing, self.strides = mixing, tuple(strides)
        self.width = channels // groups
        self.sizes = self.width**2, out_points * points  # of M and of S
        self.offsets = nn.Linear(channels, groups * points * 3)
        self.kernels = nn.Linear(channels, groups * sum(self.sizes))
        self.output = nn.Linear(groups * out_points * self.width, channels)
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """At first all queries have the same points and the same two matrices.

        Zero weights; points are scattered over the box, a level finer than it is.
        """
        nn.init.zeros_(self.offsets.weight)
        nn.init.uniform_(self.offsets.bias, -SPREAD, SPREAD)
        self.offsets.bias.view(-1, 3)[:, 2] = FINER
        nn.init.zeros_(self.kernels.weight)
        nn.init.xavier_uniform_(self.output.weight)

    def read(
        self, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Tensor, SamplingPoints | None]:
        """Let queries read a memory in and around their boxes: `[B, Q, C]`, points."""
        points = self.locate(queries, memory)  # [B, Q, G, P, 3] in pixels
        locations, weights = self.on_levels(points, memory)
        sampled = sample_3d(self.split(memory.tokens), memory, locations, weights)
        mixed = self.mix(sampled, self.kernels(queries.content))
        if not trace:
            return mixed, None
        # every point counts as one, however its levels share it
        return mixed, SamplingPoints(locations, weights / self.mixing.points)

    def split(self, tokens: Tensor) -> Tensor:
        """The channels of each group: `[B, S, C] -> [B, S, G, C/G]`."""
        return tokens.unflatten(-1, (self.mixing.groups, self.width))

    def locate(self, queries: Queries, memory: Memory) -> Tensor:
        """Points (x, y, z) in pixels: `[B, Q, G, P, 3]`, float32 or better.

        Offsets count the box's own width and height from its centre (the official code;
        the paper writes 2^z for both), and levels from its z.
        """
        pixels = image_pixels(memory, self.strides[0])
        xyzr = boxes_to_xyzr(queries.references, pixels)  # [B, Q, 4]
        offsets = self.offsets(queries.content).to(xyzr.dtype)
        shape = self.mixing.groups, self.mixing.points, 3
        offsets = offsets.unflatten(-1, shape)  # [B, Q, G, P, 3]
        one = torch.ones_like(xyzr[..., :1])
        units = torch.cat((xyzr_sides(xyzr), one), -1)[:, :, None, None]
        return xyzr[:, :, None, None, :3] + offsets * units

    def on_levels(self, points: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """Where the points lie on each level, and how much each level counts there.

        `[B, Q, G, L, P, 2]` as shares of the padded map, `[B, Q, G, L, P]` that add up
        to 1 over the levels. Source: equation 5.
        """
        strides = points.new_tensor(self.strides)  # [L]
        extents = level_extents(memory.sizes, points) * strides[:, None]  # [L, 2]
        xy, z = points[..., None, :, :2], points[..., None, :, 2]
        apart = z - strides.log2()[:, None]  # [B, Q, G, L, P]
        return xy / extents[:, None], (-(apart**2) / SOFTNESS).softmax(-2)

    def mix(self, sampled: Tensor, kernels: Tensor) -> Tensor:
        """Mix `sampled [B, Q, G, P_in, C/G]` by `kernels [B, Q, ·]`: `[B, Q, C]`.

        Each of both is followed by a norm over points and channels together, without
        weights, and by ReLU. Source: equations 6 to 10.
        """
        kernels = kernels.unflatten(-1, (self.mixing.groups, -1))
        channel, spatial = kernels.split(self.sizes, -1)  # M, S
        channel = channel.unflatten(-1, (self.width, self.width))
        spatial = spatial.unflatten(-1, (-1, self.mixing.points))
        mixed = _normed(sampled @ channel).relu()  # [B, Q, G, P_in, C/G]
        mixed = _normed(spatial @ mixed).relu()  # [B, Q, G, P_out, C/G]
        return self.output(mixed.flatten(2))


def sample_3d(
    value: Tensor, memory: Memory, locations: Tensor, weights: Tensor
) -> Tensor:
    """Read each point on all levels and add these up: `[B, Q, G, P, D]`.

    `value [B, S, G, D]` of the memory's tokens, `locations [B, Q, G, L, P, 2]`,
    `weights [B, Q, G, L, P]`. Deformable attention with one point is the same: here
    each point is a query of it, so the same kernels do it.
    """
    queries, points = weights.shape[1], weights.shape[-1]
    locations = locations.permute(0, 1, 4, 2, 3, 5).flatten(1, 2)  # [B, Q·P, G, L, 2]
    weights = weights.permute(0, 1, 4, 2, 3).flatten(1, 2)  # [B, Q·P, G, L]
    read = read_points(
        value, memory.sizes, locations[..., None, :], weights[..., None]
    )  # [B, Q·P, G·D]
    read = read.unflatten(1, (queries, points)).unflatten(-1, (value.shape[2], -1))
    return read.transpose(2, 3)


def _normed(x: Tensor) -> Tensor:
    return functional.layer_norm(x, x.shape[-2:])
