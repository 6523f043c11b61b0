"""TSP-FCOS: a dense detector chooses features, an encoder without decoder predicts.

Sun et al. 2021, "Rethinking Transformer-based Set Prediction for Object Detection",
section 4. For chapters/04_why_slow.ipynb.
"""

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ..describable import describable
from ..images import ImageBatch
from ..nn.attention import Attention
from ..nn.backbone import BackboneConfig, SmallConfig
from ..nn.fpn import FeaturePyramid, as_tokens, tower
from ..nn.layers import PreNormEncoderLayer
from ..nn.memory import Memory
from ..nn.position import sine_position
from ..nn.references import shrink_padding, valid_share
from ..nn.resnet import ResNetConfig
from ..objective import points as rule
from ..objective import tsp_loss
from ..objective.classification import Focal
from ..objective.criterion import PredictionSets
from ..objective.layer_weights import LayerWeights
from ..objective.losses import LossWeights
from ..objective.matching import CostWeights, PaddedTargets, pad_targets
from ..ops.read_points import Sizes
from .detector import Detector
from .output import Output, Trace


@describable
@dataclass(frozen=True)
class TSPFCOSConfig:
    """Everything that makes one TSP-FCOS; presets `tiny()` and `coco_r50()`.

    Raises: ValueError for numbers that cannot be.
    """

    classes: int  # without "no object", for which there is no class here
    backbone: BackboneConfig
    maps: int = 3  # of the backbone, its last ones: C3, C4, C5
    levels: int = 5  # L: P3 … P7
    channels: int = 256  # C of the pyramid and the towers, a multiple of 32
    tower_layers: int = 4  # convolutions before classes and before boxes
    encoder_channels: int = 512
    heads: int = 8
    ffn_channels: int = 2048
    encoder_layers: int = 6
    features: int = 700  # Q: features of interest (section 4.1)
    least_kept: float = 0.7  # of them a random share, at least this, trains
    dropout: float = 0.1
    reach: float = 8.0  # strides to the farthest side of an object that a level takes
    radius: float = 1.5  # strides from an object's middle that may answer for it
    spare: float = 0.1  # weight of "no" where a point might answer and another does
    classification: Focal = Focal()
    cost: CostWeights = CostWeights(box=0.0)
    loss: LossWeights = LossWeights(box=0.0, giou=1.0)
    layer_weights: ClassVar[LayerWeights] = LayerWeights()  # one layer predicts

    def __post_init__(self) -> None:
        if not isinstance(self.classification, Focal):
            raise ValueError("TSP-FCOS says yes or no to each class: give Focal()")
        if self.cost.box or self.loss.box:
            raise ValueError("TSP-FCOS has no L1 term: cost and loss need box=0.0")
        if self.features < 1 or self.levels < self.maps:
            raise ValueError(
                f"{self.features} features, {self.maps} maps, {self.levels} levels: "
                "at least one feature, and no more maps than levels"
            )
        if not 0 < self.least_kept <= 1:
            raise ValueError(f"least_kept {self.least_kept}: a share above 0, up to 1")

    @classmethod
    def tiny(cls, **changes: object) -> "TSPFCOSConfig":
        """For Scenes and a laptop: strides 8, 16, 32, objects of 6 to 64 pixels."""
        settings = dict(
            classes=6,
            backbone=SmallConfig(),
            maps=2,
            levels=3,
            channels=64,
            tower_layers=2,
            encoder_channels=128,
            ffn_channels=256,
            encoder_layers=2,
            features=64,
            dropout=0.0,
            reach=2.0,
        )
        return cls(**(settings | changes))

    @classmethod
    def coco_r50(cls, **changes: object) -> "TSPFCOSConfig":
        """The paper's model; 24,134,314 weights behind the pyramid for 80 classes."""
        return cls(**(dict(classes=91, backbone=ResNetConfig()) | changes))

    def build(self) -> "TSPFCOS":
        """Make the module with fresh weights."""
        return TSPFCOS(self)


class Chosen(NamedTuple):
    """The features of interest: Q of the S points of all levels.

    `at [B, Q]` their numbers; `distances [B, Q, 4]` to the sides of the predicted box,
    in strides; `centerness [B, Q]` and, of all points, `dense [B, S, classes]` logits;
    `extents [B, 2]` width and height of the images in pixels; `sizes (h, w)`.
    """

    at: Tensor
    distances: Tensor
    centerness: Tensor
    dense: Tensor
    extents: Tensor
    sizes: Sizes


