"""DAB-DETR: queries are anchor boxes, refined layer by layer.

Liu et al. 2022, "DAB-DETR: Dynamic Anchor Boxes are Better Queries for DETR". Built in
chapters/09_dab_anchors.ipynb and chapters/10_conditional_attention.ipynb.
"""

from dataclasses import dataclass

from torch import Tensor, nn

from ..describable import describable
from ..images import ImageBatch
from ..nn.conditional import point_code
from ..nn.heads import xavier_mlp, zero_init_box_head
from ..nn.memory import Memory
from ..nn.queries import Queries
from ..nn.references import refine_boxes
from ..nn.trace import LayerTrace
from ..objective.criterion import PredictionSets
from ..objective.losses import LossWeights
from .conditional_detr import ConditionalDETRConfig, conditional_decoder
from .dense_encoder import DenseEncoderDetector
from .output import Prediction

SMALLEST = 1e-3  # epsilon of the inverse sigmoid here (elsewhere 1e-5)
THINNEST = 1e-4  # side of an anchor, a tenth of a pixel: one of 0 would divide by it


@describable
@dataclass(frozen=True)
class DABDETRConfig(ConditionalDETRConfig):
    """Conditional DETR's numbers, no dropout. Raises: ValueError for bad ones."""

    dropout: float = 0.0
    loss: LossWeights = LossWeights()  # classes weigh 1 here (official code)
    temperature: float = 20.0  # of the positions on the map (section 4.4)
    anchor_dim: int = 4  # x, y, width, height; 2 for points, an ablation
    patterns: int = 0  # contents that every anchor is tried with (section 4.3)
    update: bool = True  # anchors move from layer to layer (section 4.2)
    modulate: bool = True  # codes follow width and height (section 4.4)

    def __post_init__(self) -> None:
        if self.patterns < 0:
            raise ValueError(f"{self.patterns} patterns: 0 for none, or more")
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature}: must be positive")
        if self.anchor_dim not in (2, 4) or self.modulate > (self.anchor_dim == 4):
            raise ValueError(f"anchor_dim={self.anchor_dim}: 4, or 2 without modulate")
        if self.patterns and self.scheme.training_queries(self.queries) != self.queries:
            raise ValueError("a scheme that adds queries mixes patterns: patterns=0")

    def build(self) -> "DABDETR":
        """Make the module with fresh weights."""
        return DABDETR(self)


class DABDETR(DenseEncoderDetector):
    """Conditional DETR whose query is a box: its code is position and modulation.

    Nothing but the anchor `[Q, 4]` is learned of a query. Each layer predicts a step
    of it in inverse-sigmoid space. Source: Liu et al. 2022, section 4.
    """

    def __init__(self, config: DABDETRConfig) -> None:
        super().__init__(config, nn.PReLU)
        c = config.channels
        self.temperature = config.temperature
        self.encoder_position_scale = xavier_mlp(c, c, c)
        self.decoder = conditional_decoder(config, nn.PReLU)
        self.decoder_norm = nn.LayerNorm(c)
        self.position_scale = config.transform.build(c)  # λ
        numbers = config.anchor_dim
        self.position_head = xavier_mlp(numbers // 2 * c, c, c)  # code -> position
        if config.modulate:
            self.size_head = xavier_mlp(c, c, 2)  # width and height the content expects
        self.anchors = nn.Embedding(
            config.scheme.training_queries(config.queries), numbers
        )
        if config.patterns:
            self.patterns = nn.Embedding(config.patterns, c)
        self.class_head = config.classification.head(c, config.classes)
        self.box_head = zero_init_box_head(c)

    def encode(self, batch: ImageBatch, trace: bool = False) -> Memory:
        """As DETR, but every layer scales the positions by the tokens' content."""
        memory = self.embed(batch)
        for layer in self.encoder:
            scaled = memory.positions * self.encoder_position_scale(memory.tokens)
            after = layer(memory._replace(positions=scaled), trace)
            memory = after._replace(positions=memory.positions)
        return memory

    def start(self, memory: Memory) -> tuple[Queries, tuple[PredictionSets, ...]]:
        """Learned anchors, the same for every image; content from patterns, if any."""
        rows = self.anchors.weight[: self.query_count]
        repeats = max(1, self.config.patterns)
        content = rows.new_zeros(repeats * len(rows), self.config.channels)
        if self.config.patterns:  # all anchors with the first pattern, then the second
            content = self.patterns.weight.repeat_interleave(len(rows), 0)
        anchors = rows.repeat(repeats, 1).to(memory.centres.dtype).sigmoid()
        each = len(memory.tokens), -1, -1  # the same for every image
        queries = content.expand(each), None, anchors.expand(each)
        return Queries(*queries, (len(content),)), ()

    def step(
        self, index: int, queries: Queries, memory: Memory, trace: bool = False
    ) -> tuple[Queries, Prediction, LayerTrace]:
        """Attend around the anchor, predict a box, move the anchor.

        Attention sees the anchor detached; the box of this layer is relative to the one
        that is not, so it also trains the step of the layer before. The anchor's own
        step comes from content without norm, so it differs from the predicted box.
        """
        box = queries.references  # [B, Q, 4]
        moved = index > 0 and self.config.update  # else it is the learned one itself
        anchor = box.detach() if moved else box
        code = point_code(anchor, self.config.channels).to(queries.content.dtype)
        content, seen = self.decoder[index](
            queries._replace(
                positions=self.position_head(code),
                spatial=self.spatial(index, anchor, code, queries.content),
            ),
            memory,
            trace,
        )
        normed = self.decoder_norm(content)
        predicted = refine_boxes(box, self.box_head(normed), SMALLEST)
        prediction = Prediction(self.class_head(normed), predicted)
        if self.config.update:
            box = refine_boxes(anchor, self.box_head(content), SMALLEST)
            box = box[..., : self.config.anchor_dim]
        return queries._replace(content=content, references=box), prediction, seen

    def spatial(
        self, index: int, anchor: Tensor, code: Tensor, content: Tensor
    ) -> Tensor:
        """What cross-attention compares with positions: `[B, Q, C]`, y before x.

        A new tensor: the code also made the position embedding, and scaling a view of
        it in place would corrupt that gradient. Source: equations 6 and 7.
        """
        code = code[..., : self.config.channels]
        if index > 0:
            code = self.position_scale(code, content)
        if not self.config.modulate:
            return code
        expected = self.size_head(content).sigmoid()  # [B, Q, 2] width, height
        size = anchor[..., 2:].clamp(min=THINNEST)
        ratio = (expected / size).flip(-1).to(code.dtype)  # height, width
        halves = code.unflatten(-1, (2, -1)) * ratio[..., None]  # [B, Q, 2, C / 2]
        return halves.flatten(-2)
