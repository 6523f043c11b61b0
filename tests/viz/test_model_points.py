"""Points of a model at work: the ones it read, in the picture without its padding."""

import numpy as np
import pytest
import torch
from small import small_deformable_config, small_detr

from detr_steps import DeformableDETRConfig, viz
from detr_steps.data.scenes import Scenes
from detr_steps.images import ImageBatch
from detr_steps.nn.deform_attention import star


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = small_deformable_config(classes=6, refine=True)
    model = config.build()
    for name, value in model.named_parameters():
        if "offsets.weight" in name:  # or all queries look at the same star
            torch.nn.init.normal_(value, std=0.05)
    return model.train()


@pytest.fixture(scope="module")
def scene():
    return Scenes("val").draw([7])


def test_queries_are_shown_where_they_read(model, scene):
    figure = viz.decoder_points(model, scene)
    with torch.no_grad():
        trace = model.eval()(scene.images, trace=True).trace
    model.train()
    locations = torch.cat([each.locations for each in trace.decoder_cross])
    assert np.allclose(figure.arrays["locations"], locations, atol=2e-3)
    centres = torch.cat([each[..., :2] for each in trace.references])
    assert np.allclose(figure.arrays["references"][:, :, 1], centres, atol=2e-3)
    assert figure.notes["frames"] == ["1", "2", "3"]
    assert len(figure.arrays["truth"]) == len(scene.targets[0]["boxes"])
    assert (figure.arrays["matched"] >= 0).any()


def test_the_model_is_left_as_it_was(model, scene):
    viz.decoder_points(model, scene)
    assert model.training


def test_padding_is_cut_off(model, scene):
    """Beside a larger image: the model's own points, as shares of the picture."""
    pixels = scene.images.pixels[0, :, :120, :100]
    both = ImageBatch.from_list([torch.zeros(3, 160, 192), pixels])
    figure = viz.decoder_points(model, both, image=1)
    with torch.no_grad():
        trace = model.eval()(both, trace=True).trace
    model.train()
    assert figure.picture.shape == (120, 100, 3) and "matched" not in figure.arrays
    assert figure.notes["levels"] == [[30, 25], [15, 13], [8, 7]]  # ⌈120 / 4⌉ …
    shares = torch.tensor([[25 / 48, 30 / 40], [13 / 24, 15 / 20], [7 / 12, 8 / 10]])
    own = [each.locations[1] / shares[:, None] for each in trace.decoder_cross]
    assert np.allclose(figure.arrays["locations"], torch.stack(own), atol=2e-3)
    asked = viz.encoder_points(model, both, viz.Pixels(2, corner=(6, 5)), image=1)
    assert asked.arrays["weights"].shape[1] == 4  # 2 × 2, up to the picture's border
    token = 40 * 48 + 20 * 24 + 6 * 12 + 5
    own = trace.encoder[-1].weights[1, token]
    assert np.allclose(asked.arrays["weights"][-1, 0], own, atol=1e-3)


def test_pixels_of_a_level_are_shown_where_they_read(model, scene):
    figure = viz.encoder_points(model, scene, 2)
    with torch.no_grad():
        trace = model.eval()(scene.images, trace=True).trace
    first = sum(h * w for h, w in trace.sizes[:2])
    assert trace.sizes[2] == (8, 8) and figure.arrays["weights"].shape[:2] == (2, 64)
    expected = trace.encoder[-1].weights[0, first : first + 64]
    assert np.allclose(figure.arrays["weights"][-1], expected, atol=1e-3)
    assert np.allclose(figure.arrays["boxes"][0, 0], [1 / 16, 1 / 16, 1 / 8, 1 / 8])
    few = viz.encoder_points(model, scene, viz.Pixels(1, max_pixels=20))
    assert few.arrays["weights"].shape[1] == 16  # every fourth row and column of 16
    assert np.allclose(few.arrays["references"][0, 0, 0], 2.5 / 16, atol=1e-3)


