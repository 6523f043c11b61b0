"""Deformable attention without exchange between levels: what multi-scale adds.

Row 3 of the paper's table 2. Compared in chapters/08_multi_scale.ipynb.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..describable import describable
from ..ops.read_points import check_levels
from .deform_attention import DeformableAttention, ReferencePoints, Sampling
from .trace import SamplingPoints


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
        references: ReferencePoints,
        value: Tensor,
        padding: Tensor | None = None,
        trace: bool = False,
    ) -> tuple[Tensor, SamplingPoints | None]:
        """As in the class above, but points lie on one level only: the token's own.

        Raises: ValueError unless there is one query for each token.
        """
        check_levels(value.shape[1], references.sizes)
        if query.shape[1] != value.shape[1]:
            raise ValueError(
                f"{query.shape[1]} queries for {value.shape[1]} tokens: only tokens "
                "have a level of their own, use Sampling() in a decoder"
            )
        parts, start = [], 0
        for level, (h, w) in enumerate(references.sizes):
            mine = slice(start, start := start + h * w)
            own = references.points[:, mine, level, None]  # [B, h·w, 1, 2]
            parts.append(
                super().forward(
                    query[:, mine],
                    ReferencePoints(own, ((h, w),)),
                    value[:, mine],
                    None if padding is None else padding[:, mine],
                    trace,
                )
            )
        attended, seen = zip(*parts)
        joined = (
            SamplingPoints(*(torch.cat(x, 1) for x in zip(*seen))) if trace else None
        )
        return torch.cat(attended, 1), joined
