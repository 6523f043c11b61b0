"""Initial anchors: they become what was given, or the fault is named."""

import pytest
import torch
from small import small_dab_config, small_deformable_config

from detr_steps.nn.anchors import set_anchors
from detr_steps.systems.query_sources import Anchors

BOXES = torch.tensor(
    [
        [0.5, 0.5, 1.0, 1.0],
        [0.1, 0.9, 0.01, 0.3],
        [0.95, 0.2, 0.4, 0.1],  # a corner hangs over
        [0.0, 1.0, 0.2, 0.2],
        [0.3, 0.3, 0.3, 0.3],
    ]
)


def test_a_model_starts_from_given_boxes():
    model = small_dab_config().build()
    set_anchors(model.anchors, BOXES)
    assert torch.allclose(model.anchors.weight.sigmoid(), BOXES, atol=2e-5)
    assert model.anchors.weight.requires_grad
    model = small_deformable_config(query_source=Anchors(), refine=True).build()
    set_anchors(model.queries.anchors, BOXES)
    assert torch.allclose(model.queries.anchors.weight.sigmoid(), BOXES, atol=2e-5)
    points = small_dab_config(anchor_dim=2, modulate=False).build()
    set_anchors(points.anchors, BOXES[:, :2])
    assert torch.allclose(points.anchors.weight.sigmoid(), BOXES[:, :2], atol=2e-5)


@pytest.mark.parametrize(
    ("number", "value", "words"),
    [
        (2, 0.0, r"anchor 3 \(0, 1, 0, 0.2\) has a side of no size"),
        (3, -0.1, r"anchor 3 \(0, 1, 0.2, -0.1\) has a side of no size"),
        (2, 1.5, r"one larger than the picture: give shares of the image between 0 an"),
        (0, -0.1, r"anchor 3 \(-0.1, 1, 0.2, 0.2\) has its centre outside"),
        (1, 1.1, r"has its centre outside of the picture.*not pixels or corners"),
        (0, 320.0, r"anchor 3 \(320, 1, 0.2, 0.2\) has its centre outside"),
        (3, float("nan"), r"anchor 3 \(0, 1, 0.2, nan\) is not finite"),
        (1, float("inf"), r"anchor 3 \(0, inf, 0.2, 0.2\) is not finite"),
    ],
)
def test_boxes_that_cannot_be(number, value, words):
    model = small_dab_config().build()
    before = model.anchors.weight.clone()
    boxes = BOXES.clone()
    boxes[3, number] = value
    with pytest.raises(ValueError, match=words) as error:
        set_anchors(model.anchors, boxes)
    assert "\n" not in str(error.value)
    assert torch.equal(model.anchors.weight, before)


@pytest.mark.parametrize("boxes", [BOXES[:3], BOXES[:, :2], BOXES[0]], ids=len)
def test_another_number_of_them(boxes):
    with pytest.raises(ValueError, match=r"5 anchors of 4 numbers: give \[5, 4\]"):
        set_anchors(small_dab_config().build().anchors, boxes)
