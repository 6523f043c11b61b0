"""Sampling points: shown where they are, with the weights they have."""

import numpy as np
import pytest
import torch

from detr_steps import viz

SIZES = [(32, 32), (16, 16), (8, 8), (4, 4)]


def around_a_box(f=2, q=6, m=8, k=4, seed=0):
    """Points as a trained model has them: about a box, finer levels weigh more."""
    chance = torch.Generator().manual_seed(seed)
    boxes = torch.rand(f, q, 4, generator=chance) * 0.4 + 0.2
    shape = (f, q, m, len(SIZES), k)
    angle = torch.arange(m)[:, None, None] / m * 2 * torch.pi  # a direction a head
    reach = torch.arange(1, k + 1) / k
    way = torch.stack((angle.cos() * reach, angle.sin() * reach), -1)  # [M, 1, K, 2]
    noise = 0.05 * torch.randn(*shape, 2, generator=chance)
    centre, size = boxes[:, :, None, None, None, :2], boxes[:, :, None, None, None, 2:]
    locations = centre + (0.6 * way + noise) * size
    scores = (
        torch.randn(shape, generator=chance) + torch.tensor([2.0, 1, 0, -1])[:, None]
    )
    weights = scores.flatten(3).softmax(-1).view(shape)
    references = boxes[:, :, None, :2].expand(f, q, len(SIZES), 2)
    return references, locations, weights, boxes


@pytest.fixture(scope="module")
def data():
    return around_a_box()


RGB = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(0))


def show(data, answers=None, words=None, **more):
    references, locations, weights = data[:3]
    points = (locations, weights)
    return viz.sampling_points(points, references, SIZES, RGB, answers, words, **more)


def test_points_and_weights_are_as_given(data):
    references, locations, weights, boxes = data
    figure = show(data, viz.Answers(boxes))
    assert np.allclose(figure.arrays["locations"], locations, atol=1e-3)
    assert np.allclose(figure.arrays["weights"], weights, atol=1e-3)
    assert np.allclose(figure.arrays["references"], references, atol=1e-3)
    assert figure.notes["levels"] == [[32, 32], [16, 16], [8, 8], [4, 4]]
    assert figure.notes["start"] == {"frame": 1, "item": 0, "head": -1}
    share = weights[1, 0, :, 0].sum() / weights[1, 0].sum()
    assert f"weight by level {share:.0%} of 32 × 32" in figure.summary
    outside = ((locations[1, 0] < 0) | (locations[1, 0] > 1)).any(-1).sum()
    assert f"{outside} of 128 points lie outside" in figure.summary


def test_one_frame_needs_no_dimension_for_it(data):
    *parts, boxes = (x[0] for x in data)
    figure = show(parts, viz.Answers(boxes))
    assert figure.arrays["locations"].shape == (1, 6, 8, 4, 4, 2)
    assert figure.arrays["boxes"].shape == (1, 6, 4)


def test_an_encoder_has_pixels_where_a_decoder_has_queries(data):
    figure = show(data, words=viz.Words(item="pixel"))
    assert figure.notes["item_name"] == "pixel"
    assert figure.summary.startswith("6 pixels, each with 8 heads")
    assert "Pixel 0 in layer 2" in figure.summary and "quer" not in figure.summary


def test_taps_of_a_kernel_have_names_and_no_weights():
    references, locations, *_ = around_a_box(m=9, k=9)
    caption = "A dot is where a number is read."
    words = viz.Words(caption=caption, item="cell", head="tap", point="place")
    figure = show((references, locations, None), words=words)
    assert figure.notes["even"] and figure.bundle["caption"] == caption
    assert figure.summary.startswith("6 cells, each with 9 taps × 4 levels × 9 places")
    assert "weight" not in figure.summary and "head" not in figure.summary
    weights = figure.arrays["weights"]
    assert weights.shape == (2, 6, 9, 4, 9) and np.ptp(weights) == 0


def test_reference_boxes_count_with_their_centre(data):
    references, locations, weights, boxes = data
    whole = boxes[:, :, None].expand(2, 6, 4, 4)
    figure = show((whole, locations, weights))
    assert np.allclose(figure.arrays["references"], references, atol=1e-3)


def test_the_surest_queries_stay_when_there_are_too_many(data):
    scores = torch.tensor([0.1, 0.9, 0.3, 0.8, 0.2, 0.4]).expand(2, 6)
    answers = viz.Answers(scores=scores, labels=torch.zeros(2, 6))
    figure = show(data, answers, max_queries=2)
    assert figure.notes["items"] == [1, 3] and figure.notes["start"]["item"] == 0
    assert np.allclose(figure.arrays["locations"], data[1][:, [1, 3]], atol=1e-3)
    figure = show(around_a_box(f=6, q=300))
    assert 100 < figure.arrays["weights"].shape[1] < 300
    assert figure.size < 1_500_000


def test_far_away_points_stay_finite(data):
    locations = data[1].clone()
    locations[0, 0, 0, 0, 0] = 1e6
    figure = show((data[0], locations, data[2]))
    assert figure.arrays["locations"].max() == 1000


def test_faults_are_named(data):
    references, locations, weights, boxes = data
    nan = weights * torch.nan
    for parts, sizes, fault in [
        (
            (references, locations, weights[..., :3]),
            SIZES,
            "has 3 along K",
        ),
        ((references[:, :5], locations, weights), SIZES, "has 6 along Q where 5"),
        ((references, locations, weights), SIZES[:3], "3 sizes for 4 levels"),
        ((references, locations, -weights), SIZES, "negative"),
        ((references, locations, nan), SIZES, "NaN"),
        ((references, locations[0, 0], weights), SIZES, "has shape"),
    ]:
        with pytest.raises(ValueError, match=fault):
            viz.sampling_points(parts[1:], parts[0], sizes, RGB)
    with pytest.raises(ValueError, match="1 names of frames"):
        show(data, words=viz.Words(frames=["x"]))
    with pytest.raises(ValueError, match="boxes .* has 5 along Q"):
        show(data, viz.Answers(boxes[:, :5]))
    with pytest.raises(ValueError, match="max_queries=0"):
        show(data, max_queries=0)
