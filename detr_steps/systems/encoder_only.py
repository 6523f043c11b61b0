"""DETR without its decoder: every token of the encoder predicts a box.

Sun et al. 2021, "Rethinking Transformer-based Set Prediction for Object Detection",
section 3.3. Built in chapters/04_why_slow.ipynb.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..describable import added, describable
from ..images import ImageBatch
from ..nn.backbone import BackboneConfig, SmallConfig
from ..nn.heads import zero_init_box_head
from ..nn.memory import Memory
from ..nn.references import refine_boxes
from ..nn.resnet import ResNetConfig
from ..nn.synthesizer import DotProduct, EncoderAttention
from ..objective.classification import Classification, Softmax
from ..objective.layer_weights import LayerWeights
from ..objective.losses import LossWeights
from ..objective.matching import CostWeights
from .dense_encoder import DenseEncoding
from .output import Output, Prediction, Trace


@describable
@dataclass(frozen=True)
class EncoderOnlyConfig:
    """DETR's numbers without those of a decoder; presets `tiny()`, `coco_r50()`."""

    classes: int  # without "no object"
    backbone: BackboneConfig
    channels: int = 256
    heads: int = 8
    ffn_channels: int = 2048
    encoder_layers: int = 6  # Y: each predicts
    dropout: float = 0.1
    classification: Classification = Softmax()
    cost: CostWeights = CostWeights()
    loss: LossWeights = LossWeights()
    layer_weights: LayerWeights = LayerWeights()  # "none": the last layer alone learns
    encoder_attention: EncoderAttention = added(DotProduct())

    def __post_init__(self) -> None:
        if self.encoder_layers < 1:
            raise ValueError("no encoder layers: there is nothing else to predict")

    @classmethod
    def tiny(cls, **changes: object) -> "EncoderOnlyConfig":
        """For Scenes and a laptop: `DETRConfig.tiny()` without its decoder."""
        settings = dict(
            classes=6,
            backbone=SmallConfig(),
            channels=128,
            ffn_channels=512,
            encoder_layers=3,
            dropout=0.0,
        )
        return cls(**(settings | changes))

    @classmethod
    def coco_r50(cls, **changes: object) -> "EncoderOnlyConfig":
        """As the paper's experiment: ResNet-50, stride 32."""
        return cls(**(dict(classes=91, backbone=ResNetConfig()) | changes))

    def build(self) -> "EncoderOnly":
        """Make the module with fresh weights."""
        return EncoderOnly(self)


class EncoderOnly(DenseEncoding):
    """DETR's encoder, whose tokens are the queries: S predictions for S cells.

    A box is relative to the token's centre, for a token has no other query that could
    say where it is. Tokens of padding find nothing and are matched with nothing.
    Source: Sun et al. 2021, section 3.3, which leaves heads and auxiliary losses open:
    here all layers predict through shared heads, as DETR's decoder layers do.
    """

    def __init__(self, config: EncoderOnlyConfig) -> None:
        super().__init__(config)
        self.class_head = config.classification.head(config.channels, config.classes)
        self.box_head = zero_init_box_head(config.channels)
        # a centre, no size yet: sigmoid(-2) = 0.12 of the image
        nn.init.constant_(self.box_head.layers[-1].bias[2:], -2.0)

    def forward(self, batch: ImageBatch, trace: bool = False) -> Output:
        """Predict from every encoder layer; `trace` also returns what was attended."""
        memory, predictions = self.embed(batch), []
        for layer in self.encoder:
            memory = layer(memory, trace)
            predictions.append(self.answer(memory))
        logits, boxes = map(torch.stack, zip(*predictions))  # [Y, B, S, ·]
        seen = self.trace_of(memory) if trace else None
        real = None if memory.padding is None else ~memory.padding
        return Output(logits, boxes, seen, real=real)

    def answer(self, memory: Memory) -> Prediction:
        """What the tokens say: a class, and a box around where each is."""
        logits = self.class_head(memory.tokens)
        if memory.padding is not None:
            logits = self.config.classification.silence(logits, memory.padding)
        boxes = refine_boxes(memory.centres, self.box_head(memory.tokens))
        return Prediction(logits, boxes)

    def trace_of(self, memory: Memory) -> Trace:
        """The encoder's maps; there is no decoder to have any."""
        return Trace(
            encoder=memory.attention,
            decoder_self=(),
            decoder_cross=(),
            references=(),
            centres=memory.centres,
            sizes=memory.sizes,
            valid=memory.valid,
            classification=self.config.classification,
        )
