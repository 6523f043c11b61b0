"""Small networks on top of the queries (built in chapters/02_detr.ipynb)."""

import math
from collections.abc import Iterable
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


def xavier(layers: Iterable[nn.Module]) -> None:
    """Give linear layers Xavier weights; biases stay as they are.

    The official codes do so with every matrix of their transformer; heads outside of
    it start as PyTorch's linear layers do.
    """
    for layer in layers:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)


def xavier_mlp(*widths: int) -> MLP:
    """An `MLP` that starts as the parts of a transformer do."""
    mlp = MLP(*widths)
    xavier(mlp.layers)
    return mlp


def focal_class_head(channels: int, classes: int) -> nn.Linear:
    """Per-class sigmoid; the bias starts at -log 99, a prior of 1 %.

    Nearly all answers are negative: without the prior the first steps only unlearn
    scores of 0.5. Source: Lin et al. 2017, section 3.3. Built in
    chapters/08_multi_scale.ipynb.
    """
    head = nn.Linear(channels, classes)
    nn.init.constant_(head.bias, -math.log(99))
    return head


def zero_init_box_head(channels: int) -> MLP:
    """Box deltas from a reference; the last layer starts at zero: no delta.

    Source: the official code of Deformable DETR; the paper does not mention it.
    Built in chapters/08_multi_scale.ipynb.
    """
    head = MLP(channels, channels, channels, 4)
    nn.init.zeros_(head.layers[-1].weight)
    nn.init.zeros_(head.layers[-1].bias)
    return head
