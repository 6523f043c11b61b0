"""Encoder and decoder layers, post-norm (built in chapters/02_detr.ipynb).

The attentions are given to them: any module with `read(queries, memory, trace)`. So all
systems of the family share these layers.
"""

from collections.abc import Callable

from torch import Tensor, nn

from .memory import Memory
from .queries import Queries, tokens_as_queries, within_groups
from .trace import LayerTrace


class FeedForward(nn.Module):
    """Two linear layers, for each token by itself: C -> F -> C.

    `activation` between them: ReLU, or what another module class makes (DAB: PReLU).
    """

    def __init__(
        self,
        channels: int,
        ffn_channels: int,
        dropout: float = 0.0,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.widen = nn.Linear(channels, ffn_channels)
        self.activation = activation()
        self.narrow = nn.Linear(ffn_channels, channels)
        self.dropout = nn.Dropout(dropout)
        nn.init.xavier_uniform_(self.widen.weight)
        nn.init.xavier_uniform_(self.narrow.weight)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., C] -> [..., C]`."""
        return self.narrow(self.dropout(self.activation(self.widen(x))))


class EncoderLayer(nn.Module):
    """Self-attention of the tokens, then feed-forward (post-norm).

    `attention` decides what a token sees: `Attention` all tokens, a deformable one a
    few points. Source: Carion et al. 2020, figure 10. Built in chapters/02_detr.ipynb.
    """

    def __init__(
        self,
        attention: nn.Module,
        channels: int,
        ffn_channels: int,
        dropout: float,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.attention = attention
        self.attention_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, ffn_channels, dropout, activation)
        self.feed_forward_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, memory: Memory, trace: bool = False) -> Memory:
        """The same memory with new `tokens [B, S, C]`, and what attention saw."""
        queries = tokens_as_queries(memory)
        attended, seen = self.attention.read(queries, memory, trace)
        tokens = self.attention_norm(memory.tokens + self.dropout(attended))
        ffn_out = self.feed_forward(tokens)
        tokens = self.feed_forward_norm(tokens + self.dropout(ffn_out))
        attention = (*memory.attention, seen) if trace else ()
        return memory._replace(tokens=tokens, attention=attention)


class PreNormEncoderLayer(EncoderLayer):
    """The same parts with the norms before attention and feed-forward (pre-norm).

    The last layer's tokens have not been through a norm: a model adds one.
    Source: Xiong et al. 2020, figure 1; Sun et al. 2021's official code.
    """

    def forward(self, memory: Memory, trace: bool = False) -> Memory:
        """The same memory with new `tokens [B, S, C]`, and what attention saw."""
        normed = memory._replace(tokens=self.attention_norm(memory.tokens))
        attended, seen = self.attention.read(tokens_as_queries(normed), normed, trace)
        tokens = memory.tokens + self.dropout(attended)
        ffn_out = self.feed_forward(self.feed_forward_norm(tokens))
        tokens = tokens + self.dropout(ffn_out)
        attention = (*memory.attention, seen) if trace else ()
        return memory._replace(tokens=tokens, attention=attention)


class DecoderLayer(nn.Module):
    """Self-attention between queries, cross-attention to the image, feed-forward.

    Source: Carion et al. 2020, figure 10. Built in chapters/02_detr.ipynb.
    """

    def __init__(
        self,
        self_attention: nn.Module,
        cross_attention: nn.Module,
        channels: int,
        ffn_channels: int,
        dropout: float,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.self_attention = self_attention
        self.self_norm = nn.LayerNorm(channels)
        self.cross_attention = cross_attention
        self.cross_norm = nn.LayerNorm(channels)
        self.feed_forward = FeedForward(channels, ffn_channels, dropout, activation)
        self.feed_forward_norm = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Tensor, LayerTrace]:
        """Refine the queries' content `[B, Q, C]` once; what both attentions saw."""
        attended, self_seen = within_groups(
            lambda group: self.self_attention.read(group, group.as_memory(), trace),
            queries,
        )
        content = self.self_norm(queries.content + self.dropout(attended))
        queries = queries._replace(content=content)
        attended, cross_seen = self.cross_attention.read(queries, memory, trace)
        content = self.cross_norm(content + self.dropout(attended))
        ffn_out = self.feed_forward(content)
        content = self.feed_forward_norm(content + self.dropout(ffn_out))
        return content, LayerTrace(self_seen, cross_seen)
