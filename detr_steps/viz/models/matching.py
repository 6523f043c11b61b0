"""What a model's matching costs, pair by pair."""

from collections.abc import Sequence
from dataclasses import replace

from torch import Tensor, nn

from ...objective import matching as costs
from ...objective.classification import Classification
from ..engine.figure import InteractiveFigure
from ..engine.matching import matching
from .opened import Batch, open_up


def matching_of(
    model: nn.Module,
    batch: Batch,
    image: int = 0,
    layer: int = -1,
    *,
    names: Sequence[str] | None = None,
    targets: list[dict] | None = None,
    title: str = "",
) -> InteractiveFigure:
    """Show how a model pairs its queries with the objects of one image, and why.

    The parts are the class cost of the model's own classification (for a softmax, minus
    the probability of the object's class), the L1 distance of the boxes, and minus
    their GIoU, with the weights of its `config.cost`. `layer` counts decoder layers
    from 0, or from the end.
    Raises: ValueError for a batch without targets, an image without objects, a layer
    beyond the last, a model with a rule of its own.
    Source: Carion et al. 2020, equations 1 and 10. Built in chapters/02_detr.ipynb.
    """
    if not getattr(model, "matches_any_pair", True):
        raise ValueError(
            f"{type(model).__name__} lets only some queries answer for each object, by "
            "a cost of its own: this figure shows costs of all pairs"
        )
    opened = open_up(model, batch, image, names, targets)
    if len(opened.answers.truth) == 0:
        raise ValueError(
            f"image {image} has no objects to match: choose another, or pass targets="
        )
    count = len(opened.seen.logits)
    if not -count <= layer < count:
        raise ValueError(f"layer {layer} of {count}: count from 0 to {count - 1}")
    layer %= count
    answers = replace(opened.answers.of(layer), matched=None)
    real = opened.seen.real
    if real is not None and not real.all():  # padding answers for nothing
        raise ValueError(
            f"image {image} is padded, and queries of padding answer for nothing: give "
            "the image in a batch of its own"
        )
    target = {"boxes": answers.truth, "labels": answers.truth_labels}
    logits, weights = opened.seen.logits[layer, 0], model.config.cost
    parts = parts_of(model.config.classification, logits, answers.boxes, target)
    return matching(
        parts,
        answers,
        opened.rgb,
        weights=dict(zip(parts, (weights.classification, weights.box, weights.giou))),
        title=title or f"Matching after decoder layer {layer + 1}",
    )


def parts_of(
    classification: Classification, logits: Tensor, boxes: Tensor, target: dict
) -> dict[str, Tensor]:
    """Compute the unweighted parts of the matching cost for one image, `[Q, N]` each.

    `logits [Q, outputs]`, `boxes [Q, 4]`; `target` with `boxes [N, 4]`, `labels`.
    """
    classes = classification.probabilities(logits).shape[-1]
    padded = costs.pad_targets([target], classes, "cpu")
    surprise = classification.cost(logits[None, None], padded.labels)
    distance, overlap = (
        costs.box_cost(boxes[None, None], padded, costs.CostWeights(0, *only))
        for only in ((1, 0), (0, 1))
    )
    names = (classification.cost_name, "L1", "−GIoU")
    return dict(zip(names, (part[0, 0] for part in (surprise, distance, overlap))))
