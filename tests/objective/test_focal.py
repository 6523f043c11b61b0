"""Focal cost and loss, number by number, against the formula of the paper."""

import math

import pytest
import torch

from detr_steps.objective.focal import (
    FocalWeights,
    focal_class_cost,
    focal_class_loss,
)
from detr_steps.objective.matching import pack

CLASSES = 3
TARGETS = [
    {
        "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.3, 0.6, 0.4, 0.2]]),
        "labels": torch.tensor([2, 0]),
    },
    {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
]
MATCHED = torch.tensor([[[3, 1], [-1, -1]], [[0, 2], [-1, -1]]])  # [Y, B, N]
WEIGHTS = FocalWeights(alpha=0.3, gamma=1.5)  # not the defaults: both must be used


@pytest.fixture
def logits() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(2, 2, 4, CLASSES, generator=generator, dtype=torch.float64)


def focal(logit: float, yes: bool, alpha: float, gamma: float) -> float:
    """Lin et al. 2017, equation 5: -α_t (1 - p_t)^γ log p_t."""
    p = 1 / (1 + math.exp(-logit))
    right, share = (p, alpha) if yes else (1 - p, 1 - alpha)
    return -share * (1 - right) ** gamma * math.log(right)


def test_loss_number_by_number(logits):
    packed = pack(TARGETS, CLASSES, "cpu")
    found = focal_class_loss(logits, packed, MATCHED, WEIGHTS)
    for layer in range(2):
        answers = {
            (0, int(query), int(label))
            for query, label in zip(MATCHED[layer, 0], TARGETS[0]["labels"])
        }
        total = sum(
            focal(logits[layer, b, q, c].item(), (b, q, c) in answers, 0.3, 1.5)
            for b in range(2)
            for q in range(4)
            for c in range(CLASSES)
        )
        assert found[layer].item() == pytest.approx(total / 2)  # two objects


def test_cost_is_the_loss_of_yes_less_that_of_no(logits):
    labels = pack(TARGETS, CLASSES, "cpu").labels
    found = focal_class_cost(logits, labels, WEIGHTS)
    assert found.shape == (2, 2, 4, 2)
    for layer, image, query, target in torch.cartesian_prod(
        *(torch.arange(n) for n in found.shape)
    ).tolist():
        logit = logits[layer, image, query, labels[image, target]].item()
        wanted = focal(logit, True, 0.3, 1.5) - focal(logit, False, 0.3, 1.5)
        assert found[layer, image, query, target].item() == pytest.approx(
            wanted, rel=1e-5
        )


def test_certain_answers_have_a_finite_cost():
    logits = torch.tensor([-1e4, 1e4]).view(1, 1, 2, 1)
    found = focal_class_cost(logits, torch.zeros(1, 1, dtype=int), FocalWeights())
    assert found.isfinite().all() and found[0, 0, 0] > 4 and found[0, 0, 1] < -10


def test_easy_noes_weigh_nothing():
    """300 queries that say no with 99.9 %: less than a thousandth of cross-entropy."""
    logits = torch.full((1, 1, 300, 91), -math.log(999.0))
    packed = pack([TARGETS[1]], 91, "cpu")
    found = focal_class_loss(
        logits, packed, torch.zeros(1, 1, 0).long(), FocalWeights()
    )
    assert found < 1e-3 * -math.log(0.999) * 300 * 91


def test_no_objects_give_a_finite_loss_on_the_graph(logits):
    logits.requires_grad_()
    packed = pack([TARGETS[1]] * 2, CLASSES, "cpu")
    found = focal_class_loss(logits, packed, torch.full((2, 2, 0), -1), WEIGHTS)
    found.sum().backward()
    assert found.isfinite().all() and (logits.grad > 0).all()


def test_slopes(logits):
    packed = pack(TARGETS, CLASSES, "cpu")
    assert torch.autograd.gradcheck(
        lambda x: focal_class_loss(x, packed, MATCHED, FocalWeights()),
        logits.requires_grad_(),
    )


def test_an_object_without_a_query_teaches_nothing(logits):
    packed = pack(TARGETS, CLASSES, "cpu")
    lonely = MATCHED.clone()
    lonely[..., 1] = -1
    more = focal_class_loss(logits, packed, MATCHED, WEIGHTS)
    less = focal_class_loss(logits, packed, lonely, WEIGHTS)
    for layer in range(2):
        logit = logits[layer, 0, MATCHED[layer, 0, 1], 0].item()
        change = focal(logit, True, 0.3, 1.5) - focal(logit, False, 0.3, 1.5)
        assert (more - less)[layer].item() == pytest.approx(change / 2)
