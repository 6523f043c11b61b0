"""Deformable DETR: queries look at a few points of several maps.

Zhu et al. 2020, "Deformable DETR: Deformable Transformers for End-to-End Object
Detection". Built in chapters/06_deformable_attention.ipynb and 08_multi_scale.ipynb.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..describable import describable
from ..images import ImageBatch
from ..nn.attention import Attention
from ..nn.backbone import SmallConfig
from ..nn.deform_attention import DeformableTrace, Places, Sampling
from ..nn.heads import doubting_class_head, still_box_head
from ..nn.layers import DecoderLayer, EncoderLayer
from ..nn.position import sine_position
from ..nn.pyramid import Pyramid
from ..nn.references import move, on_levels, token_centres, valid_share
from ..nn.resnet import ResNetConfig
from ..objective.focal import FocalWeights
from ..objective.matching import CostWeights
from .detr import DETR, Output, shrink_padding
from .focal import Focal
from .queries import LearnedQueries, LevelMemory, ProposedQueries, Queries


@describable
@dataclass(frozen=True)
class DeformableDETRConfig:
    """Everything that makes one Deformable DETR; `tiny()`, `coco_r50()` and others."""

    classes: int  # without "no object", for which there is no class here
    backbone: object  # SmallConfig or ResNetConfig: anything with build()
    maps: int = 3  # of the backbone, its last ones (appendix A.2: C3, C4, C5)
    levels: int = 4  # L; those beyond the maps by convolutions of stride 2
    channels: int = 256  # C of tokens and queries, a multiple of 32
    heads: int = 8  # of the attention between queries
    hidden: int = 1024  # width of the feed-forward layers (A.4)
    encoder_layers: int = 6
    decoder_layers: int = 6  # Y
    encoder_sampling: object = Sampling()  # M, K and more (section 4.1)
    decoder_sampling: object = Sampling()
    queries: int = 300  # Q
    refine: bool = False  # each layer moves the boxes of the one before (4.2)
    two_stage: bool = False  # queries from the encoder's proposals (4.2); needs refine
    dropout: float = 0.1
    cost: CostWeights = CostWeights(classification=2.0)
    loss: FocalWeights = FocalWeights()

    def __post_init__(self) -> None:
        if self.two_stage and not self.refine:
            raise ValueError("two_stage proposes boxes to refine: set refine=True too")
        if self.queries < 1:
            raise ValueError(f"{self.queries} queries find nothing: give at least one")

    @classmethod
    def tiny(cls, **changes: object) -> "DeformableDETRConfig":
        """For Scenes and a laptop: the strides 8, 16 and 32 of the paper.

        A step of 16 scenes takes 0.7 s on one CPU core, twice as long as DETR's
        `tiny()`, for 336 tokens instead of 64; a tenth of the steps is enough.
        """
        settings = dict(
            classes=6,
            backbone=SmallConfig(),
            maps=2,
            levels=3,
            channels=128,
            hidden=256,
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
        return cls.coco_r50_refine(**(dict(two_stage=True) | changes))

    @classmethod
    def single_scale(cls, **changes: object) -> "DeformableDETRConfig":
        """On the last map of ResNet-50 alone, stride 32: 33,844,193 weights."""
        return cls.coco_r50(**(dict(maps=1, levels=1) | changes))

    @classmethod
    def single_scale_dc5(cls, **changes: object) -> "DeformableDETRConfig":
        """On the last map of ResNet-50 with a dilated last stage: stride 16."""
        backbone = ResNetConfig(dilate_last=True)
        return cls.single_scale(**(dict(backbone=backbone) | changes))

    def build(self) -> "DeformableDETR":
        """Make the module with fresh weights."""
        return DeformableDETR(self)


class DeformableDETR(Focal, DETR):
    """DETR whose keys are replaced by places: points of L maps, around a reference.

    What differs from DETR: several maps, deformable attention in the encoder and from
    queries to image, boxes relative to the reference, focal loss. Matching, loss,
    detection and layers are DETR's own.
    Source: Zhu et al. 2020. Built in chapters/08_multi_scale.ipynb.
    """

    most_tokens = 200_000  # memory grows with the tokens, no longer with their square

    def build_parts(self, config: DeformableDETRConfig) -> None:
        """Make everything behind the backbone."""
        c, hidden, dropout = config.channels, config.hidden, config.dropout
        if config.maps > len(self.backbone.channels):
            raise ValueError(
                f"{config.maps} maps, but the backbone has {self.backbone.channels}"
            )
        self.pyramid = Pyramid(self.backbone.channels[-config.maps :], c, config.levels)
        self.level_embedding = nn.Parameter(torch.randn(config.levels, c))
        self.encoder = nn.ModuleList(
            EncoderLayer(
                config.encoder_sampling.build(c, config.levels), c, hidden, dropout
            )
            for _ in range(config.encoder_layers)
        )
        self.decoder = nn.ModuleList(
            DecoderLayer(
                Attention(c, config.heads, dropout),
                config.decoder_sampling.build(c, config.levels),
                c,
                hidden,
                dropout,
            )
            for _ in range(config.decoder_layers)
        )
        start = ProposedQueries if config.two_stage else LearnedQueries
        self.queries = start(c, config.queries)
        # with refinement a pair for each layer, one more for the proposals of tokens
        pairs = config.decoder_layers + config.two_stage if config.refine else 1
        self.class_heads = nn.ModuleList(
            doubting_class_head(c, config.classes) for _ in range(pairs)
        )
        self.box_heads = nn.ModuleList(still_box_head(c) for _ in range(pairs))
        if not config.two_stage:  # the first knows a point, no size: begin with 0.12
            nn.init.constant_(self.box_heads[0].layers[-1].bias[2:], -2.0)

    def tokens(self, height: int, width: int) -> int:
        """How many tokens an image of so many pixels makes, over all levels."""
        strides = list(self.backbone.strides[-self.config.maps :])
        while len(strides) < self.config.levels:
            strides.append(2 * strides[-1])
        return sum(height * width // stride**2 for stride in strides)

    def forward(self, batch: ImageBatch, trace: bool = False) -> Output:
        """Predict from every decoder layer; `trace` also returns what was looked at."""
        memory = self.encode(batch, trace)
        queries = self.queries(memory, self.class_heads[-1], self.box_heads[-1])
        return self.decode(memory, queries, trace)

    def encode(self, batch: ImageBatch, trace: bool = False) -> LevelMemory:
        """Turn images into tokens of all levels that know about their surroundings."""
        maps = self.pyramid(self.backbone(batch.pixels)[-self.config.maps :])
        sizes = tuple(tuple(x.shape[-2:]) for x in maps)
        holes = [shrink_padding(batch.padding, size) for size in sizes]  # [B, h, w]
        padding = torch.cat([hole.flatten(1) for hole in holes], 1)  # [B, S]
        padding = padding if batch.padded else None
        tokens = torch.cat([x.flatten(2).mT for x in maps], 1)  # [B, S, C]
        exact = torch.promote_types(tokens.dtype, torch.float32)
        valid = torch.stack([valid_share(hole, exact) for hole in holes], 1)
        centres = token_centres(sizes, valid)  # [B, S, 2]
        places = Places(on_levels(centres, valid), sizes)
        positions = self.positions(holes, tokens.dtype)  # [B, S, C]
        readings = []
        for layer in self.encoder:
            tokens, seen = layer(tokens, positions, padding, trace, places)
            readings.append(seen)
        return LevelMemory(tokens, padding, sizes, valid, centres, tuple(readings))

    def positions(self, holes: list[Tensor], dtype: torch.dtype) -> Tensor:
        """Where a token is and on which level: `[B, S, C]`.

        `holes [B, h, w]` the padding of each level.
        """
        c = self.config.channels
        levels = [
            sine_position(hole, c, shift=-0.5, dtype=dtype).flatten(1, 2) + level
            for hole, level in zip(holes, self.level_embedding)
        ]
        return torch.cat(levels, 1)

    def decode(
        self, memory: LevelMemory, queries: Queries, trace: bool = False
    ) -> Output:
        """Let the queries read the image and predict, layer by layer.

        With refinement a layer looks where the one before has found its box. No slope
        flows back through that: each layer answers for its own step.
        """
        content, references = queries.content, queries.references
        steps = []
        for index, layer in enumerate(self.decoder):
            places = Places(on_levels(references, memory.valid), memory.sizes)
            content, talk, seen = layer(
                content,
                queries.positions,
                places,
                memory.tokens,
                memory.padding,
                trace,
            )
            pair = index if self.config.refine else 0
            boxes = move(references, self.box_heads[pair](content))
            logits = self.class_heads[pair](content)
            steps.append((logits, boxes, references, talk, seen))
            if self.config.refine:
                references = boxes.detach()
        logits, boxes, *looked = zip(*steps)
        return Output(
            torch.stack(logits),
            torch.stack(boxes),
            self._trace(memory, *looked) if trace else None,
            queries.proposals,
        )

    def _trace(
        self, memory: LevelMemory, references: tuple, talks: tuple, readings: tuple
    ) -> DeformableTrace:
        return DeformableTrace(
            encoder=memory.readings,
            decoder=readings,
            decoder_self=torch.stack(talks),
            tokens=memory.centres,
            references=references,
            sizes=memory.sizes,
            valid=memory.valid,
        )

    def loss(self, output: Output, targets: list[dict]) -> dict[str, Tensor]:
        """Set loss as DETR's; with two stages the tokens' proposals have one as well.

        Its terms end in `_proposals`; there every object is of class 0.
        """
        terms = super().loss(output, targets)
        if output.proposals is None:
            return terms
        objects = [t | {"labels": torch.zeros_like(t["labels"])} for t in targets]
        first = super().loss(output.proposals, objects)
        total = terms["total"] + first.pop("total")
        named = {f"{name}_proposals": value for name, value in first.items()}
        return terms | named | {"total": total}
