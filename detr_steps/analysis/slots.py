"""Which boxes does each query slot answer with?

Built in chapters/02_detr.ipynb; Carion et al. 2020, figure 7.
"""

import torch
from torch import Tensor


def slot_boxes(
    probabilities: Tensor, boxes: Tensor, threshold: float = 0.5
) -> list[Tensor]:
    """Sort the confident answers of one layer by query.

    `probabilities [n, Q, classes]`, as `config.classification.probabilities(logits)`
    gives them, `boxes [n, Q, 4]` of n images; an answer counts when its best class has
    at least `threshold`. Returns Q tensors `[k, 4]` cxcywh.
    """
    confident = probabilities.amax(-1) >= threshold  # [n, Q]
    return [boxes[confident[:, q], q] for q in range(boxes.shape[1])]


def slot_statistics(slots: list[Tensor]) -> Tensor:
    """Mean and deviation of each slot's box `[Q, 2, 4]`; NaN below two answers."""
    rows = []
    for answers in slots:
        enough = len(answers) > 1
        nothing = torch.full((4,), float("nan"))
        mean = answers.mean(0) if enough else nothing
        rows.append(torch.stack((mean, answers.std(0) if enough else nothing)))
    return torch.stack(rows)
