"""Attention that looks at a few points (chapters/06_deformable_attention.ipynb)."""

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from ..describable import describable
from ..ops.read_points import (
    Sizes,
    check_levels,
    fused_read_points,
    has_fused_kernel,
    read_points,
)
from .memory import Memory
from .point_weights import FromQuery, PointWeights, QueryScores
from .queries import Queries
from .references import level_extents, on_levels
from .trace import SamplingPoints


class ReferencePoints(NamedTuple):
    """What queries sample around: a deformable attention's counterpart of keys.

    `points [B, Q, L, 2 or 4]`: for each query and level a point (x, y) or a box
    (cx, cy, w, h), as shares of that level's padded map; `sizes (h, w)` of the levels.
    """

    points: Tensor
    sizes: Sizes


class AttentionConfig(Protocol):
    """A frozen dataclass that makes an attention: `Sampling`, `Dense`, …"""

    def build(self, channels: int, levels: int) -> nn.Module:
        """Make a module with `read(queries, memory, trace)` and fresh weights."""


@describable
@dataclass(frozen=True)
class Sampling:
    """How queries sample: the numbers of a deformable attention.

    `Sampling(heads=1, points=1, weights=Uniform())` on one level is a pure warp: each
    query fetches the value of one other place.
    """

    heads: int = 8  # M
    points: int = 4  # K, on each level
    weights: PointWeights = FromQuery()

    def build(self, channels: int, levels: int) -> nn.Module:
        """Make the module with fresh weights."""
        return MultiScaleDeformableAttention(
            channels, self.heads, levels, self.points, self.weights
        )


def star(heads: int, levels: int, points: int) -> Tensor:
    """Offsets at the start, in pixels of each level: `[M, L, K, 2]` (dx, dy).

    Head m looks into direction 2πm / M; point k is k + 1 pixels away, by the larger of
    |dx| and |dy|: for 8 heads and one point the neighbours of a pixel.
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

    Offsets and attention scores are linear in the query; there are no keys.
    `channels` C, M `heads` of D = C / M channels. At the start all queries sample the
    same `star` with equal weights. The paper trains `offsets` at a tenth of the rate.
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
        weights: PointWeights = Sampling.weights,
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
        """Start with the same star for every query.

        Zero weights alone would not do: a Xavier loop over all parameters, as in the
        official code, must not come after this, or queries scatter from the start.
        """
        nn.init.zeros_(self.offsets.weight)
        with torch.no_grad():
            self.offsets.bias.copy_(star(*self.shape).flatten())
        for part in (self.value, self.output):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(
        self,
        query: Tensor,
        references: ReferencePoints,
        value: Tensor,
        padding: Tensor | None = None,
        trace: bool = False,
    ) -> tuple[Tensor, SamplingPoints | None]:
        """Let every query `[B, Q, C]` read `value [B, S, C]` around its reference.

        `references` in place of keys; `padding [B, S]` True for tokens that do not
        exist: they read as zeros, like everything outside (and their weight is lost:
        nothing is renormalised). Returns `[B, Q, C]` and, when `trace`, the points.
        Raises: ValueError where levels, tokens and references do not belong together.
        """
        references = self._check(query, references, value)
        table = self.value(value)  # [B, S, C]
        if padding is not None:
            table = table.masked_fill(padding[..., None], 0.0)
            value = value.masked_fill(padding[..., None], 0.0)
        heads = table.unflatten(-1, (self.shape[0], -1))  # [B, S, M, D]
        if not trace and self._has_fused(heads):
            return self.output(self._fused(query, references, heads)), None
        locations = self.locate(query, references)
        scores = self.weights(query, value, references.sizes, locations)
        weights = scores.flatten(-2).softmax(-1).view_as(scores)  # over L and K
        read = read_points(heads, references.sizes, locations, weights)  # [B, Q, C]
        return self.output(read), SamplingPoints(locations, weights) if trace else None

    def read(
        self, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Tensor, SamplingPoints | None]:
        """Let queries read a memory around their own references, on every level."""
        points = on_levels(queries.references, memory.valid)  # [B, Q, L, 2 or 4]
        references = ReferencePoints(points, memory.sizes)
        return self(queries.embedded, references, memory.tokens, memory.padding, trace)

    def locate(self, query: Tensor, references: ReferencePoints) -> Tensor:
        """Sampling locations `[B, Q, M, L, K, 2]`, float32 or better.

        Offsets count pixels of each level from a point; from a box they count halves of
        its width and height, divided by K: so the star's K points end on its border,
        however large it is (the official code's rule; the paper names it for decoders).
        """
        at = references.points[:, :, None, :, None]  # [B, Q, 1, L, 1, 2 or 4]
        at = at.to(torch.promote_types(at.dtype, torch.float32))
        offsets = self.offsets(query).unflatten(-1, (*self.shape, 2)).to(at.dtype)
        if at.shape[-1] == 4:
            return at[..., :2] + offsets * at[..., 2:] / (2 * self.shape[2])
        extents = level_extents(references.sizes, at)  # [L, 2]
        return at + offsets / extents[:, None]

    def _has_fused(self, heads: Tensor) -> bool:
        """Whether a GPU's kernel does softmax and locations, too (chapter 07)."""
        from_query = isinstance(self.weights, QueryScores)
        return from_query and has_fused_kernel(heads, *self.shape[1:])

    def _fused(
        self, query: Tensor, references: ReferencePoints, heads: Tensor
    ) -> Tensor:
        offsets = self.offsets(query).unflatten(-1, (*self.shape, 2))
        scores = self.weights.linear(query).unflatten(-1, self.shape)
        return fused_read_points(
            heads, references.sizes, references.points, offsets, scores
        )

    def _check(
        self, query: Tensor, references: ReferencePoints, value: Tensor
    ) -> ReferencePoints:
        sizes = check_levels(value.shape[1], references.sizes)
        found, levels = references.points.shape, self.shape[1]
        wanted = (*query.shape[:2], levels)
        if found[:-1] != wanted or found[-1] not in (2, 4):
            raise ValueError(
                f"references {list(found)} for {wanted[1]} queries of {wanted[0]} "
                f"images: expected {[*wanted, 2]} points or {[*wanted, 4]} boxes"
            )
        if len(sizes) != levels:
            raise ValueError(f"{len(sizes)} sizes for {levels} levels")
        return references._replace(sizes=sizes)


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
        weights: PointWeights = Sampling.weights,
    ) -> None:
        super().__init__(channels, heads, 1, points, weights)
