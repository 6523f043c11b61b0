"""Clocks of places: their hands point where the codes say."""

import math

import matplotlib.pyplot as plt
import pytest
import torch

from detr_steps import viz
from detr_steps.nn.position import sine_features


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def test_each_hand_points_where_its_code_says():
    quarters = torch.arange(5) * math.pi / 2  # up, right, down, left, up
    codes = sine_features(quarters, 4, 4.0)  # the second hand turns half as fast
    ax, other = viz.clocks(codes, codes @ codes.T).axes
    ends = [line.get_xydata()[1] - line.get_xydata()[0] for line in ax.lines]
    points = [(round(x / 0.4, 3), round(-y / 0.4, 3)) for x, y in ends]
    assert points[:5] == [(0, 1), (1, 0), (0, -1), (-1, 0), (0, 1)]
    assert points[5] == (0, 1) and points[7] == (1, 0) and points[9] == (0, -1)
    assert len(ax.patches) == 10
    assert other.get_xlabel() == other.get_ylabel() == "place"
    texts = {text.get_position(): text.get_text() for text in other.texts}
    assert texts[0, 0] == texts[4, 4] == "2.0" and texts[2, 0] == texts[4, 2] == "-1.0"


@pytest.mark.parametrize("shapes", [((3, 3), (3, 3)), ((3, 4), (4, 4))])
def test_other_shapes_are_an_error(shapes):
    with pytest.raises(ValueError, match="even C"):
        viz.clocks(*(torch.zeros(shape) for shape in shapes))
