"""Denoising queries: noised true boxes, whose matching is known, train with the rest.

Li et al. 2022, "DN-DETR: Accelerate DETR Training by Introducing Query DeNoising". A
small control built in chapters/04_why_slow.ipynb: if unstable matching is what makes
DETR slow, queries that need none must help.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from .. import boxes as box_ops
from ..describable import describable
from ..nn.conditional import point_code
from ..nn.heads import xavier_mlp
from ..nn.memory import Memory
from ..nn.queries import Queries, join
from ..objective.criterion import PredictionSets
from ..objective.matching import PaddedTargets
from .output import Output
from .scheme import PLAIN, Scheme, run_layers

if TYPE_CHECKING:
    from .detector import QueryDetector


@describable
@dataclass(frozen=True)
class Denoise(Scheme):
    """Each object, noised, becomes a query that shall find it again, `groups` times.

    A centre moves by up to `box_noise` / 2 of the box's sides, which change by up to
    `box_noise`; a label is another one with probability `label_noise`. Every group
    sees itself alone, and so do the model's own queries: nothing true leaks. The loss
    of the sets, "denoised", is their mean. Inference is the plain loop.
    Raises: ValueError for numbers that cannot be.
    Source: Li et al. 2022, sections 4.2 and 4.3, where queries of a group also see the
    model's own.
    """

    groups: int = 3
    box_noise: float = 0.4
    label_noise: float = 0.2
    wants_targets: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if type(self.groups) is not int or self.groups < 1:
            raise ValueError(f"groups {self.groups!r}: one at least, or Plain()")
        if not 0 <= self.box_noise < 1:
            raise ValueError(f"box_noise {self.box_noise}: at least 0, below 1")
        if not 0 <= self.label_noise <= 1:
            raise ValueError(f"label_noise {self.label_noise}: a probability")

    def parts(self, channels: int, classes: int) -> nn.Module:
        """What makes queries of boxes and labels; only training needs it."""
        return NoisedQueries(channels, classes)

    def given(self, targets: PaddedTargets) -> Scheme:
        """The scheme with the objects of a batch at hand."""
        return _Denoising(self, targets)

    def run(
        self,
        model: "QueryDetector",
        memory: Memory,
        queries: Queries,
        trace: bool = False,
    ) -> Output:
        """Without objects at hand there is nothing to noise: the plain loop."""
        return PLAIN.run(model, memory, queries, trace)

    def noised(self, targets: PaddedTargets, classes: int) -> tuple[Tensor, Tensor]:
        """Boxes `[B, N, 4]` cxcywh and labels `[B, N]` with noise; `classes` padding.

        At least one slot, so that all weights have a gradient in every step.
        """
        boxes, labels = targets.boxes, targets.labels
        shift, scale = (self.box_noise * (2 * torch.rand_like(boxes) - 1)).split(2, -1)
        centre, size = boxes.split(2, -1)
        moved = torch.cat((centre + shift * size / 2, size * (1 + scale)), -1)
        inside = box_ops.cxcywh_to_xyxy(moved).clamp(0, 1)
        other = torch.randint_like(labels, classes)
        wrong = torch.rand(labels.shape, device=labels.device) < self.label_noise
        labels = other.where(wrong, labels).where(targets.mask, classes)
        boxes = box_ops.xyxy_to_cxcywh(inside)
        if labels.shape[1]:
            return boxes, labels
        empty = labels.new_full((len(labels), 1), classes)
        return boxes.new_full((len(labels), 1, 4), 0.5), empty


@dataclass(frozen=True)
class _Denoising(Scheme):
    """`Denoise` on the objects of one batch."""

    scheme: Denoise
    targets: PaddedTargets

    def run(
        self,
        model: "QueryDetector",
        memory: Memory,
        queries: Queries,
        trace: bool = False,
    ) -> Output:
        """Layers predict as in the plain loop; the groups are sets beside them."""
        classes, groups = model.config.classes, self.scheme.groups
        noised = [
            model.scheme_parts(*self.scheme.noised(self.targets, classes), queries)
            for _ in range(groups)
        ]
        layers = range(len(model.decoder))
        whole = run_layers(model, layers, memory, join([queries, *noised]))
        sizes = [queries.content.shape[1], *(each.content.shape[1] for each in noised)]
        (logits, *more_logits), (boxes, *more_boxes) = (
            part.split(sizes, 2) for part in whole[:2]
        )
        extra = PredictionSets(
            "denoised",
            torch.cat(more_logits),  # [groups · Y, B, N, ·]
            torch.cat(more_boxes),
            weight=1 / groups,
            layers=tuple(layers) * groups,
            matched=self.known(groups * len(layers)),
        )
        seen = PLAIN.run(model, memory, queries, True).trace if trace else None
        return Output(logits, boxes, seen, (extra,))

    def known(self, sets: int) -> Tensor:
        """Query n of a group is object n: `[sets, B, N]`, -1 for padding."""
        mask = self.targets.mask
        number = torch.arange(mask.shape[1], device=mask.device)
        return number.where(mask, -1).expand(sets, -1, -1)


class NoisedQueries(nn.Module):
    """Queries of boxes and labels: content from the label, position from the box."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.channels = channels
        self.labels = nn.Embedding(classes + 1, channels)  # the last one is padding
        self.position_head = xavier_mlp(2 * channels, channels, channels)

    def forward(self, boxes: Tensor, labels: Tensor, like: Queries) -> Queries:
        """`boxes [B, N, 4]`, `labels [B, N]` as a group of queries, made `like` others.

        References and positions are given where the others have them.
        """
        code = point_code(boxes, self.channels).to(like.content.dtype)
        positions = self.position_head(code)
        content = self.labels(labels).to(like.content.dtype)
        if like.positions is None:  # not used, but several processes ask for a gradient
            content, positions = content + 0 * positions, None
        references = like.references
        if references is not None:
            references = boxes[..., : references.shape[-1]].to(references.dtype)
        return Queries(content, positions, references, (labels.shape[1],))
