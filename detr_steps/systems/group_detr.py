"""Group DETR: several groups of queries in training, one of them at inference.

Chen et al. 2022, "Group DETR: Fast DETR Training with Group-Wise One-to-Many
Assignment". Built in chapters/12_more_queries.ipynb.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..describable import describable
from ..nn.memory import Memory
from ..nn.queries import Queries
from ..objective.criterion import PredictionSets
from .output import Output
from .scheme import PLAIN, Scheme, check_memory, run_layers

if TYPE_CHECKING:
    from .detector import QueryDetector


@describable
@dataclass(frozen=True)
class Groups(Scheme):
    """`count` groups of the config's queries; each is matched with all objects.

    So an object has `count` positives, but in a group only one: nothing teaches a group
    to answer twice. Self-attention stays within a group, for at inference the first one
    is alone; `separate=False` lets all groups see each other (an ablation: then nothing
    tells a query which of its rivals are of its own group). The loss is the mean over
    the groups. Proposals of the image go to the groups by rank; groups that its tokens
    do not fill are left out. Inference costs nothing extra.
    Raises: ValueError for less than one group.
    Source: Chen et al. 2022 (Group DETR), sections 3.2 and 4.3.
    """

    count: int
    separate: bool = True

    def __post_init__(self) -> None:
        if type(self.count) is not int or self.count < 1:
            raise ValueError(f"groups {self.count!r}: one at least (that is Plain())")

    def training_queries(self, count: int) -> int:
        """As many for each group."""
        return self.count * count

    def check(self, layers: int, queries: int) -> None:
        """Raise ValueError where the groups would not fit in memory."""
        check_memory(layers * self.training_queries(queries), self, "fewer groups")

    def run(
        self,
        model: "QueryDetector",
        memory: Memory,
        queries: Queries,
        trace: bool = False,
    ) -> Output:
        """The first group predicts as in the plain loop, the others as "groups".

        The trace, if asked for, is that of the plain loop, run once more.
        """
        if self.count == 1:
            return PLAIN.run(model, memory, queries, trace)
        size = min(model.config.queries, queries.content.shape[1])
        count = min(self.count, queries.content.shape[1] // size)
        if count == 1:
            return PLAIN.run(model, memory, queries.first(size), trace)
        whole = queries.first(count * size)
        if self.separate:
            whole = whole._replace(groups=(size,) * count)
        layers = tuple(range(len(model.decoder)))
        found = run_layers(model, layers, memory, whole)
        (logits, *more_logits), (boxes, *more_boxes) = (
            part.split(size, 2) for part in found[:2]
        )
        others = PredictionSets(
            "groups",
            torch.cat(more_logits),  # [(count - 1) · Y, B, Q, ·]
            torch.cat(more_boxes),
            weight=1 / count,
            layers=layers * (count - 1),
        )
        seen = None
        if trace:
            seen = PLAIN.run(model, memory, queries.first(size), True).trace
        return Output(logits, boxes, seen, (others,), weight=1 / count)
