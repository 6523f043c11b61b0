"""A backbone's maps brought to one width, and no further (AdaMixer)."""

from collections.abc import Sequence

from torch import Tensor, nn

from .pyramid import GROUPS


class ChannelMap(nn.Module):
    """A 1 x 1 convolution for each map, and one group norm that they share.

    `channels_in` of the maps, finest first; `channels` C, a multiple of 32. Nothing
    flows between levels: there is no feature pyramid.
    Source: Gao et al. 2022 (AdaMixer), official code.
    For chapters/12_more_queries.ipynb.
    """

    def __init__(self, channels_in: Sequence[int], channels: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in channels_in)
        self.norm = nn.GroupNorm(GROUPS, channels)
        for conv in self.maps:
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps `[B, C_l, h_l, w_l]` -> `[B, C, h_l, w_l]`, finest first."""
        return [self.norm(conv(x)) for conv, x in zip(self.maps, maps)]
