"""Reading between pixels: half-pixel convention, borders, gradients, bad numbers."""

import pytest
import torch

from detr_steps.ops.sample import four_corners, sample, sample_by_hand


def centres(height: int, width: int, dtype=torch.float64) -> torch.Tensor:
    """The centre of every pixel `[1, H, W, 2]`, written with loops on purpose."""
    rows = [
        [((j + 0.5) / width, (i + 0.5) / height) for j in range(width)]
        for i in range(height)
    ]
    return torch.tensor([rows], dtype=dtype)


@pytest.fixture
def maps() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 3, 4, 6, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("read", [sample, sample_by_hand])
def test_centres_read_the_map_itself(maps, read):
    found = read(maps, centres(4, 6).expand(2, -1, -1, -1))
    assert torch.allclose(found, maps, atol=1e-12)


@pytest.mark.parametrize("read", [sample, sample_by_hand])
def test_x_comes_first(maps, read):
    place = torch.tensor([(4 + 0.5) / 6, (1 + 0.5) / 4], dtype=torch.float64)
    found = read(maps, place.expand(2, 1, 2))
    assert torch.allclose(found[..., 0], maps[:, :, 1, 4], atol=1e-12)


@pytest.mark.parametrize("read", [sample, sample_by_hand])
def test_between_four_pixels_by_hand(read):
    value = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
    place = torch.tensor([[[0.5 + 0.5, 1.25 + 0.5]]]) / 2  # pixel (0.5, 1.25) of 2 x 2
    # halfway between the columns; a quarter of a pixel below the last row is outside
    assert read(value, place).item() == pytest.approx(0.75 * (4 + 8) / 2)
    assert read(value, torch.tensor([[[0.5, 0.5]]])).item() == pytest.approx(15 / 4)


def test_both_ways_agree_everywhere(maps):
    generator = torch.Generator().manual_seed(1)
    places = torch.rand(2, 5, 7, 2, generator=generator, dtype=torch.float64)
    places = places * 2 - 0.5  # half of them outside
    one, other = sample(maps, places), sample_by_hand(maps, places)
    assert one.shape == (2, 3, 5, 7)
    assert torch.allclose(one, other, atol=1e-12)


def test_outside_is_zero(maps):
    far = torch.tensor([[-1.0, 0.5], [0.5, 2.0], [1e30, 0.5], [0.5, -1e9]])
    far = torch.cat((far, torch.tensor([[torch.inf, 0.5], [-torch.inf, torch.inf]])))
    for read in (sample, sample_by_hand):
        assert (read(maps, far.double().expand(2, -1, -1)) == 0).all()


def test_the_edge_of_the_map_is_half_there(maps):
    """On the border itself the nearest pixel's centre is half a pixel away."""
    edge = torch.tensor([[0.0, (2 + 0.5) / 4]], dtype=torch.float64)
    found = sample(maps, edge.expand(2, -1, -1))
    assert torch.allclose(found[..., 0], maps[:, :, 2, 0] / 2, atol=1e-12)


def test_shares_of_the_corners():
    index, share = four_corners(torch.tensor([[0.3, 0.6], [0.0, 0.0]]), (4, 6))
    # x = 0.3 * 6 - 0.5 = 1.3, y = 0.6 * 4 - 0.5 = 1.9
    assert index[0].tolist() == [7, 8, 13, 14]
    wanted = torch.tensor([0.7 * 0.1, 0.3 * 0.1, 0.7 * 0.9, 0.3 * 0.9])
    assert torch.allclose(share[0], wanted, atol=1e-6)
    assert share[1].tolist() == [0, 0, 0, 0.25]


@pytest.mark.parametrize("read", [sample, sample_by_hand])
def test_gradients(maps, read):
    generator = torch.Generator().manual_seed(2)
    places = torch.rand(2, 4, 2, generator=generator, dtype=torch.float64)
    value = maps[:, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(read, (value, places.requires_grad_()))


def test_one_pixel_is_a_map():
    value = torch.full((1, 1, 1, 1), 8.0)
    places = torch.tensor([[[0.5, 0.5], [1.0, 0.5], [1.0, 1.0], [1.5, 0.5]]])
    assert sample(value, places).flatten().tolist() == [8, 4, 2, 0]


@pytest.mark.parametrize("shape", [(2, 0, 2), (2, 0, 4, 2), (2, 3, 0, 2)])
def test_nowhere_to_read(maps, shape):
    places = torch.zeros(shape, dtype=torch.float64)
    assert sample(maps, places).shape == (2, 3, *shape[1:-1])


def test_a_place_that_is_no_number_reads_nan(maps):
    places = torch.tensor([[float("nan"), 0.5], [0.5, float("nan")], [0.5, 0.5]])
    found = sample(maps, places.double().expand(2, -1, -1))
    assert found[..., :2].isnan().all() and found[..., 2].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_values_are_read_at_exact_places(dtype):
    """On a map 1000 pixels wide bfloat16 places would be pixels off."""
    value = torch.arange(1000.0).remainder(7).to(dtype).view(1, 1, 1, 1000)
    places = centres(1, 1000, torch.float32)
    found = sample(value, places)
    assert found.dtype == dtype and (found - value).abs().max() < 0.05
    rounded = sample(value, places.to(torch.bfloat16))
    assert (rounded - value).abs().max() > 1  # what the rule is for


def test_single_precision_places_keep_a_double_value_double(maps):
    assert sample(maps, torch.rand(2, 1, 2)).dtype == torch.float64
