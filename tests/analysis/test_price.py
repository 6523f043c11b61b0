"""Memory and operations, of models whose numbers one can count by hand."""

from dataclasses import dataclass

import pytest
import torch
from small import small_deformable_config
from torch import nn

from detr_steps.analysis.price import price

FLOAT = 4  # bytes


class Flat(nn.Module):
    """A picture's numbers through a linear layer, ReLU, and another one."""

    def __init__(self, pixels: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Linear(3 * pixels, hidden)
        self.second = nn.Linear(hidden, 5)

    def forward(self, batch):
        return self.second(self.first(batch.pixels.flatten(1)).relu())


@dataclass
class FlatConfig:
    pixels: int
    hidden: int

    def build(self):
        return Flat(self.pixels, self.hidden)


def test_inputs_of_both_layers_are_kept_and_every_product_counts_two():
    found = price(FlatConfig(pixels=4 * 6, hidden=10), 4, 6)
    # ReLU keeps its result, which is also what the second layer keeps: once
    assert found.kept == FLOAT * (3 * 4 * 6 + 10)
    assert found.operations == 2 * (3 * 4 * 6 * 10 + 10 * 5)


def test_nothing_is_computed():
    million = price(FlatConfig(pixels=2000 * 2000, hidden=1000), 2000, 2000)
    assert million.operations > 2e10  # 48 GB of weights, had they numbers


@pytest.mark.parametrize("layers", [0, 1])
def test_an_encoder_layer_costs(layers):
    less, more = (
        price(small_deformable_config(encoder_layers=n), 64, 64)
        for n in (layers, layers + 1)
    )
    assert less.kept < more.kept and less.operations < more.operations


def test_a_model_is_left_as_it_was_built():
    torch.manual_seed(3)
    price(small_deformable_config(), 64, 64)
    after = torch.rand(1)
    torch.manual_seed(3)
    assert torch.equal(after, torch.rand(1))  # meta tensors draw no numbers
