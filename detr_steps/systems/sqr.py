"""SQR and DQR: later decoder layers are trained on what earlier ones made, too.

Chen et al. 2023, "Enhanced Training of Query-Based Object Detection via Selective Query
Recollection". Built in chapters/11_sqr.ipynb.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch

from ..describable import describable
from ..nn.memory import Memory
from ..nn.queries import Queries, join
from ..objective.criterion import PredictionSets
from .output import Output, Prediction
from .scheme import MOST_QUERIES, Plain, Scheme, run_layers

if TYPE_CHECKING:
    from .detector import QueryDetector


@describable
@dataclass(frozen=True)
class Recollect(Scheme):
    """Selective query recollection: a layer refines the outputs of the two before it.

    Six layers refine 1, 2, 3, 5, 8, 13 sets of queries; `dense=True` (DQR) recollects
    the outputs of *all* layers before: 1, 2, 4, 8, 16, 32. Queries from before layer
    `start` (from 1) are not recollected: 1, 1, 2, 3, 5, 8 with start=2, 1, 1, 1, 2, 3,
    5 with start=3. Each set is a group of its own, with its own matching and loss, so
    later layers are trained more. Inference is the plain loop and costs nothing extra.
    Raises: ValueError for a start below 1. Source: Chen et al. 2023, section 4.
    """

    dense: bool = False
    start: int = 1

    def __post_init__(self) -> None:
        if type(self.start) is not int or self.start < 1:
            raise ValueError(f"start {self.start!r}: layers are counted from 1")

    def sources(self, index: int) -> list[int]:
        """Whose outputs layer `index` refines, nearest first; 0 for the start queries.

        Source j is layer j - 1, so `index` itself is the layer just before.
        """
        first = self.start - 1 if self.dense else max(self.start, index) - 1
        return [index, *range(index - 1, first - 1, -1)]

    def sets(self, layers: int) -> tuple[int, ...]:
        """How many sets each of so many decoder layers refines."""
        counts = [1]
        for index in range(layers):
            counts.append(sum(counts[source] for source in self.sources(index)))
        return tuple(counts[1:])

    def paths(self, layers: int) -> list[list[tuple[int, ...]]]:
        """Which decoder layers, from 1, each set has been through: `[layer][set]`."""
        found: list[list[tuple[int, ...]]] = [[()]]
        for index in range(layers):
            before = [path for source in self.sources(index) for path in found[source]]
            found.append([(*path, index + 1) for path in before])
        return found[1:]

    def check(self, layers: int, queries: int) -> None:
        """Raise ValueError where nothing is recollected, or too much for the memory."""
        if layers == 1:
            raise ValueError("one decoder layer has nothing to recollect: use Plain()")
        if self.start >= layers:
            raise ValueError(
                f"start={self.start} of {layers} decoder layers recollects nothing: "
                f"take 1 to {layers - 1}, or scheme=Plain()"
            )
        _check_memory(self, sum(self.sets(layers)), layers, queries)

    def run(
        self,
        model: "QueryDetector",
        memory: Memory,
        queries: Queries,
        trace: bool = False,
    ) -> Output:
        """Layers predict as in the plain loop; all other sets are "recollected".

        The trace, if asked for, is that of the plain loop, run once more.
        """
        return self.collect(model, memory, queries).output(model, memory, trace)

    def collect(
        self, model: "QueryDetector", memory: Memory, queries: Queries
    ) -> "Collection":
        """Run all layers on all their sets; the plain loop's is always the first."""
        refined, predictions = [[queries]], []
        for index in range(len(model.decoder)):
            sets = [each for source in self.sources(index) for each in refined[source]]
            after, predicted = refine_sets(model, index, sets, memory)
            refined.append(after)
            predictions.append(predicted)
        return Collection(refined, predictions)


