"""Attention whose weights no key is asked for: made by the query alone, or learned.

Tay et al. 2021, "Synthesizer: Rethinking Self-Attention for Transformer Models". For
chapter 06's question whether weights need a dot product.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..describable import describable
from .attention import Attention
from .memory import Memory
from .queries import Queries
from .trace import AttentionMaps


@describable
@dataclass(frozen=True)
class DotProduct:
    """Weights from queries and keys: plain attention, as in chapter 01."""

    def build(self, channels: int, heads: int, dropout: float = 0.0) -> nn.Module:
        """Make the module with fresh weights."""
        return Attention(channels, heads, dropout)


@describable
@dataclass(frozen=True)
class DenseWeights:
    """Each query makes its own row of weights by two linear layers (section 3.1)."""

    tokens: int  # S: a row has so many weights, whatever the picture

    def build(self, channels: int, heads: int, dropout: float = 0.0) -> nn.Module:
        """Make the module with fresh weights."""
        return DenseSynthesizer(channels, heads, self.tokens, dropout)


@describable
@dataclass(frozen=True)
class RandomWeights:
    """Rows of weights that are the same for every picture (section 3.2).

    `learned`, or random for good; `mixed` with plain attention's scores (section 3.3).
    """

    tokens: int
    learned: bool = True
    mixed: bool = False

    def build(self, channels: int, heads: int, dropout: float = 0.0) -> nn.Module:
        """Make the module with fresh weights."""
        kind = MixedSynthesizer if self.mixed else RandomSynthesizer
        return kind(channels, heads, self.tokens, dropout, self.learned)


EncoderAttention = DotProduct | DenseWeights | RandomWeights


class Synthesizer(nn.Module):
    """Multi-head attention over a fixed number of tokens; a subclass scores them.

    `channels` C, `heads` M, `tokens` S; `dropout` on the weights while training.
    Raises: ValueError for heads that do not divide the channels, fewer tokens than one.
    """

    def __init__(
        self, channels: int, heads: int, tokens: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels evenly")
        if tokens < 1:
            raise ValueError(f"{tokens} tokens: there is at least one")
        self.heads, self.tokens = heads, tokens
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.value.weight, gain=1 / math.sqrt(2))
        nn.init.xavier_uniform_(self.output.weight)
        for part in (self.value, self.output):
            nn.init.zeros_(part.bias)

    def scores(self, queries: Queries, memory: Memory) -> Tensor:
        """What the softmax is taken of: `[B or 1, M, Q, S]`."""
        raise NotImplementedError

    def read(
        self, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Tensor, AttentionMaps | None]:
        """As `Attention.read`. Raises: ValueError for another number of tokens."""
        found = memory.tokens.shape[1]
        if found != self.tokens:
            raise ValueError(
                f"{found} tokens, but rows of weights for {self.tokens} were learned: "
                "such attention serves pictures of one size; resize them, or take "
                "DotProduct()"
            )
        scores = self.scores(queries, memory)
        if memory.padding is not None:
            scores = scores.masked_fill(memory.padding[:, None, None], float("-inf"))
        weights = scores.softmax(-1)  # [B or 1, M, Q, S]
        values = self.value(memory.tokens).unflatten(-1, (self.heads, -1))
        mixed = self.dropout(weights) @ values.transpose(1, 2)  # [B, M, Q, D]
        attended = self.output(mixed.transpose(1, 2).flatten(2))  # [B, Q, C]
        maps = weights.expand(len(attended), -1, -1, -1)
        return attended, AttentionMaps(maps) if trace else None


class DenseSynthesizer(Synthesizer):
    """Weights from the query alone: S scores for each head by two linear layers.

    Source: Tay et al. 2021, section 3.1, equation 2.
    """

    def __init__(
        self, channels: int, heads: int, tokens: int, dropout: float = 0.0
    ) -> None:
        super().__init__(channels, heads, tokens, dropout)
        self.first = nn.Linear(channels, channels)
        self.second = nn.Linear(channels, heads * tokens)
        for part in (self.first, self.second):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)

    def scores(self, queries: Queries, memory: Memory) -> Tensor:
        """`[B, M, Q, S]`; no key is looked at."""
        rows = self.second(self.first(queries.embedded).relu())  # [B, Q, M · S]
        return rows.unflatten(-1, (self.heads, self.tokens)).transpose(1, 2)


class RandomSynthesizer(Synthesizer):
    """One table of scores for all pictures, learned or left as it was drawn.

    Source: Tay et al. 2021, section 3.2, equation 4.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        tokens: int,
        dropout: float = 0.0,
        learned: bool = True,
    ) -> None:
        super().__init__(channels, heads, tokens, dropout)
        table = torch.randn(heads, tokens, tokens)
        self.table = nn.Parameter(table, requires_grad=learned)

    def scores(self, queries: Queries, memory: Memory) -> Tensor:
        """`[1, M, S, S]`: a token's row is that of its place."""
        return self.table[None]


class MixedSynthesizer(RandomSynthesizer):
    """The table's scores and plain attention's, with shares that are learned.

    Source: Tay et al. 2021, section 3.3, equation 7.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        tokens: int,
        dropout: float = 0.0,
        learned: bool = True,
    ) -> None:
        super().__init__(channels, heads, tokens, dropout, learned)
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.shares = nn.Parameter(torch.zeros(2))  # before their softmax
        for part in (self.query, self.key):
            nn.init.xavier_uniform_(part.weight, gain=1 / math.sqrt(2))
            nn.init.zeros_(part.bias)

    def scores(self, queries: Queries, memory: Memory) -> Tensor:
        """`[B, M, S, S]`."""
        split = ((self.query, queries.embedded), (self.key, memory.keys))
        q, k = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in split
        )
        dots = q @ k.mT / math.sqrt(q.shape[-1])  # [B, M, S, S]
        table, plain = self.shares.softmax(0)
        return table * self.table + plain * dots
