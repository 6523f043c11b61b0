"""Multi-head attention that can show its maps (chapters/01_attention.ipynb)."""

import math
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Trace:
    """Attention maps of one forward pass; rows sum to 1.

    `encoder_self [layers, B, M, S, S]`, `decoder_self [Y, B, M, Q, Q]`,
    `decoder_cross [Y, B, M, Q, S]`; tokens S lie row by row on a map of `size (h, w)`.
    """

    encoder_self: Tensor
    decoder_self: Tensor
    decoder_cross: Tensor
    size: tuple[int, int]


def attend(
    q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention, written out: the mean of values, and its weights.

    `q [..., Q, D]`, `k, v [..., S, D]`, `padding` bool, True where a key does not
    count, broadcast to `[..., Q, S]`. Returns `[..., Q, D]` and weights `[..., Q, S]`.
    Source: Vaswani et al. 2017, equation 1. Built in chapters/01_attention.ipynb.
    """
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])  # [..., Q, S]
    if padding is not None:
        scores = scores.masked_fill(padding, float("-inf"))
    weights = scores.softmax(-1)  # [..., Q, S]
    return weights @ v, weights


class Attention(nn.Module):
    """Multi-head attention with separate projections of queries, keys and values.

    `channels` C, split over `heads` M; `dropout` on the weights while training.
    Raises: ValueError when M does not divide C.
    Source: Vaswani et al. 2017, section 3.2.2. Built in chapters/01_attention.ipynb.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__()
        if heads < 1 or channels % heads:
            raise ValueError(f"{heads} heads do not divide {channels} channels evenly")
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        self.value = nn.Linear(channels, channels)
        self.output = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Start as one fused [3C, C] projection would: hence the smaller gain."""
        for part in (self.query, self.key, self.value):
            nn.init.xavier_uniform_(part.weight, gain=1 / math.sqrt(2))
        nn.init.xavier_uniform_(self.output.weight)
        for part in (self.query, self.key, self.value, self.output):
            nn.init.zeros_(part.bias)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        padding: Tensor | None = None,
        trace: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Let every query `[B, Q, C]` read from keys and values `[B, S, C]`.

        `padding [B, S]` is True for keys that do not exist. Returns `[B, Q, C]` and,
        when `trace`, the weights of every head `[B, M, Q, S]`, else None.
        """
        q = self._split(self.query(query))  # [B, M, Q, D]
        k = self._split(self.key(key))  # [B, M, S, D]
        v = self._split(self.value(value))  # [B, M, S, D]
        if padding is not None:
            padding = padding[:, None, None, :]  # [B, 1, 1, S]
        if trace:
            mixed, weights = attend(q, k, v, padding)
        else:
            weights = None
            mixed = functional.scaled_dot_product_attention(
                q,
                k,
                v,
                attn_mask=None if padding is None else ~padding,
                dropout_p=self.dropout if self.training else 0.0,
            )  # [B, M, Q, D]
        return self.output(mixed.transpose(1, 2).flatten(2)), weights

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