@describable
@dataclass(frozen=True)
class LoopLast(Scheme):
    """One decoder layer for all: at inference the last one is looped `times` times.

    Trained like `Recollect(dense=True)`, for its last layer sees the queries of every
    depth, those at the start too. With `own_output` it also refines everything that it
    has made itself once more, as "own_output" (DQRR); without, it never meets its own
    output in training, and looping it finds nothing. Weights of the other layers are
    not used at inference. Raises: ValueError for fewer loops than one.
    Source: Chen et al. 2023, appendix (DQRR).
    """

    times: int
    own_output: bool = True

    def __post_init__(self) -> None:
        if type(self.times) is not int or self.times < 1:
            raise ValueError(f"times {self.times!r}: loop the last layer at least once")

    def sets(self, layers: int) -> tuple[int, ...]:
        """How many sets each layer refines; the last one its own outputs as well."""
        *others, last = DENSE.sets(layers)
        return (*others, last * (1 + self.own_output))

    def check(self, layers: int, queries: int) -> None:
        """Raise ValueError where the sets would not fit in memory."""
        _check_memory(self, sum(self.sets(layers)), layers, queries)

    def run(
        self,
        model: "QueryDetector",
        memory: Memory,
        queries: Queries,
        trace: bool = False,
    ) -> Output:
        """Dense recollection, then the last layer on its own outputs."""
        collection = DENSE.collect(model, memory, queries)
        output = collection.output(model, memory, trace)
        if not self.own_output:
            return output
        last = len(model.decoder) - 1
        _, again = refine_sets(model, last, collection.refined[-1], memory)
        own = _extra("own_output", [last] * len(again), again)
        return output._replace(extra=output.extra + own)

    def infer(
        self,
        model: "QueryDetector",
        memory: Memory,
        queries: Queries,
        trace: bool = False,
    ) -> Output:
        """The last layer, again and again: `times` predictions."""
        last = len(model.decoder) - 1
        return run_layers(model, [last] * self.times, memory, queries, trace)

    def inference(self) -> Scheme:
        """The same: inference loops."""
        return self


DENSE = Recollect(dense=True)


class Collection(NamedTuple):
    """All sets of a training pass: `refined[y + 1]` and `predictions[y]` of layer y."""

    refined: list[list[Queries]]
    predictions: list[list[Prediction]]

    def output(self, model: "QueryDetector", memory: Memory, trace: bool) -> Output:
        """The plain loop's sets as the layers, all others under one name."""
        logits, boxes = _stack([each[0] for each in self.predictions])
        others = [
            (layer, one)
            for layer, each in enumerate(self.predictions)
            for one in each[1:]
        ]
        extra = _extra("recollected", *zip(*others)) if others else ()
        start = self.refined[0][0]
        whole = Plain().run(model, memory, start, True).trace if trace else None
        return Output(logits, boxes, whole, extra)


def refine_sets(
    model: "QueryDetector", index: int, sets: Sequence[Queries], memory: Memory
) -> tuple[list[Queries], list[Prediction]]:
    """Let decoder layer `index` refine several sets, each as a group of its own.

    All that have references of one kind in one call. With refinement the queries at the
    start may still be points where later ones are boxes: those take turns.
    """
    kinds: dict[int | None, list[int]] = {}
    for at, each in enumerate(sets):
        width = None if each.references is None else each.references.shape[-1]
        kinds.setdefault(width, []).append(at)
    found = {}
    for places in kinds.values():
        joined = join([sets[at] for at in places])
        after, prediction, _ = model.step(index, joined, memory)
        parts = zip(*(part.split(joined.groups, 1) for part in prediction))
        found |= dict(zip(places, zip(after.split(), map(Prediction._make, parts))))
    after, predictions = zip(*(found[at] for at in range(len(sets))))
    return list(after), list(predictions)


def _stack(predictions: Sequence[Prediction]) -> tuple[torch.Tensor, torch.Tensor]:
    logits, boxes = map(torch.stack, zip(*predictions))  # [P, B, Q, ·]
    return logits, boxes


def _extra(
    name: str, layers: Sequence[int], predictions: Sequence[Prediction]
) -> tuple[PredictionSets, ...]:
    return (PredictionSets(name, *_stack(predictions), layers=tuple(layers)),)


def _check_memory(scheme: Scheme, sets: int, layers: int, queries: int) -> None:
    if sets * queries > MOST_QUERIES:
        fewer = sum(Recollect().sets(layers))
        cheaper = f", or Recollect() with {fewer:,} sets" if fewer < sets else ""
        raise ValueError(
            f"{scheme} on {layers} decoder layers makes {sets:,} sets of {queries} "
            f"queries, {sets * queries:,} for each image, more than the "
            f"{MOST_QUERIES:,} that fit in memory: take fewer layers or queries"
            f"{cheaper}"
        )
