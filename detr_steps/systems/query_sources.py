"""Where the queries of Deformable DETR come from: learned, or proposed by the image.

Built in chapters/08_multi_scale.ipynb; anchors in chapters/09_dab_anchors.ipynb.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..describable import added, describable
from ..nn.conditional import point_code
from ..nn.heads import xavier_mlp
from ..nn.memory import Memory
from ..nn.position import sine_features
from ..nn.queries import Queries
from ..nn.references import refine_boxes
from ..objective.criterion import PredictionSets

SMALLEST = 0.05  # side of the boxes that tokens of the finest level start from
MARGIN = 0.01  # centres nearer to the border than that propose nothing

Heads = tuple[nn.Module, nn.Module]  # class head and box head for proposals
Start = tuple[Queries, tuple[PredictionSets, ...]]


class QuerySource(Protocol):
    """A frozen dataclass that makes the module which gives a decoder its queries."""

    def build(self, channels: int, queries: int) -> "QueryStart":
        """Make the module with fresh weights."""


@describable
@dataclass(frozen=True)
class LearnedPoints:
    """The same queries for every image, each at a learned point (section 4.2)."""

    def build(self, channels: int, queries: int) -> "LearnedQueries":
        """Make the module with fresh weights."""
        return LearnedQueries(channels, queries)


@describable
@dataclass(frozen=True)
class Proposals:
    """Two stages: the encoder's tokens propose boxes, the best become queries.

    With `mixed`, only their positions come from the boxes and their contents are
    learned: mixed query selection (Zhang et al. 2022, DINO, section 3.4).
    """

    mixed: bool = added(False)

    def build(self, channels: int, queries: int) -> "ProposedQueries":
        """Make the module with fresh weights."""
        return (MixedQueries if self.mixed else ProposedQueries)(channels, queries)


@describable
@dataclass(frozen=True)
class Anchors:
    """Learned boxes; with `refine` DAB + Deformable DETR.

    The official recipe has `ffn_channels=2048`, `dropout=0.0`, `loss=LossWeights()`.
    """

    def build(self, channels: int, queries: int) -> "AnchorQueries":
        """Make the module with fresh weights."""
        return AnchorQueries(channels, queries)


class QueryStart(nn.Module):
    """What the decoder starts from, and what its steps ask of it."""

    smallest = 1e-5  # epsilon of the inverse sigmoid

    def forward(self, memory: Memory, count: int, heads: Heads) -> Start:
        """The first `count` queries of each image; heads are for proposals."""
        raise NotImplementedError

    def positions(self, index: int, queries: Queries) -> Tensor:
        """Position embeddings for decoder layer `index`: `[B, Q, C]`, those at the
        start unless a source makes them anew."""
        return queries.positions


class LearnedQueries(QueryStart):
    """Learned position embeddings and contents, and a point from the former.

    Source: Zhu et al. 2020, section 4.2.
    """

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(queries, 2 * channels)
        self.reference = nn.Linear(channels, 2)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, memory: Memory, count: int, heads: Heads) -> Start:
        """Give each image its copy of the first `count`; heads are for proposals."""
        # .shape[0], not len(): an exported file would keep the batch of its example
        rows = self.embedding.weight[:count].expand(memory.tokens.shape[0], -1, -1)
        positions, content = rows.chunk(2, dim=-1)  # [B, Q, C]; the official order
        points = self.reference(positions).to(memory.centres.dtype).sigmoid()
        return Queries(content, positions, points, (count,)), ()


class AnchorQueries(QueryStart):
    """Learned contents and boxes; each layer makes its positions of the boxes it gets.

    From the second layer on the content scales them (λ of Conditional DETR, but on the
    position embedding: deformable attention compares no codes). The official code makes
    the sine code of shares of the padded batch, here they are of the image, so that an
    image's answers do not depend on its neighbours; without padding both agree.
    Source: Liu et al. 2022, appendix C; official code, epsilon too.
    """

    smallest = 1e-3

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__()
        self.content = nn.Embedding(queries, channels)
        self.anchors = nn.Embedding(queries, 4)
        self.position_head = xavier_mlp(2 * channels, channels, channels)
        self.position_scale = xavier_mlp(channels, channels, channels)

    def forward(self, memory: Memory, count: int, heads: Heads) -> Start:
        """Give each image its copy of the first `count`; heads are for proposals."""
        anchors = self.anchors.weight[:count].to(memory.centres.dtype).sigmoid()
        each = len(memory.tokens), -1, -1
        content = self.content.weight[:count].expand(each)
        return Queries(content, None, anchors.expand(each), (count,)), ()

    def positions(self, index: int, queries: Queries) -> Tensor:
        """Of the boxes as they are now: `[B, Q, C]`."""
        content = queries.content
        code = point_code(queries.references, content.shape[-1]).to(content.dtype)
        positions = self.position_head(code)
        return positions * self.position_scale(content) if index > 0 else positions


class ProposedQueries(QueryStart):
    """Every token of the image proposes a box, the best `count` become queries.

    The class head's class 0 tells an object from none, whatever the object is. Both
    content and position of a query come from its box alone.
    Source: Zhu et al. 2020, section 4.2 and appendix A.4.
    """

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, channels)
        self.project_norm = nn.LayerNorm(channels)
        self.describe = nn.Linear(2 * channels, 2 * channels)
        self.describe_norm = nn.LayerNorm(2 * channels)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.xavier_uniform_(self.describe.weight)

    def forward(self, memory: Memory, count: int, heads: Heads) -> Start:
        """Choose `count` proposals, all there are where an image has fewer tokens.

        The chosen boxes are detached: the decoder gives no gradient to the proposals,
        which have a loss of their own.
        """
        anchors, usable = token_boxes(memory)  # [B, S, 4], [B, S]
        tokens = memory.tokens.masked_fill(~usable[..., None], 0.0)
        tokens = self.project_norm(self.project(tokens))
        class_head, box_head = heads
        logits = class_head(tokens)  # [B, S, outputs]
        boxes = refine_boxes(anchors, box_head(tokens))
        boxes = torch.where(usable[..., None], boxes, 1.0)  # as the official code has
        best = logits[..., 0].topk(min(count, tokens.shape[1]), dim=1).indices
        chosen = boxes.gather(1, best[..., None].expand(-1, -1, 4)).detach()
        positions, content = self.describe_boxes(chosen, tokens)
        queries = Queries(content, positions, chosen, (chosen.shape[1],))
        proposals = PredictionSets(
            "proposals", logits[None], boxes[None], class_agnostic=True
        )
        return queries, (proposals,)

    def describe_boxes(self, boxes: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Positions and contents of queries at boxes `[B, Q, 4]`: `[B, Q, C]` each."""
        waves = sine_features(boxes * (2 * math.pi), like.shape[-1] // 2)  # x, y, w, h
        both = self.describe_norm(self.describe(waves.flatten(-2).to(like.dtype)))
        return both.chunk(2, dim=-1)


class MixedQueries(ProposedQueries):
    """Proposals give positions and references; the contents are learned.

    The half that made contents of boxes is kept as in the official code: nothing reads
    it, but the norm counts it in.
    Source: Zhang et al. 2022 (DINO), section 3.4; Jia et al. 2023, official code.
    """

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__(channels, queries)
        self.content = nn.Embedding(queries, channels)

    def describe_boxes(self, boxes: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """Positions of queries at boxes `[B, Q, 4]`, contents learned for each rank."""
        positions, _ = super().describe_boxes(boxes, like)
        content = self.content.weight[: boxes.shape[1]]
        return positions, content.expand(boxes.shape[0], -1, -1)


def token_boxes(memory: Memory) -> tuple[Tensor, Tensor]:
    """The box that each token starts from, and whether it may propose one.

    Around the token's centre, 0.05 of the image wide and high on the finest level and
    twice that on each further one (square on square images only): `[B, S, 4]` cxcywh.
    Padding and the image's very border propose nothing: `[B, S]` bool.
    """
    sides = [
        memory.centres.new_full((h * w, 2), SMALLEST * 2.0**level)
        for level, (h, w) in enumerate(memory.sizes)
    ]
    sides = torch.cat(sides).expand_as(memory.centres)
    boxes = torch.cat((memory.centres, sides), -1)
    usable = ((boxes > MARGIN) & (boxes < 1 - MARGIN)).all(-1)
    if memory.padding is not None:
        usable = usable & ~memory.padding
    return boxes, usable
