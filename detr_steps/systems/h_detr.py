"""H-DETR: one-to-many matching beside one-to-one matching, or in its place.

Jia et al. 2023, "DETRs with Hybrid Matching". Built in chapters/12_more_queries.ipynb.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

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
class Hybrid(Scheme):
    """More `queries`, which are matched with every object `repeats` times.

    The model's own queries are trained as ever, and neither kind sees the other. Of an
    image's proposals the best become the model's own queries, those that follow these.
    Their loss, "one_to_many", is divided by the repeated objects and counts `weight`
    times. Inference has the own queries alone and costs nothing extra.
    The paper's model is `DeformableDETRConfig.coco_r50_two_stage` with this scheme,
    `ffn_channels=2048`, `dropout=0.0`, `query_source=Proposals(mixed=True)` and
    `look_forward_twice=True`.
    Raises: ValueError for numbers that cannot be.
    Source: Jia et al. 2023, section 3.2 (hybrid branch).
    """

    queries: int = 1500
    repeats: int = 6  # K
    weight: float = 1.0  # λ

    def __post_init__(self) -> None:
        _check_count("queries", self.queries)
        _check_repeats(self.repeats, self.queries)
        if not 0 < self.weight < math.inf:
            raise ValueError(f"weight {self.weight!r}: a positive number, or Plain()")

    def training_queries(self, count: int) -> int:
        """The model's own, and then these."""
        return count + self.queries

    def check(self, layers: int, queries: int) -> None:
        """Raise ValueError where so many queries would not fit in memory."""
        check_memory(layers * self.training_queries(queries), self, "fewer queries")

    def run(
        self,
        model: "QueryDetector",
        memory: Memory,
        queries: Queries,
        trace: bool = False,
    ) -> Output:
        """The own queries predict as in the plain loop, the others as "one_to_many".

        The trace, if asked for, is that of the plain loop, run once more.
        """
        size = min(model.config.queries, queries.content.shape[1])
        more = queries.content.shape[1] - size
        if not more:  # an image with too few tokens to propose them
            return PLAIN.run(model, memory, queries, trace)
        layers = tuple(range(len(model.decoder)))
        whole = queries._replace(groups=(size, more))
        found = run_layers(model, layers, memory, whole)
        logits, boxes = (part.split((size, more), 2) for part in found[:2])
        others = PredictionSets(
            "one_to_many",
            logits[1],
            boxes[1],
            weight=self.weight,
            repeats=self.repeats,
            layers=layers,
        )
        seen = None
        if trace:
            seen = PLAIN.run(model, memory, queries.first(size), True).trace
        return Output(logits[0], boxes[0], seen, (others,))


@describable
@dataclass(frozen=True)
class Repeated(Scheme):
    """Every object `repeats` times in the matching of the first `layers` layers.

    Of all layers where `layers` is None: naive one-to-many matching. It has no queries
    of its own, so that nothing but the layers from there on prevents duplicates; the
    naive one needs NMS. The loss that counts is "one_to_many"; the layers' own terms,
    one-to-one as in every record, are only measured there. Inference is the plain loop.
    With layers it is the paper's hybrid layer scheme; its hybrid epoch scheme is a run
    of the naive one, and a run with `Plain()` that starts from it.
    Raises: ValueError for numbers that cannot be.
    Source: Jia et al. 2023, section 3.2; Chen et al. 2022 (Group DETR), section 4.3.
    """

    repeats: int = 6  # K
    layers: int | None = None

    def __post_init__(self) -> None:
        _check_count("repeats", self.repeats)
        if self.layers is not None:
            _check_count("layers", self.layers)

    def check(self, layers: int, queries: int) -> None:
        """Raise ValueError where copies outnumber queries, or no layer is left."""
        _check_repeats(self.repeats, queries)
        if self.layers is not None and self.layers >= layers:
            raise ValueError(
                f"layers={self.layers} of {layers} decoder layers: take fewer, so that "
                "the rest are matched one to one, or layers=None for all"
            )

    def run(
        self,
        model: "QueryDetector",
        memory: Memory,
        queries: Queries,
        trace: bool = False,
    ) -> Output:
        """The plain loop, whose first layers count as "one_to_many" instead."""
        output = PLAIN.run(model, memory, queries, trace)
        many = len(output.logits) if self.layers is None else self.layers
        extra = PredictionSets(
            "one_to_many",
            output.logits[:many],
            output.boxes[:many],
            repeats=self.repeats,
            layers=tuple(range(many)),
        )
        weight = (0.0,) * many + (1.0,) * (len(output.logits) - many)
        return output._replace(extra=(extra,), weight=weight)


def _check_count(name: str, number: object) -> None:
    if type(number) is not int or number < 1:
        raise ValueError(f"{name} {number!r}: one at least")


def _check_repeats(repeats: int, queries: int) -> None:
    _check_count("repeats", repeats)
    if repeats > queries:
        raise ValueError(
            f"repeats={repeats} copies of an object for {queries} queries: a single "
            "object would have copies without a query; take fewer repeats or more "
            "queries"
        )
