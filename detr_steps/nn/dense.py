"""Dense attention in the place of a deformable one: every token is a point.

So that an experiment changes nothing but the attention. Compared in
chapters/06_deformable_attention.ipynb.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from ..describable import describable
from .attention import Attention
from .deform_attention import Places
from .position import sine_position
from .read_points import check_levels


@describable
@dataclass(frozen=True)
class Dense:
    """Stands where a `Sampling` stands in a config: M heads, all tokens of one map."""

    heads: int = 8

    def build(self, channels: int, levels: int) -> nn.Module:
        """Make the module. Raises: ValueError for several levels: one map only."""
        if levels != 1:
            raise ValueError(
                f"dense attention over {levels} levels: give levels=1, it reads one map"
            )
        return DenseReading(channels, self.heads)


class DenseReading(Attention):
    """DETR's attention, called as a deformable one is; references do not matter to it.

    Built in chapters/01_attention.ipynb; what it lacks is in chapter 06.
    """

    def forward(
        self,
        query: Tensor,
        places: Places,
        value: Tensor,
        padding: Tensor | None = None,
        trace: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Let every query `[B, Q, C]` read all of `value [B, S, C]`, keys with places.

        Returns `[B, Q, C]` and, when `trace`, weights `[B, M, Q, S]`.
        """
        check_levels(value.shape[1], places.sizes)
        holes = value.new_zeros(value.shape[:2], dtype=bool)  # [B, S]
        if padding is not None:
            holes = padding
        size, channels = places.sizes[0], value.shape[-1]
        where = sine_position(
            holes.unflatten(1, size), channels, shift=-0.5, dtype=value.dtype
        )  # [B, h, w, C]
        return super().forward(
            query, value + where.flatten(1, 2), value, padding, trace
        )
