"""Names the stuff and things in each cell: what gives a panoptic backbone its start.

A backbone that was trained on things alone has learned to ignore textures, and stuff
differs in nothing else. For chapters/03_panoptic.ipynb.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data.dataset import Dataset
from ..describable import describable
from ..images import ImageBatch
from ..nn.backbone import BackboneConfig, SmallConfig


@describable
@dataclass(frozen=True)
class ParserConfig:
    """A backbone and a 1 x 1 convolution on its last map."""

    classes: int  # things, then stuff
    backbone: BackboneConfig = SmallConfig()

    def build(self) -> "Parser":
        """Make the module with fresh weights."""
        return Parser(self)


class Parser(nn.Module):
    """Tell each cell of the last feature map what is in it."""

    def __init__(self, config: ParserConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = config.backbone.build()
        self.head = nn.Conv2d(self.backbone.channels[-1], config.classes, 1)

    def forward(self, batch: ImageBatch) -> Tensor:
        """Return logits `[B, classes, h, w]`."""
        return self.head(self.backbone(batch.pixels)[-1])

    def loss(self, output: Tensor, targets: list[dict]) -> dict[str, Tensor]:
        """Cross-entropy with the share that each class has of a cell.

        Targets need `masks [n, S, S]` and `labels [n]`, as of `PanopticScenes`.
        """
        shares = self.shares(targets, output)
        value = functional.cross_entropy(output, shares)
        return {"class": value, "total": value}

    def shares(self, targets: list[dict], like: Tensor) -> Tensor:
        """How much of each cell each class covers: `[B, classes, h, w]`."""
        found = torch.zeros_like(like)
        for image, target in zip(found, targets):
            masks = target["masks"].to(like)[:, None]  # [n, 1, S, S]
            cells = functional.adaptive_avg_pool2d(masks, like.shape[-2:])[:, 0]
            image.index_add_(0, target["labels"].to(like.device), cells)
        return found

    @torch.no_grad()
    def accuracy(self, data: Dataset, limit: int = 500) -> dict[str, float]:
        """Share of cells of the first `limit` pictures whose main class is named."""
        right = count = 0
        device = self.head.weight.device
        for batch, targets in data.evaluation_batches(50, limit, device=device):
            output = self(batch)
            wanted = self.shares(targets, output).argmax(1)
            right += int((output.argmax(1) == wanted).sum())
            count += wanted.numel()
        return {"accuracy": right / count}
