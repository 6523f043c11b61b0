"""Do earlier decoder layers know better than the last? Fading and exacerbation.

A true positive *fades* where an earlier layer had the same object with a higher score
and a higher IoU; a false positive is *exacerbated* where an earlier layer believed less
in it (TP-F and FP-E rates, Chen et al. 2023, section 3). Built in
chapters/11_sqr.ipynb.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .judging import Judged, judge, layers_of

READINGS = ("winner", "candidate", "class", "greedy")
FP_READINGS = ("fp", "any", "class")


class Rates(NamedTuple):
    """Counts over all images, and their ratios.

    `tp`, `fp` of the last layer; `tp_fading` of which an earlier layer was better in
    score and IoU; `fp_worse` of which an earlier layer was less sure; `tp_f`, `fp_e`
    the shares of these, None where there is nothing to count; `pairs [Y - 1]` true
    positives for which each earlier layer was better: one may count at several.
    """

    tp: int
    tp_fading: int
    fp: int
    fp_worse: int
    tp_f: float | None
    fp_e: float | None
    pairs: Tensor


class Fall(NamedTuple):
    """A query that knew better: `object` of `image`, best in `layer`, from 0.

    `scores`, `ious [Y]` of the query after each layer: the probability of the object's
    class, and the IoU with the object.
    """

    image: int
    query: int
    object: int
    layer: int
    scores: Tensor
    ious: Tensor

    @property
    def fall(self) -> float:
        """How much score was lost from that layer to the last."""
        return float(self.scores[self.layer] - self.scores[-1])


@dataclass(frozen=True)
class Rules:
    """What the published text leaves open; see `rates`. Raises: ValueError."""

    iou: float = 0.5
    reading: str = "winner"
    fp_reading: str = "fp"
    min_score: float = 0.0

    def __post_init__(self) -> None:
        for name, known in (("reading", READINGS), ("fp_reading", FP_READINGS)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} {getattr(self, name)!r}: one of {', '.join(known)}"
                )
        for name in ("iou", "min_score"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: at least 0, below 1")


def rates(
    scores: Sequence[Tensor],
    boxes: Sequence[Tensor],
    targets: Sequence[dict],
    *,
    iou: float = 0.5,
    reading: str = "winner",
    fp_reading: str = "fp",
    min_score: float = 0.0,
) -> Rates:
    """Count how often an earlier layer did better than the last, over some images.

    `scores` one tensor `[Y, Q, classes]` of class probabilities per image, `boxes`
    `[Y, Q, 4]`, `targets` dicts of `boxes [n, 4]`, `labels [n]` and perhaps `iscrowd
    [n]`; all boxes xyxy in one unit. A query says its most probable class. A true
    positive is an object's *winner*: best-scored of its *candidates*, queries of the
    right class with an IoU strictly above `iou`; all other queries are false positives,
    but for those on a crowd. `min_score` leaves out predictions of the last layer.

    What an earlier layer must have been, for the same query and object, `reading`:
    "winner" the winner; "candidate" a candidate; "class" anything, compared by its
    score for the object's class; "greedy" a true positive by COCO's rule, as in the
    last layer: queries by score take the free object of most IoU, `iou` or more.
    `fp_reading`: "fp" a false positive, too; "any" anything, by its own best score;
    "class" anything, by its score for the class that the last layer names.

    Raises: ValueError for a single layer, which has no earlier one, for images that do
    not belong together, NaN, logits, boxes that are not xyxy.
    Source: Chen et al. 2023, section 3, which leaves these choices open.
    """
    rules = Rules(iou, reading, fp_reading, min_score)
    tp = fading = fp = worse = 0
    pairs = torch.zeros(layers_of(scores, boxes, targets) - 1, dtype=torch.int64)
    for each in _judged(scores, boxes, targets, rules):
        better = _better(each, rules)[2]  # [Y - 1, T]
        weaker = _weaker(each, rules)  # [Y - 1, F]
        tp, fp = tp + better.shape[1], fp + weaker.shape[1]
        fading += int(better.any(0).sum())
        worse += int(weaker.any(0).sum())
        pairs += better.sum(1)
    tp_f = fading / tp if tp else None
    return Rates(tp, fading, fp, worse, tp_f, worse / fp if fp else None, pairs)


def examples(
    scores: Sequence[Tensor],
    boxes: Sequence[Tensor],
    targets: Sequence[dict],
    *,
    count: int | None = 10,
    **rules: object,
) -> list[Fall]:
    """The fading true positives whose score fell most, largest fall first.

    Arguments as of `rates`; `count=None` for all of them, whose distribution says how
    many are marginal. Raises: as `rates`.
    """
    chosen = Rules(**rules)
    layers_of(scores, boxes, targets)
    found = []
    for image, each in enumerate(_judged(scores, boxes, targets, chosen)):
        query, thing, better = _better(each, chosen)
        for at in better.any(0).nonzero()[:, 0].tolist():
            q, n = int(query[at]), int(thing[at])
            track = each.scores[:, q, each.labels[n]]  # [Y]
            layer = int(track[:-1].where(better[:, at], -1).argmax())
            found.append(Fall(image, q, n, layer, track, each.overlap[:, q, n]))
    found.sort(key=lambda fall: -fall.fall)  # stable: images in order
    return found if count is None else found[:count]


def triangle(
    scores: Sequence[Tensor],
    boxes: Sequence[Tensor],
    targets: Sequence[dict],
    **rules: object,
) -> Tensor:
    """Every pair of layers: `[Y, Y]`, the share of row y's true positives that the
    layer of the column knew better; NaN from the diagonal on, and without any.

    Arguments as of `rates`. Raises: as `rates`.
    """
    layers = layers_of(scores, boxes, targets)
    table = torch.full((layers, layers), torch.nan)
    for last in range(1, layers):
        cut = [[x[: last + 1] for x in part] for part in (scores, boxes)]
        found = rates(*cut, targets, **rules)
        if found.tp:
            table[last, :last] = found.pairs / found.tp
    return table


def _judged(
    scores: Sequence[Tensor],
    boxes: Sequence[Tensor],
    targets: Sequence[dict],
    rules: Rules,
) -> Iterator[Judged]:
    rule = "greedy" if rules.reading == "greedy" else "winner"
    for index, parts in enumerate(zip(scores, boxes, targets)):
        yield judge(index, *parts, iou=rules.iou, rule=rule)


def _better(each: Judged, rules: Rules) -> tuple[Tensor, Tensor, Tensor]:
    """True positives of the last layer: queries, objects `[T]`; and `[Y - 1, T]` where
    an earlier layer had the object with a higher score and IoU."""
    counted = each.hits[-1] & (each.best[-1] >= rules.min_score)[:, None]
    query, thing = counted.nonzero().unbind(1)
    if rules.reading == "class":
        score = each.scores[:, query, each.labels[thing]]  # [Y, T]
        allowed = torch.ones_like(score[:-1], dtype=torch.bool)
    else:
        score = each.best[:, query]
        able = each.candidates if rules.reading == "candidate" else each.hits
        allowed = able[:-1, query, thing]
    overlap = each.overlap[:, query, thing]
    higher = (score[:-1] > score[-1]) & (overlap[:-1] > overlap[-1])
    return query, thing, allowed & higher


def _weaker(each: Judged, rules: Rules) -> Tensor:
    """Of each false positive of the last layer, where an earlier one was less sure:
    `[Y - 1, F]`."""
    counted = each.false[-1] & (each.best[-1] >= rules.min_score)
    query = counted.nonzero()[:, 0]
    score = each.best[:, query]  # [Y, F]
    earlier = score[:-1]
    if rules.fp_reading == "class":
        earlier = each.scores[:-1, query, each.said[-1, query]]
    lower = earlier < score[-1]
    return lower & each.false[:-1, query] if rules.fp_reading == "fp" else lower
