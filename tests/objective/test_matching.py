"""Matching: the cost by hand, the assignment against brute force, and bad input."""

from itertools import permutations

import pytest
import torch

from detr_steps import boxes as box_ops
from detr_steps.objective import matching
from detr_steps.objective.matching import (
    CostWeights,
    NonFiniteCost,
    assign,
    pad_targets,
)


def target(*objects: tuple[list[float], int]) -> dict:
    return {
        "boxes": torch.tensor([box for box, _ in objects]).reshape(-1, 4),
        "labels": torch.tensor([label for _, label in objects], dtype=torch.int64),
    }


BOX = [0.5, 0.5, 0.2, 0.4]


def test_padding_pads_to_the_fullest_image():
    padded = pad_targets(
        [target((BOX, 2)), target(), target((BOX, 0), (BOX, 1))], 3, "cpu"
    )
    assert padded.boxes.shape == (3, 2, 4) and padded.counts == [1, 0, 2]
    assert padded.mask.tolist() == [[True, False], [False, False], [True, True]]
    assert padded.labels[2].tolist() == [0, 1]
    assert torch.equal(padded.boxes[0, 0], torch.tensor(BOX))


def test_padding_goes_to_the_device():
    padded = pad_targets([target((BOX, 2)), target()], 3, "meta")
    for part in (padded.boxes, padded.labels, padded.mask):
        assert part.device.type == "meta"


def test_padding_without_any_object():
    padded = pad_targets([target(), target()], 3, "cpu")
    assert padded.boxes.shape == (2, 0, 4) and padded.mask.shape == (2, 0)
    # what a list of no labels turns into has no integer type: no reason to complain
    pad_targets([{"boxes": torch.zeros(0, 4), "labels": torch.tensor([])}], 3, "cpu")


@pytest.mark.parametrize(
    ("box", "label", "words"),
    [
        ([0.5, 0.5, -0.2, 0.4], 0, "swapped corners, or xyxy"),
        ([0.5, 0.5, 0.2, 0.0], 0, "not positive"),
        ([0.5, 0.5, 1.2, 0.4], 0, "leaves the image"),
        ([0.8, 0.5, 0.9, 0.4], 0, "give cxcywh"),
        ([320.0, 240.0, 50.0, 60.0], 0, "divide pixels by width and height"),
        ([float("nan"), 0.5, 0.2, 0.4], 0, "NaN or infinite"),
        ([0.5, float("inf"), 0.2, 0.4], 0, "NaN or infinite"),
        (BOX, 3, "not one of 0 … 2"),
        (BOX, -1, "not one of 0 … 2"),
    ],
)
def test_a_bad_object_is_named(box, label, words):
    targets = [target(), target((BOX, 0), (box, label))]
    with pytest.raises(ValueError, match=words) as error:
        pad_targets(targets, 3, "cpu")
    assert "image 1, object 1" in str(error.value)


def test_rounding_at_the_border_is_no_fault():
    pad_targets([target(([0.5, 0.5, 1.0000001, 1.0], 0))], 3, "cpu")


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ({"boxes": torch.rand(2, 4), "labels": torch.zeros(3).long()}, "belong"),
        ({"boxes": torch.rand(2, 5), "labels": torch.zeros(2).long()}, "belong"),
        ({"boxes": torch.rand(1, 4), "labels": torch.tensor(0)}, "belong"),
        ({"boxes": torch.tensor([BOX]), "labels": torch.zeros(1)}, "not int64"),
        ({"boxes": torch.rand(2, 4)}, "has no labels"),
        ({}, "has no boxes and no labels"),
    ],
)
def test_a_malformed_target_is_named(bad, words):
    with pytest.raises(ValueError, match=words) as error:
        pad_targets([bad], 3, "cpu")
    assert "image 0" in str(error.value)


