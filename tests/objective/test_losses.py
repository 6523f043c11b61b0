"""The set loss, term by term, against a direct reading of the paper."""

import pytest
import torch

from detr_steps import boxes as box_ops
from detr_steps.objective import losses
from detr_steps.objective.classification import Softmax
from detr_steps.objective.matching import pad_targets

CLASSES = 3
TARGETS = [
    {
        "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.4, 0.2]]),
        "labels": torch.tensor([2, 0]),
    },
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]
MATCHED = torch.tensor([[[3, 1], [-1, -1]], [[0, 2], [-1, -1]]])  # [Y, B, N]


@pytest.fixture
def predictions():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 2, 4, CLASSES + 1, generator=generator)
    boxes = torch.rand(2, 2, 4, 4, generator=generator) * 0.4 + 0.3
    return logits.requires_grad_(), boxes.requires_grad_()


def test_box_losses_by_hand(predictions):
    _, boxes = predictions
    distance, overlap = losses.box_losses(
        boxes, pad_targets(TARGETS, CLASSES, "cpu"), MATCHED
    )
    for layer in range(2):
        mine, theirs = boxes[layer, 0, MATCHED[layer, 0]], TARGETS[0]["boxes"]
        expected = (mine - theirs).abs().sum() / 2
        assert torch.allclose(distance[layer], expected)
        giou = box_ops.giou(
            box_ops.cxcywh_to_xyxy(mine), box_ops.cxcywh_to_xyxy(theirs)
        )
        assert torch.allclose(overlap[layer], (1 - giou.diag()).sum() / 2)


def test_only_matched_boxes_learn(predictions):
    _, boxes = predictions
    padded = pad_targets(TARGETS, CLASSES, "cpu")
    sum(x.sum() for x in losses.box_losses(boxes, padded, MATCHED)).backward()
    moved = (boxes.grad != 0).any(-1)  # [Y, B, Q]
    assert moved[0, 0].tolist() == [False, True, False, True]
    assert moved[1, 0].tolist() == [True, False, True, False]
    assert not moved[:, 1].any()


def test_empty_targets_give_a_finite_loss_on_the_graph(predictions):
    logits, boxes = predictions
    padded = pad_targets([TARGETS[1]] * 2, CLASSES, "cpu")
    matched = torch.full((2, 2, 0), -1)
    distance, overlap = losses.box_losses(boxes, padded, matched)
    assert distance.tolist() == overlap.tolist() == [0, 0]
    surprise = Softmax().loss(logits, padded, matched)
    (distance + overlap + surprise).sum().backward()
    assert boxes.grad is not None and (boxes.grad == 0).all()
    assert logits.grad.isfinite().all() and (logits.grad != 0).any()


def test_boxes_are_divided_by_the_objects_of_the_whole_batch(predictions):
    """An image more without objects changes nothing; an object more does."""
    _, boxes = predictions
    one = losses.box_losses(
        boxes[:, :1], pad_targets(TARGETS[:1], 3, "cpu"), MATCHED[:, :1]
    )
    both = losses.box_losses(boxes, pad_targets(TARGETS, 3, "cpu"), MATCHED)
    assert torch.allclose(one[0], both[0]) and torch.allclose(one[1], both[1])


def test_an_object_without_a_query_teaches_nothing(predictions):
    logits, boxes = predictions
    padded = pad_targets(TARGETS, CLASSES, "cpu")
    lonely = MATCHED.clone()
    lonely[..., 1] = -1
    distance, _ = losses.box_losses(boxes, padded, lonely)
    expected = (boxes[0, 0, 3] - TARGETS[0]["boxes"][0]).abs().sum() / 2
    assert torch.allclose(distance[0], expected)
    assert Softmax().loss(logits, padded, lonely).isfinite().all()


def test_terms_are_named_by_layer():
    terms = {"class": torch.tensor([1.0, 2.0, 3.0]), "box": torch.tensor([4.0, 5, 6])}
    named = losses.name_layers(terms)
    assert {name: value.item() for name, value in named.items()} == {
        "class_0": 1,
        "class_1": 2,
        "class": 3,
        "box_0": 4,
        "box_1": 5,
        "box": 6,
    }
