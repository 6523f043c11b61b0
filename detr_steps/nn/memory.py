"""The encoded image, in one form for all systems (chapters 02 and 08)."""

from typing import NamedTuple

from torch import Tensor

from ..ops.read_points import Sizes
from .trace import Attended


class Memory(NamedTuple):
    """What a decoder reads: tokens of L maps, one after another; L = 1 for DETR.

    `tokens`, `positions [B, S, C]`; `padding [B, S]` True where there is no image, or
    None; `sizes (h, w)` of the levels; `valid [B, L, 2]` the un-padded share (x, y) of
    each; `centres [B, S, 2]` of the tokens, shares of the un-padded image; `features`
    the backbone's own maps `[B, C_l, h, w]`; `attention` of the encoder layers, if
    traced.
    """

    tokens: Tensor
    positions: Tensor | None
    padding: Tensor | None
    sizes: Sizes = ()
    valid: Tensor | None = None
    centres: Tensor | None = None
    features: tuple[Tensor, ...] = ()
    attention: tuple[Attended, ...] = ()

    @property
    def keys(self) -> Tensor:
        """Tokens plus position embedding `[B, S, C]`; values have no positions."""
        return self.tokens + self.positions
