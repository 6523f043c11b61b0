"""Multi-head attention that can show its maps (chapters/01_attention.ipynb)."""

import math

from torch import Tensor, nn
from torch.nn import functional

from .memory import Memory
from .queries import Queries
from .trace import AttentionMaps


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
        """Xavier for query, key and value as if they were one [3C, C] matrix.

        PyTorch's own attention, and so DETR, has them fused: fan-out 3C instead of C
        makes the bound smaller by √2.
        """
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

    def read(
        self, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Tensor, AttentionMaps | None]:
        """Let queries read a memory: position embeddings on queries and keys only.

        Every attention of the family has this method; what it returns is `[B, Q, C]`
        and, when `trace`, what it saw.
        """
        attended, weights = self(
            queries.embedded, memory.keys, memory.tokens, memory.padding, trace
        )
        return attended, AttentionMaps(weights) if trace else None

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
