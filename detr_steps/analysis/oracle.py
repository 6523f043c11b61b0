"""Which decoder layer should answer? What an oracle, a rule or a network would choose.

All choices are `layers`: `[n]` one layer for each image, or `[n, Q]` for each query,
from 0; `pick` makes predictions of them, which `analysis.ap_by_layer` scores. They are
made of what `analysis.predictions` gives: logits `[Y, n, Q, outputs]`, boxes
`[Y, n, Q, 4]` cxcywh in [0, 1], n targets; `classification` is the config's. Whatever
needs targets raises ValueError for a single layer, NaN, and parts of unequal length.
Chen et al. 2023, section 3. Built in chapters/11_sqr.ipynb.
"""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ..boxes import cxcywh_to_xyxy, paired_iou
from ..objective.classification import Classification
from .judging import Judged, as_corners, judge, layers_of

IOU = 0.5  # an object is found above it
IOUS = [0.5 + 0.05 * i for i in range(10)]  # COCO's


def pick(logits: Tensor, boxes: Tensor, layers: Tensor) -> tuple[Tensor, Tensor]:
    """The chosen layer's predictions: `[1, n, Q, outputs]`, `[1, n, Q, 4]`."""
    where = layers[:, None] if layers.dim() == 1 else layers
    where = where.expand(boxes.shape[1:3])[None, ..., None]  # [1, n, Q, 1]
    return tuple(
        each.gather(0, where.expand(-1, -1, -1, each.shape[-1]))
        for each in (logits, boxes)
    )


def best_per_query(
    logits: Tensor,
    boxes: Tensor,
    targets: Sequence[dict],
    classification: Classification,
    *,
    rest: bool = True,
) -> Tensor:
    """What somebody who knows the objects would choose for each query: `[n, Q]`.

    Objects are given away by score times IoU, over all layers: to one query each, which
    answers from that layer. All other queries answer from where they are least sure;
    with `rest=False` from the last layer, so that objects alone gain.
    """
    judged = _judged(logits, boxes, targets, classification)
    return torch.stack([_best_layers(each, rest) for each in judged])


def _best_layers(each: Judged, rest: bool) -> Tensor:
    layers = each.best.argmin(0)  # [Q]
    if not rest:
        layers = torch.full_like(layers, len(each.best) - 1)
    found = each.candidates.nonzero()  # [k, 3] layer, query, object
    worth = (each.best[..., None] * each.overlap)[each.candidates]
    busy, taken = set(), set()
    for at in worth.argsort(descending=True, stable=True).tolist():
        layer, query, thing = found[at].tolist()
        if query not in busy and thing not in taken:
            layers[query] = layer
            busy.add(query)
            taken.add(thing)
    return layers


def best_per_image(
    logits: Tensor,
    boxes: Tensor,
    targets: Sequence[dict],
    classification: Classification,
) -> Tensor:
    """One layer for all queries of an image, chosen with the objects known: `[n]`.

    That of the highest `image_ap`, the last of equals. Only almost an oracle: AP of all
    images together also asks that scores of different layers mean the same.
    """
    parts = as_corners(logits, boxes, targets, classification)
    layers = layers_of(*parts)
    found = [image_ap(index, *each) for index, each in enumerate(zip(*parts))]
    return torch.stack([layers - 1 - each.flip(0).argmax() for each in found])


def image_ap(index: int, scores: Tensor, boxes: Tensor, target: dict) -> Tensor:
    """AP of every layer in one image, all classes in one list: `[Y]` in [0, 1].

    Arguments as of `judging.judge`; mean over COCO's ten thresholds. Without objects
    minus the highest score of a false positive: the less sure, the better.
    """
    total = torch.zeros(len(scores), dtype=torch.float64)
    for iou in IOUS:
        each = judge(index, scores, boxes, target, iou=iou, rule="greedy")
        if not len(each.labels):
            return -(each.best * each.false).amax(1).double()
        total += _average_precision(each)
    return total / len(IOUS)


def _average_precision(each: Judged) -> Tensor:
    """Area under precision over recall, precision made to fall: `[Y]`."""
    order = each.best.argsort(dim=1, descending=True, stable=True)
    hits, false = (x.gather(1, order).double() for x in (each.hits.any(-1), each.false))
    found, wrong = hits.cumsum(1), false.cumsum(1)
    precision = found / (found + wrong).clamp(min=1)
    precision = precision.flip(1).cummax(1).values.flip(1)
    return (precision * hits).sum(1) / len(each.labels)


def worth(each: Judged) -> Tensor:
    """What each prediction adds: `[Y, Q]`, score times IoU of an object's winner, minus
    the score of a false positive; 0 on a crowd."""
    gain = (each.best[..., None] * each.overlap * each.hits).sum(-1)
    return gain - each.best * each.false


