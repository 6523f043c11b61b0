"""How good is each decoder layer, with and without removing duplicates?

Built in chapters/02_detr.ipynb; Carion et al. 2020, figure 4.
"""

import torch
from torch import Tensor, nn

from ..boxes import nms
from ..data.dataset import Dataset
from ..detections import Detections
from ..evaluation import coco_ap
from ..objective.classification import Classification


@torch.no_grad()
def predictions(
    model: nn.Module, data: Dataset, limit: int, batch: int = 50
) -> tuple[Tensor, Tensor, list[dict]]:
    """Collect what every layer predicts on the first `limit` images.

    Returns logits `[Y, n, Q, outputs]`, boxes `[Y, n, Q, 4]` and the n targets.
    """
    device = next(model.parameters()).device
    logits, boxes, targets = [], [], []
    for images, wanted in data.evaluation_batches(batch, limit, device=device):
        output = model(images)
        logits.append(output.logits.cpu())
        boxes.append(output.boxes.cpu())
        targets += wanted
    return torch.cat(logits, 1), torch.cat(boxes, 1), targets


def ap_by_layer(
    logits: Tensor,
    boxes: Tensor,
    targets: list[dict],
    data: Dataset,
    threshold: float | None = None,
    *,
    classification: Classification,
) -> list[float]:
    """AP of each decoder layer `[Y]`; with NMS at a `threshold` if given.

    `classification` says what logits mean: `model.config.classification`.
    """
    sizes = [target["size"] for target in targets]
    scores = []
    for layer_logits, layer_boxes in zip(logits, boxes):
        found = classification.detections(layer_logits, layer_boxes, sizes)
        if threshold is not None:
            found = [_without_duplicates(each, threshold) for each in found]
        result = coco_ap(found, targets, data.class_names, area_limits=data.area_limits)
        scores.append(result["AP"])
    return scores


def _without_duplicates(found: Detections, threshold: float) -> Detections:
    keep = nms(found.boxes, found.scores, found.labels, threshold)
    return Detections(*(part[keep] for part in found))
