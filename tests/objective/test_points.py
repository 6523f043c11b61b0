"""FCOS's rule, point by point; restricted matching against the Hungarian algorithm."""

import math

import pytest
import torch

from detr_steps.objective import points as rule
from detr_steps.objective.matching import assign

SIZES, STRIDES, REACH = ((5, 6), (3, 3), (2, 2)), (8, 16, 32), 2.0


def slow_points():
    """Points as dicts, one after another."""
    found = []
    for level, ((h, w), stride) in enumerate(zip(SIZES, STRIDES)):
        for row in range(h):
            for column in range(w):
                found.append(
                    {
                        "x": (column + 0.5) * stride,
                        "y": (row + 0.5) * stride,
                        "stride": stride,
                        "least": REACH * STRIDES[level - 1] if level else -1,
                        "most": REACH * stride if level < 2 else math.inf,
                    }
                )
    return found


def slow_owner(point, corners, radius):
    """The object of one point: every condition of the rule in turn."""
    best, least = -1, math.inf
    for n, (x0, y0, x1, y1) in enumerate(corners):
        left, top = point["x"] - x0, point["y"] - y0
        right, bottom = x1 - point["x"], y1 - point["y"]
        if min(left, top, right, bottom) <= 0:
            continue
        apart = radius * point["stride"]
        if abs(point["x"] - (x0 + x1) / 2) >= apart:
            continue
        if abs(point["y"] - (y0 + y1) / 2) >= apart:
            continue
        if not point["least"] <= max(left, top, right, bottom) <= point["most"]:
            continue
        area = (x1 - x0) * (y1 - y0)
        if area < least:
            best, least = n, area
    return best


def random_corners(seed, count):
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(count, 2, generator=generator) * 30
    size = torch.rand(count, 2, generator=generator) * 50 + 1
    return torch.cat((low, low + size), 1)


def the_points():
    return rule.points_of(SIZES, STRIDES, REACH, "cpu")


def test_points_are_the_middles_of_the_cells():
    points, slow = the_points(), slow_points()
    for name, values in (
        ("stride", points.stride),
        ("least", points.least),
        ("most", points.most),
    ):
        assert values.tolist() == [each[name] for each in slow]
    assert points.at.tolist() == [[each["x"], each["y"]] for each in slow]
    assert points.level.bincount().tolist() == [30, 9, 4]


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("radius", [0.7, 1.5, math.inf])
def test_each_point_has_the_object_that_the_rule_says(seed, radius):
    corners = [random_corners(seed, seed % 7), random_corners(seed + 100, 3)]
    found = rule.objects_of_points(the_points(), corners, radius)
    for image, boxes in enumerate(corners):
        wanted = [slow_owner(p, boxes.tolist(), radius) for p in slow_points()]
        assert found[image].tolist() == wanted
    assert (found[1] >= 0).any()


def test_pictures_without_objects_and_objects_that_no_point_takes():
    nothing = torch.zeros(0, 4)
    between = torch.tensor([[5.0, 5.0, 7.0, 7.0]])  # the nearest points are at 4 and 12
    found = rule.objects_of_points(the_points(), [nothing, between], 1.5)
    assert (found == -1).all()


def test_levels_that_no_object_falls_on_are_empty():
    small = torch.tensor([[0.0, 0.0, 12.0, 12.0]])
    found = rule.objects_of_points(the_points(), [small], math.inf)[0]
    level = the_points().level
    assert (found[level == 0] >= 0).any() and (found[level > 0] == -1).all()


@pytest.mark.parametrize("seed", range(30))
def test_the_cheapest_allowed_is_what_the_hungarian_algorithm_finds(seed):
    """Each query may answer for one object at most, so choices do not collide."""
    generator = torch.Generator().manual_seed(seed)
    images, queries, objects = 3, 9, 6
    cost = torch.randn(images, queries, objects, generator=generator)
    owner = torch.randint(-1, objects, (images, queries), generator=generator)
    counts = [0, 3, 6]
    for image, count in enumerate(counts):
        owner[image][owner[image] >= count] = -1
    allowed = owner[..., None] == torch.arange(objects)
    found = rule.cheapest_allowed(cost, allowed)
    assert torch.equal(found, assign(cost[None], counts, allowed[None])[0])
    assert (found[0] == -1).all()


def test_centerness_by_hand():
    sides = torch.tensor([[1.0, 2, 3, 2], [2, 2, 2, 2], [0, 1, 4, 1], [0, 0, 0, 0]])
    wanted = [math.sqrt(1 / 3), 1, 0, 0]
    assert rule.centerness(sides).tolist() == pytest.approx(wanted)


@pytest.mark.parametrize("seed", range(5))
def test_giou_of_distances_is_that_of_the_boxes_with_one_added(seed):
    generator = torch.Generator().manual_seed(seed)
    one, other = torch.rand(2, 4, generator=generator).mul(3).tolist()
    a = (-one[0], -one[1], one[2], one[3])  # around the origin
    b = (-other[0], -other[1], other[2], other[3])
    area = [(x[2] - x[0]) * (x[3] - x[1]) for x in (a, b)]
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    shared = wide * high
    union = sum(area) - shared
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    wanted = (shared + 1) / (union + 1) - (hull - union) / hull
    found = rule.giou_of_distances(torch.tensor(one), torch.tensor(other))
    assert float(found) == pytest.approx(wanted, rel=1e-5)


def test_boxes_of_points_are_cut_at_the_border():
    at = torch.tensor([[[10.0, 20.0], [4.0, 4.0]]])
    sides = torch.tensor([[[2.0, 4, 6, 8], [8, 8, 4, 4]]])
    boxes = rule.boxes_of(at, sides, torch.tensor([[40.0, 80.0]]))
    corners = [(8 / 40, 16 / 80, 16 / 40, 28 / 80), (0, 0, 8 / 40, 8 / 80)]
    for box, (x0, y0, x1, y1) in zip(boxes[0].tolist(), corners):
        wanted = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        assert box == pytest.approx(wanted)
