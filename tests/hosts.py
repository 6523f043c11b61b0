"""Every host that a training scheme must run on, small; one padded batch for all."""

from dataclasses import replace

import torch
from small import (
    small_adamixer_config,
    small_conditional_config,
    small_config,
    small_dab_config,
    small_deformable_config,
)
from torch import nn

from detr_steps import ImageBatch
from detr_steps.nn.dense import Dense
from detr_steps.objective.classification import Focal, Softmax
from detr_steps.systems.query_sources import Anchors, Proposals

DEFORMABLE = small_deformable_config()
SYSTEMS = {
    "detr": small_config(),
    "detr-focal": small_config(classification=Focal()),
    "conditional": small_conditional_config(),
    "dab": small_dab_config(),
    "dab-fixed": small_dab_config(update=False, modulate=False),
    "dab-points": small_dab_config(anchor_dim=2, modulate=False),
    "deformable": DEFORMABLE,
    "deformable-refine": replace(DEFORMABLE, refine=True),
    "deformable-two-stage": replace(
        DEFORMABLE, refine=True, query_source=Proposals(), queries=5
    ),
    "deformable-anchors": replace(DEFORMABLE, refine=True, query_source=Anchors()),
    "deformable-softmax": replace(DEFORMABLE, classification=Softmax()),
    "deformable-dense": replace(
        DEFORMABLE,
        maps=1,
        levels=1,
        encoder_sampling=Dense(4),
        decoder_sampling=Dense(4),
    ),
    "adamixer": small_adamixer_config(),
}
TARGETS = [
    {"boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]]), "labels": torch.tensor([2])},
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def model_of(config) -> nn.Module:
    """A model whose heads are not zero, or no layer would differ from another."""
    torch.manual_seed(0)
    model = config.build()
    with torch.no_grad():
        for parameter in model.parameters():
            if (parameter == 0).all():
                parameter.normal_(std=0.1)
    return model


def two_images() -> ImageBatch:
    """Of unequal sizes, so padded."""
    generator = torch.Generator().manual_seed(1)
    return ImageBatch.from_list(
        [torch.randn(3, *s, generator=generator) for s in ((64, 48), (40, 64))]
    )
