"""Checks of the exercises of chapters/09_dab_anchors.ipynb."""

import math

import torch

from ..nn.position import sine_features
from ..nn.references import refine_boxes
from .trying import Trial, exercise, numbers, same_numbers, tensors

NUMBERS = "cx", "cy", "w", "h"  # of a box
ORDER = "cy", "cx", "w", "h"  # of its code


def _channels(number, channels, order=ORDER, width=2, first=0, last=0):
    """(first, one after the last) channel, right unless told to make a mistake."""
    place, size = order.index(number), channels // width
    return place * size + first, (place + 1) * size + first + last


TWO = "return two whole numbers: the first channel, and the one after the last"
channels = exercise(__name__, "channels", """
    Check exercise 1, `mine(number, channels)` -> (first, one after the last).""",
    praise="y, x, width, height, half of the channels each",
    cases=[(number, size) for number in NUMBERS for size in (8, 32)],
    answer=_channels,
    mistakes={
        "y comes before x, as in the positions of the cells": {"order": NUMBERS},
        "the code of a box has 2 · channels in all, so each number has channels / 2":
            {"width": 4},
        "each number has channels / 2, not all of them: x and y share the first "
        "`channels`": {"width": 1},
        "the second number is the channel after the last, as in a slice":
            {"last": -1},
        "channels are counted from 0": {"first": 1},
    },
    convert=lambda value: tuple(int(number) for number in value), kind=TWO,
    before={TWO: lambda value: len(value) != 2},
    otherwise=lambda value, truth, number, channels:
        f"{number} of a code with channels={channels} is at {truth}, yours {value}",
)  # fmt: skip


def _map(
    anchor,
    h,
    w,
    half=0.5,
    turn=2 * math.pi,
    swap=0,
    temperature=20,
    add=1,
    flip=0,
    channels=16,
):
    """Products `[h, w]`, right unless told to make a mistake."""
    x, y = anchor[:2].flip(0) if swap else anchor[:2]
    rows, columns = ((torch.arange(n) + half) / n for n in (h, w))
    code = [
        sine_features(turn * a, channels, temperature) for a in (rows, columns, y, x)
    ]
    down, along = code[0] @ code[2], code[1] @ code[3]  # [h], [w]
    together = down[:, None] + along if add else down[:, None] * along
    return together.T if flip else together


positional_map = exercise(__name__, "positional_map", """
    Check exercise 2, `mine(anchor [4], h, w)` -> products of sine codes `[h, w]`.""",
    praise="the peak is at the anchor, whatever its size",
    cases=[(torch.tensor([0.3, 0.7, 0.2, 0.4]), 5, 7),
           (torch.tensor([0.9, 0.15, 0.5, 0.1]), 4, 6)],
    answer=_map,
    mistakes={
        "x and y are swapped: rows go with cy, columns with cx": {"swap": 1},
        "a cell's place is its centre: add half a cell": {"half": 0.0},
        "positions count from 1 here: a cell's place is its centre, half a cell before":
            {"half": 1.0},
        "shares become angles first: times 2π": {"turn": 1.0},
        "half a turn is missing: the picture is 2π wide": {"turn": math.pi},
        "the temperature is 20": {"temperature": 10_000},
        "rows and columns add up: y and x have channels of their own": {"add": 0},
        "the map is [h, w]: rows first": {"flip": 1},
        "32 channels in all: 16 for each axis":
            [{"channels": 32}, {"result": lambda right: right / 2}],
        "the products as they are, no softmax yet":
            {"result": lambda right: right.flatten().softmax(0).view_as(right)},
        "the products as they are: nothing is divided here":
            {"result": lambda right: right / math.sqrt(32)},
    },
    shape="[h, w] = {}", unit="cell",
)  # fmt: skip


def _step(anchor, below, reported, moved):
    return refine_boxes(below, reported, 1e-3)


def _next(anchor, below, reported, moved):
    return refine_boxes(anchor, moved, 1e-3)


