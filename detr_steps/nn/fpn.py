"""A feature pyramid: coarse maps tell finer ones what they see.

Lin et al. 2017, "Feature Pyramid Networks for Object Detection". For
chapters/04_why_slow.ipynb.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class FeaturePyramid(nn.Module):
    """Bring a backbone's maps to one width, from the coarsest down, and add more.

    `channels_in` of the maps, finest first; `channels` C; `levels` L. Each map is the
    sum of its own 1 x 1 convolution and of the coarser one, enlarged; a 3 x 3
    convolution smooths it. Missing levels are made by 3 x 3 convolutions of stride 2,
    all but the first after a ReLU. Raises: ValueError for more maps than levels, or
    none. Source: Lin et al. 2017, section 3; Tian et al. 2019 (FCOS), section 3.2.
    """

    def __init__(self, channels_in: Sequence[int], channels: int, levels: int) -> None:
        super().__init__()
        if not 1 <= len(channels_in) <= levels:
            raise ValueError(
                f"{len(channels_in)} maps for {levels} levels: give one map at least, "
                "and no more maps than levels"
            )
        self.lateral = nn.ModuleList(nn.Conv2d(c, channels, 1) for c in channels_in)
        self.smooth = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1) for _ in channels_in
        )
        self.more = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, stride=2, padding=1)
            for _ in range(levels - len(channels_in))
        )
        for conv in (*self.lateral, *self.smooth, *self.more):
            nn.init.kaiming_uniform_(conv.weight, a=1)
            nn.init.zeros_(conv.bias)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Maps `[B, C_l, h_l, w_l]` -> levels `[B, C, h_l, w_l]`, finest first."""
        above, levels = None, []
        lateral = [conv(x) for conv, x in zip(self.lateral, maps)]
        for own, smooth in zip(reversed(lateral), reversed(self.smooth)):
            if above is not None:  # to its very size: sides may be odd
                own = own + functional.interpolate(above, size=own.shape[-2:])
            above = own
            levels.insert(0, smooth(own))
        for index, conv in enumerate(self.more):
            source = levels[-1].relu() if index else levels[-1]
            levels.append(conv(source))
        return levels


def tower(channels: int, layers: int) -> nn.Sequential:
    """3 x 3 convolutions with group norm and ReLU, the same on all levels."""
    parts: list[nn.Module] = []
    for _ in range(layers):
        conv = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.normal_(conv.weight, std=0.01)
        nn.init.zeros_(conv.bias)
        parts += [conv, nn.GroupNorm(32, channels), nn.ReLU()]
    return nn.Sequential(*parts)


def as_tokens(maps: list[Tensor]) -> Tensor:
    """Maps `[B, C, h, w]` of all levels as tokens `[B, S, C]`."""
    return torch.cat([x.flatten(2).mT for x in maps], 1)
