"""How the decoder's steps are run in training: one interface for all schemes.

The plain scheme runs every layer once. Others let training see more queries, or more
sets of them, than inference does; they work on every system, for they know only `step`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

from ..describable import describable
from ..nn.memory import Memory
from ..nn.queries import Queries
from ..nn.trace import LayerTrace
from ..objective.matching import PaddedTargets
from .output import Output, Trace

if TYPE_CHECKING:
    from .detector import QueryDetector


# Queries of an image over all sets and layers. The backward pass needs about 30 KB of
# each at the paper's sizes (C = 256, feed-forward 2048): 6 GB an image.
MOST_QUERIES = 200_000


class Scheme:
    """A frozen dataclass in a config; only what a scheme must change need be written.

    Training calls `run`. Inference calls `infer`, which is the plain loop unless a
    scheme says otherwise. One that prepares for the objects of a batch `wants_targets`
    and is `given` them before each `run`.
    """

    wants_targets: ClassVar[bool] = False

    def parts(self, channels: int, classes: int) -> nn.Module | None:
        """A module that training needs beside the model's own; None for none."""
        return None

    def given(self, targets: PaddedTargets) -> "Scheme":
        """The scheme for one batch, with its objects."""
        return self

    def training_queries(self, count: int) -> int:
        """Queries that training needs of a model that infers with `count`."""
        return count

    def check(self, layers: int, queries: int) -> None:
        """Raise ValueError where a decoder of so many layers cannot be trained so."""

    def run(
        self,
        model: "QueryDetector",
        memory: Memory,
        queries: Queries,
        trace: bool = False,
    ) -> Output:
        """Run the steps of a model's decoder in training."""
        raise NotImplementedError

    def infer(
        self,
        model: "QueryDetector",
        memory: Memory,
        queries: Queries,
        trace: bool = False,
    ) -> Output:
        """Run them at inference: every layer once."""
        return run_layers(model, range(len(model.decoder)), memory, queries, trace)

    def inference(self) -> "Scheme":
        """What a model needs that is trained no more: the plain loop, unless a scheme
        has another `infer`."""
        return PLAIN


@describable
@dataclass(frozen=True)
class Plain(Scheme):
    """Every decoder layer once, on what the one before has made of the queries."""

    def run(
        self,
        model: "QueryDetector",
        memory: Memory,
        queries: Queries,
        trace: bool = False,
    ) -> Output:
        """Every layer predicts; with `trace` also what each attention saw."""
        return self.infer(model, memory, queries, trace)


PLAIN = Plain()


def check_memory(queries: int, scheme: Scheme, cure: str) -> None:
    """Raise ValueError for more queries of an image, over all layers, than fit."""
    if queries > MOST_QUERIES:
        raise ValueError(
            f"{scheme} makes {queries:,} queries for each image over all decoder "
            f"layers, more than the {MOST_QUERIES:,} that fit in memory: take {cure}"
        )


def check_scheme(scheme: object) -> None:
    """Raise ValueError, with the reason, for anything but one scheme."""
    if isinstance(scheme, Scheme):
        return
    several = scheme if isinstance(scheme, tuple | list) else (scheme,)
    names = " and ".join(type(each).__name__ for each in several) or "nothing"
    raise ValueError(
        f"scheme={names}: a model is trained with one scheme. Two would multiply their "
        "sets of queries (Group DETR's 11 groups and SQR's 32 sets make 352), and each "
        "is to tell what the other is worth: take one, or Plain()"
    )


def run_layers(
    model: "QueryDetector",
    layers: Iterable[int],
    memory: Memory,
    queries: Queries,
    trace: bool = False,
) -> Output:
    """Run decoder layers of these indices one after another; each predicts."""
    predictions, seen, references = [], [], []
    for index in layers:
        references.append(queries.references)
        queries, prediction, layer = model.step(index, queries, memory, trace)
        predictions.append(prediction)
        seen.append(layer)
    logits, boxes = map(torch.stack, zip(*predictions))  # [Y, B, Q, ·]
    whole = trace_of(model, memory, seen, references) if trace else None
    return Output(logits, boxes, whole, content=queries.content)


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
