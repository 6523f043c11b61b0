"""From attention maps to masks: the parts of a mask head.

Carion et al. 2020, section 4.4 and figure 8.
Built in chapters/03_panoptic.ipynb.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..describable import describable


def _joint(scores: Tensor) -> Tensor:
    return scores.flatten(-2).softmax(-1).view_as(scores)


# scores [..., M, S] of M heads and S cells -> weights: what adds up to 1
SOFTMAX: dict[str, Callable[[Tensor], Tensor]] = {
    "joint": _joint,
    "per head": lambda scores: scores.softmax(-1),
}
INPUTS = ("both", "maps", "features")
GROUPS = 8  # of group norm, the official code's; fewer for widths it does not divide


@describable
@dataclass(frozen=True)
class MaskHeadConfig:
    """What a mask head is made of; the defaults are the paper's.

    `inputs` of the first convolution: "both" attention maps and features, or one of
    them; `softmax` over heads and cells together ("joint", so that heads that see
    nothing can stay silent), or "per head"; `finer` maps of the backbone to climb (an
    FPN; fewer where it has fewer): 0 gives masks at the stride of the tokens.
    `map_scale` multiplies the maps: a softmax over all cells makes them tiny beside the
    features, so that masks of different queries are alike until the first convolution
    has learned large weights. The paper's long training does so at 1.
    Raises: ValueError for what cannot be.
    """

    inputs: str = "both"
    softmax: str = "joint"
    finer: int = 3
    map_scale: float = 1.0

    def __post_init__(self) -> None:
        for name, known in (("inputs", INPUTS), ("softmax", tuple(SOFTMAX))):
            if getattr(self, name) not in known:
                names = ", ".join(map(repr, known))
                raise ValueError(f"{name} {getattr(self, name)!r}: one of {names}")
        if self.finer < 0:
            raise ValueError(f"finer {self.finer}: a number of maps, or 0")
        if not 0 < self.map_scale < math.inf:
            raise ValueError(f"map_scale {self.map_scale}: a number above 0")


class MaskSource(NamedTuple):
    """All that the masks of a batch are made of; a mask itself is made on request.

    `maps [B, Q, M, h, w]` attention of the last queries, or None where the head reads
    none; `coarse [B, C, h, w]` the backbone's last map, projected, before the encoder;
    `features` its finer ones, coarsest first; `pixels (H, W)` of the padded batch.
    """

    maps: Tensor | None
    coarse: Tensor
    features: tuple[Tensor, ...]
    pixels: tuple[int, int]


class MaskAttention(nn.Module):
    """Where queries look, and nothing else: attention without values.

    Source: Carion et al. 2020, figure 8; the softmax over all heads and cells together
    is the official code's. Built in chapters/03_panoptic.ipynb.
    """

    def __init__(self, channels: int, heads: int, softmax: str = "joint") -> None:
        super().__init__()
        self.heads, self.softmax = heads, softmax
        self.query = nn.Linear(channels, channels)
        self.key = nn.Linear(channels, channels)
        for part in (self.query, self.key):
            nn.init.xavier_uniform_(part.weight)
            nn.init.zeros_(part.bias)

    def forward(
        self, content: Tensor, tokens: Tensor, padding: Tensor | None = None
    ) -> Tensor:
        """Weights `[B, Q, M, S]` of queries `[B, Q, C]` on tokens `[B, S, C]`.

        `padding [B, S]` True where there is no image: weight 0.
        """
        q = self.query(content).unflatten(-1, (self.heads, -1))  # [B, Q, M, D]
        k = self.key(tokens).unflatten(-1, (self.heads, -1))  # [B, S, M, D]
        q = q / math.sqrt(q.shape[-1])
        scores = torch.einsum("bqmd,bsmd->bqms", q, k)
        if padding is not None:
            scores = scores.masked_fill(padding[:, None, None], float("-inf"))
        return SOFTMAX[self.softmax](scores)


class ConvBlock(nn.Module):
    """3 x 3 convolution, group norm, ReLU."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels, 3, padding=1)
        self.norm = nn.GroupNorm(math.gcd(GROUPS, channels), channels)

    def forward(self, x: Tensor) -> Tensor:
        """`[n, C_in, h, w] -> [n, C, h, w]`."""
        return self.norm(self.conv(x)).relu()


class MaskHead(nn.Module):
    """A few convolutions that turn a query's attention maps into its mask.

    Two at the stride of the tokens, then one after each climb to a finer map of the
    backbone, which is added; the width halves every time. Masks of different queries
    know nothing of each other. Source: Carion et al. 2020, figure 8; official code.
    Built in chapters/03_panoptic.ipynb.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        features: Sequence[int],
        config: MaskHeadConfig = MaskHeadConfig(),
    ) -> None:
        """`features`: channels of the backbone's finer maps, coarsest first."""
        super().__init__()
        self.config = config
        wide = {"both": channels + heads, "maps": heads, "features": channels}
        width = wide[config.inputs]
        features = tuple(features)[: config.finer]
        halves = [channels // 2 ** (i + 1) for i in range(len(features) + 1)]
        widths = [width, width, *halves]
        self.blocks = nn.ModuleList(map(ConvBlock, widths, widths[1:]))
        self.adapters = nn.ModuleList(map(_one_by_one, features, halves))
        self.output = nn.Conv2d(halves[-1], 1, 3, padding=1)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)

    def forward(self, source: MaskSource, image: Tensor, query: Tensor) -> Tensor:
        """Mask logits `[n, h, w]` of some queries: `image`, `query` their numbers [n].

        At the stride of the finest map that is climbed to.
        """
        x = self._first(source, image, query)
        x = self.blocks[1](x)
        for adapter, block, finer in zip(
            self.adapters, self.blocks[2:], source.features
        ):
            finer = adapter(finer.to(x.dtype))  # [B, C', h, w], once for all queries
            x = functional.interpolate(x, size=finer.shape[-2:])
            x = block(x + finer[image])
        return self.output(x)[:, 0]

    def size(self, source: MaskSource) -> tuple[int, int]:
        """Height and width of the masks in cells."""
        climbed = source.features[: len(self.adapters)]
        return tuple((source.coarse, *climbed)[-1].shape[-2:])

    def _first(self, source: MaskSource, image: Tensor, query: Tensor) -> Tensor:
        """The first block, as if maps and features stood in one tensor.

        A convolution is linear and all queries of an image have the same features, so
        these are convolved once: nearly all of the work for 100 queries is saved.
        """
        block, inputs = self.blocks[0], self.config.inputs
        weight, bias = block.conv.weight, block.conv.bias
        coarse = source.coarse.to(weight.dtype)
        of_coarse, of_maps = weight, weight
        if inputs == "both":
            of_coarse, of_maps = weight.tensor_split((coarse.shape[1],), dim=1)
        x = bias[:, None, None]
        if inputs != "maps":
            x = x + functional.conv2d(coarse, of_coarse, padding=1)[image]
        if inputs != "features":
            maps = source.maps[image, query].to(weight.dtype)  # [n, M, h, w]
            maps = maps * self.config.map_scale
            x = x + functional.conv2d(maps, of_maps, padding=1)
        return block.norm(x).relu()


def _one_by_one(channels_in: int, channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, 1)
