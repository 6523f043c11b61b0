"""What training and evaluation need of data; `Scenes` and `CocoFolder` have it."""

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from ..images import ImageBatch

Batches = Iterator[tuple[ImageBatch, list[dict]]]  # pictures and their targets


class Dataset(Protocol):
    """Pictures with boxes: a pure function of seed and index, whoever asks."""

    class_names: list[str]
    area_limits: tuple[float, float]  # sides in pixels: small | medium | large

    def __len__(self) -> int:
        """How many pictures there are."""

    def __getitem__(self, index: int) -> tuple[Tensor, dict]:
        """Normalised pixels `[3, H, W]` and the target of one picture."""

    def batches(
        self,
        batch: int,
        start: int = 0,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
    ) -> Batches:
        """Training batches without end, from step `start` on."""

    def evaluation_batches(
        self,
        batch: int,
        limit: int | None = None,
        *,
        device: torch.device | str = "cpu",
        rank: int = 0,
        world: int = 1,
    ) -> Batches:
        """All pictures once, in order."""