START = 0.1 + 0.8 * numbers(5, 4)
BELOW = START.clone().requires_grad_()
HEADS = [(numbers(n, 5, 4)[0] - 0.5).requires_grad_() for n in (2, 3)]
NOT_NEXT = "the next anchor is a step from this anchor, with `moved`"
BORDER = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
step = exercise(__name__, "step", """
    Check exercise 3, `mine(anchor, below, reported, moved)`, `[Q, 4]` each.

    Returns this layer's box, the next layer's anchor, the next layer's `below`.
    Source: Liu et al. 2022, section 4.2; official code.""",
    praise="each step is taught by its own layer and by the next one, no further",
    cases=[(START, BELOW, *HEADS)], answer=_step,
    mistakes={
        "`reported` is the step of this layer's box, `moved` that of the anchor":
            lambda anchor, below, reported, moved: _step(anchor, below, moved, moved),
        "add before the sigmoid: shares may not leave [0, 1]":
            lambda anchor, below, reported, moved: below + reported,
        "undo the sigmoid of the anchor before you add":
            lambda anchor, below, reported, moved: (below + reported).sigmoid(),
        "the box is missing its anchor: the number is a step from it":
            lambda anchor, below, reported, moved: reported.sigmoid(),
    },
    after={
        NOT_NEXT:
            lambda value: not same_numbers(value[1], _next(START, 0, 0, HEADS[1])),
        "`below` has the same numbers as the next anchor":
            lambda value: not same_numbers(value[1], value[2]),
        "the box is a step from `below`, not from the anchor: else the layer before "
        "hears nothing of it": lambda value: not _reaches(value[0], BELOW),
        "detach the next anchor: attention must not move it":
            lambda value: value[1].requires_grad,
        "the next `below` needs its gradient: this layer's step should hear of the "
        "next box": lambda value: not value[2].requires_grad,
        "the next `below` starts from the anchor, which has no gradient: else the loss "
        "would reach all layers before": lambda value: _reaches(value[2], BELOW),
    },
    convert=tensors(3), part=0, unit="box",
    kind="return three tensors: the box, the next anchor, the next `below`",
    then=[Trial(
        [(BORDER, BORDER, torch.zeros(1, 4), torch.zeros(1, 4))],
        before={
            "at the border the logarithm is infinite: keep shares 0.001 away from 0 "
            "and 1 first": lambda value: not (
                (value[0] > 0.0009) & (value[0] < 0.9991)).all(),
            "0.001 is the distance kept from the border, nothing else":
                lambda value: not same_numbers(value[0], BORDER.clamp(1e-3, 1 - 1e-3)),
        },
        convert=tensors(3), when="at the border",
    )],
)  # fmt: skip


def _reaches(value, start):
    """Say whether a gradient of `value` comes to `start`."""
    if not value.requires_grad:
        return False
    return (
        torch.autograd.grad(value.sum(), start, retain_graph=True, allow_unused=True)[0]
        is not None
    )


PATTERNS, ANCHORS = numbers(3, 4), numbers(5, 4)
both = tensors(2)
patterns = exercise(__name__, "patterns", """
    Check exercise 4, `mine(patterns [P, C], anchors [Q, 4])` -> `[P·Q, C], [P·Q, 4]`.

    All anchors with the first pattern, then all with the second. Source: Liu et al.
    2022, section 4.3; official code.""",
    praise="every anchor with every pattern",
    cases=[(PATTERNS, ANCHORS)],
    answer=lambda p, a: torch.cat(
        (p.repeat_interleave(len(a), 0), a.repeat(len(p), 1)), 1),
    mistakes={
        "all anchors with the first pattern come first, not all patterns of the first "
        "anchor": lambda p, a: torch.cat(
            (p.repeat(len(a), 1), a.repeat_interleave(len(p), 0)), 1),
        "these pairs repeat: repeat one of the two as blocks, the other row by row":
            [lambda p, a: torch.cat((p.repeat(len(a), 1), a.repeat(len(p), 1)), 1),
             lambda p, a: torch.cat((p.repeat_interleave(len(a), 0),
                                     a.repeat_interleave(len(p), 0)), 1)],
    },
    before={"join the first two axes: [P·Q, ·]": lambda value: value.ndim == 3},
    convert=lambda value: torch.cat(both(value), 1),
    kind="return two tensors of P·Q rows each: contents, anchors",
    shape="contents and anchors side by side {}", unit="pair",
)  # fmt: skip
