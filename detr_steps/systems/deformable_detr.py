"""Deformable DETR: queries look at a few points of several maps.

Zhu et al. 2020, "Deformable DETR: Deformable Transformers for End-to-End Object
Detection". Built in chapters/06_deformable_attention.ipynb and 08_multi_scale.ipynb.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..describable import added, describable
from ..images import ImageBatch
from ..nn.attention import Attention
from ..nn.backbone import BackboneConfig, SmallConfig
from ..nn.deform_attention import AttentionConfig, Sampling
from ..nn.heads import zero_init_box_head
from ..nn.layers import DecoderLayer, EncoderLayer
from ..nn.memory import Memory
from ..nn.position import sine_position
from ..nn.pyramid import Pyramid
from ..nn.queries import Queries
from ..nn.references import refine_boxes, shrink_padding, token_centres, valid_share
from ..nn.resnet import ResNetConfig
from ..nn.trace import LayerTrace
from ..objective.classification import Classification, Focal
from ..objective.criterion import PredictionSets
from ..objective.layer_weights import LayerWeights
from ..objective.losses import LossWeights
from ..objective.matching import CostWeights
from .detector import QueryDetector
from .output import Prediction
from .query_sources import LearnedPoints, Proposals, QuerySource
from .scheme import Plain, Scheme


@describable
@dataclass(frozen=True)
class DeformableDETRConfig:
    """Everything that makes one Deformable DETR; `tiny()`, `coco_r50()` and others."""

    classes: int  # without "no object", for which there is no class here
    backbone: BackboneConfig  # SmallConfig or ResNetConfig
    maps: int = 3  # of the backbone, its last ones (appendix A.2: C3, C4, C5)
    levels: int = 4  # L; those beyond the maps by convolutions of stride 2
    channels: int = 256  # C of tokens and queries, a multiple of 32
    heads: int = 8  # of the attention between queries
    ffn_channels: int = 1024  # of the feed-forward layers (official code only)
    encoder_layers: int = 6
    decoder_layers: int = 6  # Y
    encoder_sampling: AttentionConfig = Sampling()  # M, K and more (section 4.1)
    decoder_sampling: AttentionConfig = Sampling()
    queries: int = 300  # Q
    query_source: QuerySource = LearnedPoints()  # Proposals(): two-stage; Anchors()
    refine: bool = False  # each layer refines the boxes of the one before (4.2)
    # and trains that layer's delta, too (Zhang et al. 2022, DINO, section 3.5)
    look_forward_twice: bool = added(False)
    dropout: float = 0.1
    classification: Classification = Focal()
    cost: CostWeights = CostWeights(classification=2.0)
    loss: LossWeights = LossWeights(classification=2.0)
    layer_weights: LayerWeights = LayerWeights()  # of the auxiliary losses
    scheme: Scheme = Plain()  # how training runs the decoder

    def __post_init__(self) -> None:
        if self.two_stage and not self.refine:
            raise ValueError("proposals are boxes to refine: set refine=True too")
        if self.look_forward_twice and not self.refine:
            raise ValueError("look_forward_twice=True needs boxes that are refined: "
                             "set refine=True too")  # fmt: skip
        if self.queries < 1:
            raise ValueError(f"{self.queries} queries find nothing: give at least one")

    @classmethod
    def tiny(cls, **changes: object) -> "DeformableDETRConfig":
        """For Scenes and a laptop: the strides 8, 16 and 32 of the paper.

        A step of 16 scenes takes 0.7 s on one CPU core, twice as long as DETR's
        `tiny()`, for 336 tokens instead of 64; an eighth of the steps is enough.
        """
        settings = dict(
            classes=6,
            backbone=SmallConfig(),
            maps=2,
            levels=3,
            channels=128,
            ffn_channels=256,
            encoder_layers=2,
            queries=50,
            dropout=0.0,
        )
        return cls(**(settings | changes))

    @classmethod
    def coco_r50(cls, **changes: object) -> "DeformableDETRConfig":
        """The paper's model: strides 8 to 64, 39,847,265 trainable weights."""
        return cls(**(dict(classes=91, backbone=ResNetConfig()) | changes))

    @classmethod
    def coco_r50_refine(cls, **changes: object) -> "DeformableDETRConfig":
        """With iterative bounding box refinement: 40,627,260 trainable weights."""
        return cls.coco_r50(**(dict(refine=True) | changes))

    @classmethod
    def coco_r50_two_stage(cls, **changes: object) -> "DeformableDETRConfig":
        """With refinement and two stages: 40,959,129 trainable weights."""
        return cls.coco_r50_refine(**(dict(query_source=Proposals()) | changes))

    @classmethod
    def single_scale(cls, **changes: object) -> "DeformableDETRConfig":
        """On the last map of ResNet-50 alone, stride 32: 33,844,193 weights."""
        return cls.coco_r50(**(dict(maps=1, levels=1) | changes))

    @classmethod
    def single_scale_dc5(cls, **changes: object) -> "DeformableDETRConfig":
        """On the last map of ResNet-50 with a dilated last stage: stride 16."""
        backbone = ResNetConfig(dilate_last=True)
        return cls.single_scale(**(dict(backbone=backbone) | changes))

    @property
    def two_stage(self) -> bool:
        """Whether the encoder's tokens propose the queries."""
        return isinstance(self.query_source, Proposals)

    def build(self) -> "DeformableDETR":
        """Make the module with fresh weights."""
        return DeformableDETR(self)


