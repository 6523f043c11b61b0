"""How well two implementations agree: one measure for all parity tests."""

import torch


def assert_same(mine: torch.Tensor, other: torch.Tensor, tolerance: float) -> None:
    assert mine.shape == other.shape
    assert worst(mine, other) <= tolerance


def worst(mine: torch.Tensor, other: torch.Tensor) -> float:
    """Largest difference as a share of the largest value."""
    return ((mine - other).abs().max() / other.abs().max()).item()
