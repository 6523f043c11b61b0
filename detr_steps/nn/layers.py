"""Encoder and decoder layers of DETR, post-norm (built in chapters/02_detr.ipynb)."""

from torch import Tensor, nn

from .attention import Attention


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
    """Tokens ask all tokens, then think alone. Source: Carion et al. 2020, fig. 10."""

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(channels, heads, dropout)
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
    ) -> tuple[Tensor, Tensor | None]:
        """`tokens, positions [B, S, C]` -> tokens, if asked weights `[B, M, S, S]`."""
        where = tokens + positions  # queries and keys have a place, values have none
        read, weights = self.attention(where, where, tokens, padding, trace)
        tokens = self.attention_norm(tokens + self.dropout(read))
        thought = self.feed_forward(tokens)
        return self.feed_forward_norm(tokens + self.dropout(thought)), weights


class DecoderLayer(nn.Module):
    """Queries talk to each other, read the image, then think alone.

    Source: Carion et al. 2020, fig. 10. Built in chapters/02_detr.ipynb.
    """

    def __init__(self, channels: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = Attention(channels, heads, dropout)
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = Attention(channels, heads, dropout)
        self.cross_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, hidden, dropout)
        self.feed_forward_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        content: Tensor,
        query_positions: Tensor,
        memory: Tensor,
        memory_positions: Tensor,
        padding: Tensor | None = None,
        trace: bool = False,
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Refine the queries' content `[B, Q, C]` once.

        `query_positions [B, Q, C]`, `memory`, `memory_positions [B, S, C]`,
        `padding [B, S]`. Returns the content and, if asked, the weights of
        self-attention `[B, M, Q, Q]` and cross-attention `[B, M, Q, S]`.
        """
        who = content + query_positions
        talk, self_weights = self.self_attention(who, who, content, trace=trace)
        content = self.self_norm(content + self.dropout(talk))
        read, cross_weights = self.cross_attention(
            content + query_positions, memory + memory_positions, memory, padding, trace
        )
        content = self.cross_norm(content + self.dropout(read))
        thought = self.feed_forward(content)
        content = self.feed_forward_norm(content + self.dropout(thought))
        return content, self_weights, cross_weights