class DeformableDETR(QueryDetector):
    """DETR whose attention samples a few points of L maps, around reference points.

    What differs from DETR: several maps, deformable attention in the encoder and from
    queries to image, boxes relative to the reference, focal loss.
    Source: Zhu et al. 2020. Built in chapters/08_multi_scale.ipynb.
    """

    max_tokens = 200_000  # time grows with the tokens, no longer with their square

    def __init__(self, config: DeformableDETRConfig) -> None:
        super().__init__(config)
        c, ffn, dropout = config.channels, config.ffn_channels, config.dropout
        if config.maps > len(self.backbone.channels):
            raise ValueError(
                f"{config.maps} maps, but the backbone has {self.backbone.channels}"
            )
        self.pyramid = Pyramid(self.backbone.channels[-config.maps :], c, config.levels)
        self.level_embedding = nn.Parameter(torch.randn(config.levels, c))
        self.encoder = nn.ModuleList(
            EncoderLayer(
                config.encoder_sampling.build(c, config.levels), c, ffn, dropout
            )
            for _ in range(config.encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(
                Attention(c, config.heads, dropout),
                config.decoder_sampling.build(c, config.levels),
                c,
                ffn,
                dropout,
            )
            for _ in range(config.decoder_layers)
        )
        self.queries = config.query_source.build(
            c, config.scheme.training_queries(config.queries)
        )
        # with refinement a pair for each layer, one more for the proposals of tokens
        pairs = config.decoder_layers + config.two_stage if config.refine else 1
        self.class_heads = nn.ModuleList(
            config.classification.head(c, config.classes) for _ in range(pairs)
        )
        self.box_heads = nn.ModuleList(zero_init_box_head(c) for _ in range(pairs))
        if not config.two_stage:
            # the first layer knows a point, no size: sigmoid(-2) = 0.12 of the image
            nn.init.constant_(self.box_heads[0].layers[-1].bias[2:], -2.0)

    @property
    def fixed_queries(self) -> bool:
        """Whether query n is the same one in every image: proposals are not."""
        return not self.config.two_stage

    def tokens(self, height: int, width: int) -> int:
        """How many tokens an image of so many pixels makes, over all levels."""
        strides = list(self.backbone.strides[-self.config.maps :])
        while len(strides) < self.config.levels:
            strides.append(2 * strides[-1])
        return sum(height * width // stride**2 for stride in strides)

    def encode(self, batch: ImageBatch, trace: bool = False) -> Memory:
        """Turn images into tokens of all levels that know about their surroundings."""
        features = tuple(self.backbone(batch.pixels))
        maps = self.pyramid(features[-self.config.maps :])
        sizes = tuple(tuple(x.shape[-2:]) for x in maps)
        per_level = [shrink_padding(batch.padding, size) for size in sizes]  # [B, h, w]
        padding = torch.cat([level.flatten(1) for level in per_level], 1)  # [B, S]
        tokens = torch.cat([x.flatten(2).mT for x in maps], 1)  # [B, S, C]
        exact = torch.promote_types(tokens.dtype, torch.float32)
        valid = torch.stack([valid_share(level, exact) for level in per_level], 1)
        memory = Memory(
            tokens=tokens,
            positions=self.positions(per_level, tokens.dtype),  # [B, S, C]
            padding=padding if batch.padded else None,
            sizes=sizes,
            valid=valid,  # [B, L, 2]
            centres=token_centres(sizes, valid),  # [B, S, 2]
            features=features,
        )
        for layer in self.encoder:
            memory = layer(memory, trace)
        return memory

    def positions(self, padding_per_level: list[Tensor], dtype: torch.dtype) -> Tensor:
        """Where a token is and on which level: `[B, S, C]`.

        `padding_per_level` `[B, h, w]` each. Positions alone would be equal for tokens
        of different levels at the same place.
        """
        c = self.config.channels
        levels = [
            sine_position(padding, c, shift=-0.5, dtype=dtype).flatten(1, 2) + level
            for padding, level in zip(padding_per_level, self.level_embedding)
        ]
        return torch.cat(levels, 1)

    def start(self, memory: Memory) -> tuple[Queries, tuple[PredictionSets, ...]]:
        """Queries from the config's source; with two stages also the proposals."""
        heads = self.class_heads[-1], self.box_heads[-1]
        return self.queries(memory, self.query_count, heads)

    def step(
        self, index: int, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Queries, Prediction, LayerTrace]:
        """Refine content and predict boxes relative to the references.

        With refinement the next layer's references are these boxes, detached: the loss
        of a later layer reaches this one through the content only. Who looks forward
        twice lets it also reach this layer's delta, but no earlier one: attention sees
        boxes detached, predictions are relative to those that are not.
        Source: Zhang et al. 2022 (DINO), section 3.5.
        """
        references = queries.references
        detach = index > 0 and self.config.look_forward_twice
        at = references.detach() if detach else references
        positions = self.queries.positions(index, queries._replace(references=at))
        content, seen = self.decoder[index](
            queries._replace(positions=positions, references=at), memory, trace
        )
        pair = index if self.config.refine else 0
        delta = self.box_heads[pair](content)
        boxes = self.moved(references, delta)
        prediction = Prediction(self.class_heads[pair](content), boxes)
        if self.config.look_forward_twice:
            references = self.moved(at, delta)
        elif self.config.refine:
            references = boxes.detach()
        return (
            queries._replace(content=content, references=references),
            prediction,
            seen,
        )

    def moved(self, references: Tensor, delta: Tensor) -> Tensor:
        """Boxes `[B, Q, 4]` a delta away from references, as the queries cut them."""
        return refine_boxes(references, delta, self.queries.smallest)
