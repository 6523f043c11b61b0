"""DETR: detection as a set prediction (built in chapters/02_detr.ipynb).

Carion et al. 2020, "End-to-End Object Detection with Transformers".
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..describable import describable
from ..images import ImageBatch
from ..nn.attention import Attention, Trace
from ..nn.backbone import SmallConfig
from ..nn.deform_attention import DeformableTrace
from ..nn.heads import MLP
from ..nn.layers import DecoderLayer, EncoderLayer
from ..nn.position import sine_position
from ..nn.resnet import ResNetConfig
from ..objective import losses, matching
from ..objective.losses import LossWeights
from ..objective.matching import CostWeights
from .detections import Detections, check_batch, check_images, detections


@describable
@dataclass(frozen=True)
class DETRConfig:
    """Everything that makes one DETR; presets `tiny()`, `coco_r50()` and others."""

    classes: int  # without "no object"
    backbone: object  # SmallConfig, ResNetConfig or PatchConfig: anything with build()
    channels: int = 256  # C of tokens and queries (section A.4)
    heads: int = 8  # M
    hidden: int = 2048  # width of the feed-forward layers
    encoder_layers: int = 6
    decoder_layers: int = 6  # Y
    queries: int = 100  # Q
    dropout: float = 0.1
    cost: CostWeights = field(default_factory=CostWeights)
    loss: LossWeights = field(default_factory=LossWeights)

    @classmethod
    def tiny(cls, **changes: object) -> "DETRConfig":
        """For Scenes and a laptop: trains in an hour on two CPU cores.

        Without dropout: drawn data never repeats, so there is nothing to memorise.
        """
        settings = dict(
            classes=6,
            backbone=SmallConfig(),
            channels=128,
            hidden=512,
            encoder_layers=3,
            queries=25,
            dropout=0.0,
        )
        return cls(**(settings | changes))

    @classmethod
    def coco_r50(cls, **changes: object) -> "DETRConfig":
        """The paper's model: ResNet-50, stride 32, 41,302,368 trainable weights."""
        return cls(**(dict(classes=91, backbone=ResNetConfig()) | changes))

    @classmethod
    def coco_r50_dc5(cls, **changes: object) -> "DETRConfig":
        """ResNet-50 with a dilated last stage: stride 16, four times the tokens."""
        return cls.coco_r50(**(dict(backbone=ResNetConfig(dilate_last=True)) | changes))

    @classmethod
    def coco_r101(cls, **changes: object) -> "DETRConfig":
        """The paper's model with ResNet-101."""
        backbone = ResNetConfig(depths=(3, 4, 23, 3))
        return cls.coco_r50(**(dict(backbone=backbone) | changes))

    def build(self) -> "DETR":
        """Make the module with fresh weights."""
        return DETR(self)


class Output(NamedTuple):
    """Predictions of every decoder layer, first to last.

    `logits [Y, B, Q, classes + 1]` (last class: no object), `boxes [Y, B, Q, 4]` cxcywh
    in [0, 1] of the un-padded image, `trace` what attention saw, if asked for;
    `proposals` what a two-stage system predicted before, in the same form.
    """

    logits: Tensor
    boxes: Tensor
    trace: Trace | DeformableTrace | None = None
    proposals: "Output | None" = None


class Memory(NamedTuple):
    """The encoded image: `tokens`, `positions [B, S, C]`, `padding [B, S]` or None,
    `size (h, w)` of the map, `maps` the encoder's attention if asked for."""

    tokens: Tensor
    positions: Tensor
    padding: Tensor | None
    size: tuple[int, int]
    maps: Tensor | None


