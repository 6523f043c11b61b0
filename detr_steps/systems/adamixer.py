"""AdaMixer: no encoder; each query mixes what it samples, by weights of its own.

Gao et al. 2022, "AdaMixer: A Fast-Converging Query-Based Object Detector".
Built in chapters/12_more_queries.ipynb.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..describable import describable
from ..images import ImageBatch
from ..nn.adaptive_mixing import Mixing
from ..nn.backbone import BackboneConfig, SmallConfig
from ..nn.channel_map import ChannelMap
from ..nn.heads import xavier
from ..nn.iof_attention import OverlapAttention
from ..nn.layers import DecoderLayer
from ..nn.memory import Memory
from ..nn.queries import Queries
from ..nn.references import level_extents, shrink_padding, token_centres
from ..nn.resnet import ResNetConfig
from ..nn.trace import LayerTrace
from ..nn.xyzr import (
    boxes_to_xyzr,
    image_pixels,
    refine_xyzr,
    xyzr_code,
    xyzr_to_boxes,
)
from ..objective.classification import Classification, Focal
from ..objective.criterion import PredictionSets
from ..objective.layer_weights import LayerWeights
from ..objective.losses import LossWeights
from ..objective.matching import CostWeights
from .detector import QueryDetector
from .output import Prediction
from .scheme import Plain, Scheme


@describable
@dataclass(frozen=True)
class AdaMixerConfig:
    """Everything that makes one AdaMixer; presets `tiny()` and `coco_r50()`."""

    classes: int  # without "no object", for which there is no class here
    backbone: BackboneConfig  # SmallConfig or ResNetConfig
    maps: int = 4  # L: the last ones of the backbone, each a level
    channels: int = 256  # C of maps and queries, a multiple of 32
    heads: int = 8  # of the attention between queries
    ffn_channels: int = 2048
    decoder_layers: int = 6  # Y, "stages" there
    mixing: Mixing = Mixing()  # G, P_in, P_out (section 4.1)
    queries: int = 100  # Q
    dropout: float = 0.0
    classification: Classification = Focal()
    cost: CostWeights = CostWeights(classification=2.0)
    loss: LossWeights = LossWeights(classification=2.0)
    layer_weights: LayerWeights = LayerWeights()  # of the auxiliary losses
    scheme: Scheme = Plain()  # how training runs the decoder

    def __post_init__(self) -> None:
        if self.queries < 1:
            raise ValueError(f"{self.queries} queries find nothing: give at least one")
        if self.channels % 32:
            raise ValueError(
                f"{self.channels} channels: take a multiple of 32, for the group norm "
                "of the maps and the code of four numbers"
            )

    @classmethod
    def tiny(cls, **changes: object) -> "AdaMixerConfig":
        """For Scenes and a laptop: strides 4, 8 and 16, fewer points."""
        settings = dict(
            classes=6,
            backbone=SmallConfig(),
            maps=3,
            channels=128,
            ffn_channels=256,
            mixing=Mixing(groups=4, points=8, out_points=16),
            queries=50,
        )
        return cls(**(settings | changes))

    @classmethod
    def coco_r50(cls, **changes: object) -> "AdaMixerConfig":
        """The paper's model: 134,565,560 trainable weights.

        COCO's 80 classes without gaps, batch norms whose scale and shift are trained.
        """
        backbone = ResNetConfig(train_norms=True)
        return cls(**(dict(classes=80, backbone=backbone) | changes))

    def build(self) -> "AdaMixer":
        """Make the module with fresh weights."""
        return AdaMixer(self)


class AdaMixer(QueryDetector):
    """A backbone and queries, nothing between: what others put into an encoder is here
    in two matrices that each query makes for itself.

    A query is a content and a box, which starts as the whole image and is refined by
    every layer. Two differences from the official code: L1 distances are of centres
    and sizes, as in all systems here (there of corners), and the focal cost has the
    epsilon of the others.
    Source: Gao et al. 2022, section 3; official code.
    """

    max_tokens = 200_000  # time does not grow with the tokens, but for the backbone

    def __init__(self, config: AdaMixerConfig) -> None:
        super().__init__(config)
        c, layers = config.channels, config.decoder_layers
        if not 1 <= config.maps <= len(self.backbone.channels):
            raise ValueError(
                f"{config.maps} maps, but the backbone has {self.backbone.channels}"
            )
        self.strides = tuple(self.backbone.strides[-config.maps :])
        self.project = ChannelMap(self.backbone.channels[-config.maps :], c)
        count = config.scheme.training_queries(config.queries)
        self.queries = nn.Embedding(count, c)
        self.boxes = nn.Embedding(count, 4)  # never trained; the official code has them
        with torch.no_grad():
            self.boxes.weight[:] = torch.tensor([0.5, 0.5, 1.0, 1.0])
        self.decoder = nn.ModuleList(
            DecoderLayer(
                OverlapAttention(c, config.heads, config.dropout),
                config.mixing.build(c, self.strides),
                c,
                config.ffn_channels,
                config.dropout,
            )
            for _ in range(layers)
        )
        self.class_features = nn.ModuleList(features(c) for _ in range(layers))
        self.box_features = nn.ModuleList(features(c) for _ in range(layers))
        self.class_heads = nn.ModuleList(
            config.classification.head(c, config.classes) for _ in range(layers)
        )
        xavier(self.class_heads)
        self.box_heads = nn.ModuleList(nn.Linear(c, 4) for _ in range(layers))
        for head in self.box_heads:
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.encoder = nn.ModuleList()  # none: what asks for its layers finds no layer

    def tokens(self, height: int, width: int) -> int:
        """How many tokens an image of so many pixels makes, over all levels."""
        return sum(height * width // stride**2 for stride in self.strides)

    def encode(self, batch: ImageBatch, trace: bool = False) -> Memory:
        """The backbone's maps at one width: tokens know what convolutions tell them."""
        features = tuple(self.backbone(batch.pixels))
        maps = self.project(features[-len(self.strides) :])
        sizes = tuple(tuple(x.shape[-2:]) for x in maps)
        padding = [shrink_padding(batch.padding, size).flatten(1) for size in sizes]
        exact = torch.promote_types(maps[0].dtype, torch.float32)
        valid = self.valid(batch.padding, sizes, exact)
        return Memory(
            tokens=torch.cat([x.flatten(2).mT for x in maps], 1),  # [B, S, C]
            positions=None,
            padding=torch.cat(padding, 1) if batch.padded else None,  # to be shown
            sizes=sizes,
            valid=valid,
            centres=token_centres(sizes, valid),  # [B, S, 2]
            features=features,
        )

    def valid(self, padding: Tensor, sizes: tuple, dtype: torch.dtype) -> Tensor:
        """The share of each level that is image, to the pixel: `[B, L, 2]`.

        A level may reach beyond the pixels, by less than its stride.
        """
        columns, rows = (~padding[:, 0]).sum(-1), (~padding[:, :, 0]).sum(-1)  # [B]
        pixels = torch.stack((columns, rows), -1).clamp(min=1).to(dtype)  # [B, 2]
        strides = pixels.new_tensor(self.strides)[:, None]
        return pixels[:, None] / (level_extents(sizes, pixels) * strides)

    def start(self, memory: Memory) -> tuple[Queries, tuple[PredictionSets, ...]]:
        """Learned contents, normalised; each box the whole image."""
        count = self.query_count
        content = self.queries.weight[:count]
        content = functional.layer_norm(content, content.shape[-1:])
        boxes = self.boxes.weight[:count]
        # several processes ask for a gradient of everything: here it is 0
        content = content + 0 * boxes.sum()
        each = memory.tokens.shape[0], -1, -1
        boxes = boxes.detach().to(memory.centres.dtype).expand(each)
        return Queries(content.expand(each), None, boxes, (count,)), ()

    def step(
        self, index: int, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Queries, Prediction, LayerTrace]:
        """Add the code of the box to the content, refine both, predict.

        The code enters queries, keys, values and the residual of self-attention. The
        next layer gets the box detached.
        """
        pixels = image_pixels(memory, self.strides[0])
        xyzr = boxes_to_xyzr(queries.references, pixels)
        code = xyzr_code(xyzr, self.config.channels).to(queries.content.dtype)
        placed = queries._replace(content=queries.content + code)
        content, seen = self.decoder[index](placed, memory, trace)
        delta = self.box_heads[index](self.box_features[index](content))
        boxes = xyzr_to_boxes(refine_xyzr(xyzr, delta.to(xyzr.dtype)), pixels)
        logits = self.class_heads[index](self.class_features[index](content))
        after = queries._replace(content=content, references=boxes.detach())
        return after, Prediction(logits, boxes), seen


def features(channels: int) -> nn.Sequential:
    """What a head reads of a content: one layer, a norm and ReLU."""
    layer = nn.Linear(channels, channels)
    xavier([layer])
    return nn.Sequential(layer, nn.LayerNorm(channels), nn.ReLU())
