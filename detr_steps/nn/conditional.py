"""Content and position compared apart (chapters/10_conditional_attention.ipynb).

Meng et al. 2021, "Conditional DETR for Fast Training Convergence".
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..describable import describable
from .attention import attend
from .heads import MLP, xavier
from .memory import Memory
from .position import sine_features
from .queries import Queries
from .trace import AttentionMaps


def point_code(points: Tensor, channels: int, temperature: float = 10_000.0) -> Tensor:
    """Sine code of points or boxes: `[..., 2 or 4] -> [..., 1 or 2 times channels]`.

    Half the channels for y, half for x, as the positions of a map's tokens have them;
    of a box (cx, cy, w, h) another `channels` for w and h. Shares of the image become
    angles up to 2π. Raises: ValueError where channels make no waves of two numbers.
    Source: Meng et al. 2021, official code: y comes before x.
    """
    if channels % 4:
        raise ValueError(f"{channels} channels do not make sine and cosine of y and x")
    order = [1, 0, 2, 3][: points.shape[-1]]  # y, x, w, h
    angles = points[..., order] * (2 * math.pi)
    return sine_features(angles, channels // 2, temperature).flatten(-2)


class ContentAndPosition(nn.Module):
    """Queries and keys that are the sum of a content and a position, each projected.

    What Conditional DETR has as self-attention of the queries.
    Source: Meng et al. 2021, official code.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        check_heads(channels, heads)
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(channels, channels)
        self.query_position = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.key_position = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        xavier(self.children())
        nn.init.zeros_(self.output.bias)

    def read(
        self, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Tensor, AttentionMaps | None]:
        """`[B, Q, C]` and, when `trace`, maps `[B, M, Q, S]`."""
        return self(queries, memory, trace)

    def forward(
        self, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Tensor, AttentionMaps | None]:
        """Let queries read a memory; see `read`."""
        q = self.query(queries.content) + self.query_position(queries.positions)
        k = self.key(memory.tokens) + self.key_position(memory.positions)
        q, k, v = (
            split_heads(x, self.heads) for x in (q, k, self.value(memory.tokens))
        )
        dropout = self.dropout if self.training else 0.0
        mixed, seen = attended(q, k, v, memory.padding, dropout, trace)
        return self.output(mixed), seen


class Combination(Protocol):
    """How content and position make the vectors that are compared."""

    def __call__(self, content: Tensor, position: Tensor) -> Tensor:
        """Two `[B, M, S, D]`, both of queries or both of keys, to one."""


@describable
@dataclass(frozen=True)
class Concat:
    """Side by side in each head: scores = content · content + position · position."""

    def __call__(self, content: Tensor, position: Tensor) -> Tensor:
        """`[B, M, S, D]` twice -> `[B, M, S, 2D]`."""
        return torch.cat((content, position), -1)


@describable
@dataclass(frozen=True)
class Add:
    """Their sum, as in DETR: also content · position and position · content."""

    def __call__(self, content: Tensor, position: Tensor) -> Tensor:
        """`[B, M, S, D]` twice -> `[B, M, S, D]`."""
        return content + position


class Transform(Protocol):
    """What the content may say about the position a query compares."""

    def build(self, channels: int) -> nn.Module:
        """Make a module: sine code and content, `[B, Q, C]` each, to one."""


@describable
@dataclass(frozen=True)
class Scaled:
    """λ ⊙ code: the paper's. It stays a code of the same point."""

    def build(self, channels: int) -> "ContentTransform":
        """Make the module with fresh weights."""
        return ContentTransform(channels, torch.mul)


@describable
@dataclass(frozen=True)
class Shifted:
    """λ + code: an ablation; the sum is no code of a point any more."""

    def build(self, channels: int) -> "ContentTransform":
        """Make the module with fresh weights."""
        return ContentTransform(channels, torch.add)


@describable
@dataclass(frozen=True)
class Unchanged:
    """The code alone: an ablation; the content says nothing about the position."""

    def build(self, channels: int) -> "NoTransform":
        """Make the module; it has no weights."""
        return NoTransform()


class ContentTransform(MLP):
    """λ, which an MLP reads from the content, applied to a sine code.

    Source: Meng et al. 2021, section 3.3 (T, a diagonal matrix).
    """

    def __init__(
        self, channels: int, apply: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        super().__init__(channels, channels, channels)
        xavier(self.layers)
        self.apply_to = apply

    def forward(self, code: Tensor, content: Tensor) -> Tensor:
        """`[B, Q, C]` twice -> `[B, Q, C]`."""
        return self.apply_to(code, super().forward(content))


class NoTransform(nn.Module):
    """The code as it is, whatever the content."""

    def forward(self, code: Tensor, content: Tensor) -> Tensor:
        """`[B, Q, C]` twice -> `[B, Q, C]`."""
        return code


class ConditionalCrossAttention(nn.Module):
    """Scores = content of query and key + position of query and key, head by head.

    The query's position is its `spatial` code, which the content has scaled; the first
    layer, whose content is still empty, adds the projected position embedding as well.
    Source: Meng et al. 2021, section 3.3.
    Built in chapters/10_conditional_attention.ipynb.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        dropout: float = 0.0,
        first: bool = False,
        combine: Combination | None = None,
    ) -> None:
        super().__init__()
        check_heads(channels, heads)
        self.heads, self.dropout = heads, dropout
        self.combine = combine or Concat()
        self.query = nn.Linear(channels, channels)
        self.query_position = nn.Linear(channels, channels) if first else None
        self.query_spatial = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.key_position = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        xavier(self.children())
        nn.init.zeros_(self.output.bias)

    def read(
        self, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Tensor, AttentionMaps | None]:
        """`[B, Q, C]` and, when `trace`, maps `[B, M, Q, S]`."""
        return self(queries, memory, trace)

    def forward(
        self, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Tensor, AttentionMaps | None]:
        """Let queries read a memory; see `read`."""
        q, k = self.query(queries.content), self.key(memory.tokens)
        k_position = self.key_position(memory.positions)  # [B, S, C]
        if self.query_position is not None:
            q = q + self.query_position(queries.positions)
            k = k + k_position
        pairs = (q, self.query_spatial(queries.spatial)), (k, k_position)
        # side by side within each head: [content, position] and not all content first
        q, k = (
            self.combine(*(split_heads(x, self.heads) for x in pair)) for pair in pairs
        )  # [B, M, Q or S, 2D]
        v = split_heads(self.value(memory.tokens), self.heads)
        dropout = self.dropout if self.training else 0.0
        mixed, seen = attended(q, k, v, memory.padding, dropout, trace)
        return self.output(mixed), seen


def attended(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    padding: Tensor | None,
    dropout: float,
    trace: bool,
) -> tuple[Tensor, AttentionMaps | None]:
    """Attention of separate heads `[B, M, Q or S, D]`, joined: `[B, Q, C]`, and maps.

    Queries and keys may be wider than values; scores are divided by the root of their
    own width (64 for Conditional DETR, where values have 32).
    """
    if padding is not None:
        padding = padding[:, None, None, :]  # [B, 1, 1, S]
    if trace:
        mixed, weights = attend(q, k, v, padding)
        return mixed.transpose(1, 2).flatten(2), AttentionMaps(weights)
    mask = None if padding is None else ~padding
    mixed = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout
    )
    return mixed.transpose(1, 2).flatten(2), None


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[B, S, C] -> [B, M, S, D]`."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def check_heads(channels: int, heads: int) -> None:
    """Raise ValueError unless M divides C."""
    if heads < 1 or channels % heads:
        raise ValueError(f"{heads} heads do not divide {channels} channels evenly")
