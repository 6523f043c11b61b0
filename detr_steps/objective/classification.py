"""Two kinds of classifier, as values of a config (chapters 02 and 08).

`Softmax`: one of the classes, or "no object". `Focal`: yes or no for each class; a
query that finds nothing says no to all of them. Whoever needs probabilities, a matching
cost, a loss or detections asks the model's `config.classification`.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..describable import describable
from ..detections import (
    Detections,
    best_class_per_query,
    rank_pairs,
    rank_queries,
    top_scoring_pairs,
)
from ..distributed import mean_over_processes
from ..nn.heads import focal_class_head
from .losses import count_objects
from .matching import PaddedTargets

NEVER = -1e4  # a logit whose probability is 0 even in half precision
TINY = 1e-8  # the official code's: keeps the logarithm of the matching cost finite


@describable
@dataclass(frozen=True)
class Softmax:
    """DETR's: cross-entropy over classes + 1, the last of which is "no object".

    Source: Carion et al. 2020, sections 3.1 and A.4. Built in chapters/02_detr.ipynb.
    """

    no_object: float = 0.1  # weight of "no object": most queries find nothing
    cost_name: ClassVar[str] = "−probability"

    def outputs(self, classes: int) -> int:
        """Logits of a query."""
        return classes + 1

    def head(self, channels: int, classes: int) -> nn.Linear:
        """A fresh classifier `[..., C] -> [..., classes + 1]`."""
        return nn.Linear(channels, classes + 1)

    def probabilities(self, logits: Tensor) -> Tensor:
        """`[..., classes + 1] -> [..., classes]`, without "no object"."""
        return logits.softmax(-1)[..., :-1]

    def no_object_probability(self, logits: Tensor) -> Tensor:
        """That of the last class: `[..., classes + 1] -> [...]`."""
        return logits.softmax(-1)[..., -1]

    def cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Minus the probability of each object's class: `[P, B, Q, N]`.

        `logits [P, B, Q, classes + 1]`, `labels [B, N]`. The probability itself, not
        its logarithm: no single mistake can cost more than 1.
        Source: Carion et al. 2020, equation 1.
        """
        return -_at_labels(logits.softmax(-1), labels)

    def loss(self, logits: Tensor, targets: PaddedTargets, matched: Tensor) -> Tensor:
        """Weighted cross-entropy of every query, one value for each set: `[P]`.

        `matched [P, B, N]`. The mean is over the *weights*, not the queries.
        Source: Carion et al. 2020, section 3.1.
        """
        empty = logits.shape[-1] - 1
        wanted = target_classes(logits, targets, matched, empty)  # [P, B, Q]
        weight = torch.ones_like(wanted, dtype=logits.dtype)
        weight = weight.masked_fill(wanted == empty, self.no_object)  # [P, B, Q]
        surprise = functional.cross_entropy(
            logits.flatten(0, 2), wanted.flatten(), reduction="none"
        ).view_as(weight)
        total = mean_over_processes(weight.sum((1, 2)))  # [P]
        return (weight * surprise).sum((1, 2)) / total

    def silence(self, logits: Tensor, silent: Tensor) -> Tensor:
        """Logits of queries that find nothing where `silent`: `[..., Q, outputs]`."""
        nothing = logits.new_full(logits.shape[-1:], NEVER)
        nothing[-1] = 0
        return logits.where(~silent[..., None], nothing)

    def detections(
        self, logits: Tensor, boxes: Tensor, sizes: list[tuple[int, int]]
    ) -> list[Detections]:
        """One layer's predictions as detections: every query's best class."""
        return best_class_per_query(self.probabilities(logits), boxes, sizes)

    def rank(self, logits: Tensor, boxes: Tensor) -> Detections:
        """The same as tensors of the whole batch, boxes as shares: for export."""
        return rank_queries(self.probabilities(logits), boxes)


