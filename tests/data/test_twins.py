"""The twin game: two of each colour, and answers that are true."""

import itertools

import pytest
import torch
from torch.nn import functional

from detr_steps.data.twins import TwinGame


def deal(boards: int = 50, seed: int = 0, **game):
    return TwinGame(**game).deal(boards, torch.Generator().manual_seed(seed))


def test_two_objects_of_each_colour():
    boards = deal()
    for colour in range(8):
        assert ((boards.colour == colour).sum(1) == 2).all()
    assert ((boards.colour >= 0) == (boards.shape >= 0)).all()
    assert ((boards.colour >= 0) == (boards.twin >= 0)).all()


def test_twins_are_each_others_and_of_one_colour():
    boards = deal()
    for b, s in (boards.twin >= 0).nonzero().tolist():
        other = int(boards.twin[b, s])
        assert other != s and boards.twin[b, other] == s
        assert boards.colour[b, other] == boards.colour[b, s]
        assert boards.twin_shape[b, s] == boards.shape[b, other]
        assert boards.twin_column[b, s] == other % 8
        down, along = abs(other // 8 - s // 8), abs(other % 8 - s % 8)
        assert boards.distance[b, s] == max(down, along)


def test_empty_cells_have_no_answer_and_no_token():
    boards = deal()
    empty = boards.colour < 0
    for field in (boards.twin_shape, boards.twin_column, boards.distance):
        assert (field[empty] == -1).all() and (field[~empty] >= 0).all()
    assert (boards.tokens[empty] == 0).all()
    assert (boards.tokens[~empty].sum(-1) == 2).all()


def test_tokens_say_colour_and_shape():
    boards = deal()
    there = boards.colour >= 0
    tokens = boards.tokens[there]
    assert (tokens[:, :8].argmax(1) == boards.colour[there]).all()
    assert (tokens[:, 8:].argmax(1) == boards.shape[there]).all()


def test_a_deal_is_a_function_of_the_seed():
    assert torch.equal(deal(seed=1).tokens, deal(seed=1).tokens)
    assert not torch.equal(deal(seed=1).tokens, deal(seed=2).tokens)


def test_too_many_objects_are_refused():
    with pytest.raises(ValueError, match="fewer colours"):
        TwinGame(rows=3, columns=5)


def test_a_channel_for_each_step_colour_and_shape_finds_the_twins_shape():
    """What chapter 01 says of convolutions: one of 11 x 15 and a ReLU, set by hand."""
    boards = deal(2)
    steps = [(i, j) for i in range(11) for j in range(15) if (i, j) != (5, 7)]
    cases = list(itertools.product(steps, range(8), range(4)))
    assert len(cases) == 5248
    kernel = torch.zeros(len(cases), 12, 11, 15)
    for unit, (there, colour, shape) in zip(kernel, cases):
        unit[colour, 5, 7] = unit[colour, *there] = unit[8 + shape, *there] = 1
    maps = boards.tokens.mT.unflatten(2, boards.size)
    bias = torch.full((len(cases),), -2.0)  # all three at once
    units = functional.conv2d(maps, kernel, bias, padding=(5, 7)).relu()
    said = units.unflatten(1, (-1, 4)).sum(1).flatten(2).argmax(1)  # [B, S]
    asked = boards.twin >= 0
    assert torch.equal(said[asked], boards.twin_shape[asked])
