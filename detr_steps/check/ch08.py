"""Checks of the exercises of chapters/08_multi_scale.ipynb."""

import torch

from ..nn.references import inverse_sigmoid
from .trying import Trial, exercise, numbers, same_numbers, tensors, turned

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
place = exercise(__name__, "place", """
    Check exercise 1, `mine(token, sizes)` -> (level, row, column), from 0.""",
    praise=f"all {TOKENS} tokens of {len(SIZES)} levels are found",
    cases=[(token, SIZES) for token in range(TOKENS)], answer=_place,
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
    convert=lambda value: tuple(int(number) for number in value), kind=THREE,
    before={THREE: lambda value: len(value) != 3},
    otherwise=lambda value, truth, token, sizes:
        f"token {token} of levels {sizes} is at {truth}, yours {value}",
)  # fmt: skip


def _references(sizes, valid, divide=1, multiply=1, half=0.5, swap=0, columns=0):
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
        others = valid[:, None]  # [B, 1, L, 2]
        at = grid[None, :, None].expand(len(valid), -1, len(sizes), -1)
        parts.append(at / mine**divide * others**multiply)
    return torch.cat(parts, 1)


references = exercise(__name__, "references", """
    Check exercise 2, `mine(sizes, valid [B, L, 2])` -> references `[B, S, L, 2]`.

    (x, y), shares of each padded level. Source: Zhu et al. 2020, section 4.1; valid
    shares from the official code only.""",
    praise="border meets border on every level",
    cases=[(SIZES, 0.4 + 0.6 * numbers(2, len(SIZES), 2))], answer=_references,
    mistakes={
        "you multiply, but never divide: a centre is a share of the padded map, turn "
        "it into one of the image first": {"divide": 0},
        "you divide, but never multiply: a share of the image is not yet one of a "
        "padded level": {"multiply": 0},
        "padding is not in it: this is right only where valid is 1. Or do you multiply "
        "by the share of the token's own level? Take that of the level it looks at":
            {"divide": 0, "multiply": 0},
        "upside down: divide by the token's own share, multiply by the other level's":
            {"divide": -1, "multiply": -1},
        "a pixel's centre is half a pixel further": {"half": 0.0},
        "x and y are swapped": {"result": turned},
        "valid is (x, y), too: shares of width, height": {"valid": turned},
        "y is divided by h, x by w: sizes are (h, w)": {"swap": 1},
        "tokens come row by row, not by columns": {"columns": 1},
    },
    before={
        "the order is [B, S, L, 2]: tokens before levels":
            lambda value: value.shape == (2, len(SIZES), TOKENS, 2),
    },
    shape="[B, S, L, 2] = {}", unit="token",
)  # fmt: skip

refinement = exercise(__name__, "refinement", """
    Check exercise 3, `mine(reference [Q, 4], delta [Q, 4])` -> box, next reference.

    cxcywh, shares of the image. Source: Zhu et al. 2020, appendix A.4.""",
    praise="one step from the reference, and no gradient through the reference",
    cases=[tuple((0.1 + 0.8 * x).requires_grad_() for x in numbers(2, 5, 4))],
    answer=lambda r, delta: (inverse_sigmoid(r) + delta).sigmoid(),
    mistakes={
        "this is before the sigmoid: no box yet":
            lambda r, delta: inverse_sigmoid(r) + delta,
        "add before the sigmoid: shares may not leave [0, 1]": torch.add,
        "clamping loses the gradient: add before the sigmoid instead":
            lambda r, delta: (r + delta).clamp(0, 1),
        "the reference is a share already: undo its sigmoid before you add":
            lambda r, delta: (r + delta).sigmoid(),
        "undo the reference's sigmoid, add, sigmoid":
            lambda r, delta: r + delta.sigmoid(),
        "the reference is missing: the delta is a step from it":
            lambda r, delta: delta.sigmoid(),
        "add the delta": {"delta": torch.neg},
    },
    after={
        "the box itself must keep its gradient, or this layer learns nothing":
            lambda value: not value[0].requires_grad,
        "the next layer starts from the box that this one has found":
            lambda value: not same_numbers(*value),
        "detach the next reference: each box head answers for its own step":
            lambda value: value[1].requires_grad,
    },
    convert=tensors(2), part=0, unit="box",
    kind="return two tensors: the box, and the reference of the next layer",
    then=[Trial(
        [(torch.tensor([[0.0, 1, 0, 1]]), torch.tensor([[5.0, -5, 5, -5]]))],
        before={
            "a box at the border can never leave it: its logarithm is infinite. Keep "
            "the share away from 0 and 1 first":
                lambda value: not ((value[0] > 0) & (value[0] < 1)).all(),
        },
        convert=tensors(2), when="at the border",
    )],
)  # fmt: skip


def _proposals(logits, boxes, usable, k, score=lambda x: x[:, 0], sort=False):
    """The k surest boxes by `score`, or put back into order."""
    best = score(logits).masked_fill(~usable, -torch.inf).topk(k).indices
    return boxes[best.sort().values if sort else best]


LOGITS, BOXES = 8 * numbers(12, 3) - 4, numbers(12, 4).requires_grad_()
LOGITS[[0, 3, 5, 5], [0, 1, 2, 1]] = torch.tensor([9, 8, 7, 6.5])  # 5: of two classes
USABLE, K = torch.arange(12) % 3 != 0, 4
proposals = exercise(__name__, "proposals", """
    Check exercise 4, `mine(logits [S, C], boxes [S, 4], usable [S], k)` -> `[k, 4]`.

    Boxes surest of being any object, surest first; fewer than k if fewer are usable.
    Source: Zhu et al. 2020, section 4.2.""",
    praise="the surest boxes, whatever they hold",
    cases=[(LOGITS, BOXES, USABLE, K)], answer=_proposals,
    mistakes={
        "the surest comes first: do not put them back into order": {"sort": True},
        "some of these tokens are not usable": {"usable": torch.ones_like},
        "any object is of class 0 in this stage: the other columns learned to say no":
            {"score": lambda logits: logits.amax(-1)},
        "take column 0, of usable tokens":
            {"usable": torch.ones_like, "score": lambda logits: logits.amax(-1)},
        "the column is 0, not the last": {"score": lambda logits: logits[:, -1]},
        "these are the least sure": {"score": lambda logits: -logits[:, 0]},
        "rank tokens, not tokens × classes":
            lambda logits, boxes, usable, k: boxes[logits.masked_fill(
                ~usable[:, None], -torch.inf).flatten().topk(k).indices // 3],
        "these numbers count usable tokens only: they do not fit the full list of "
        "boxes":
            lambda logits, boxes, usable, k: boxes[logits[usable, 0].topk(k).indices],
    },
    after={
        "detach the boxes: proposals have a loss of their own":
            lambda value: value.requires_grad,
    },
    shape="boxes [k, 4] = {}", unit="token",
    then=[
        Trial(
            [(LOGITS, BOXES, torch.arange(12) < 2, K)],
            before={"2 tokens are usable, k is 4: give 2 boxes, not {}":
                    lambda value: value.numel() != 8 and str(value.numel() // 4)},
            when="with 2 usable tokens and k = 4",
        ),
        Trial(
            [(LOGITS[:3], BOXES[:3], USABLE[:3], K)],
            before={"3 tokens, 2 of them usable: give 2 boxes, not {}":
                    lambda value: value.numel() != 8 and str(value.numel() // 4)},
            when="with 3 tokens and k = 4",
        ),
    ],
)  # fmt: skip