@describable
@dataclass(frozen=True)
class Focal:
    """Per-class sigmoid with focal loss: there is no class "no object".

    Nearly all answers are easy negatives; the focal loss keeps them from drowning the
    few that matter. Source: Lin et al. 2017, equation 5; Zhu et al. 2020, section 5.
    Built in chapters/08_multi_scale.ipynb.
    """

    alpha: float = 0.25  # weight of positives; negatives have 1 - alpha
    gamma: float = 2.0  # how quickly answers stop to count as they become right
    cost_name: ClassVar[str] = "focal cost"

    def outputs(self, classes: int) -> int:
        """Logits of a query."""
        return classes

    def head(self, channels: int, classes: int) -> nn.Linear:
        """A fresh classifier `[..., C] -> [..., classes]`, with a prior of 1 %."""
        return focal_class_head(channels, classes)

    def probabilities(self, logits: Tensor) -> Tensor:
        """`[..., classes]`, each by itself: they need not add up to 1."""
        return logits.sigmoid()

    def no_object_probability(self, logits: Tensor) -> Tensor:
        """Nothing competes with the classes: 0 for each of `[..., classes]`."""
        return torch.zeros_like(logits[..., 0])

    def cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Focal loss of a positive less that of a negative: `[P, B, Q, N]`.

        `logits [P, B, Q, classes]`, `labels [B, N]`. What matching the pair would
        change in the loss. Source: Zhu et al. 2020, official code.
        """
        p = _at_labels(logits, labels).sigmoid()  # [P, B, Q, N]
        positive = self.alpha * (1 - p) ** self.gamma * -(p + TINY).log()
        negative = (1 - self.alpha) * p**self.gamma * -(1 - p + TINY).log()
        return positive - negative

    def loss(self, logits: Tensor, targets: PaddedTargets, matched: Tensor) -> Tensor:
        """Focal loss of all queries and classes, one value for each set: `[P]`.

        `matched [P, B, N]`; a sum divided by the number of objects in the whole batch,
        for a mean over queries would shrink with their number.
        Source: Lin et al. 2017, equation 5.
        """
        classes = logits.shape[-1]
        wanted = target_classes(logits, targets, matched, empty=classes)  # [P, B, Q]
        positive = functional.one_hot(wanted, classes + 1)[..., :classes]
        positive = positive.to(logits.dtype)  # [P, B, Q, classes]
        loss = focal_loss(logits, positive, self.alpha, self.gamma)
        return loss.sum((1, 2, 3)) / count_objects(targets, logits)

    def silence(self, logits: Tensor, silent: Tensor) -> Tensor:
        """Logits of queries that find nothing where `silent`: `[..., Q, outputs]`."""
        return logits.masked_fill(silent[..., None], NEVER)

    def detections(
        self, logits: Tensor, boxes: Tensor, sizes: list[tuple[int, int]]
    ) -> list[Detections]:
        """One layer's predictions as detections: the best pairs of query and class."""
        return top_scoring_pairs(self.probabilities(logits), boxes, sizes)

    def rank(self, logits: Tensor, boxes: Tensor) -> Detections:
        """The same as tensors of the whole batch, boxes as shares: for export."""
        return rank_pairs(self.probabilities(logits), boxes)


Classification = Softmax | Focal


def focal_loss(logits: Tensor, positive: Tensor, alpha: float, gamma: float) -> Tensor:
    """Focal loss of each logit, `positive` 1 where yes is right: `[...]` of all three.

    Source: Lin et al. 2017, equation 5.
    """
    surprise = functional.binary_cross_entropy_with_logits(
        logits, positive, reduction="none"
    )
    wrong = (logits.sigmoid() - positive).abs()  # 1 - probability of the truth
    share = alpha * positive + (1 - alpha) * (1 - positive)
    return share * wrong**gamma * surprise


def target_classes(
    logits: Tensor, targets: PaddedTargets, matched: Tensor, empty: int
) -> Tensor:
    """Class that each query should name, `empty` for those without an object.

    `logits [P, B, Q, …]`, only for their shape; `matched [P, B, N]`. `[P, B, Q]`.
    """
    sets, images, queries, _ = logits.shape
    # one more slot than queries: objects without a query are written there, then cut
    wanted = torch.full((sets, images, queries + 1), empty, device=logits.device)
    slot = torch.where(matched < 0, queries, matched)
    labels = torch.where(targets.mask, targets.labels, empty)
    wanted.scatter_(2, slot, labels.expand(sets, -1, -1))
    return wanted[..., :queries]


def _at_labels(values: Tensor, labels: Tensor) -> Tensor:
    """Pick each object's class: `[P, B, Q, classes], [B, N] -> [P, B, Q, N]`."""
    index = labels[None, :, None, :].expand(*values.shape[:3], -1)
    return values.gather(-1, index)
