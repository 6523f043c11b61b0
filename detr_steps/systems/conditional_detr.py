"""Conditional DETR: queries compare content and position apart.

Meng et al. 2021, "Conditional DETR for Fast Training Convergence".
Built in chapters/10_conditional_attention.ipynb.
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..describable import describable
from ..nn.conditional import (
    Combination,
    Concat,
    ConditionalCrossAttention,
    ContentAndPosition,
    Scaled,
    Transform,
    point_code,
)
from ..nn.heads import xavier_mlp, zero_init_box_head
from ..nn.layers import DecoderLayer
from ..nn.memory import Memory
from ..nn.queries import Queries
from ..nn.references import refine_boxes
from ..nn.trace import LayerTrace
from ..objective.classification import Classification, Focal
from ..objective.criterion import PredictionSets
from ..objective.losses import LossWeights
from ..objective.matching import CostWeights
from .dense_encoder import DenseEncoderDetector
from .detr import DETRConfig
from .output import Prediction


@describable
@dataclass(frozen=True)
class ConditionalDETRConfig(DETRConfig):
    """DETR's numbers, but 300 queries and focal loss; presets as `DETRConfig` has."""

    queries: int = 300  # Q
    classification: Classification = Focal()
    cost: CostWeights = CostWeights(classification=2.0)
    loss: LossWeights = LossWeights(classification=2.0)
    combine: Combination = Concat()  # content and position (section 3.3)
    transform: Transform = Scaled()  # of the reference's code by the content

    @classmethod
    def tiny(cls, **changes: object) -> "ConditionalDETRConfig":
        """For Scenes and a laptop: the size of DETR's `tiny()`, 50 queries."""
        return super().tiny(**(dict(queries=50) | changes))

    def build(self) -> "ConditionalDETR":
        """Make the module with fresh weights."""
        return ConditionalDETR(self)


class ConditionalDETR(DenseEncoderDetector):
    """DETR whose cross-attention compares content with content, position with position.

    A query's position embedding gives one reference point for all layers; the code of
    that point, scaled by what the query has gathered so far, is compared with the
    positions of the tokens; boxes are predicted relative to it.
    Source: Meng et al. 2021, section 3.3; official code.
    """

    def __init__(self, config: ConditionalDETRConfig) -> None:
        super().__init__(config)
        c = config.channels
        self.decoder = conditional_decoder(config, nn.ReLU)
        self.decoder_norm = nn.LayerNorm(c)
        self.position_scale = config.transform.build(c)  # λ, one for all layers
        self.reference_head = xavier_mlp(c, c, 2)
        self.queries = nn.Embedding(config.scheme.training_queries(config.queries), c)
        self.class_head = config.classification.head(c, config.classes)
        self.box_head = zero_init_box_head(c)

    def start(self, memory: Memory) -> tuple[Queries, tuple[PredictionSets, ...]]:
        """Learned position embeddings, each with its reference point; no content."""
        rows = self.queries.weight[: self.query_count]
        positions = rows.expand(len(memory.tokens), -1, -1)  # [B, Q, C]
        points = self.reference_head(positions).to(memory.centres.dtype).sigmoid()
        return Queries(torch.zeros_like(positions), positions, points, (len(rows),)), ()

    def step(
        self, index: int, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Queries, Prediction, LayerTrace]:
        """Refine the content once; predict from its normalised copy.

        λ comes from the content as it is, not from the normalised one; in the first
        layer, where there is none yet, the code stays as it is.
        """
        code = point_code(queries.references, self.config.channels)
        code = code.to(queries.content.dtype)  # [B, Q, C]
        if index > 0:
            code = self.position_scale(code, queries.content)
        content, seen = self.decoder[index](
            queries._replace(spatial=code), memory, trace
        )
        normed = self.decoder_norm(content)
        boxes = refine_boxes(queries.references, self.box_head(normed))
        prediction = Prediction(self.class_head(normed), boxes)
        return queries._replace(content=content), prediction, seen


def conditional_decoder(
    config: ConditionalDETRConfig, activation: type[nn.Module]
) -> nn.ModuleList:
    """Decoder layers with conditional attention; DAB-DETR has the same."""
    c, heads, dropout = config.channels, config.heads, config.dropout
    return nn.ModuleList(
        DecoderLayer(
            ContentAndPosition(c, heads, dropout),
            ConditionalCrossAttention(
                c, heads, dropout, first=index == 0, combine=config.combine
            ),
            c,
            config.ffn_channels,
            dropout,
            activation,
        )
        for index in range(config.decoder_layers)
    )