class DETR(nn.Module):
    """A CNN, a transformer and Q learned queries that each answer with one box or none.

    Source: Carion et al. 2020, section 3.2. Built in chapters/02_detr.ipynb.
    """

    most_tokens = 20_000  # dense attention over more needs tens of gigabytes

    def __init__(self, config: DETRConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = config.backbone.build()
        self.build_parts(config)

    def build_parts(self, config: DETRConfig) -> None:
        """Make everything behind the backbone: what other systems change."""
        c, heads, dropout = config.channels, config.heads, config.dropout
        self.project = nn.Conv2d(self.backbone.channels[-1], c, 1)

        def attention() -> nn.Module:
            return Attention(c, heads, dropout)

        self.encoder = nn.ModuleList(
            EncoderLayer(attention(), c, config.hidden, dropout)
            for _ in range(config.encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(attention(), attention(), c, config.hidden, dropout)
            for _ in range(config.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(c)  # one, shared by the outputs of all layers
        self.queries = nn.Embedding(config.queries, c)
        self.class_head = nn.Linear(c, config.classes + 1)
        self.box_head = MLP(c, c, c, 4)

    def tokens(self, height: int, width: int) -> int:
        """How many tokens an image of so many pixels makes."""
        return height * width // self.backbone.strides[-1] ** 2

    def forward(self, batch: ImageBatch, trace: bool = False) -> Output:
        """Predict from every decoder layer; `trace` also returns attention maps."""
        memory = self.encode(batch, trace)
        content, self_maps, cross_maps = self.decode(memory, trace)
        boxes = self.box_head(content).sigmoid()  # [Y, B, Q, 4]
        seen = Trace(memory.maps, self_maps, cross_maps, memory.size) if trace else None
        return Output(self.class_head(content), boxes, seen)

    def encode(self, batch: ImageBatch, trace: bool = False) -> Memory:
        """Turn images into tokens that know about each other."""
        grid = self.project(self.backbone(batch.pixels)[-1])  # [B, C, h, w]
        size = tuple(grid.shape[-2:])
        holes = shrink_padding(batch.padding, size)  # [B, h, w]
        positions = sine_position(holes, self.config.channels, dtype=grid.dtype)
        positions = positions.flatten(1, 2)  # [B, S, C]
        tokens = grid.flatten(2).transpose(1, 2)  # [B, S, C]
        padding = holes.flatten(1) if batch.padded else None  # [B, S]
        maps = []
        for layer in self.encoder:
            tokens, weights = layer(tokens, positions, padding, trace)
            maps.append(weights)
        return Memory(tokens, positions, padding, size, _stack(maps, trace))

    def decode(
        self, memory: Memory, trace: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Let the queries read the image, layer by layer.

        Returns normalised content `[Y, B, Q, C]` and, if asked, the maps of self- and
        cross-attention of all layers.
        """
        who = self.queries.weight.expand(len(memory.tokens), -1, -1)  # [B, Q, C]
        content = torch.zeros_like(who)
        keys = memory.tokens + memory.positions  # [B, S, C]
        contents, self_maps, cross_maps = [], [], []
        for layer in self.decoder:
            content, self_map, cross_map = layer(
                content, who, keys, memory.tokens, memory.padding, trace
            )
            contents.append(self.decoder_norm(content))
            self_maps.append(self_map)
            cross_maps.append(cross_map)
        return (
            torch.stack(contents),
            _stack(self_maps, trace),
            _stack(cross_maps, trace),
        )

    def match(self, output: Output, packed: matching.Packed) -> Tensor:
        """Assign queries to objects in every layer: `[Y, B, N]`, -1 for none."""
        with torch.no_grad():
            logits, boxes = _at_least_float32(*output[:2])
            cost = self.class_cost(logits, packed.labels)
            cost = cost * self.config.cost.classification
            cost = cost + matching.box_cost(boxes, packed, self.config.cost)
        return matching.assign(cost, packed.counts, logits=logits, boxes=boxes)

    def loss(self, output: Output, targets: list[dict]) -> dict[str, Tensor]:
        """Set loss: terms `class`, `box`, `giou` of every layer, and their `total`.

        `targets` one dict per image: `boxes [n, 4]` cxcywh in [0, 1], `labels [n]`.
        Raises: ValueError for a bad target, NonFiniteCost for diverged predictions.
        Source: Carion et al. 2020, equation 2.
        """
        logits, boxes = _at_least_float32(*output[:2])
        check_batch(len(targets), logits.shape[1])
        packed = matching.pack(targets, self.config.classes, boxes.device)
        matched = self.match(output, packed)
        weights = self.config.loss
        distance, overlap = losses.box_losses(boxes, packed, matched)
        terms = {
            "class": self.class_loss(logits, packed, matched),
            "box": distance,
            "giou": overlap,
        }
        scales = (weights.classification, weights.box, weights.giou)
        return losses.weighted_terms(terms, dict(zip(terms, scales)))

    @torch.no_grad()
    def detect(
        self, batch: ImageBatch, sizes: list[tuple[int, int]]
    ) -> list[Detections]:
        """Find objects: one `Detections` per image, every query's best class.

        `sizes` (H, W) in pixels of each original image: boxes come back in its pixels.
        Raises: TypeError, ValueError for something that is no usable batch.
        """
        check_images(self, batch, len(sizes))
        training = self.training
        self.eval()  # no dropout, also in the middle of a training
        try:
            output = self(batch)
        finally:
            self.train(training)
        return self.as_detections(output.logits[-1], output.boxes[-1], sizes)

    # How classes are told: one of many, or none. Focal (focal.py) asks yes or no.

    def class_cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What a query costs for each object, by class alone: `[Y, B, Q, N]`."""
        return matching.softmax_class_cost(logits, labels)

    def class_loss(
        self, logits: Tensor, packed: matching.Packed, matched: Tensor
    ) -> Tensor:
        """Classification loss of each layer `[Y]`."""
        no_object = self.config.loss.no_object
        return losses.class_loss(logits, packed, matched, no_object)

    def as_detections(
        self, logits: Tensor, boxes: Tensor, sizes: list[tuple[int, int]]
    ) -> list[Detections]:
        """One layer's predictions as detections, best first."""
        return detections(logits, boxes, sizes)


def shrink_padding(padding: Tensor, size: tuple[int, int]) -> Tensor:
    """Padding `[B, H, W]` at the size of a feature map: `[B, h, w]`, nearest pixel."""
    return functional.interpolate(padding[:, None].float(), size=size)[:, 0].bool()


def _at_least_float32(*tensors: Tensor) -> list[Tensor]:
    # half precision has too few digits for small boxes and long sums
    return [x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors]


def _stack(maps: list[Tensor | None], trace: bool) -> Tensor | None:
    if not trace:
        return None
    return torch.stack(maps) if maps else torch.zeros(0)
