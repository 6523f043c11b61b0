"""For systems that ask yes or no for each class (chapters/08_multi_scale.ipynb)."""

from torch import Tensor

from ..objective.focal import focal_class_cost, focal_class_loss
from ..objective.matching import Packed
from .detections import Detections, top_detections


class Focal:
    """How classes are told without "no object"; put it before `DETR` among the bases.

    Replaces DETR's softmax in matching, loss and detections. The system's config has a
    `FocalWeights` as its `loss`, its logits have one entry for each class.
    Source: Zhu et al. 2020, appendix A.4.
    """

    def class_cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """What a query costs for each object, by class alone: `[Y, B, Q, N]`."""
        return focal_class_cost(logits, labels, self.config.loss)

    def class_loss(self, logits: Tensor, packed: Packed, matched: Tensor) -> Tensor:
        """Classification loss of each layer `[Y]`."""
        return focal_class_loss(logits, packed, matched, self.config.loss)

    def as_detections(
        self, logits: Tensor, boxes: Tensor, sizes: list[tuple[int, int]]
    ) -> list[Detections]:
        """One layer's predictions as detections, best first."""
        return top_detections(logits, boxes, sizes)
