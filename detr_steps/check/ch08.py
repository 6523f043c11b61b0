"""Checks of the exercises of chapter 08 (multi-scale)."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..nn.references import inverse_sigmoid
from . import Verdict, right, wrong
from .trying import call

SIZES = ((4, 6), (2, 3), (1, 2))  # of exercises 1 and 2: (h, w), finest first


def place(mine: Callable | None) -> Verdict:
    """Exercise 1: `mine(token, sizes)` -> (level, row, column), counted from 0."""
    truth, start = {}, 0
    for level, (h, w) in enumerate(SIZES):
        for cell in range(h * w):
            truth[start + cell] = (level, cell // w, cell % w)
        start += h * w
    found = {}
    for token in truth:
        value, fault = call(mine, token, SIZES, unwritten=_unwritten)
        if fault is not None:
            return fault
        try:
            found[token] = tuple(int(number) for number in value)
        except (TypeError, ValueError):
            return wrong("return three whole numbers: level, row, column")
        if len(found[token]) != 3:
            return wrong("return three whole numbers: level, row, column")
    if found == truth:
        return right(f"all {len(truth)} tokens of {len(SIZES)} levels are found")
    mistakes = (
        (_place_by(lambda n, h, w: (n % w, n // w)), "row and column are swapped"),
        (
            _place_by(lambda n, h, w: (n // h, n % h)),
            "you divide by the height: a row is as long as the map is wide",
        ),
        (
            _place_by(lambda n, h, w: (n // w, n % w), first=1),
            "levels are counted from 0: the finest is level 0",
        ),
        (
            _place_by(lambda n, h, w: (n // w, n % w), keep=True),
            "subtract the tokens of the finer levels before you divide",
        ),
        (
            _place_by(lambda n, h, w: (n // w, n % w), late=True),
            "the first token of a level goes to the level before: use <, not <=",
        ),
    )
    for wanted, diagnosis in mistakes:
        if found == wanted:
            return wrong(diagnosis)
    token = next(t for t in truth if found[t] != truth[t])
    return wrong(
        f"token {token} of levels {SIZES} is at {truth[token]}, yours {found[token]}"
    )


def _place_by(cell: Callable, first: int = 0, keep: bool = False, late: bool = False):
    """Where a faulty function puts each token."""
    out = {}
    for token in range(sum(h * w for h, w in SIZES)):
        rest = token
        for level, (h, w) in enumerate(SIZES):
            if rest < h * w + late or level == len(SIZES) - 1:
                out[token] = (level + first, *cell(token if keep else rest, h, w))
                break
            rest -= h * w
    return out


def references(mine: Callable | None) -> Verdict:
    """Exercise 2: `mine(sizes, valid [B, L, 2])` -> `[B, S, L, 2]` (x, y).

    Where each token looks first on each level, as a share of that padded level.
    """
    torch.manual_seed(2)
    valid = 0.4 + 0.6 * torch.rand(2, len(SIZES), 2)
    value, fault = call(mine, SIZES, valid, unwritten=_unwritten)
    if fault is not None:
        return fault
    truth = _references(valid)
    if getattr(value, "shape", None) == truth.transpose(1, 2).shape:
        return wrong("the order is [B, S, L, 2]: tokens before levels")
    mistakes = (
        (_references(valid, divide=False), "you multiply, but never divide: a centre "
         "is a share of the padded map, turn it into one of the image first"),
        (_references(valid, multiply=False), "you divide, but never multiply: a share "
         "of the image is not yet one of a padded level"),
        (_references(valid, divide=False, multiply=False), "padding is not in it: "
         "this is right only where valid is 1"),
        (_references(valid, own=True), "you multiply by the share of the token's own "
         "level; take that of the level it looks at"),
        (_references(valid, inverse=True), "upside down: divide by the token's own "
         "share, multiply by the other level's"),
        (_references(valid, half=0.0), "a pixel's centre is half a pixel further"),
        (_references(valid).flip(-1), "x and y are swapped"),
        (_references(valid.flip(-1)), "valid is (x, y), too: shares of width, height"),
        (_references(valid, swap=True), "y is divided by h, x by w: sizes are (h, w)"),
        (_references(valid, by_column=True), "tokens come row by row, not by columns"),
    )  # fmt: skip
    return _compare(value, truth, mistakes, "border meets border on every level")


def _references(
    valid: Tensor,
    divide: bool = True,
    multiply: bool = True,
    own: bool = False,
    inverse: bool = False,
    half: float = 0.5,
    swap: bool = False,
    by_column: bool = False,
) -> Tensor:
    """References of all tokens, right unless told to make a mistake."""
    parts = []
    for level, (h, w) in enumerate(SIZES):
        rows, columns = torch.arange(h) + half, torch.arange(w) + half
        y, x = rows / (w if swap else h), columns / (h if swap else w)
        if by_column:
            grid = torch.cartesian_prod(x, y)
        else:
            grid = torch.cartesian_prod(y, x).flip(-1)  # [h·w, 2]
        mine = valid[:, None, level, None]  # [B, 1, 1, 2]
        others = valid[:, None]  # [B, 1, L, 2]
        if inverse:
            mine, others = 1 / mine, 1 / others
        at = grid[None, :, None].expand(len(valid), -1, len(SIZES), -1)
        at = at / mine if divide else at
        if multiply:
            at = at * (mine if own else others)
        parts.append(at)
    return torch.cat(parts, 1)


def refinement(mine: Callable | None) -> Verdict:
    """Exercise 3: `mine(reference [Q, 4], delta [Q, 4])` -> box, next reference."""
    torch.manual_seed(3)
    reference, delta = 0.1 + 0.8 * torch.rand(5, 4), torch.randn(5, 4)
    reference.requires_grad_()
    delta.requires_grad_()
    value, fault = call(mine, reference, delta, unwritten=_unwritten)
    if fault is not None:
        return fault
    if not isinstance(value, tuple | list) or len(value) != 2:
        return wrong("return two tensors: the box, and the reference of the next layer")
    box, after = value
    truth = (inverse_sigmoid(reference) + delta).sigmoid()
    mistakes = (
        (inverse_sigmoid(reference) + delta, "this is before the sigmoid: no box yet"),
        (reference + delta, "add before the sigmoid: shares may not leave [0, 1]"),
        ((reference + delta).clamp(0, 1), "clamping loses the gradient: add before the "
         "sigmoid instead"),
        ((reference + delta).sigmoid(), "the reference is a share already: undo its "
         "sigmoid before you add"),
        (reference + delta.sigmoid(), "undo the reference's sigmoid, add, sigmoid"),
        (delta.sigmoid(), "the reference is missing: the delta is a step from it"),
        ((inverse_sigmoid(reference) - delta).sigmoid(), "add the delta"),
    )  # fmt: skip
    verdict = _compare(box, truth, mistakes, "")
    if not verdict:
        return verdict
    if not box.requires_grad:
        return wrong(
            "the box itself must keep its gradient, or this layer learns nothing"
        )
    if after.shape != box.shape or not torch.allclose(after, box):
        return wrong("the next layer starts from the box that this one has found")
    if after.requires_grad:
        return wrong("detach the next reference: each layer answers for its own step")
    edge, fault = call(
        mine,
        torch.tensor([[0.0, 1.0, 0.0, 1.0]]),
        torch.tensor([[5.0, -5, 5, -5]]),
        unwritten=_unwritten,
    )
    if fault is not None:
        return fault
    if not ((edge[0] > 0) & (edge[0] < 1)).all():
        return wrong(
            "a box at the border can never leave it: its logarithm is infinite. Keep "
            "the share away from 0 and 1 first"
        )
    return right("one step from the reference, and no gradient into the layer before")


def proposals(mine: Callable | None) -> Verdict:
    """Exercise 4: `mine(logits [S, C], boxes [S, 4], usable [S], k)` -> `[<= k, 4]`.

    The k usable boxes that are surest of being any object, surest first.
    """
    torch.manual_seed(4)
    s, k = 12, 4
    logits, boxes = torch.randn(s, 3) * 2, torch.rand(s, 4)
    boxes.requires_grad_()
    usable = torch.arange(s) % 3 != 0
    logits[0, 0], logits[3, 1], logits[5, 2] = 9.0, 8.0, 7.0
    logits[5, 1] = 6.5  # one token that is sure of two classes
    value, fault = call(mine, logits, boxes, usable, k, unwritten=_unwritten)
    if fault is not None:
        return fault
    if not isinstance(value, Tensor) or value.ndim != 2 or value.shape[-1] != 4:
        return wrong("return boxes [k, 4]")
    score = logits[:, 0].masked_fill(~usable, -torch.inf)
    truth = boxes[score.topk(k).indices]
    verdict = _compare(
        value, truth, _proposal_mistakes(logits, boxes, usable, k, truth), ""
    )
    if not verdict:
        return verdict
    if value.requires_grad:
        return wrong("detach the boxes: proposals have a loss of their own")
    few = torch.arange(s) < 2
    left, fault = call(mine, logits, boxes, few, k, unwritten=_unwritten)
    if fault is not None:
        return fault
    if len(left) != 2:
        return wrong(f"2 tokens are usable, k is {k}: give 2 boxes, not {len(left)}")
    short, fault = call(
        mine, logits[:3], boxes[:3], usable[:3], k, unwritten=_unwritten
    )
    if fault is not None:
        return wrong(f"3 tokens and k = {k}: {fault.message}")
    if len(short) != 2:
        return wrong(f"3 tokens, 2 of them usable: give 2 boxes, not {len(short)}")
    return right("the surest boxes, whatever they hold")


def _proposal_mistakes(
    logits: Tensor, boxes: Tensor, usable: Tensor, k: int, truth: Tensor
) -> tuple:
    score = logits[:, 0].masked_fill(~usable, -torch.inf)
    best = logits.amax(-1).masked_fill(~usable, -torch.inf)
    last = logits[:, -1].masked_fill(~usable, -torch.inf)
    low = logits[:, 0].masked_fill(~usable, torch.inf)
    flat = logits.masked_fill(~usable[:, None], -torch.inf).flatten().topk(k).indices
    unsorted = boxes[score.topk(k).indices.sort().values]
    shifted = usable.nonzero()[:, 0]
    return (
        (unsorted, "the surest comes first: do not put them back into order"),
        (boxes[logits[:, 0].topk(k).indices], "some of these tokens are not usable"),
        (boxes[best.topk(k).indices], "any object is of class 0 in this stage: the "
         "other columns were never taught"),
        (boxes[logits.amax(-1).topk(k).indices], "take column 0, of usable tokens"),
        (boxes[last.topk(k).indices], "the column is 0, not the last"),
        (boxes[low.topk(k, largest=False).indices], "these are the least sure"),
        (boxes[flat // logits.shape[1]], "rank tokens, not tokens × classes"),
        (boxes[logits[shifted, 0].topk(k).indices], "these numbers count usable tokens "
         "only: they do not fit the full list of boxes"),
    )  # fmt: skip


def _unwritten(value: object) -> bool:
    return value is None or (isinstance(value, tuple) and None in value[:1])


def _compare(value: object, truth: Tensor, mistakes: tuple, praise: str) -> Verdict:
    if not isinstance(value, Tensor):
        return wrong(f"a tensor is wanted, yours is a {type(value).__name__}")
    if value.shape != truth.shape:
        return wrong(f"shape {list(value.shape)}, expected {list(truth.shape)}")
    if torch.allclose(value, truth, atol=1e-4):
        return right(praise)
    for number, diagnosis in mistakes:
        if number.shape == value.shape and torch.allclose(value, number, atol=1e-4):
            return wrong(diagnosis)
    return wrong("the numbers differ, and not by a mistake I know: try it on one token")
