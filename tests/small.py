"""Small things that tests build: a DETR whose step takes milliseconds, a figure."""

import numpy as np
import torch
from torch import nn

from detr_steps import (
    DETR,
    AdaMixerConfig,
    ConditionalDETRConfig,
    DABDETRConfig,
    DeformableDETRConfig,
    DETRConfig,
    EncoderOnlyConfig,
    ImageBatch,
    PanopticDETR,
    PanopticDETRConfig,
    TSPFCOSConfig,
)
from detr_steps.nn.adaptive_mixing import Mixing
from detr_steps.nn.backbone import SmallConfig
from detr_steps.nn.deform_attention import Sampling
from detr_steps.nn.resnet import ResNetConfig
from detr_steps.viz.engine.figure import InteractiveFigure

RESNET = ResNetConfig(depths=(1, 1, 1, 1))  # the smallest that official layouts fit


SIZES = dict(
    classes=6,  # no side of a box, no query: shapes must not agree by chance
    backbone=SmallConfig(channels=(16, 16), blocks=1),
    channels=32,
    heads=4,
    ffn_channels=48,
    encoder_layers=2,
    decoder_layers=3,
    queries=5,
)


def small_config(**changes: object) -> DETRConfig:
    """Classes 6, queries 5, channels 32, 2 and 3 layers; `changes` for what matters."""
    return DETRConfig.tiny(**(SIZES | changes))


def small_conditional_config(**changes: object) -> ConditionalDETRConfig:
    """The same sizes for Conditional DETR."""
    return ConditionalDETRConfig.tiny(**(SIZES | changes))


def small_dab_config(**changes: object) -> DABDETRConfig:
    """The same sizes for DAB-DETR."""
    return DABDETRConfig.tiny(**(SIZES | changes))


def small_panoptic_config(**changes: object) -> PanopticDETRConfig:
    """The same sizes with a mask head; labels from 4 on are stuff.

    Three maps of the backbone, so that the head climbs twice.
    """
    more = dict(things=4, backbone=SmallConfig(channels=(16, 16, 16), blocks=1))
    return PanopticDETRConfig.tiny(**(SIZES | more | changes))


def small_panoptic(seed: int = 0, **changes: object) -> PanopticDETR:
    """A fresh model of that size; the same seed, the same weights."""
    torch.manual_seed(seed)
    return PanopticDETR(small_panoptic_config(**changes))


def small_detr(seed: int = 0, **changes: object) -> DETR:
    """A fresh model of that size; the same seed, the same weights."""
    torch.manual_seed(seed)
    return DETR(small_config(**changes))


def small_deformable_config(**changes: object) -> DeformableDETRConfig:
    """The same for Deformable DETR: three levels, of strides 4, 8 and 16."""
    settings = dict(
        classes=6,
        backbone=SmallConfig(channels=(16, 16), blocks=1),
        channels=64,
        heads=4,
        ffn_channels=48,
        decoder_layers=3,
        encoder_sampling=Sampling(heads=4, points=2),
        decoder_sampling=Sampling(heads=4, points=3),
        queries=5,
    )
    return DeformableDETRConfig.tiny(**(settings | changes))


def small_adamixer_config(**changes: object) -> AdaMixerConfig:
    """Two levels, of strides 4 and 8, and few points."""
    settings = dict(
        backbone=SmallConfig(channels=(16, 16), blocks=1),
        maps=2,
        channels=64,
        heads=4,
        ffn_channels=48,
        decoder_layers=3,
        mixing=Mixing(groups=4, points=3, out_points=5),
        queries=5,
    )
    return AdaMixerConfig.tiny(**(settings | changes))


def small_encoder_only_config(**changes: object) -> EncoderOnlyConfig:
    """DETR's small sizes without its decoder."""
    decoder = ("decoder_layers", "queries")
    sizes = {key: value for key, value in SIZES.items() if key not in decoder}
    return EncoderOnlyConfig.tiny(**(sizes | changes))


def small_tsp_config(**changes: object) -> TSPFCOSConfig:
    """A TSP-FCOS of two maps and three levels, of strides 4, 8 and 16."""
    settings = dict(
        backbone=SmallConfig(channels=(16, 16), blocks=1),
        channels=64,
        tower_layers=1,
        encoder_channels=32,
        heads=4,
        ffn_channels=48,
        features=20,
        reach=3.0,
    )
    return TSPFCOSConfig.tiny(**(settings | changes))


def small_figure() -> InteractiveFigure:
    """An interactive figure of made-up maps: two layers, four queries, two heads."""
    random = np.random.default_rng(0)
    maps = random.integers(0, 256, (2, 4, 2, 6, 8), dtype=np.uint8)
    maps[..., 2, 3] = 255  # each is scaled to its own largest
    centres = [[0.25, 0.3], [0.75, 0.3], [0.25, 0.7], [0.75, 0.7]]
    boxes = np.array([[[*centre, 0.3, 0.3] for centre in centres]] * 2, np.float16)
    return InteractiveFigure(
        "attention",
        {
            "maps": maps,
            "peaks": np.full((2, 4, 2), 0.1, np.float32),
            "boxes": boxes,
            "scores": np.full((2, 4), 0.9, np.float16),
            "labels": np.array([[0, 1, 2, 3]] * 2, np.int16),
        },
        {"frame_name": "layer", "frames": ["1", "2"], "pick": "box"},
        picture=random.integers(0, 256, (96, 128, 3), dtype=np.uint8),
        title="Made-up maps",
        summary="Four boxes, one in each corner.",
        caption="Evidence of nothing.",
    )


TARGETS = [  # of two images, the second without objects
    {
        "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.4, 0.2]]),
        "labels": torch.tensor([2, 0]),
    },
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]


def unequal_batch() -> ImageBatch:
    """Two images of noise, of other heights and widths: each has padding."""
    generator = torch.Generator().manual_seed(1)
    return ImageBatch.from_list(
        [torch.randn(3, *s, generator=generator) for s in ((32, 48), (40, 24))]
    )


def fresh(config: DETRConfig) -> nn.Module:
    """The config's model as it starts, always the same."""
    torch.manual_seed(0)
    return config.build().eval()


def scattered(model: nn.Module) -> nn.Module:
    """The model with weights, statistics too, that are all unlike fresh ones."""
    with torch.no_grad():
        for value in model.state_dict().values():
            value.uniform_(0.5, 1.5)
    return model


def stirred(config: DETRConfig) -> nn.Module:
    """A model whose heads and norms say something: fresh ones hardly differ."""
    model = fresh(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if (parameter == 0).all():
                parameter.normal_(std=0.1)
            elif name == "decoder_norm.weight":
                parameter.normal_(1, 0.5)
    return model
