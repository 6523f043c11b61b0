"""Dense attention in the place of a deformable one: every token is a point.

So that an experiment changes nothing but the attention. Compared in
chapters/06_deformable_attention.ipynb.
"""

from dataclasses import dataclass

from ..describable import describable
from .attention import Attention


@describable
@dataclass(frozen=True)
class Dense:
    """Stands where a `Sampling` stands in a config: M heads, all tokens of one map.

    References do not matter to it; what it lacks is in chapter 06.
    """

    heads: int = 8

    def build(self, channels: int, levels: int) -> Attention:
        """Make the module. Raises: ValueError for several levels: one map only."""
        if levels != 1:
            raise ValueError(
                f"dense attention over {levels} levels: give levels=1, it reads one map"
            )
        return Attention(channels, self.heads)
