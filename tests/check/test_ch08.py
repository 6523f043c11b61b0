"""The exercises' checks: right answers pass, each known mistake gets its diagnosis."""

import pytest
import torch

from detr_steps.check import ch08
from detr_steps.nn.references import (
    inverse_sigmoid,
    on_levels,
    refine_boxes,
    token_centres,
)


def find(token, sizes, swap=False, by=1, first=0, keep=False, late=False, corner=0):
    rest = token
    for level, size in enumerate(sizes):
        cells = size[0] * size[1]
        if rest < cells + late or level == len(sizes) - 1:
            row, column = divmod(token if keep else rest, size[by])
            row, column = row + corner, column + corner
            pair = (column, row) if swap else (row, column)
            return (level + first, *pair)
        rest -= cells


PLACES = {
    "swapped": {"swap": True},
    "divide by the height": {"by": 0},
    "counted from 0": {"first": 1},
    "subtract": {"keep": True},
    "not <=": {"late": True},
    "are counted from 0": {"corner": 1},
}


@pytest.mark.parametrize("says", PLACES)
def test_wrong_places(says):
    verdict = ch08.place(lambda *a: find(*a, **PLACES[says]))
    assert not verdict and says in verdict.message, verdict


def test_right_place():
    assert ch08.place(find)
    assert ch08.place(lambda *a: torch.tensor(find(*a)))
    assert "not yet" in ch08.place(None).message
    assert "not yet" in ch08.place(lambda *a: None).message
    assert "three whole numbers" in ch08.place(lambda *a: (1, 2)).message
    assert "three whole numbers" in ch08.place(lambda *a: 7).message
    assert (
        "is at (0, 0, 0), yours (9, 9, 9)" in ch08.place(lambda *a: (9, 9, 9)).message
    )


def library(sizes, valid):
    return on_levels(token_centres(sizes, valid), valid)


def centres(sizes, valid, half=0.5, swap=False):
    parts = []
    for h, w in sizes:
        y, x = torch.meshgrid(
            torch.arange(h) + half, torch.arange(w) + half, indexing="ij"
        )
        size = (h, w) if swap else (w, h)
        parts.append(torch.stack((x / size[0], y / size[1]), -1).flatten(0, 1))
    return torch.cat(parts).expand(len(valid), -1, -1)


def own(sizes, valid):
    counts = torch.tensor([h * w for h, w in sizes])
    return valid.repeat_interleave(counts, 1)[:, :, None]  # [B, S, 1, 2]


def padded(sizes, valid, **mistake):
    return centres(sizes, valid, **mistake)[:, :, None] / own(sizes, valid)


REFERENCES = {
    "never divide": lambda s, v: centres(s, v)[:, :, None] * v[:, None],
    "never multiply": lambda s, v: padded(s, v).expand(-1, -1, 3, -1),
    "padding is not in it": lambda s, v: centres(s, v)[:, :, None].expand(-1, -1, 3, 2),
    "token's own level": lambda s, v: (padded(s, v) * own(s, v)).expand(-1, -1, 3, 2),
    "half a pixel": lambda s, v: padded(s, v, half=0.0) * v[:, None],
    "x and y": lambda s, v: library(s, v).flip(-1),
    "valid is (x, y)": lambda s, v: library(s, v.flip(-1)),
    "sizes are (h, w)": lambda s, v: padded(s, v, swap=True) * v[:, None],
    "upside down": lambda s, v: library(s, 1 / v),
    "tokens before levels": lambda s, v: library(s, v).transpose(1, 2),
    "expected": lambda s, v: token_centres(s, v),
    "not by a mistake I know": lambda s, v: library(s, v) ** 2,
    "a tensor is wanted": lambda s, v: 7,
    "not yet": lambda s, v: None,
}


@pytest.mark.parametrize("says", REFERENCES)
def test_wrong_references(says):
    verdict = ch08.references(REFERENCES[says])
    assert not verdict and says in verdict.message, verdict


def test_right_references():
    assert ch08.references(library)


def step(reference, delta):
    box = refine_boxes(reference, delta)
    return box, box.detach()


def both(box):
    return box, box.detach()


STEPS = {
    "before the sigmoid: no box": lambda r, d: both(inverse_sigmoid(r) + d),
    "may not leave": lambda r, d: both(r + d),
    "clamping": lambda r, d: both((r + d).clamp(0, 1)),
    "a share already": lambda r, d: both((r + d).sigmoid()),
    "add, sigmoid": lambda r, d: both(r + d.sigmoid()),
    "a step from it": lambda r, d: both(d.sigmoid()),
    "add the delta": lambda r, d: both(refine_boxes(r, -d)),
    "keep its gradient": lambda r, d: both(refine_boxes(r, d).detach()),
    "that this one has found": lambda r, d: (refine_boxes(r, d), r.detach()),
    "detach the next": lambda r, d: (refine_boxes(r, d), refine_boxes(r, d)),
    "never leave it": lambda r, d: both(((r / (1 - r)).log() + d).sigmoid()),
    "two tensors": lambda r, d: refine_boxes(r, d),
    "not yet": lambda r, d: (None, None),
}


@pytest.mark.parametrize("says", STEPS)
def test_wrong_steps(says):
    verdict = ch08.refinement(STEPS[says])
    assert not verdict and says in verdict.message, verdict


def test_right_step():
    assert ch08.refinement(step)

    def clamped(reference, delta):
        return both((reference.clamp(1e-3, 1 - 1e-3).logit() + delta).sigmoid())

    assert ch08.refinement(clamped)


def propose(logits, boxes, usable, k, column=0, use=True):
    score = logits[:, column]
    score = score.masked_fill(~usable, -torch.inf) if use else score
    return boxes[score.topk(min(k, int(usable.sum()))).indices].detach()


PROPOSALS = {
    "not usable": lambda *a: propose(*a, use=False),
    "not the last": lambda *a: propose(*a, column=-1),
    "class 0 in this stage": lambda logits, *a: propose(
        logits.amax(-1, keepdim=True), *a
    ),
    "column 0, of usable": lambda logits, *a: propose(
        logits.amax(-1, keepdim=True), *a, use=False
    ),
    "least sure": lambda logits, *a: propose(-logits, *a),
    "not tokens × classes": lambda logits, boxes, usable, k: boxes[
        logits.masked_fill(~usable[:, None], -9).flatten().topk(k).indices // 3
    ],
    "full list": lambda logits, boxes, usable, k: boxes[
        logits[usable][:, 0].topk(k).indices
    ],
    "surest comes first": lambda logits, boxes, usable, k: boxes[
        logits[:, 0].masked_fill(~usable, -9).topk(k).indices.sort().values
    ],
    "detach": lambda logits, boxes, usable, k: boxes[
        logits[:, 0].masked_fill(~usable, -9).topk(k).indices
    ],
    "not 4": lambda logits, boxes, usable, k: boxes[
        logits[:, 0].masked_fill(~usable, -9).topk(k).indices
    ].detach(),
    "boxes [k, 4]": lambda logits, *a: logits[:, 0],
    "IndexError": lambda logits, *a: logits[99],
    "not yet": lambda *a: None,
}


@pytest.mark.parametrize("says", PROPOSALS)
def test_wrong_proposals(says):
    verdict = ch08.proposals(PROPOSALS[says])
    assert not verdict and says in verdict.message, verdict


def test_right_proposals():
    assert ch08.proposals(propose)

    def inside(logits, boxes, usable, k):
        order = logits[usable][:, 0].argsort(descending=True)[:k]
        return boxes[usable][order].detach()

    assert ch08.proposals(inside)