class TSPOutput(NamedTuple):
    """An `Output` of one layer, `logits`, `boxes [1, B, Q, ·]`, and the `chosen`."""

    logits: Tensor
    boxes: Tensor
    trace: Trace | None
    chosen: Chosen
    extra: tuple[PredictionSets, ...] = ()
    weight: float = 1.0
    real: Tensor | None = None


class TSPFCOS(Detector):
    """FCOS without its box head; the best points of it are queries of an encoder.

    A set loss trains the encoder's answers, but a point may only be matched with the
    object that FCOS's rule gives it. Source: Sun et al. 2021, section 4.
    """

    max_tokens = 200_000  # only `features` of them attend to one another
    wants_targets = True  # in training, points that may answer are preferred
    matches_any_pair = False
    fixed_queries = False

    def __init__(self, config: TSPFCOSConfig) -> None:
        super().__init__(config)
        c, e = config.channels, config.encoder_channels
        channels = self.backbone.channels[-config.maps :]
        self.strides = list(self.backbone.strides[-config.maps :])
        while len(self.strides) < config.levels:
            self.strides.append(2 * self.strides[-1])
        self.pyramid = FeaturePyramid(channels, c, config.levels)
        self.class_tower = tower(c, config.tower_layers)
        self.box_tower = tower(c, config.tower_layers)
        self.point_head = nn.Conv2d(c, config.classes, 3, padding=1)
        self.project = nn.Linear(2 * c, e)
        self.project_norm = nn.LayerNorm(e)
        self.level_embedding = nn.Parameter(torch.ones(config.levels, e))
        self.encoder = nn.ModuleList(
            PreNormEncoderLayer(
                Attention(e, config.heads, config.dropout),
                e,
                config.ffn_channels,
                config.dropout,
            )
            for _ in range(config.encoder_layers)
        )
        self.encoder_norm = nn.LayerNorm(e)
        self.class_head = config.classification.head(e, config.classes)
        self.box_head = nn.Linear(e, 4)
        self.centerness_head = nn.Linear(e, 1)
        self.scales = nn.Parameter(torch.ones(config.levels))  # of distances, per level
        for head in (self.point_head, self.class_head, self.centerness_head):
            nn.init.normal_(head.weight, std=0.01)
        nn.init.zeros_(self.centerness_head.bias)
        with torch.no_grad():
            self.point_head.bias.copy_(self.class_head.bias)  # the same prior of 1 %

    def tokens(self, height: int, width: int) -> int:
        """How many points an image of so many pixels has, over all levels."""
        return sum(height * width // stride**2 for stride in self.strides)

    def forward(
        self, batch: ImageBatch, trace: bool = False, targets: list[dict] | None = None
    ) -> TSPOutput:
        """Choose features of interest, let them attend to one another, predict.

        `targets`, in training: points that may answer for an object are chosen rather.
        """
        features, dense, padding, sizes = self.look(batch)
        rows, columns = (~batch.padding).any(2).sum(1), (~batch.padding).any(1).sum(1)
        extents = torch.stack((columns, rows), -1).clamp(min=1).float()  # [B, 2]
        points = self.points(sizes, features.device)
        at = self.choose(dense, padding, self.owners(points, extents, targets))
        real = ~padding.gather(1, at)
        memory = self.attend(batch, features, at, real, sizes, trace)
        logits = self.class_head(memory.tokens)
        if batch.padded:
            logits = self.config.classification.silence(logits, ~real)
        scale = self.scales[points.level[at]][..., None]
        sides = self.box_head(memory.tokens).relu().float() * scale  # [B, Q, 4]
        boxes = rule.boxes_of(
            points.at[at], sides * points.stride[at][..., None], extents
        )
        centerness = self.centerness_head(memory.tokens)[..., 0]
        chosen = Chosen(at, sides, centerness, dense, extents, sizes)
        seen = self.trace_of(batch, memory, points, chosen) if trace else None
        real = real if batch.padded else None
        return TSPOutput(logits[None], boxes[None], seen, chosen, real=real)

    def look(self, batch: ImageBatch) -> tuple[Tensor, Tensor, Tensor, Sizes]:
        """FCOS's part: features `[B, S, 2C]`, logits `[B, S, classes]`, padding."""
        maps = self.pyramid(list(self.backbone(batch.pixels))[-self.config.maps :])
        classes, boxes = (
            [tower(x) for x in maps] for tower in (self.class_tower, self.box_tower)
        )
        features = torch.cat((as_tokens(classes), as_tokens(boxes)), -1)
        dense = as_tokens([self.point_head(x) for x in classes])
        sizes = tuple(tuple(x.shape[-2:]) for x in maps)
        padding = [shrink_padding(batch.padding, size).flatten(1) for size in sizes]
        padding = torch.cat(padding, 1)
        # an image of padding alone is a blank one
        return features, dense, padding & ~padding.all(1, keepdim=True), sizes

    def points(self, sizes: Sizes, device: torch.device) -> rule.Points:
        """The points of all levels and the objects that they may take."""
        return rule.points_of(sizes, self.strides, self.config.reach, device)

    def owners(
        self, points: rule.Points, extents: Tensor, targets: list[dict] | None
    ) -> Tensor | None:
        """The object that each point may answer for, -1 for none: `[B, S]`."""
        if targets is None:
            return None
        padded = pad_targets(targets, self.config.classes, extents.device)
        return tsp_loss.owners(points, padded, extents, self.config.radius)

    @torch.no_grad()
    def choose(self, dense: Tensor, padding: Tensor, owners: Tensor | None) -> Tensor:
        """The features of interest: numbers of the best points `[B, Q]`.

        By the largest class probability p; (p + 1) / 2 where a point may answer for an
        object. In training a random share of them is left out, the same for all images.
        Source: Sun et al. 2021, section 4.1; the official code.
        """
        scores = dense.float().sigmoid().amax(-1)  # [B, S]
        if owners is not None:
            scores = ((scores + 1) / 2).where(owners >= 0, scores)
        count = min(self.config.features, scores.shape[1])
        at = scores.masked_fill(padding, -1).topk(count).indices
        if not self.training or self.config.least_kept == 1:
            return at
        share = 1 - (1 - self.config.least_kept) * float(torch.rand(()))
        kept = torch.randperm(count)[: max(1, int(count * share))]
        return at[:, kept.to(at.device)]

    def attend(
        self,
        batch: ImageBatch,
        features: Tensor,
        at: Tensor,
        real: Tensor,
        sizes: Sizes,
        trace: bool,
    ) -> Memory:
        """The encoder over the features of interest: pre-norm, with a last norm."""
        e = self.config.encoder_channels
        positions = torch.cat(
            [
                sine_position(shrink_padding(batch.padding, size), e).flatten(1, 2)
                + own
                for size, own in zip(sizes, self.level_embedding)
            ],
            1,
        )
        blank = (~real).all(1, keepdim=True)  # softmax over no keys at all is NaN
        memory = Memory(
            tokens=self.project_norm(self.project(rule.take(features, at))),
            positions=rule.take(positions, at),
            padding=~real & ~blank if batch.padded else None,
        )
        for layer in self.encoder:
            memory = layer(memory, trace)
        return memory._replace(tokens=self.encoder_norm(memory.tokens))

    def trace_of(
        self, batch: ImageBatch, memory: Memory, points: rule.Points, chosen: Chosen
    ) -> Trace:
        """The encoder's maps are between queries: there are no maps of the image."""
        levels = [shrink_padding(batch.padding, size) for size in chosen.sizes]
        centres = points.at / chosen.extents[:, None]  # [B, S, 2]
        return Trace(
            encoder=(),
            decoder_self=memory.attention,
            decoder_cross=(),
            references=(rule.take(centres, chosen.at),),
            centres=centres,
            sizes=chosen.sizes,
            valid=torch.stack([valid_share(level) for level in levels], 1),
            classification=self.config.classification,
        )

    def match(self, output: TSPOutput, targets: PaddedTargets) -> Tensor:
        """The cheapest feature of those that may answer for each object: `[1, B, N]`.

        -1 for objects without any. Raises: NonFiniteCost for diverged predictions.
        """
        return self.judge(output, targets).matched[None]

    def judge(self, output: TSPOutput, targets: PaddedTargets) -> "tsp_loss.Judged":
        """Hold the features of interest against the objects."""
        chosen = output.chosen
        points = self.points(chosen.sizes, chosen.at.device)
        return tsp_loss.judge(self.config, points, chosen, output.logits[0], targets)

    def loss(
        self, output: Output, targets: list[dict], matched: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Terms `class`, `giou`, `centerness`, of all points `class_points`; `total`.

        Raises: also ValueError for an assignment from elsewhere: the features of
        interest are others in each image and step.
        """
        if matched is not None:
            raise ValueError("features of interest have no numbers that others know")
        padded = self.padded(output, targets)
        judged = self.judge(output, padded)
        logits = output.logits[0]
        return tsp_loss.loss(self.config, judged, output.chosen, logits, padded)
