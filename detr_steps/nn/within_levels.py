"""Deformable attention without exchange between levels: what multi-scale adds.

Row 3 of the paper's table 2. Compared in chapters/08_multi_scale.ipynb.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..describable import describable
from .deform_attention import DeformableAttention, Places, Reading, Sampling
from .read_points import check_levels


@describable
@dataclass(frozen=True)
class WithinLevels(Sampling):
    """Each token looks at K points of its own level, with weights that all share.

    For an encoder: a decoder's queries belong to no level.
    """

    def build(self, channels: int, levels: int) -> nn.Module:
        """Make the module with fresh weights, however many levels there are."""
        return LevelByLevel(channels, self.heads, self.points, self.weights)


class LevelByLevel(DeformableAttention):
    """One deformable attention, used on each level by itself."""

    def forward(
        self,
        query: Tensor,
        places: Places,
        value: Tensor,
        padding: Tensor | None = None,
        trace: bool = False,
    ) -> tuple[Tensor, Reading | None]:
        """As in the class above, but the reading has one level: the token's own.

        Raises: ValueError unless there is one query for each token.
        """
        check_levels(value.shape[1], places.sizes)
        if query.shape[1] != value.shape[1]:
            raise ValueError(
                f"{query.shape[1]} queries for {value.shape[1]} tokens: only tokens "
                "have a level of their own, use Sampling() in a decoder"
            )
        parts, start = [], 0
        for level, (h, w) in enumerate(places.sizes):
            mine = slice(start, start := start + h * w)
            references = places.references[:, mine, level, None]  # [B, h·w, 1, 2]
            parts.append(
                super().forward(
                    query[:, mine],
                    Places(references, ((h, w),)),
                    value[:, mine],
                    None if padding is None else padding[:, mine],
                    trace,
                )
            )
        read, seen = zip(*parts)
        joined = Reading(*(torch.cat(x, 1) for x in zip(*seen))) if trace else None
        return torch.cat(read, 1), joined
