"""DETR: detection as a set prediction (built in chapters/02_detr.ipynb).

Carion et al. 2020, "End-to-End Object Detection with Transformers".
"""

from dataclasses import dataclass

import torch
from torch import nn

from ..describable import added, describable
from ..nn.attention import Attention
from ..nn.backbone import BackboneConfig, SmallConfig
from ..nn.heads import MLP
from ..nn.layers import DecoderLayer
from ..nn.memory import Memory
from ..nn.queries import Queries
from ..nn.resnet import ResNetConfig
from ..nn.synthesizer import DotProduct, EncoderAttention
from ..nn.trace import LayerTrace
from ..objective.classification import Classification, Softmax
from ..objective.criterion import PredictionSets
from ..objective.layer_weights import LayerWeights
from ..objective.losses import LossWeights
from ..objective.matching import CostWeights
from .dense_encoder import DenseEncoderDetector
from .output import Prediction
from .scheme import Plain, Scheme


@describable
@dataclass(frozen=True)
class DETRConfig:
    """Everything that makes one DETR; presets `tiny()`, `coco_r50()` and others."""

    classes: int  # without "no object"
    backbone: BackboneConfig  # SmallConfig, ResNetConfig or PatchConfig
    channels: int = 256  # C of tokens and queries (section A.4)
    heads: int = 8  # M
    ffn_channels: int = 2048  # width of the feed-forward layers
    encoder_layers: int = 6
    decoder_layers: int = 6  # Y
    queries: int = 100  # Q
    dropout: float = 0.1
    classification: Classification = Softmax()
    cost: CostWeights = CostWeights()
    loss: LossWeights = LossWeights()
    layer_weights: LayerWeights = LayerWeights()  # of the auxiliary losses
    scheme: Scheme = Plain()  # how training runs the decoder
    encoder_attention: EncoderAttention = added(DotProduct())

    @classmethod
    def tiny(cls, **changes: object) -> "DETRConfig":
        """For Scenes and a laptop: trains in 104 minutes on one CPU core.

        Without dropout: drawn data never repeats, so there is nothing to memorise.
        """
        settings = dict(
            classes=6,
            backbone=SmallConfig(),
            channels=128,
            ffn_channels=512,
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


class DETR(DenseEncoderDetector):
    """A CNN, a transformer and Q learned queries that each answer with one box or none.

    Source: Carion et al. 2020, section 3.2. Built in chapters/02_detr.ipynb.
    """

    def __init__(self, config: DETRConfig) -> None:
        super().__init__(config)
        c, heads, dropout = config.channels, config.heads, config.dropout
        self.decoder = nn.ModuleList(
            DecoderLayer(
                Attention(c, heads, dropout),
                Attention(c, heads, dropout),
                c,
                config.ffn_channels,
                dropout,
            )
            for _ in range(config.decoder_layers)
        )
        self.decoder_norm = nn.LayerNorm(c)  # one, shared by the outputs of all layers
        self.queries = nn.Embedding(config.scheme.training_queries(config.queries), c)
        self.class_head = config.classification.head(c, config.classes)
        self.box_head = MLP(c, c, c, 4)

    def start(self, memory: Memory) -> tuple[Queries, tuple[PredictionSets, ...]]:
        """Learned position embeddings, the same for every image; no content yet."""
        rows = self.queries.weight[: self.query_count]
        positions = rows.expand(memory.tokens.shape[0], -1, -1)  # [B, Q, C]
        content = torch.zeros_like(positions)
        return Queries(content, positions, None, (rows.shape[0],)), ()

    def step(
        self, index: int, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Queries, Prediction, LayerTrace]:
        """Refine the content once; predict from its normalised copy.

        The next layer gets the content as it is: the norm belongs to the heads.
        """
        content, seen = self.decoder[index](queries, memory, trace)
        normed = self.decoder_norm(content)
        boxes = self.box_head(normed).sigmoid()
        prediction = Prediction(self.class_head(normed), boxes)
        return queries._replace(content=content), prediction, seen
