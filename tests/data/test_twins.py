"""The twin game: two of each colour, and answers that are true."""

import pytest
import torch

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
