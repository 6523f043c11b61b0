"""The set loss: match every set of predictions, then compare (chapters/02_detr.ipynb).

A *set* is what one decoder layer answers, or one group of queries in it; losses take
any number P of them at once, since each is matched by itself.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from . import losses, matching
from .classification import Classification
from .layer_weights import LayerWeights
from .losses import LossWeights
from .matching import CostWeights, PaddedTargets


class PredictionSets(NamedTuple):
    """What training sees beyond the decoder layers' own predictions.

    `name` of its terms in the record; `logits`, `boxes [P, B, Q, ·]`; `weight` of its
    loss (Group DETR divides by the number of groups); every object is repeated so many
    times (`repeats`, H-DETR); `class_agnostic`: every object is of class 0 (proposals);
    `layers` [P] the decoder layer that made each set, by whose weight it counts (SQR);
    none for sets of no layer; `matched [P, B, N]` the query of each object where that
    is known beforehand, in place of a matching.
    """

    name: str
    logits: Tensor
    boxes: Tensor
    weight: float = 1.0
    repeats: int = 1
    class_agnostic: bool = False
    layers: tuple[int, ...] = ()
    matched: Tensor | None = None


class Predictions(Protocol):
    """What the criterion needs to know of a system's output."""

    logits: Tensor
    boxes: Tensor
    extra: tuple[PredictionSets, ...]
    weight: float | tuple[float, ...]


@dataclass(frozen=True)
class SetCriterion:
    """Matching and set loss; it has no parameters.

    `classification` Softmax or Focal, `cost` weights of the matching, `weights` of the
    terms, `layers` of the decoder layers.
    Source: Carion et al. 2020, section 3.1. Built in chapters/02_detr.ipynb.
    """

    classification: Classification
    cost: CostWeights
    weights: LossWeights
    layers: LayerWeights = LayerWeights()

    @torch.no_grad()
    def match(
        self,
        logits: Tensor,
        boxes: Tensor,
        targets: PaddedTargets,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """Assign queries to objects in every set: `[P, B, N]`, -1 for none.

        `logits`, `boxes [P, B, Q, ·]`; `allowed [P, B, Q, N]` False for pairs that must
        not be matched (TSP). Raises: NonFiniteCost for diverged predictions.
        """
        logits, boxes = _at_least_float32(logits, boxes)
        cost = self.cost.classification * self.classification.cost(
            logits, targets.labels
        )
        cost = cost + matching.box_cost(boxes, targets, self.cost)  # [P, B, Q, N]
        return matching.assign(
            cost, targets.counts, allowed, logits=logits, boxes=boxes
        )

    def __call__(
        self,
        output: Predictions,
        targets: PaddedTargets,
        matched: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Terms `class`, `box`, `giou` of every layer, and their weighted `total`.

        Every layer learns as if it were the last, unless `layers` says otherwise; its
        terms are given unweighted, to be compared. The sets of `output.extra` are
        summed, with their weights, under their name, `class_NAME` and so on. `matched
        [P or 1, B, N]` replaces the layers' own matching, not that of the extra sets.
        Raises: ValueError for one of other images or objects.
        """
        if matched is not None:
            matched = _known(matched, output.logits, targets)
        terms = self._terms(output.logits, output.boxes, targets, matched)
        named = losses.name_layers(terms)
        shares = self.layers.of(len(output.logits))
        total = self._weighted(_scale(terms, _counted(output.weight, shares)))
        for extra in output.extra:
            terms = self._extra_terms(extra, targets, shares)
            total = total + self._weighted(terms)
            for name, value in terms.items():
                key = f"{name}_{extra.name}"
                named[key] = named.get(key, 0.0) + value
        return named | {"total": total}

    def _extra_terms(
        self, extra: PredictionSets, targets: PaddedTargets, shares: tuple[float, ...]
    ) -> dict[str, Tensor]:
        targets = targets.repeat(extra.repeats)
        if extra.class_agnostic:
            targets = targets.class_agnostic()
        terms = self._terms(extra.logits, extra.boxes, targets, extra.matched)
        terms = _scale(terms, tuple(shares[layer] for layer in extra.layers))
        return {name: extra.weight * value.sum() for name, value in terms.items()}

    def _terms(
        self,
        logits: Tensor,
        boxes: Tensor,
        targets: PaddedTargets,
        matched: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """The unweighted terms of every set, `[P]` each."""
        logits, boxes = _at_least_float32(logits, boxes)
        if matched is None:
            matched = self.match(logits, boxes, targets)
        distance, overlap = losses.box_losses(boxes, targets, matched)
        surprise = self.classification.loss(logits, targets, matched)
        return {"class": surprise, "box": distance, "giou": overlap}

    def _weighted(self, terms: dict[str, Tensor]) -> Tensor:
        weights = self.weights
        return (
            weights.classification * terms["class"].sum()
            + weights.box * terms["box"].sum()
            + weights.giou * terms["giou"].sum()
        )


def _known(matched: Tensor, logits: Tensor, targets: PaddedTargets) -> Tensor:
    """A given assignment `[P or 1, B, N]` for all sets: `[P, B, N]`."""
    sets, images, queries, _ = logits.shape
    wanted = images, targets.labels.shape[1]
    if matched.shape[1:] != wanted or matched.shape[0] not in (1, sets):
        raise ValueError(
            f"an assignment {list(matched.shape)} for {sets} sets: give [{sets} or 1, "
            f"{wanted[0]}, {wanted[1]}], the query of each object, -1 for none"
        )
    if matched.numel() and not -1 <= matched.min() <= matched.max() < queries:
        raise ValueError(
            f"an assignment names queries {int(matched.min())} to "
            f"{int(matched.max())}, there are {queries}: give 0 … {queries - 1}, or -1"
        )
    return matched.expand(sets, -1, -1)


def _counted(
    weight: float | tuple[float, ...], shares: tuple[float, ...]
) -> tuple[float, ...]:
    """How much each layer's own loss counts: its share, times one weight or its own."""
    each = weight if isinstance(weight, tuple) else (weight,) * len(shares)
    return tuple(a * b for a, b in zip(each, shares, strict=True))


def _scale(terms: dict[str, Tensor], by: tuple[float, ...]) -> dict[str, Tensor]:
    """Terms `[P]`, each set by its own number; none at all leaves them as they are."""
    if all(number == 1 for number in by):
        return terms
    return {name: value * value.new_tensor(by) for name, value in terms.items()}


def _at_least_float32(*tensors: Tensor) -> Iterator[Tensor]:
    # half precision has too few digits for small boxes and long sums
    return (x.to(torch.promote_types(x.dtype, torch.float32)) for x in tensors)