def agreement(
    logits: Tensor,
    boxes: Tensor,
    classification: Classification,
    *,
    min_score: float = 0.3,
    iou: float = 0.9,
) -> Tensor:
    """The layer at which inference could stop, without knowing the objects: `[n]`.

    The first that agrees with the one before it on every query of which either is at
    least `min_score` sure: same class, IoU of at least `iou`; else the last layer. Its
    number, counted from 1, is what such an early exit costs.
    """
    scores, label = classification.probabilities(logits).max(-1)  # [Y, n, Q]
    corners = cxcywh_to_xyxy(boxes)
    same = label[1:] == label[:-1]
    same &= paired_iou(corners[1:], corners[:-1]) >= iou
    unsure = torch.maximum(scores[1:], scores[:-1]) < min_score
    agree = (same | unsure).all(-1)  # [Y - 1, n]
    agree[-1] = True
    return agree.int().argmax(0) + 1  # the first of equals


class Selector(nn.Module):
    """Chooses a layer for each query from what the layers say, without the objects.

    A small network that predicts the `worth` of each layer's answer: two linear layers
    on seven numbers of each layer (see `features`). Built by `fit_selector`.
    Source: an idea for further work in the author's notes on Chen et al. 2023.
    """

    def __init__(self, layers: int, width: int = 32) -> None:
        super().__init__()
        self.judge = nn.Sequential(
            nn.Linear(7 * layers, width), nn.ReLU(), nn.Linear(width, layers)
        )

    def forward(self, features: Tensor) -> Tensor:
        """Expected worth of each layer's answer: `[..., 7 Y] -> [..., Y]`."""
        return self.judge(features)

    @torch.no_grad()
    def choose(
        self,
        logits: Tensor,
        boxes: Tensor,
        classification: Classification,
        margin: float = 0.02,
    ) -> Tensor:
        """The layer of each query: `[n, Q]`.

        The last one, unless another promises to be worth more by over `margin`.
        """
        expected = self(features(logits, boxes, classification))  # [n, Q, Y]
        gain, layer = (expected - expected[..., -1:]).max(-1)
        return torch.where(gain > margin, layer, expected.shape[-1] - 1)


def features(logits: Tensor, boxes: Tensor, classification: Classification) -> Tensor:
    """What a selector sees of each query: `[n, Q, 7 Y]`, all in [0, 1].

    Of each layer: the two highest probabilities (the second 0 for a single class), the
    probability of the last layer's class, IoU with the last layer's box and with that
    of the layer before, width and height.
    """
    p = classification.probabilities(logits).float()  # [Y, n, Q, classes]
    first, second = _two_highest(p)
    last = p[-1:].argmax(-1, keepdim=True).expand(*p.shape[:3], 1)
    corners = cxcywh_to_xyxy(boxes.float())
    before = torch.cat((corners[:1], corners[:-1]))
    parts = (
        first,
        second,
        p.gather(-1, last)[..., 0],
        paired_iou(corners, corners[-1:]),
        paired_iou(corners, before),
        *boxes.float()[..., 2:].unbind(-1),
    )
    return torch.stack(parts, -1).permute(1, 2, 0, 3).flatten(2)


def _two_highest(p: Tensor) -> tuple[Tensor, Tensor]:
    highest = p.topk(min(2, p.shape[-1]), -1).values
    return highest[..., 0], highest[..., 1:].sum(-1)


def fit_selector(
    logits: Tensor,
    boxes: Tensor,
    targets: Sequence[dict],
    classification: Classification,
    *,
    steps: int = 300,
    seed: int = 0,
) -> Selector:
    """Train a selector on some scenes; choose for others, or it has seen the answers.

    Least squares on the `worth` of every answer, all scenes in each of the `steps`. The
    same `seed`, the same selector; torch's own random numbers are left as they are.
    """
    judged = _judged(logits, boxes, targets, classification)
    wanted = torch.stack([worth(each).T for each in judged]).float()  # [n, Q, Y]
    seen = features(logits, boxes, classification).detach()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        torch.manual_seed(seed)
        selector = Selector(len(logits))
        optimiser = torch.optim.Adam(selector.parameters(), lr=0.01)
        for _ in range(steps):
            loss = nn.functional.mse_loss(selector(seen), wanted)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return selector.eval()


def _judged(
    logits: Tensor,
    boxes: Tensor,
    targets: Sequence[dict],
    classification: Classification,
) -> Iterator[Judged]:
    parts = as_corners(logits, boxes, targets, classification)
    layers_of(*parts)
    for index, each in enumerate(zip(*parts)):
        yield judge(index, *each, iou=IOU, rule="winner")
