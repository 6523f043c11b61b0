"""Checks of the exercises of chapters/03_panoptic.ipynb."""

import torch

from .trying import exercise, numbers


def _quality(pictures, half=0.5, extra=True, missed=True):
    """PQ, SQ, RQ, right unless told to make a mistake."""
    ious = [x for each, _, _ in pictures for x in each]
    alarms = sum(each[1] for each in pictures) if extra else 0
    misses = sum(each[2] for each in pictures) if missed else 0
    hits = len(ious)
    sq = sum(ious) / hits if hits else 0.0
    rq = hits / (hits + half * (alarms + misses)) if hits else 0.0
    return torch.tensor([sq * rq, sq, rq])


def _mean_of_pictures(pictures, empty=True):
    """The mistake: a quality for each picture, then their mean."""
    shown = [each for each in pictures if empty or each[0]]
    each = [_quality([picture]) for picture in shown] or [torch.zeros(3)]
    return torch.stack(each).mean(0)


def _pq_of_the_mean(pictures):
    """The mistake: PQ as the mean over hits alone, then SQ the same number."""
    pq, _, rq = _quality(pictures)
    return torch.stack([pq, pq, rq])


quality = exercise(__name__, "quality", """
    Check exercise 1, `mine(pictures)` -> (PQ, SQ, RQ) of one class.

    `pictures` a list of (IoUs of the hits, false alarms, misses), one for each picture.
    Source: Kirillov et al. 2019, equation 2.""",
    praise="first all pictures summed, then mean IoU of the hits, times hits over what "
    "there should be",
    blank="your function returns None. First: all IoUs in one list, all false alarms "
    "and all misses added up",
    cases=[([([0.9, 0.7], 1, 3)],), ([([0.6], 0, 1), ([], 2, 0), ([0.9, 0.8], 1, 1)],),
           ([([0.8, 0.9, 1.0], 2, 0), ([0.7], 0, 4)],), ([([], 2, 1), ([], 0, 1)],),
           ([],)],
    answer=_quality,
    mistakes={
        "sum first, divide then: you took the mean of the pictures' qualities, so that "
        "one object in an empty picture counts as much as ten in a full one":
            [_mean_of_pictures,
             lambda pictures: _mean_of_pictures(pictures, empty=False)],
        "all pictures count: you looked at the first alone":
            {"pictures": lambda pictures: pictures[:1]},
        "false alarms and misses count half each: else an object that is painted "
        "badly would cost twice": {"half": 1.0},
        "false alarms are forgotten below the line": {"extra": False},
        "misses are forgotten below the line": {"missed": False},
        "PQ, SQ, RQ: in this order": {"result": lambda right: right[[1, 0, 2]]},
        "PQ, SQ, RQ, in this order: yours ends with SQ":
            {"result": lambda right: right[[0, 2, 1]]},
        "SQ is the mean over hits alone: alarms and misses are RQ's business":
            _pq_of_the_mean,
        "PQ is the product of SQ and RQ, not their mean": {"result": lambda right:
            torch.stack([right[1:].mean(), right[1], right[2]])},
        "SQ is the mean of the IoUs, not their sum": lambda pictures:
            _quality(pictures) * torch.tensor([n := sum(len(p[0]) for p in pictures), n,
                                               1.0]),
    },
    errors={"division by zero": "without a hit it is 0 / 0: return 0 for all three"},
    convert=lambda value: torch.as_tensor([float(x) for x in value]),
    kind="return three numbers: PQ, SQ, RQ",
    nan="without a hit it is 0 / 0: return 0 for all three",
    shape="three numbers, PQ, SQ, RQ", unit="number",
)  # fmt: skip

P = numbers(5, 6)
MASK = (numbers(6, 5).T > 0.5).float()
KNOWN = numbers(5, 7)[:, :6] > 0.3


def _dice(p, mask, known, one=1.0, two=2.0, minus=1.0, area=True):
    """A number, right unless told to make a mistake."""
    known = known.to(p.dtype)
    both = (p * mask * known).sum()
    around = known if area else torch.ones_like(known)
    areas = (p * around).sum() + (mask * around).sum()
    return minus - (two * both + one) / (areas + one)


def _iou_loss(p, mask, known):
    p, mask = p * known, mask * known
    both = (p * mask).sum()
    return 1 - (both + 1) / (p.sum() + mask.sum() - both + 1)