def test_a_square_of_pixels_has_all_its_neighbours(model, scene):
    square, words = viz.Pixels(1, 9, corner=(4, 6)), viz.Words(caption="see")
    figure = viz.encoder_points(model, scene, square, words=words)
    at = figure.arrays["references"][0, :, 0] * 16
    rows, columns = [4.5, 5.5, 6.5], [6.5, 7.5, 8.5]
    assert np.allclose(at, [[x, y] for y in rows for x in columns], atol=1e-2)
    assert figure.notes["cells"] and figure.caption == "see"
    start = figure.notes["start"]
    x, y = figure.arrays["locations"][start["frame"], start["item"]].reshape(-1, 2)[
        start["point"]
    ]
    assert 0 <= x <= 1 and 0 <= y <= 1
    assert "cells" not in viz.encoder_points(model, scene, 2).notes
    edge = viz.encoder_points(model, scene, viz.Pixels(1, 9, corner=(15, 14)))
    assert edge.arrays["weights"].shape[1] == 2  # cut at the map's border
    with pytest.raises(ValueError, match="corner"):
        viz.encoder_points(model, scene, viz.Pixels(1, corner=(16, 0)))


def test_what_reads_no_points_is_refused(model, scene):
    with pytest.raises(TypeError, match="decoder_attention"):
        viz.decoder_points(small_detr(classes=6), scene)
    with pytest.raises(ValueError, match="level 3 of 3"):
        viz.encoder_points(model, scene, 3)
    with pytest.raises(ValueError, match="image 1 of a batch of 1"):
        viz.decoder_points(model, scene, image=1)
    bare = DeformableDETRConfig.tiny(encoder_layers=0).build()
    with pytest.raises(ValueError, match="no encoder layers"):
        viz.encoder_points(bare, scene, 0)


# --- since the start ------------------------------------------------------------


def test_points_stand_beside_the_star_they_began_with(model, scene):
    """From boxes, K steps end on the border; all of them weigh the same."""
    figure = viz.points_since_start(model, scene)
    trained = viz.decoder_points(model, scene)
    at, weights = figure.arrays["locations"], figure.arrays["weights"]
    assert figure.notes["frames"] == ["star", "trained"]
    assert np.allclose(at[1], trained.arrays["locations"][-1], atol=2e-3)
    with torch.no_grad():
        box = model.eval()(scene.images, trace=True).trace.references[-1][0]
    model.train()
    heads, levels, points = at.shape[2:5]
    steps = star(heads, levels, points) / (2 * points) * box[:, None, None, None, 2:]
    assert np.allclose(at[0], box[:, None, None, None, :2] + steps, atol=2e-3)
    assert np.allclose(weights[0], 1 / (levels * points), atol=1e-3)
    assert np.allclose(weights[1], trained.arrays["weights"][-1], atol=1e-3)


def test_from_points_the_star_counts_pixels(scene):
    torch.manual_seed(0)
    model = small_deformable_config(classes=6, refine=False).build()
    figure = viz.points_since_start(model, scene, max_queries=3, query=2)
    at = torch.tensor(figure.arrays["locations"], dtype=torch.float32)
    assert at.shape[1] == 3 and torch.allclose(at[0], at[1], atol=2e-3)  # untrained
    middle = torch.tensor(figure.arrays["references"], dtype=torch.float32)[0, :, 0]
    wide = torch.tensor([(w, h) for h, w in figure.notes["levels"]])[:, None]  # [L, 1]
    moved = (at[0] - middle[:, None, None, None]) * wide
    assert torch.allclose(moved, star(*at.shape[2:5]).expand_as(moved), atol=0.1)


def test_a_model_that_samples_no_points_has_no_star(scene):
    with pytest.raises(TypeError, match="samples no points"):
        viz.points_since_start(small_detr(classes=6), scene)
