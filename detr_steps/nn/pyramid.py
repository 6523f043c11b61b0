"""Maps of several sizes, all C channels wide (chapters/08_multi_scale.ipynb)."""

from collections.abc import Sequence

from torch import Tensor, nn

GROUPS = 32  # of the group norm


class Pyramid(nn.Module):
    """Bring a backbone's maps to one width, and add smaller ones.

    `channels_in` of the maps, finest first; `channels` C, a multiple of 32; `levels` L.
    Each map passes a 1 x 1 convolution; the levels that are missing are made by 3 x 3
    convolutions of stride 2, the first of them from the last map as it came.
    Raises: ValueError for more maps than levels, or none.
    Source: Zhu et al. 2020, appendix A.2. Built in chapters/08_multi_scale.ipynb.
    """

    def __init__(self, channels_in: Sequence[int], channels: int, levels: int) -> None:
        super().__init__()
        if not 1 <= len(channels_in) <= levels:
            raise ValueError(
                f"{len(channels_in)} maps for {levels} levels: give one map at least, "
                "and no more maps than levels"
            )
        convs = [nn.Conv2d(c, channels, 1) for c in channels_in]
        width = channels_in[-1]
        while len(convs) < levels:
            convs.append(nn.Conv2d(width, channels, 3, stride=2, padding=1))
            width = channels
        for conv in convs:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)
        self.levels = nn.ModuleList(
            nn.Sequential(conv, nn.GroupNorm(GROUPS, channels)) for conv in convs
        )

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        """Maps `[B, C_l, h_l, w_l]` -> levels `[B, C, h_l, w_l]`, finest first."""
        levels = [level(x) for level, x in zip(self.levels, maps)]
        source = maps[-1]
        for level in self.levels[len(maps) :]:
            source = level(source)
            levels.append(source)
        return levels
