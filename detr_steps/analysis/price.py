"""What a model costs, counted without computing anything."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from ..images import ImageBatch


class Buildable(Protocol):
    """A config: what makes a model that takes an `ImageBatch`."""

    def build(self) -> nn.Module: ...


class Price(NamedTuple):
    """Of one picture: bytes kept for the backward pass, operations of the forward."""

    kept: int
    operations: int


def price(config: Buildable, height: int, width: int) -> Price:
    """Count what training keeps of one picture, and the operations of a forward pass.

    On the `meta` device, whose tensors have shapes and no numbers. Each storage is
    counted once, weights not at all. Operations are those of matrix products and
    convolutions, a multiplication and an addition counting two; sampling is left out.
    Built in chapters/08_multi_scale.ipynb.
    """
    with torch.device("meta"):
        model = config.build()
        padding = torch.zeros(1, height, width, dtype=torch.bool)
        picture = ImageBatch(torch.zeros(1, 3, height, width), padding, False)
    weights = {_storage(each) for each in model.parameters()}
    kept = {}

    def note(tensor: Tensor) -> Tensor:
        if (storage := _storage(tensor)) not in weights:
            kept[storage] = tensor.untyped_storage().nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    with saved_tensors_hooks(note, lambda tensor: tensor), counter:
        output = model(picture)
    total = sum(kept.values())
    del output  # it holds all that was noted: no storage was freed, none counted twice
    return Price(total, counter.get_total_flops())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
