"""Both classifiers, number by number, against the formulas of the papers."""

import math

import pytest
import torch
from torch.nn import functional

from detr_steps.objective.classification import Focal, Softmax
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
FOCAL = Focal(alpha=0.3, gamma=1.5)  # not the defaults: both must be used


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
    padded = pad_targets(TARGETS, CLASSES, "cpu")
    found = FOCAL.loss(logits, padded, MATCHED)
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
    labels = pad_targets(TARGETS, CLASSES, "cpu").labels
    found = FOCAL.cost(logits, labels)
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
    found = Focal().cost(logits, torch.zeros(1, 1, dtype=int))
    assert found.isfinite().all() and found[0, 0, 0] > 4 and found[0, 0, 1] < -10


def test_easy_noes_weigh_nothing():
    """300 queries that say no with 99.9 %: less than a thousandth of cross-entropy."""
    logits = torch.full((1, 1, 300, 91), -math.log(999.0))
    padded = pad_targets([TARGETS[1]], 91, "cpu")
    found = Focal().loss(logits, padded, torch.zeros(1, 1, 0).long())
    assert found < 1e-3 * -math.log(0.999) * 300 * 91


def test_no_objects_give_a_finite_loss_on_the_graph(logits):
    logits.requires_grad_()
    padded = pad_targets([TARGETS[1]] * 2, CLASSES, "cpu")
    found = FOCAL.loss(logits, padded, torch.full((2, 2, 0), -1))
    found.sum().backward()
    assert found.isfinite().all() and (logits.grad > 0).all()


def test_gradients(logits):
    padded = pad_targets(TARGETS, CLASSES, "cpu")
    assert torch.autograd.gradcheck(
        lambda x: Focal().loss(x, padded, MATCHED),
        logits.requires_grad_(),
    )


def test_an_object_without_a_query_teaches_nothing(logits):
    padded = pad_targets(TARGETS, CLASSES, "cpu")
    lonely = MATCHED.clone()
    lonely[..., 1] = -1
    more = FOCAL.loss(logits, padded, MATCHED)
    less = FOCAL.loss(logits, padded, lonely)
    for layer in range(2):
        logit = logits[layer, 0, MATCHED[layer, 0, 1], 0].item()
        change = focal(logit, True, 0.3, 1.5) - focal(logit, False, 0.3, 1.5)
        assert (more - less)[layer].item() == pytest.approx(change / 2)


# --- softmax ---------------------------------------------------------------


def softmax_logits() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 4, CLASSES + 1, generator=generator)


def test_class_loss_is_torchs_weighted_mean():
    """The normaliser is the sum of weights, neither the queries nor the objects."""
    logits = softmax_logits()
    found = Softmax().loss(logits, pad_targets(TARGETS, CLASSES, "cpu"), MATCHED)
    weight = torch.tensor([1.0, 1.0, 1.0, 0.1])
    for layer in range(2):
        wanted = torch.full((2, 4), CLASSES)
        wanted[0, MATCHED[layer, 0]] = TARGETS[0]["labels"]
        expected = functional.cross_entropy(
            logits[layer].flatten(0, 1), wanted.flatten(), weight
        )
        assert torch.allclose(found[layer], expected)
        summed = functional.cross_entropy(
            logits[layer].flatten(0, 1), wanted.flatten(), weight, reduction="sum"
        )
        assert not torch.allclose(found[layer], summed / 2)  # by objects
        assert not torch.allclose(found[layer], summed / 8)  # by queries


def test_weight_of_no_object_is_exact_in_double_precision():
    """0.1 in float32 is wrong in the ninth digit."""
    logits = torch.zeros(1, 1, 4, CLASSES + 1, dtype=torch.float64)
    logits[0, 0, 1, 0] = 3.0
    padded = pad_targets(TARGETS[:1], CLASSES, "cpu")
    found = Softmax(0.1).loss(logits, padded, MATCHED[:1, :1])
    wanted = torch.tensor([3, 0, 3, 2])
    weight = torch.tensor([1.0, 1.0, 1.0, 0.1], dtype=torch.float64)
    expected = functional.cross_entropy(logits[0, 0], wanted, weight)
    assert (found[0] - expected).abs() < 1e-15


def test_class_cost_is_minus_the_probability():
    logits = torch.randn(2, 1, 3, 5)  # Y 2, B 1, Q 3, four classes and "no object"
    labels = torch.tensor([[3, 0]])
    cost = Softmax().cost(logits, labels)
    assert cost.shape == (2, 1, 3, 2)
    probability = logits.softmax(-1)
    assert torch.equal(cost[1, 0, 2, 0], -probability[1, 0, 2, 3])
    assert torch.equal(cost[0, 0, 1, 1], -probability[0, 0, 1, 0])


@pytest.mark.parametrize("kind", [Softmax(), Focal()])
def test_all_parts_of_a_classifier_agree(kind):
    """The head, the probabilities, the cost and the loss speak of the same classes."""
    head = kind.head(8, CLASSES)
    logits = head(torch.randn(2, 2, 4, 8))
    assert logits.shape[-1] == kind.outputs(CLASSES)
    probabilities = kind.probabilities(logits)
    assert probabilities.shape == (2, 2, 4, CLASSES)
    padded = pad_targets(TARGETS, CLASSES, "cpu")
    assert kind.cost(logits, padded.labels).shape == (2, 2, 4, 2)
    assert kind.loss(logits, padded, MATCHED).shape == (2,)
    found = kind.detections(logits[0], torch.rand(2, 4, 4), [(9, 9), (9, 9)])
    best = probabilities[0].flatten(1).amax(1)
    assert [round(each.scores[0].item(), 5) for each in found] == [
        round(value, 5) for value in best.tolist()
    ]