def test_box_cost_is_l1_and_giou():
    padded = pad_targets([target((BOX, 0), ([0.3, 0.3, 0.2, 0.2], 1))], 3, "cpu")
    mine = torch.rand(2, 1, 3, 4) * 0.5 + 0.2
    cost = matching.box_cost(mine, padded, CostWeights(box=5.0, giou=2.0))
    other = padded.boxes[0, 1]
    giou = box_ops.paired_giou(
        box_ops.cxcywh_to_xyxy(mine[1, 0, 2]), box_ops.cxcywh_to_xyxy(other)
    )
    expected = 5 * (mine[1, 0, 2] - other).abs().sum() - 2 * giou
    assert torch.allclose(cost[1, 0, 2, 1], expected)


def cheapest(table: torch.Tensor) -> float:
    """Cost of the best assignment, by trying all of them."""
    queries, objects = table.shape
    choices = permutations(range(queries), objects)
    return min(sum(table[q, o].item() for o, q in enumerate(c)) for c in choices)


def test_assignment_is_the_cheapest_of_all():
    generator = torch.Generator().manual_seed(0)
    cost = torch.rand(2, 3, 5, 4, generator=generator)
    counts = [4, 2, 0]
    chosen = assign(cost, counts)
    assert chosen.shape == (2, 3, 4)
    for layer in range(2):
        for image, count in enumerate(counts):
            mine = chosen[layer, image]
            assert (mine[count:] == -1).all()
            queries = mine[:count]
            assert len(set(queries.tolist())) == count  # one query, one object
            table = cost[layer, image, :, :count]
            total = table[queries, torch.arange(count)].sum().item()
            assert total == pytest.approx(cheapest(table))


def test_padded_columns_cannot_win():
    cost = torch.tensor([[[[5.0, -100.0], [7.0, -100.0]]]])
    assert assign(cost, [1]).tolist() == [[[0, -1]]]


def test_more_objects_than_queries():
    cost = torch.tensor([[[[3.0, 1.0, 2.0]]]])  # one query, three objects
    assert assign(cost, [3]).tolist() == [[[-1, 0, -1]]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_cost_that_is_no_number_says_where(value):
    cost = torch.zeros(2, 3, 4, 2)
    cost[1, 2, 3, 0] = value
    with pytest.raises(NonFiniteCost, match="layer 1, image 2, query 3, object 0"):
        assign(cost, [2, 2, 1])


def test_the_guilty_prediction_is_named():
    cost = torch.zeros(1, 1, 2, 1)
    cost[0, 0, 1, 0] = float("nan")
    logits, boxes = torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 2, 4)
    boxes[0, 0, 1, 2] = float("nan")
    with pytest.raises(NonFiniteCost, match="its boxes are not finite"):
        assign(cost, [1], logits=logits, boxes=boxes)


def test_numbers_in_the_padding_may_be_anything():
    cost = torch.zeros(1, 2, 3, 2)
    cost[0, 1] = float("nan")
    assert assign(cost, [2, 0])[0, 1].tolist() == [-1, -1]


def test_forbidden_pairs_are_never_matched():
    """A cheap pair that is not allowed leaves its object to a dearer one, or alone."""
    cost = torch.tensor([[[[0.0, 5.0], [1.0, 2.0], [9.0, 9.0]]]])  # [1, 1, Q=3, N=2]
    allowed = torch.ones(1, 1, 3, 2, dtype=torch.bool)
    assert assign(cost, [2], allowed).tolist() == assign(cost, [2]).tolist()
    allowed[0, 0, 0, 0] = False
    assert assign(cost, [2], allowed).tolist() == [[[1, 0]]]
    allowed[0, 0, :, 0] = False  # nobody may answer for object 0
    assert assign(cost, [2], allowed).tolist() == [[[-1, 1]]]


def test_objects_repeated_for_matching_one_to_many():
    padded = pad_targets([target((BOX, 2)), target((BOX, 0), (BOX, 1))], 3, "cpu")
    three = padded.repeat(3)
    assert three.counts == [3, 6] and three.boxes.shape == (2, 6, 4)
    assert three.mask.tolist() == [[True] * 3 + [False] * 3, [True] * 6]
    assert three.labels[1].tolist() == [0, 0, 0, 1, 1, 1]
    assert three.class_agnostic().labels.unique().tolist() == [0]
    assert padded.repeat(1) is padded