dice = exercise(__name__, "dice", """
    Check exercise 2, `mine(p, mask, known)` -> the dice loss where `known` is True.

    All `[H, W]`; `p` probabilities. Source: Milletari et al. 2016.""",
    praise="void is in neither the overlap nor the areas",
    cases=[(P, MASK, KNOWN), (P, MASK, torch.ones_like(KNOWN)),
           (P, torch.zeros_like(MASK), KNOWN), (P, MASK, torch.zeros_like(KNOWN))],
    answer=_dice,
    mistakes={
        "void left the overlap but not the areas: what is painted there still costs":
            {"area": False},
        "`known` is not used: void pixels still teach": {"known": torch.ones_like},
        "`known` is True where something is known: you left out the other pixels":
            {"known": lambda known: ~known},
        "the overlap counts twice: it is in both areas": {"two": 1.0},
        "the ones are missing: add 1 above and below, or nothing at all is 0 / 0":
            [{"one": 1e-9}, {"one": 0.0}],
        "a loss is small where the overlap is large: one minus that":
            [{"result": lambda right: 1 - right}, {"minus": 0.0}],
        "1 minus IoU is another loss: dice has both areas below, overlap not taken out":
            _iou_loss,
        "a void pixel is neither right nor wrong: set p to the truth there and it "
        "still counts as found": lambda p, mask, known:
            _dice(torch.where(known, p, mask), mask, torch.ones_like(known)),
        "p at a half is not 'unknown': multiply p and mask by known":
            lambda p, mask, known:
            _dice(torch.where(known, p, 0.5), mask, torch.ones_like(known)),
    },
    errors={"bool": "`known` is bool, which has no minus: multiply by it, or ~known"},
    shape="one number", nan="nothing known, or nothing there: add 1 above and below",
    unit="pixel",
)  # fmt: skip


def _paint(logits, labels, things, least, merge=True, again=True, equal=0, first=1):
    """Ids `[H, W]`, right unless told to make a mistake."""
    k = len(labels)
    part = torch.arange(k)
    if merge and k:
        same = (labels[:, None] == labels) & (
            labels >= (things if merge is True else 0)
        )
        part = torch.where(same, part, part[:, None]).amin(1)
    alive = torch.arange(k)
    while len(alive):
        owner = part[alive[logits[alive].argmax(0)]]
        areas = owner.flatten().bincount(minlength=k)
        large = areas[part[alive]] > least - equal
        if large.all():
            return owner + first
        if not again:
            return torch.where(areas[owner] > least, owner + first, 0)
        alive = alive[large]
    return torch.zeros(logits.shape[1:], dtype=torch.int64)


def _apart(logits, labels, things, least):
    """As `_paint`, but stuff is merged only after small segments have left."""
    alive = torch.arange(len(labels))
    while len(alive):
        owner = alive[logits[alive].argmax(0)]
        large = owner.flatten().bincount(minlength=len(labels))[alive] > least
        if large.all():
            same = (labels[:, None] == labels) & (labels >= things)
            same = same & torch.isin(torch.arange(len(labels)), alive)
            number = torch.arange(len(labels))
            return torch.where(same, number, number[:, None]).amin(1)[owner] + 1
        alive = alive[large]
    return torch.zeros(logits.shape[1:], dtype=torch.int64)


def _renumbered(logits, labels, things, least):
    """The mistake: ids count the segments that are left, in the queries' order."""
    ids = _paint(logits, labels, things, least)
    left = ids.unique()
    return torch.searchsorted(left, ids) + (0 if (left == 0).any() else 1)


LABELS = torch.tensor([2, 0, 1, 2, 1, 3])  # things 0 and 1, stuff 2 and 3
DOWN = (0.6, 0.4, 0.6, 0.5, 0.7, 0.6)  # by how much: query 4 owns nothing, 5 little
LOGITS = numbers(6, 5, 6) - torch.tensor(DOWN)[:, None, None]
paint = exercise(__name__, "paint", """
    Check exercise 3, `mine(logits [k, H, W], labels [k], things, least)` -> ids.

    `[H, W]`: 1 + the number of the query of each pixel, 0 for none; the same stuff is
    the first of its queries; segments of at most `least` pixels go to the next best.
    Source: Carion et al. 2020, official code.""",
    praise="argmax, one segment for each stuff, splinters given to the next best",
    blank="your function returns None. First `logits.argmax(0) + 1`, then stuff",
    cases=[(LOGITS, LABELS, 2, least) for least in (0, 2, 3, 5, 30)]
    + [(LOGITS[:0], LABELS[:0], 2, 3), (LOGITS, LABELS, 9, 3), (LOGITS, LABELS, 1, 2)],
    answer=_paint,
    mistakes={
        "queries of the same stuff are one segment: the first of them":
            {"merge": False},
        "things of one class stay apart: only stuff, labels of at least `things`, is "
        "merged": {"merge": "all"},
        "ids start with 1: 0 means void": {"first": 0},
        "an id is 1 + the query's number in what you were given, also after others "
        "have left": _renumbered,
        "labels from `things` on are stuff, `things` itself with them: >=, not >":
            {"things": lambda things: things + 1},
        "pixels of a splinter are not void: they go to the next best that is left":
            {"again": False},
        "splinters are left in: take out segments of at most `least` pixels":
            {"least": -1},
        "a segment of exactly `least` pixels goes, too": {"equal": 1},
        "count the pixels of the whole stuff, not those of each of its queries":
            _apart,
        "that is the class of each pixel: two discs must stay two":
            {"result": lambda right: right.where(right == 0, LABELS[right - 1])},
    },
    errors={
        "Expected reduction dim": "with no query left there is no largest logit: "
        "return zeros",
        "max(): ": "with no query left there is no largest logit: return zeros",
    },
    kept="leave `logits` as they are: index those that are left",
    otherwise="the ids differ, and not by a mistake I know: try it on one picture of "
    "2 × 2 pixels",
    shape="ids {}, one for each pixel",
)  # fmt: skip
