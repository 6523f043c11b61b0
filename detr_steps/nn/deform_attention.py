"""Attention that looks at a few points (chapters/06_deformable_attention.ipynb)."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..ops.read_points import (
    Sizes,
    check_levels,
    fused_read_points,
    has_fused_kernel,
    read_points,
)
from .point_weights import FromQuery, QueryScores


class Places(NamedTuple):
    """Where queries look first: what a deformable attention has in place of keys.

    `references [B, Q, L, 2 or 4]`: for each query and level a point (x, y) or a box
    (cx, cy, w, h), as shares of that level's map; `sizes (h, w)` of the levels.
    """

    references: Tensor
    sizes: Sizes


class Reading(NamedTuple):
    """Where the queries of one attention have looked, and how much each point counted.

    `locations [B, Q, M, L, K, 2]` (x, y), shares of the padded map, possibly outside;
    `weights [B, Q, M, L, K]`, adding up to 1 over L and K.
    """

    locations: Tensor
    weights: Tensor


@dataclass(frozen=True)
class DeformableTrace:
    """What all attentions of one forward pass have read; the sibling of `Trace`.

    `encoder` and `decoder`: one `Reading` for each layer, of S tokens and of Q queries;
    `decoder_self [Y, B, M, Q, Q]` as in `Trace`. `tokens [B, S, 2]` and `references`
    (for each decoder layer `[B, Q, 2 or 4]`) are where they start from, shares of the
    un-padded image. `sizes (h, w)` of the levels; `valid [B, L, 2]` the un-padded share
    (x, y) of each level: times it, a reference becomes a location.
    """

    encoder: tuple[Reading, ...]
    decoder: tuple[Reading, ...]
    decoder_self: Tensor
    tokens: Tensor
    references: tuple[Tensor, ...]
    sizes: Sizes
    valid: Tensor


@dataclass(frozen=True)
class Sampling:
    """How queries look: the numbers of a deformable attention.

    `Sampling(heads=1, points=1, weights=Uniform())` on one level is a pure warp: each
    query fetches the value of one other place.
    """

    heads: int = 8  # M
    points: int = 4  # K, on each level
    weights: object = FromQuery()  # one of point_weights.py, or anything with build()

    def build(self, channels: int, levels: int) -> nn.Module:
        """Make the module with fresh weights."""
        return MultiScaleDeformableAttention(
            channels, self.heads, levels, self.points, self.weights
        )


def star(heads: int, levels: int, points: int) -> Tensor:
    """Offsets at the start, in pixels of each level: `[M, L, K, 2]` (dx, dy).

    Head m looks into direction 2πm / M, point k is k + 1 pixels away, measured along
    the longer side: for 8 heads and one point the neighbours of a pixel.
    Source: Zhu et al. 2020, appendix A.4. Built in
    chapters/06_deformable_attention.ipynb.
    """
    angle = torch.arange(heads) * (2 * math.pi / heads)
    direction = torch.stack((angle.cos(), angle.sin()), -1)  # [M, 2]
    direction = direction / direction.abs().amax(-1, keepdim=True)
    steps = torch.arange(1, points + 1)[:, None] * direction[:, None, None]
    return steps.expand(heads, levels, points, 2)


class MultiScaleDeformableAttention(nn.Module):
    """Each query looks at K points of each of L levels, with each of M heads.

    Where to look and how much each point counts are linear in the query; there are no
    keys. `channels` C, M `heads` of D = C / M channels. At the start all queries look
    at the same `star` with equal weights. `offsets` learns at a tenth of the rate.
    Raises: ValueError when M does not divide C, or for a number that is not positive.
    Source: Zhu et al. 2020, equation 3. Built in
    chapters/06_deformable_attention.ipynb.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 8,
        levels: int = 4,
        points: int = 4,
        weights: object = Sampling.weights,
    ) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels evenly")
        if levels < 1 or points < 1:
            raise ValueError(
                f"{points} points on {levels} levels: a query must look at one point "
                "of one level at least"
            )
        self.shape = (heads, levels, points)
        self.offsets = nn.Linear(channels, 2 * math.prod(self.shape))
        self.weights = weights.build(channels, *self.shape)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start with the same star for every query: nothing depends on it yet."""
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(star(*self.shape).flatten())
        for part in (self.value, self.output):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(
        self,
        query: Tensor,
        places: Places,
        value: Tensor,
        padding: Tensor | None = None,
        trace: bool = False,
    ) -> tuple[Tensor, Reading | None]:
        """Let every query `[B, Q, C]` read `value [B, S, C]` around its reference.

        `places` in place of keys; `padding [B, S]` True for tokens that do not exist:
        they read as zeros, like everything outside (and their weight is lost).
        Returns `[B, Q, C]` and, when `trace`, where it has looked.
        Raises: ValueError where levels, tokens and references do not belong together.
        """
        self._check(query, places, value)
        table = self.value(value)  # [B, S, C]
        if padding is not None:
            table = table.masked_fill(padding[..., None], 0.0)
            value = value.masked_fill(padding[..., None], 0.0)
        heads = table.unflatten(-1, (self.shape[0], -1))  # [B, S, M, D]
        if not trace and self._in_one(heads):
            return self.output(self._read_in_one(query, places, heads)), None
        locations = self.locate(query, places)
        scores = self.weights(query, value, places.sizes, locations)
        weights = scores.flatten(-2).softmax(-1).view_as(scores)  # over L and K
        read = read_points(heads, places.sizes, locations, weights)  # [B, Q, C]
        return self.output(read), Reading(locations, weights) if trace else None

    def locate(self, query: Tensor, places: Places) -> Tensor:
        """Decide where to look: locations `[B, Q, M, L, K, 2]`, float32 or better.

        Offsets count pixels of each level from a point, and from a box halves of its
        width and height, divided by K: so K points reach its border, however large.
        """
        at = places.references[:, :, None, :, None]  # [B, Q, 1, L, 1, 2 or 4]
        at = at.to(torch.promote_types(at.dtype, torch.float32))
        offsets = self.offsets(query).unflatten(-1, (*self.shape, 2)).to(at.dtype)
        if at.shape[-1] == 4:
            return at[..., :2] + offsets * at[..., 2:] / (2 * self.shape[2])
        extent = at.new_tensor([(w, h) for h, w in places.sizes])  # x, y of each level
        return at + offsets / extent[:, None]

    def _in_one(self, heads: Tensor) -> bool:
        """Whether a GPU's kernel does softmax and locations, too (chapter 07)."""
        from_query = isinstance(self.weights, QueryScores)
        return from_query and has_fused_kernel(heads, *self.shape[1:])

    def _read_in_one(self, query: Tensor, places: Places, heads: Tensor) -> Tensor:
        offsets = self.offsets(query).unflatten(-1, (*self.shape, 2))
        scores = self.weights.linear(query).unflatten(-1, self.shape)
        at = places.references
        return fused_read_points(heads, places.sizes, at, offsets, scores)

    def _check(self, query: Tensor, places: Places, value: Tensor) -> None:
        check_levels(value.shape[1], places.sizes)
        found, levels = places.references.shape, self.shape[1]
        wanted = (*query.shape[:2], levels)
        if found[:-1] != wanted or found[-1] not in (2, 4):
            raise ValueError(
                f"references {list(found)} for {wanted[1]} queries of {wanted[0]} "
                f"images: expected {[*wanted, 2]} points or {[*wanted, 4]} boxes"
            )
        if len(places.sizes) != levels:
            raise ValueError(f"{len(places.sizes)} sizes for {levels} levels")


class DeformableAttention(MultiScaleDeformableAttention):
    """Deformable attention on a single map: the same with one level.

    Source: Zhu et al. 2020, equation 2. Built in
    chapters/06_deformable_attention.ipynb.
    """

    def __init__(
        self,
        channels: int,
        heads: int = 8,
        points: int = 4,
        weights: object = Sampling.weights,
    ) -> None:
        super().__init__(channels, heads, 1, points, weights)
