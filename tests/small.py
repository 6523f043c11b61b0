"""The DETR that tests build: a step takes milliseconds, and no two sizes agree."""

import torch

from detr_steps import DETR, DETRConfig
from detr_steps.nn.backbone import SmallConfig
from detr_steps.nn.resnet import ResNetConfig

RESNET = ResNetConfig(depths=(1, 1, 1, 1))  # the smallest that official layouts fit


def small_config(**changes: object) -> DETRConfig:
    """Classes 4, queries 5, channels 32, 2 and 3 layers; `changes` for what matters."""
    settings = dict(
        classes=4,
        backbone=SmallConfig(channels=(16, 16), blocks=1),
        channels=32,
        heads=4,
        hidden=48,
        encoder_layers=2,
        decoder_layers=3,
        queries=5,
    )
    return DETRConfig.tiny(**(settings | changes))


def small_detr(seed: int = 0, **changes: object) -> DETR:
    """A fresh model of that size; the same seed, the same weights."""
    torch.manual_seed(seed)
    return DETR(small_config(**changes))
