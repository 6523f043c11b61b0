"""Refinement trained without `detach`: what the benchmark trains, and what it keeps."""

import pytest
import torch
from small import small_deformable_config

from benchmarks import undetached
from detr_steps.data.scenes import Scenes
from detr_steps.describable import to_json


def described(**changes) -> dict:
    model = to_json(small_deformable_config(**changes))
    return {"model": model, "start": {}, "recipe": {"steps": 1, "seed": 0}}


def pull_of_last_box(model) -> float:
    """Gradient that the last layer's boxes leave at the first layer's box head."""
    scene = Scenes("val").draw([3]).images
    model.train().zero_grad()
    model(scene).boxes[-1].sum().backward()
    return float(model.box_heads[0].layers[-1].bias.grad.abs().sum())


def test_boxes_carry_their_gradient_through_all_layers():
    """The gradient through the box itself, not only that through the content."""
    torch.manual_seed(0)
    model = undetached.undetached(described(classes=6, refine=True))
    usual = model.config.build()
    usual.load_state_dict(model.state_dict())
    # with `detach` box heads of earlier layers touch the last box through nothing
    assert pull_of_last_box(model) > 0.01
    usual.zero_grad()
    usual(Scenes("val").draw([3]).images).boxes[-1].sum().backward()
    found = usual.box_heads[0].layers[-1].bias.grad
    assert found is None or float(found.abs().sum()) == 0


def test_its_forward_pass_is_the_library_s():
    torch.manual_seed(0)
    model = undetached.undetached(described(classes=6, refine=True)).eval()
    usual = model.config.build().eval()
    usual.load_state_dict(model.state_dict())
    scene = Scenes("val").draw([3]).images
    with torch.no_grad():
        assert torch.equal(model(scene).boxes, usual(scene).boxes)


def test_a_model_that_refines_nothing_is_refused():
    with pytest.raises(ValueError, match="does not refine boxes"):
        undetached.undetached(described(classes=6, refine=False))


def test_what_is_kept_of_a_record():
    record = [{"step": 50, "total": 3.00004}, {"step": 100, "AP": 0.25, "epoch": 1}]
    found = undetached.curves(record)
    assert found["total"] == [[50, 3.0]] and found["AP"] == [[100, 0.25]]
