"""How much each point of a deformable attention counts: four answers to compare.

The paper computes it from the query alone, without looking at the points: is that
still attention? A config here builds a module that gives scores `[B, Q, M, L, K]`, of
which the attention takes the softmax. Compared in
chapters/06_deformable_attention.ipynb.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..describable import describable
from ..ops.read_points import Sizes, sample_level


class PointWeights(Protocol):
    """A frozen dataclass that makes a module of scores `[B, Q, M, L, K]`."""

    def build(self, channels: int, heads: int, levels: int, points: int) -> nn.Module:
        """Make the module with fresh weights."""


@describable
@dataclass(frozen=True)
class FromQuery:
    """The paper's: a linear layer on the query (Zhu et al. 2020, section 4.1)."""

    def build(self, channels: int, heads: int, levels: int, points: int) -> nn.Module:
        """Make the module with fresh weights."""
        return QueryScores(channels, heads, levels, points)


@describable
@dataclass(frozen=True)
class FromKeys:
    """Dot products over the points: the query times a key read at each of them.

    Keys come from tokens without positions, unlike DETR's, and no point has weights of
    its own, unlike in `FromQuery`: a comparison of the two changes these as well.
    """

    def build(self, channels: int, heads: int, levels: int, points: int) -> nn.Module:
        """Make the module with fresh weights; levels and points do not matter to it."""
        return KeyScores(channels, heads)


@describable
@dataclass(frozen=True)
class Learned:
    """The same for every query of every image: learned numbers."""

    def build(self, channels: int, heads: int, levels: int, points: int) -> nn.Module:
        """Make the module with fresh weights."""
        return LearnedScores(heads, levels, points)


@describable
@dataclass(frozen=True)
class Uniform:
    """All points count alike: only where they lie is learned."""

    def build(self, channels: int, heads: int, levels: int, points: int) -> nn.Module:
        """Make the module, which has no weights."""
        return UniformScores()


class QueryScores(nn.Module):
    """A linear layer that starts at zero: uniform weights at first."""

    def __init__(self, channels: int, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.shape = (heads, levels, points)
        self.linear = nn.Linear(channels, math.prod(self.shape))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self, query: Tensor, value: Tensor, sizes: Sizes, locations: Tensor
    ) -> Tensor:
        """`query [B, Q, C]` -> `[B, Q, M, L, K]`; what lies at the points is unseen."""
        return self.linear(query).unflatten(-1, self.shape)


class KeyScores(nn.Module):
    """Scaled dot product of the query and the key read at each point."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels, bias=False)  # outside the map: 0
        nn.init.xavier_uniform_(self.query.weight)
        nn.init.xavier_uniform_(self.key.weight)
        nn.init.zeros_(self.query.bias)

    def forward(
        self, query: Tensor, value: Tensor, sizes: Sizes, locations: Tensor
    ) -> Tensor:
        """`query [B, Q, C]`, `value [B, S, C]` with zeros where padded."""
        asked = self.query(query).unflatten(-1, (self.heads, -1))  # [B, Q, M, D]
        asked = asked.permute(0, 2, 3, 1).flatten(0, 1)[:, :, None]  # [B·M, D, 1, Q]
        keys = self.key(value).unflatten(-1, (self.heads, -1))  # [B, S, M, D]
        tokens = keys.split([h * w for h, w in sizes], dim=1)
        scores = []
        for level in zip(tokens, sizes, locations.unbind(3)):
            agreement = (sample_level(*level) * asked).sum(1)  # [B·M, K, Q]
            scores.append(agreement.unflatten(0, (-1, self.heads)))
        scores = torch.stack(scores, 2) / math.sqrt(asked.shape[1])  # [B, M, L, K, Q]
        return scores.permute(0, 4, 1, 2, 3)


class LearnedScores(nn.Module):
    """One score for each head, level and point; they start equal."""

    def __init__(self, heads: int, levels: int, points: int) -> None:
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(heads, levels, points))

    def forward(
        self, query: Tensor, value: Tensor, sizes: Sizes, locations: Tensor
    ) -> Tensor:
        """`[B, Q, M, L, K]`, the same for all B and Q."""
        return self.scores.expand(locations.shape[:-1])


class UniformScores(nn.Module):
    """Zeros."""

    def forward(
        self, query: Tensor, value: Tensor, sizes: Sizes, locations: Tensor
    ) -> Tensor:
        """`[B, Q, M, L, K]`."""
        return locations.new_zeros(locations.shape[:-1])
