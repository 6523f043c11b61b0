"""What a decoder refines: object queries, in groups (chapters/02_detr.ipynb)."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from .memory import Memory
from .trace import AttentionMaps


class Queries(NamedTuple):
    """Object queries between two decoder layers.

    `content [B, Q, C]` what they have gathered; `positions [B, Q, C]` their position
    embeddings, None where a system makes them from the references in every layer;
    `references [B, Q, 2 or 4]` points or cxcywh boxes, shares of the un-padded image,
    None where there are none; `groups` sizes that add up to Q: a query attends to, and
    competes for objects with, those of its own group only; `spatial [B, Q, C]` the
    sine code of the reference point as cross-attention compares it with the keys'
    positions, where a step makes one (Conditional DETR, DAB-DETR).
    """

    content: Tensor
    positions: Tensor | None
    references: Tensor | None
    groups: tuple[int, ...]
    spatial: Tensor | None = None

    @property
    def embedded(self) -> Tensor:
        """Content plus position embedding `[B, Q, C]`: what is compared with keys."""
        return self.content + self.positions

    def split(self) -> list["Queries"]:
        """One `Queries` for each group."""
        if len(self.groups) == 1:
            return [self]
        columns = (_split(part, self.groups) for part in self[:3])
        return [Queries(*parts, (g,)) for *parts, g in zip(*columns, self.groups)]

    def first(self, count: int) -> "Queries":
        """The first `count` of them, as one group."""
        parts = (None if part is None else part[:, :count] for part in self[:3])
        return Queries(*parts, (min(count, self.content.shape[1]),))

    def as_memory(self) -> Memory:
        """The queries as something to attend to: what self-attention reads."""
        return Memory(self.content, self.positions, None, centres=self.references)


def tokens_as_queries(memory: Memory) -> Queries:
    """The tokens as queries of their own memory: encoder self-attention.

    Each is at its own centre, with its position embedding.
    """
    tokens, positions = memory.tokens, memory.positions
    return Queries(tokens, positions, memory.centres, (tokens.shape[1],))


def join(sets: Sequence[Queries]) -> Queries:
    """Put sets of queries side by side; each keeps its groups.

    Raises: ValueError where some have points and others boxes as references: refine
    each kind by itself.
    """
    widths = {None if s.references is None else s.references.shape[-1] for s in sets}
    if len(widths) > 1:
        raise ValueError(
            f"references of {sorted(map(str, widths))} numbers cannot be joined: run "
            "the sets with points and those with boxes apart"
        )
    columns = zip(*(each[:3] for each in sets))
    parts = (None if part[0] is None else torch.cat(part, 1) for part in columns)
    return Queries(*parts, sum((each.groups for each in sets), ()))


def within_groups(
    attention: Callable[[Queries], tuple[Tensor, AttentionMaps | None]],
    queries: Queries,
) -> tuple[Tensor, AttentionMaps | None]:
    """Apply self-attention inside each group: `[B, Q, C]` and maps, if traced.

    Groups of one size are folded into the batch, where they cannot see each other and
    cost one call (Group DETR's official code does so); others take turns. Maps are
    zero between groups. Source: Chen et al. 2022 (Group DETR), section 3.2.
    """
    groups = queries.groups
    if len(groups) == 1:
        return attention(queries)
    if len(set(groups)) > 1:
        content, seen = zip(*map(attention, queries.split()))
        return torch.cat(content, 1), _block_diagonal(seen)
    folded = (None if part is None else _fold(part, groups[0]) for part in queries[:3])
    content, seen = attention(Queries(*folded, groups[:1]))
    content = content.view_as(queries.content)
    if seen is None:
        return content, None
    each = seen.weights.unflatten(0, (-1, len(groups))).unbind(1)  # G of [B, M, q, q]
    return content, _block_diagonal(list(map(AttentionMaps, each)))


def _split(part: Tensor | None, groups: tuple[int, ...]) -> Sequence[Tensor | None]:
    return [None] * len(groups) if part is None else part.split(groups, 1)


def _fold(part: Tensor, size: int) -> Tensor:
    return part.reshape(-1, size, part.shape[-1])  # [B, G·q, ·] -> [B·G, q, ·]


def _block_diagonal(seen: Sequence[AttentionMaps | None]) -> AttentionMaps | None:
    if seen[0] is None:
        return None
    maps = [each.weights for each in seen]  # [B, M, q, q]
    whole = [
        torch.block_diag(*blocks) for blocks in zip(*(m.flatten(0, 1) for m in maps))
    ]
    return AttentionMaps(torch.stack(whole).unflatten(0, maps[0].shape[:2]))
