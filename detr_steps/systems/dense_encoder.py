"""What DETR, Conditional DETR and DAB-DETR share: one map and a dense encoder.

`DenseEncoding` is that of a detector without a decoder, too.

Built in chapters/02_detr.ipynb.
"""

from collections.abc import Callable
from typing import Protocol

import torch
from torch import nn

from ..images import ImageBatch
from ..nn.layers import EncoderLayer
from ..nn.memory import Memory
from ..nn.position import sine_position
from ..nn.references import shrink_padding, token_centres, valid_share
from ..nn.synthesizer import EncoderAttention
from .detector import Detector, DetectorConfig, QueryDetector


class DenseEncoderConfig(DetectorConfig, Protocol):
    """The numbers of the encoder."""

    channels: int
    heads: int
    ffn_channels: int
    encoder_layers: int
    encoder_attention: EncoderAttention
    dropout: float


class DenseEncoding(Detector):
    """Encodes the backbone's last map with dense self-attention.

    Source: Carion et al. 2020, section 3.2.
    """

    temperature = 10_000.0  # of the sine positions on the map

    def __init__(
        self,
        config: DenseEncoderConfig,
        activation: Callable[[], nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__(config)
        c, heads, dropout = config.channels, config.heads, config.dropout
        self.project = nn.Conv2d(self.backbone.channels[-1], c, 1)
        self.encoder = nn.ModuleList(
            EncoderLayer(
                config.encoder_attention.build(c, heads, dropout),
                c,
                config.ffn_channels,
                dropout,
                activation,
            )
            for _ in range(config.encoder_layers)
        )

    def tokens(self, height: int, width: int) -> int:
        """How many tokens an image of so many pixels makes."""
        return height * width // self.backbone.strides[-1] ** 2

    def encode(self, batch: ImageBatch, trace: bool = False) -> Memory:
        """Turn images into tokens that know about each other."""
        memory = self.embed(batch)
        for layer in self.encoder:
            memory = layer(memory, trace)
        return memory

    def embed(self, batch: ImageBatch) -> Memory:
        """The backbone's last map as tokens, before the encoder."""
        features = tuple(self.backbone(batch.pixels))
        grid = self.project(features[-1])  # [B, C, h, w]
        size = tuple(grid.shape[-2:])
        padding = shrink_padding(batch.padding, size)  # [B, h, w]
        # a softmax over no keys at all is NaN: an image of padding alone is a blank one
        padding = padding & ~padding.all((1, 2), keepdim=True)
        positions = sine_position(
            padding, self.config.channels, self.temperature, dtype=grid.dtype
        )
        exact = torch.promote_types(grid.dtype, torch.float32)
        valid = valid_share(padding, exact)[:, None]  # [B, 1, 2]
        return Memory(
            tokens=grid.flatten(2).mT,  # [B, S, C]
            positions=positions.flatten(1, 2),  # [B, S, C]
            padding=padding.flatten(1) if batch.padded else None,  # [B, S]
            sizes=(size,),
            valid=valid,
            centres=token_centres((size,), valid),  # [B, S, 2]
            features=features,
        )


class DenseEncoderDetector(DenseEncoding, QueryDetector):
    """A dense encoder, then a decoder with object queries."""
