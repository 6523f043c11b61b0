"""How the decoder's steps are run in training: one interface for all schemes.

The plain scheme runs every layer once. Others let training see more queries, or more
sets of them, than inference does; they work on every system, for they know only `step`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from ..describable import describable
from ..nn.memory import Memory
from ..nn.queries import Queries
from ..nn.trace import LayerTrace
from .output import Output, Trace

if TYPE_CHECKING:
    from .detector import QueryDetector


class Scheme(Protocol):
    """A frozen dataclass in a config; inference never uses it."""

    def queries(self, count: int) -> int:
        """Queries that training needs of a model that infers with `count`."""

    def run(
        self,
        model: "QueryDetector",
        memory: Memory,
        queries: Queries,
        trace: bool = False,
    ) -> Output:
        """Run the steps of a model's decoder."""


@describable
@dataclass(frozen=True)
class Plain:
    """Every decoder layer once, on what the one before has made of the queries."""

    def queries(self, count: int) -> int:
        """No more than at inference."""
        return count

    def run(
        self,
        model: "QueryDetector",
        memory: Memory,
        queries: Queries,
        trace: bool = False,
    ) -> Output:
        """Every layer predicts; with `trace` also what each attention saw."""
        predictions, seen, references = [], [], []
        for index in range(len(model.decoder)):
            references.append(queries.references)
            queries, prediction, layer = model.step(index, queries, memory, trace)
            predictions.append(prediction)
            seen.append(layer)
        logits, boxes = map(torch.stack, zip(*predictions))  # [Y, B, Q, ·]
        if not trace:
            return Output(logits, boxes)
        whole = trace_of(model, memory, seen, references)
        return Output(logits, boxes, whole)


def trace_of(
    model: "QueryDetector",
    memory: Memory,
    layers: Sequence[LayerTrace],
    references: Sequence[Tensor | None],
) -> Trace:
    """The trace of a run, from what each decoder layer saw and started from."""
    self_attention, cross_attention = zip(*layers)
    return Trace(
        encoder=memory.attention,
        decoder_self=self_attention,
        decoder_cross=cross_attention,
        references=tuple(references),
        centres=memory.centres,
        sizes=memory.sizes,
        valid=memory.valid,
        classification=model.config.classification,
    )
