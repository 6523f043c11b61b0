"""Decoders whose points are the same for all queries."""

import pytest
import torch
from small import small_deformable_config, small_detr

from detr_steps.analysis import freeze_points
from detr_steps.data.scenes import Scenes
from detr_steps.nn.deform_attention import star


@pytest.fixture(scope="module")
def scene():
    return Scenes("val").draw([3]).images


@pytest.fixture(params=[False, True], ids=["points", "boxes"])
def model(request):
    """A model whose queries look at places and weigh them in ways of their own."""
    torch.manual_seed(0)
    model = small_deformable_config(classes=6, refine=request.param).build().eval()
    for layer in model.decoder:
        for linear in (layer.cross_attention.offsets, layer.cross_attention.weights):
            torch.nn.init.normal_(getattr(linear, "linear", linear).weight, std=0.3)
    return model


@torch.no_grad()
def seen(model, images):
    return model(images, trace=True).trace


def test_frozen_weights_are_those_given_and_offsets_stay(model, scene):
    layers = len(model.decoder)
    weights = torch.rand(layers, *model.decoder[0].cross_attention.shape) + 0.1
    frozen = seen(freeze_points(model, weights=weights), scene)
    wanted = weights / weights.sum((-1, -2), keepdim=True)
    for layer, read in enumerate(frozen.decoder_cross):
        assert torch.allclose(read.weights, wanted[layer].expand_as(read.weights))
    before = seen(model, scene).decoder_cross[0]
    assert torch.allclose(frozen.decoder_cross[0].locations, before.locations)


def test_frozen_offsets_lie_where_the_star_would(model, scene):
    stars = star(*model.decoder[0].cross_attention.shape)
    offsets = stars.expand(len(model.decoder), -1, -1, -1, -1)
    frozen = freeze_points(model, offsets=offsets)
    first = seen(frozen, scene).decoder_cross[0]
    apart = first.locations - first.locations.mean((2, 4), keepdim=True)
    assert torch.allclose(apart, apart[:, :1].expand_as(apart), atol=1e-5)
    assert torch.allclose(first.weights, seen(model, scene).decoder_cross[0].weights)


def test_its_own_numbers_change_nothing_and_the_model_is_left_alone(scene):
    torch.manual_seed(0)
    model = small_deformable_config(classes=6).build().eval()  # all queries alike
    read = seen(model, scene).decoder_cross
    stars = star(*model.decoder[0].cross_attention.shape).expand(
        len(read), -1, -1, -1, -1
    )
    weights = torch.stack([each.weights[0, 0] for each in read])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    frozen = freeze_points(model, weights, stars)
    with torch.no_grad():
        assert torch.allclose(frozen(scene).boxes, model(scene).boxes, atol=1e-6)
    after = model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in before.items())


def test_other_decoders_shapes_and_weights_are_refused(model):
    shape = (len(model.decoder), *model.decoder[0].cross_attention.shape)
    with pytest.raises(TypeError, match="samples no points"):
        freeze_points(small_detr(classes=6))
    with pytest.raises(ValueError, match="weights .* the decoder's are"):
        freeze_points(model, weights=torch.ones(shape[1:]))
    with pytest.raises(ValueError, match="offsets .* the decoder's are"):
        freeze_points(model, offsets=torch.zeros(shape))
    with pytest.raises(ValueError, match="above zero"):
        freeze_points(model, weights=torch.zeros(shape))
