"""Encoder and decoder layers, post-norm (built in chapters/02_detr.ipynb).

What they read with is given to them, so DETR and Deformable DETR share them.
"""

from torch import Tensor, nn

from .deform_attention import Places


class FeedForward(nn.Module):
    """Two linear layers with a ReLU between, for each token by itself: C -> F -> C."""

    def __init__(self, channels: int, hidden: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, hidden)
        self.narrow = nn.Linear(hidden, channels)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.widen.weight)
        nn.init.xavier_uniform_(self.narrow.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C] -> [..., C]`."""
        return self.narrow(self.dropout(self.widen(x).relu()))


class EncoderLayer(nn.Module):
    """Tokens read other tokens, then think alone. Source: Carion et al. 2020, fig. 10.

    `attention` decides which: `Attention` all of them, a deformable one a few points.
    """

    def __init__(
        self, attention: nn.Module, channels: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, hidden, dropout)
        self.feed_forward_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        tokens: Tensor,
        positions: Tensor,
        padding: Tensor | None = None,
        trace: bool = False,
        places: Places | None = None,
    ) -> tuple[Tensor, object]:
        """`tokens, positions [B, S, C]` -> tokens and, if asked, what attention saw.

        `places` where to look, in place of keys, for a deformable attention. What is
        seen are weights `[B, M, S, S]` or a `Reading`.
        """
        where = tokens + positions  # queries and keys have a place, values have none
        keys = where if places is None else places
        read, seen = self.attention(where, keys, tokens, padding, trace)
        tokens = self.attention_norm(tokens + self.dropout(read))
        thought = self.feed_forward(tokens)
        return self.feed_forward_norm(tokens + self.dropout(thought)), seen


class DecoderLayer(nn.Module):
    """Queries talk to each other, read the image, then think alone.

    Source: Carion et al. 2020, fig. 10. Built in chapters/02_detr.ipynb.
    """

    def __init__(
        self,
        self_attention: nn.Module,
        cross_attention: nn.Module,
        channels: int,
        hidden: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = cross_attention
        self.cross_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, hidden, dropout)
        self.feed_forward_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        content: Tensor,
        query_positions: Tensor,
        keys: Tensor | Places,
        memory: Tensor,
        padding: Tensor | None = None,
        trace: bool = False,
    ) -> tuple[Tensor, Tensor | None, object]:
        """Refine the queries' content `[B, Q, C]` once.

        `query_positions [B, Q, C]`; `keys [B, S, C]`, the memory with its positions, or
        the `Places` of a deformable attention; `memory [B, S, C]`, `padding [B, S]`.
        Returns the content and, if asked, the weights of self-attention `[B, M, Q, Q]`
        and what cross-attention saw: weights `[B, M, Q, S]` or a `Reading`.
        """
        who = content + query_positions
        talk, self_weights = self.self_attention(who, who, content, trace=trace)
        content = self.self_norm(content + self.dropout(talk))
        read, seen = self.cross_attention(
            content + query_positions, keys, memory, padding, trace
        )
        content = self.cross_norm(content + self.dropout(read))
        thought = self.feed_forward(content)
        content = self.feed_forward_norm(content + self.dropout(thought))
        return content, self_weights, seen
