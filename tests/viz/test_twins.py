"""Pictures of the twin game: what they show is what was given."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from detr_steps.data.twins import TwinGame
from detr_steps.viz.chapters.twins import (
    FRAME,
    PAINTS,
    board,
    board_picture,
    by_distance,
    reach,
    weights_on_map,
)


@pytest.fixture
def boards():
    yield TwinGame().deal(40, torch.Generator().manual_seed(0))
    plt.close("all")


def test_board_frames_the_asker_and_its_twin(boards):
    asker = int((boards.twin[0] >= 0).nonzero()[0])
    ax = board(boards, 0, asker=asker)
    frames = [(round(p.get_x() + 0.47), round(p.get_y() + 0.47)) for p in ax.patches]
    twin = int(boards.twin[0, asker])
    assert frames == [(cell % 8, cell // 8) for cell in (asker, twin)]
    assert len(ax.collections) == 16


def test_an_empty_cell_has_no_second_frame(boards):
    empty = int((boards.twin[0] < 0).nonzero()[0])
    assert len(board(boards, 0, asker=empty).patches) == 1


def test_twins_share_a_letter(boards):
    ax = board(boards, 1)
    letter = {tuple(t.get_position()): t.get_text() for t in ax.texts}
    at = {(round(x), round(y)): name for (x, y), name in letter.items()}
    assert len(at) == 16 and len(set(at.values())) == 8
    for cell in (boards.twin[1] >= 0).nonzero().flatten().tolist():
        twin = int(boards.twin[1, cell])
        assert at[cell % 8, cell // 8] == at[twin % 8, twin // 8]


def test_the_picture_of_a_board_lies_on_the_cells(boards):
    drawn = board_picture(boards, 2, cell=40)
    assert drawn.dtype == np.uint8 and drawn.shape == (6 * 40, 8 * 40, 3)
    inner = drawn.reshape(6, 40, 8, 40, 3)[:, 6:34, :, 6:34].max((1, 3, 4)).flatten()
    there = boards.shape[2].numpy() >= 0
    assert inner[there].min() > 200 > 100 > inner[~there].max()
    assert not plt.get_fignums()


def test_shares_by_distance(boards):
    near = (boards.distance <= 2)[None]
    shares = by_distance(boards, near)
    assert shares.shape == (1, int(boards.distance.max()))
    assert (shares[0, :2] == 1).all() and (shares[0, 2:] == 0).all()


def test_reach_draws_a_curve_for_each_player(boards):
    right = {"all": boards.twin[None] >= 0, "none": boards.twin[None] < -1}
    curves = reach(boards, right).lines
    assert [set(line.get_ydata()) for line in curves[:2]] == [{1.0}, {0.0}]


def test_curves_that_coincide_are_both_seen(boards):
    right = {name: boards.twin[None] >= 0 for name in "abc"}
    curves = reach(boards, right).lines[:3]
    assert len({line.get_linestyle() for line in curves}) == 3


def test_reach_of_another_answer_names_it_and_its_guess(boards):
    ax = plt.subplots()[1]
    reach(boards, {"all": boards.twin[None] >= 0}, ax, "columns", 0.125)
    assert ax.get_ylabel() == "share of right columns"
    assert set(ax.lines[-1].get_ydata()) == {0.125}


def test_paints_are_told_apart():
    assert len(set(PAINTS)) == 8 and FRAME not in PAINTS


def test_weights_are_written_where_they_are():
    ax = plt.subplots()[1]
    weights = torch.zeros(5, 7)
    weights[3, 5] = 0.5
    weights_on_map(ax, weights, "red?", 3.0, {(3, 5): ("red", "s")})
    assert [t.get_position() for t in ax.texts] == [(5, 3)]
    assert ax.collections[0].get_offsets().tolist() == [[5, 3]]  # x, y
    assert ax.get_xlabel() == "reads column 3"
    plt.close("all")
