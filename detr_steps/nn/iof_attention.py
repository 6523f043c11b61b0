"""Self-attention of queries that knows which box lies within which (AdaMixer)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..boxes import cxcywh_to_xyxy, iof
from .attention import Attention
from .memory import Memory
from .queries import Queries
from .trace import AttentionMaps

APART = 1e-7  # added to an overlap: the logarithm of none is -16
SHARPEST = 4.0  # τ at the start is uniform up to here


class OverlapAttention(Attention):
    """Multi-head attention whose scores get τ log IoF of the boxes, τ of each head.

    IoF is the share of the query's own box that lies in the other's: a query listens to
    those around its box, with τ = 0 to all. Contents alone are compared; a position has
    to be added to them before.
    Source: Gao et al. 2022 (AdaMixer), equation 11.
    For chapters/12_more_queries.ipynb.
    """

    def __init__(self, channels: int, heads: int, dropout: float = 0.0) -> None:
        super().__init__(channels, heads, dropout)
        self.sharpness = nn.Parameter(torch.empty(heads).uniform_(0, SHARPEST))  # τ

    def read(
        self, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Tensor, AttentionMaps | None]:
        """Let queries read others, whose boxes `memory.centres [B, S, 4]` are."""
        q, k, v = (
            self._split(project(x))
            for project, x in (
                (self.query, queries.content),
                (self.key, memory.tokens),
                (self.value, memory.tokens),
            )
        )  # [B, M, Q or S, D]
        bias = self.bias(queries.references, memory.centres).to(q.dtype)
        if not trace:
            dropout = self.dropout if self.training else 0.0
            mixed = functional.scaled_dot_product_attention(q, k, v, bias, dropout)
            return self.output(mixed.transpose(1, 2).flatten(2)), None
        weights = (q @ k.mT / math.sqrt(q.shape[-1]) + bias).softmax(-1)
        mixed = weights @ v  # [B, M, Q, D]
        return self.output(mixed.transpose(1, 2).flatten(2)), AttentionMaps(weights)

    def bias(self, boxes: Tensor, others: Tensor) -> Tensor:
        """τ log IoF of boxes `[B, Q, 4]` in others `[B, S, 4]`: `[B, M, Q, S]`."""
        share = iof(cxcywh_to_xyxy(boxes.detach()), cxcywh_to_xyxy(others.detach()))
        return self.sharpness[:, None, None] * (share + APART).log()[:, None]
