"""Checks of the exercises of chapters/08_multi_scale.ipynb."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..nn.references import inverse_sigmoid
from . import Verdict
from .trying import Trial, judge, numbers, tensors

SIZES = ((4, 6), (2, 3), (1, 2))  # of exercises 1 and 2: (h, w), finest first
TOKENS = sum(h * w for h, w in SIZES)


def _place(
    token, sizes, cell=lambda n, h, w: (n // w, n % w), first=0, keep=False, late=False
):
    """(level, row, column) of a token, right unless told to make a mistake."""
    rest = token
    for level, (h, w) in enumerate(sizes):
        if rest < h * w + late or level == len(sizes) - 1:
            return (level + first, *cell(token if keep else rest, h, w))
        rest -= h * w


THREE = "return three whole numbers: level, row, column"
PLACE = Trial(
    cases=[(token, SIZES) for token in range(TOKENS)],
    answer=_place,
    mistakes={
        "row and column are swapped": {"cell": lambda n, h, w: (n % w, n // w)},
        "you divide by the height: a row is as long as the map is wide":
            {"cell": lambda n, h, w: (n // h, n % h)},
        "levels are counted from 0: the finest is level 0": {"first": 1},
        "subtract the tokens of the finer levels before you divide": {"keep": True},
        "the first token of a level goes to the level before: use <, not <=":
            {"late": True},
        "rows and columns are counted from 0":
            {"cell": lambda n, h, w: (n // w + 1, n % w + 1)},
    },
    faults={THREE: lambda value: len(value) != 3},
    convert=lambda value: tuple(int(number) for number in value),
    kind=THREE,
    otherwise=lambda value, truth, token, sizes:
        f"token {token} of levels {sizes} is at {truth}, yours {value}",
)  # fmt: skip


def place(mine: Callable[[int, Sequence], tuple] | None) -> Verdict:
    """Check exercise 1: where a token of several levels is, counted from 0.

    `mine(token, sizes)` returns (level, row, column).
    """
    praise = f"all {TOKENS} tokens of {len(SIZES)} levels are found"
    return judge(mine, PLACE, praise=praise)


def _references(
    sizes, valid, divide=1, multiply=1, own=False, half=0.5, swap=False, columns=False
):
    """References `[B, S, L, 2]`, right unless told to make a mistake.

    `divide`, `multiply` the powers of the valid shares: 0 leaves them out.
    """
    parts = []
    for level, (h, w) in enumerate(sizes):
        y = (torch.arange(h) + half) / (w if swap else h)
        x = (torch.arange(w) + half) / (h if swap else w)
        grid = torch.cartesian_prod(y, x).flip(-1)  # [h·w, 2]
        grid = torch.cartesian_prod(x, y) if columns else grid
        mine = valid[:, None, level, None]  # [B, 1, 1, 2]
        others = mine if own else valid[:, None]  # [B, 1, L, 2]
        at = grid[None, :, None].expand(len(valid), -1, len(sizes), -1)
        parts.append(at / mine**divide * others**multiply)
    return torch.cat(parts, 1)


REFERENCES = Trial(
    cases=[(SIZES, 0.4 + 0.6 * numbers(2, len(SIZES), 2))],
    answer=_references,
    mistakes={
        "you multiply, but never divide: a centre is a share of the padded map, turn "
        "it into one of the image first":
            {"divide": 0},
        "you divide, but never multiply: a share of the image is not yet one of a "
        "padded level":
            {"multiply": 0},
        "padding is not in it: this is right only where valid is 1":
            {"divide": 0, "multiply": 0},
        "you multiply by the share of the token's own level; take that of the level "
        "it looks at":
            {"own": True},
        "upside down: divide by the token's own share, multiply by the other level's":
            {"divide": -1, "multiply": -1},
        "a pixel's centre is half a pixel further": {"half": 0.0},
        "x and y are swapped": lambda *case: _references(*case).flip(-1),
        "valid is (x, y), too: shares of width, height":
            lambda sizes, valid: _references(sizes, valid.flip(-1)),
        "y is divided by h, x by w: sizes are (h, w)": {"swap": True},
        "tokens come row by row, not by columns": {"columns": True},
    },
    faults={
        "the order is [B, S, L, 2]: tokens before levels":
            lambda value: value.shape == (2, len(SIZES), TOKENS, 2)
    },
    shape="[B, S, L, 2] = {}",
    unit="token",
)  # fmt: skip


def references(mine: Callable[[Sequence, Tensor], Tensor] | None) -> Verdict:
    """Check exercise 2: where each token looks first on each level, `[B, S, L, 2]`.

    `mine(sizes, valid [B, L, 2])` returns (x, y), shares of the padded level. Source:
    Zhu et al. 2020, section 4.1.
    """
    return judge(mine, REFERENCES, praise="border meets border on every level")


STEP = Trial(
    cases=[(
        (0.1 + 0.8 * numbers(5, 4)).requires_grad_(),
        (4 * numbers(2, 5, 4)[1] - 2).requires_grad_(),
    )],
    answer=lambda reference, delta: (inverse_sigmoid(reference) + delta).sigmoid(),
    mistakes={
        "this is before the sigmoid: no box yet":
            lambda reference, delta: inverse_sigmoid(reference) + delta,
        "add before the sigmoid: shares may not leave [0, 1]":
            lambda reference, delta: reference + delta,
        "clamping loses the gradient: add before the sigmoid instead":
            lambda reference, delta: (reference + delta).clamp(0, 1),
        "the reference is a share already: undo its sigmoid before you add":
            lambda reference, delta: (reference + delta).sigmoid(),
        "undo the reference's sigmoid, add, sigmoid":
            lambda reference, delta: reference + delta.sigmoid(),
        "the reference is missing: the delta is a step from it":
            lambda reference, delta: delta.sigmoid(),
        "add the delta":
            lambda reference, delta: (inverse_sigmoid(reference) - delta).sigmoid(),
    },
    convert=tensors(2),
    kind="return two tensors: the box, and the reference of the next layer",
    part=0,
    unit="box",
)  # fmt: skip
DETACHED = Trial(
    cases=STEP.cases,
    faults={
        "the box itself must keep its gradient, or this layer learns nothing":
            lambda value: not value[0].requires_grad,
        "the next layer starts from the box that this one has found":
            lambda value: value[0].shape != value[1].shape
            or not value[0].allclose(value[1]),
        "detach the next reference: each layer answers for its own step":
            lambda value: value[1].requires_grad,
    },
    convert=tensors(2),
)  # fmt: skip
AT_THE_BORDER = Trial(
    cases=[(torch.tensor([[0.0, 1, 0, 1]]), torch.tensor([[5.0, -5, 5, -5]]))],
    faults={
        "a box at the border can never leave it: its logarithm is infinite. Keep the "
        "share away from 0 and 1 first":
            lambda value: not ((value[0] > 0) & (value[0] < 1)).all()
    },
    convert=tensors(2),
    when="at the border",
)  # fmt: skip


def refinement(mine: Callable[[Tensor, Tensor], tuple] | None) -> Verdict:
    """Check exercise 3: one layer's step from a reference to a box, both cxcywh.

    `mine(reference [Q, 4], delta [Q, 4])` returns the box and the next reference.
    Source: Zhu et al. 2020, appendix A.3.
    """
    praise = "one step from the reference, and no gradient into the layer before"
    return judge(mine, STEP, DETACHED, AT_THE_BORDER, praise=praise)


def _proposals(
    logits, boxes, usable, k, score=lambda logits: logits[:, 0], least=-torch.inf
):
    """The k surest boxes by `score`; what is not usable counts as `least`."""
    return boxes[score(logits).masked_fill(~usable, least).topk(k).indices]


def _tokens() -> tuple[Tensor, Tensor, Tensor, int]:
    """Logits, boxes, usable, k: 12 tokens, one of them sure of two classes."""
    logits = 8 * numbers(12, 3) - 4
    logits[0, 0], logits[3, 1], logits[5, 2], logits[5, 1] = 9.0, 8.0, 7.0, 6.5
    return logits, numbers(12, 4).requires_grad_(), torch.arange(12) % 3 != 0, 4


PROPOSALS = Trial(
    cases=[_tokens()],
    answer=_proposals,
    mistakes={
        "the surest comes first: do not put them back into order":
            lambda logits, boxes, usable, k: boxes[logits[:, 0]
            .masked_fill(~usable, -torch.inf).topk(k).indices.sort().values],
        "some of these tokens are not usable":
            lambda logits, boxes, usable, k: boxes[logits[:, 0].topk(k).indices],
        "any object is of class 0 in this stage: the other columns were never taught":
            {"score": lambda logits: logits.amax(-1)},
        "take column 0, of usable tokens":
            lambda logits, boxes, usable, k: boxes[logits.amax(-1).topk(k).indices],
        "the column is 0, not the last": {"score": lambda logits: logits[:, -1]},
        "these are the least sure": {"score": lambda logits: -logits[:, 0]},
        "rank tokens, not tokens × classes":
            lambda logits, boxes, usable, k: boxes[logits.masked_fill(
                ~usable[:, None], -torch.inf).flatten().topk(k).indices // 3],
        "these numbers count usable tokens only: they do not fit the full list of "
        "boxes":
            lambda logits, boxes, usable, k: boxes[logits[usable, 0].topk(k).indices],
    },
    shape="boxes [k, 4] = {}",
    unit="token",
)  # fmt: skip
PROPOSED = Trial(
    cases=PROPOSALS.cases,
    faults={
        "detach the boxes: proposals have a loss of their own":
            lambda value: value.requires_grad
    },
)  # fmt: skip
FEW_USABLE = Trial(
    cases=[(*PROPOSALS.cases[0][:2], torch.arange(12) < 2, 4)],
    faults={
        "2 tokens are usable, k is 4: give 2 boxes, not {shape[0]}":
            lambda value: len(value) != 2
    },
    when="with 2 usable tokens and k = 4",
)  # fmt: skip
FEW_TOKENS = Trial(
    cases=[(*(given[:3] for given in PROPOSALS.cases[0][:3]), 4)],
    faults={
        "3 tokens, 2 of them usable: give 2 boxes, not {shape[0]}":
            lambda value: len(value) != 2
    },
    when="with 3 tokens and k = 4",
)  # fmt: skip


def proposals(mine: Callable[[Tensor, Tensor, Tensor, int], Tensor] | None) -> Verdict:
    """Check exercise 4: the k usable boxes surest of being any object, surest first.

    `mine(logits [S, C], boxes [S, 4], usable [S], k)` returns at most k boxes, detached.
    Source: Zhu et al. 2020, section 4.2.
    """
    trials = (PROPOSALS, PROPOSED, FEW_USABLE, FEW_TOKENS)
    return judge(mine, *trials, praise="the surest boxes, whatever they hold")
