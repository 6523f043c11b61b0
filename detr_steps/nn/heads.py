"""Small networks on top of the queries (built in chapters/02_detr.ipynb)."""

import math
from itertools import pairwise

from torch import Tensor, nn


class MLP(nn.Module):
    """Linear layers with ReLU between: `MLP(256, 256, 256, 4)` is DETR's box head."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., first width] -> [..., last width]`."""
        for layer in self.layers[:-1]:
            x = layer(x).relu()
        return self.layers[-1](x)


def doubting_class_head(channels: int, classes: int) -> nn.Linear:
    """Yes or no for each class; at first no with 99 %, as nearly all answers are.

    Else the first steps would be spent on unlearning noise.
    Source: Lin et al. 2017, section 3.3. Built in chapters/08_multi_scale.ipynb.
    """
    head = nn.Linear(channels, classes)
    nn.init.constant_(head.bias, -math.log(99))
    return head


def still_box_head(channels: int) -> MLP:
    """How far a box is from its reference; at first it is exactly there.

    Source: Zhu et al. 2020, appendix A.4. Built in chapters/08_multi_scale.ipynb.
    """
    head = MLP(channels, channels, channels, 4)
    nn.init.zeros_(head.layers[-1].weight)
    nn.init.zeros_(head.layers[-1].bias)
    return head
