"""References: valid shares, centres of tokens, levels, moves."""

import pytest
import torch

from detr_steps.nn.references import (
    inverse_sigmoid,
    on_levels,
    refine_boxes,
    token_centres,
    valid_share,
)


def padding(height: int, width: int, *real: tuple[int, int]) -> torch.Tensor:
    holes = torch.ones(len(real), height, width, dtype=torch.bool)
    for index, (h, w) in enumerate(real):
        holes[index, :h, :w] = False
    return holes


def test_sigmoid_and_back():
    x = torch.linspace(-9, 9, 37, dtype=torch.float64)
    assert torch.allclose(inverse_sigmoid(x.sigmoid()), x, atol=1e-6)
    ends = inverse_sigmoid(torch.tensor([-1.0, 0.0, 1.0, 2.0]))
    assert ends.isfinite().all() and ends[0] == ends[1] == -ends[2] == -ends[3]
    assert ends[2].item() == pytest.approx(11.5129, abs=0.02)  # log 10⁵, in float32


def test_no_delta_leaves_a_box_where_it_is():
    box = torch.tensor([0.3, 0.6, 0.2, 0.1])
    assert torch.allclose(refine_boxes(box, torch.zeros(4)), box)


def test_a_point_has_no_size():
    found = refine_boxes(torch.tensor([0.3, 0.6]), torch.tensor([0.0, 0.0, -2.0, 1.0]))
    assert torch.allclose(found[:2], torch.tensor([0.3, 0.6]))
    assert torch.allclose(found[2:], torch.tensor([-2.0, 1.0]).sigmoid())


def test_boxes_stay_in_the_image():
    found = refine_boxes(
        torch.tensor([0.999, 0.001, 0.5, 0.5]), torch.tensor([9.0, -9, 99, 9])
    )
    assert (found >= 0).all() and (found <= 1).all()


def test_half_precision_deltas_give_single_precision_boxes():
    found = refine_boxes(torch.tensor([0.3, 0.6]), torch.zeros(4, dtype=torch.bfloat16))
    assert found.dtype == torch.float32


def test_valid_share_counts_along_x_and_y():
    found = valid_share(padding(4, 10, (4, 5), (1, 10)))
    assert torch.allclose(found, torch.tensor([[0.5, 1.0], [1.0, 0.25]]))
    assert valid_share(padding(3, 7, (2, 5)), torch.float64)[0, 0].item() == 5 / 7


def test_an_image_of_padding_alone_counts_one_pixel():
    assert torch.allclose(
        valid_share(padding(4, 10, (0, 0))), torch.tensor([0.1, 0.25])
    )


def test_centres_row_by_row_and_level_by_level():
    found = token_centres(((2, 3), (1, 1)), torch.ones(1, 2, 2))
    wanted = [[x / 6, y / 4] for y in (1, 3) for x in (1, 3, 5)] + [[0.5, 0.5]]
    assert torch.allclose(found[0], torch.tensor(wanted))


def test_padding_lies_beyond_the_image():
    """Half of the map is image: its centres fill [0, 1], the padding's follow."""
    valid = valid_share(padding(2, 4, (2, 2)))[:, None]  # [1, L, 2]
    found = token_centres(((2, 4),), valid).view(2, 4, 2)
    assert found[0, :, 0].tolist() == [0.25, 0.75, 1.25, 1.75]
    assert found[:, 0, 1].tolist() == [0.25, 0.75]


def test_on_levels_undoes_it():
    """A token's centre, seen from its own padded level, is its pixel's centre again."""
    holes = [padding(4, 6, (3, 4), (4, 6)), padding(2, 3, (2, 2), (2, 3))]
    valid = torch.stack([valid_share(hole) for hole in holes], 1)
    centres = token_centres(((4, 6), (2, 3)), valid)
    found = on_levels(centres, valid)  # [B, S, L, 2]
    assert found.shape == (2, 30, 2, 2)
    full = token_centres(((4, 6), (2, 3)), torch.ones(2, 2, 2))
    assert torch.allclose(found[:, :24, 0], full[:, :24], atol=1e-6)
    assert torch.allclose(found[:, 24:, 1], full[:, 24:], atol=1e-6)


def test_on_levels_scales_boxes_too():
    valid = torch.tensor([[[0.5, 0.25]]])
    found = on_levels(torch.tensor([[[0.4, 0.8, 0.2, 0.4]]]), valid)
    assert torch.allclose(found, torch.tensor([[[[0.2, 0.2, 0.1, 0.1]]]]))
