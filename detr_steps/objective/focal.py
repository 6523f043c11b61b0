"""Classes as yes-or-no questions: focal loss (chapters/08_multi_scale.ipynb).

Without a class "no object", a query that finds nothing says no to every class. Most
answers are such easy noes; the focal loss keeps them from drowning the few that matter.
"""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

from ..describable import describable
from .losses import count_objects, wanted_classes
from .matching import Packed

TINY = 1e-8  # the official code's: keeps the logarithm of the matching cost finite


@describable
@dataclass(frozen=True)
class FocalWeights:
    """How much each term counts (Zhu et al. 2020, appendix A.4)."""

    classification: float = 2.0
    box: float = 5.0
    giou: float = 2.0
    alpha: float = 0.25  # weight of a yes; a no has 1 - alpha
    gamma: float = 2.0  # how quickly answers stop to count as they become right


def focal_class_cost(logits: Tensor, labels: Tensor, weights: FocalWeights) -> Tensor:
    """Loss of saying yes less that of no: `[Y, B, Q, C], [B, N] -> [Y, B, Q, N]`.

    Source: Zhu et al. 2020, official code; Lin et al. 2017, equation 5.
    Built in chapters/08_multi_scale.ipynb.
    """
    index = labels[None, :, None, :].expand(*logits.shape[:3], -1)
    p = logits.gather(-1, index).sigmoid()  # [Y, B, Q, N]
    yes = weights.alpha * (1 - p) ** weights.gamma * -(p + TINY).log()
    no = (1 - weights.alpha) * p**weights.gamma * -(1 - p + TINY).log()
    return yes - no


def focal_class_loss(
    logits: Tensor, packed: Packed, matched: Tensor, weights: FocalWeights
) -> Tensor:
    """Focal loss of all queries and classes, one value for each layer: `[Y]`.

    `logits [Y, B, Q, classes]`, `matched [Y, B, N]`; a sum divided by the number of
    objects in the whole batch. Source: Lin et al. 2017, equation 5.
    Built in chapters/08_multi_scale.ipynb.
    """
    classes = logits.shape[-1]
    wanted = wanted_classes(logits, packed, matched, empty=classes)  # [Y, B, Q]
    yes = functional.one_hot(wanted, classes + 1)[..., :classes].to(logits.dtype)
    surprise = functional.binary_cross_entropy_with_logits(
        logits, yes, reduction="none"
    )  # [Y, B, Q, classes]
    wrong = (logits.sigmoid() - yes).abs()  # 1 - probability of the right answer
    share = weights.alpha * yes + (1 - weights.alpha) * (1 - yes)
    loss = share * wrong**weights.gamma * surprise
    return loss.sum((1, 2, 3)) / count_objects(packed, logits)
