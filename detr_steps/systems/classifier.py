"""A classifier of single shapes: what gives the small backbone its start.

It plays ImageNet's role: DETR's backbone is always pretrained, and chapters 02 and 04
show what that is worth. Built in chapters/01_attention.ipynb.
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
class ClassifierConfig:
    """A backbone and a linear layer on its mean feature."""

    classes: int = 6
    backbone: BackboneConfig = SmallConfig()

    def build(self) -> "Classifier":
        """Make the module with fresh weights."""
        return Classifier(self)


class Classifier(nn.Module):
    """Name the one object of a picture, from the mean of the last feature map."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = config.backbone.build()
        self.head = nn.Linear(self.backbone.channels[-1], config.classes)

    def forward(self, batch: ImageBatch) -> Tensor:
        """Return logits `[B, classes]`."""
        return self.head(self.backbone(batch.pixels)[-1].mean((2, 3)))

    def loss(self, output: Tensor, targets: list[dict]) -> dict[str, Tensor]:
        """Cross-entropy with the label of each picture's only object."""
        wanted = torch.cat([target["labels"][:1] for target in targets])
        value = functional.cross_entropy(output, wanted.to(output.device))
        return {"class": value, "total": value}

    @torch.no_grad()
    def accuracy(self, data: Dataset, limit: int = 500) -> dict[str, float]:
        """Share of right answers on the first `limit` pictures of a data set."""
        device = self.head.weight.device
        right = count = 0
        for batch, targets in data.evaluation_batches(50, limit, device=device):
            wanted = torch.cat([target["labels"][:1] for target in targets])
            right += int((self(batch).argmax(-1).cpu() == wanted).sum())
            count += len(wanted)
        return {"accuracy": right / count}
