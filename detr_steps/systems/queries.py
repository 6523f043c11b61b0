"""Where the queries of Deformable DETR come from: learned, or proposed by the image.

Built in chapters/08_multi_scale.ipynb.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..nn.deform_attention import Reading
from ..nn.position import sine_features
from ..nn.references import move
from ..ops.read_points import Sizes
from .detr import Output

SMALLEST = 0.05  # side of the boxes that tokens of the finest level start from
MARGIN = 0.01  # centres nearer to the border than that propose nothing


class LevelMemory(NamedTuple):
    """The encoded image: `tokens [B, S, C]`, `padding [B, S]` or None, `sizes (h, w)`
    of the levels; `valid [B, L, 2]` their un-padded shares, `centres [B, S, 2]` of the
    tokens in the un-padded image; `readings` of the encoder if asked for."""

    tokens: Tensor
    padding: Tensor | None
    sizes: Sizes
    valid: Tensor
    centres: Tensor
    readings: tuple[Reading, ...]


class Queries(NamedTuple):
    """What the decoder starts from: `positions`, `content [B, Q, C]`, `references
    [B, Q, 2 or 4]`, and the `proposals` that were made on the way, if any."""

    positions: Tensor
    content: Tensor
    references: Tensor
    proposals: Output | None = None


class LearnedQueries(nn.Module):
    """The same for every image: a position, a first content, a point from the former.

    Source: Zhu et al. 2020, section 4.2.
    """

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(queries, 2 * channels)
        self.reference = nn.Linear(channels, 2)
        nn.init.xavier_uniform_(self.reference.weight)
        nn.init.zeros_(self.reference.bias)

    def forward(self, memory: LevelMemory, *heads: nn.Module) -> Queries:
        """Give each image its copy; the heads are only for proposals."""
        rows = self.embedding.weight.expand(len(memory.tokens), -1, -1)  # [B, Q, 2C]
        positions, content = rows.chunk(2, dim=-1)
        points = self.reference(positions).to(memory.centres.dtype).sigmoid()
        return Queries(positions, content, points)


class ProposedQueries(nn.Module):
    """Two stages: every token of the image proposes a box, the best become queries.

    `class_head` and `box_head` tell an object from none by its class 0, whatever the
    object is. Both content and position of a query come from its box alone.
    Source: Zhu et al. 2020, section 4.2 and appendix A.4.
    """

    def __init__(self, channels: int, queries: int) -> None:
        super().__init__()
        self.count = queries
        self.project = nn.Linear(channels, channels)
        self.project_norm = nn.LayerNorm(channels)
        self.describe = nn.Linear(2 * channels, 2 * channels)
        self.describe_norm = nn.LayerNorm(2 * channels)
        nn.init.xavier_uniform_(self.project.weight)
        nn.init.xavier_uniform_(self.describe.weight)

    def forward(
        self, memory: LevelMemory, class_head: nn.Module, box_head: nn.Module
    ) -> Queries:
        """Choose Q proposals, all there are where an image has fewer tokens.

        No slope goes from the decoder into the proposals: they have their own loss.
        """
        anchors, usable = token_boxes(memory)  # [B, S, 4], [B, S]
        tokens = memory.tokens.masked_fill(~usable[..., None], 0.0)
        tokens = self.project_norm(self.project(tokens))
        logits = class_head(tokens)  # [B, S, classes]
        boxes = move(anchors, box_head(tokens))
        boxes = torch.where(usable[..., None], boxes, 1.0)  # as the official code has
        best = logits[..., 0].topk(min(self.count, tokens.shape[1]), dim=1).indices
        chosen = boxes.gather(1, best[..., None].expand(-1, -1, 4)).detach()
        positions, content = self._describe(chosen, tokens).chunk(2, dim=-1)
        return Queries(positions, content, chosen, Output(logits[None], boxes[None]))

    def _describe(self, boxes: Tensor, like: Tensor) -> Tensor:
        waves = sine_features(boxes * (2 * math.pi), like.shape[-1] // 2)  # x, y, w, h
        return self.describe_norm(self.describe(waves.flatten(-2).to(like.dtype)))


def token_boxes(memory: LevelMemory) -> tuple[Tensor, Tensor]:
    """The box that each token starts from, and whether it may propose one.

    Squares around the token's centre, of side 0.05 on the finest level and twice that
    on each further one: `[B, S, 4]` cxcywh. Padding and the image's very border propose
    nothing: `[B, S]` bool.
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
