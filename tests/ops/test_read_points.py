"""The sampling core: against plain loops, its gradients, its memory, and bad input."""

import kernel_calls
import numpy as np
import pytest
import torch

from benchmarks.measuring import memory
from detr_steps.ops import backend
from detr_steps.ops.read_points import read_points
from detr_steps.ops.sample import sample_by_hand

SIZES = ((4, 6), (2, 3), (1, 1))


@pytest.fixture(autouse=True, params=["torch", "cpp"])
def core(request):
    """Every test with both cores."""
    if request.param == "cpp" and backend.trouble():
        pytest.skip(f"no compiled op: {backend.trouble()}")
    with backend.use(request.param):
        yield request.param


def arguments(
    b=2, q=3, m=2, k=3, d=4, sizes=SIZES, dtype=torch.float64, learn=False
) -> list:
    drawn = kernel_calls.arguments(sizes, b, q, m, k, d, dtype)
    return [x.requires_grad_(learn) for x in drawn]


def by_loops(value, sizes, locations, weights):
    """Equation 3, a query, a head, a level and a point at a time."""
    b, _, heads, d = value.shape
    _, queries, _, _, points, _ = locations.shape
    out = torch.zeros(b, queries, heads, d, dtype=value.dtype)
    for i in range(b):
        for q in range(queries):
            for m in range(heads):
                start = 0
                for level, (h, w) in enumerate(sizes):
                    tokens = value[i, start : start + h * w, m]  # [h·w, D]
                    maps = tokens.T.reshape(1, d, h, w)
                    start += h * w
                    for k in range(points):
                        at = locations[i, q, m, level, k].view(1, 1, 2)
                        read = sample_by_hand(maps, at)[0, :, 0]
                        out[i, q, m] += weights[i, q, m, level, k] * read
    return out.flatten(2)


def test_against_loops():
    value, locations, weights = arguments()
    found = read_points(value, SIZES, locations, weights)
    assert found.shape == (2, 3, 8)
    wanted = by_loops(value, SIZES, locations, weights)
    assert torch.allclose(found, wanted, atol=1e-12)


def test_gradients_in_double_precision():
    sizes = ((2, 3), (1, 1))
    given = arguments(b=1, q=2, m=2, k=2, d=2, sizes=sizes, learn=True)

    def read(value, *points):
        return read_points(value, sizes, *points)

    assert torch.autograd.gradcheck(read, given)


def test_gradients_are_those_of_the_loops():
    """Also the seldom cases: a point used twice, a gradient that is not 1."""
    grads = []
    for read in (read_points, by_loops):
        value, locations, weights = arguments(learn=True)
        shared = torch.stack((locations[:, :, :, :, 0],) * 3, -2)
        out = read(value, SIZES, shared, weights)
        (out * torch.arange(out.numel()).view_as(out)).sum().backward()
        grads.append([x.grad for x in (value, locations, weights)])
    for mine, wanted in zip(*grads):
        assert torch.allclose(mine, wanted, atol=1e-10)


def test_heads_read_their_own_channels():
    value, locations, weights = arguments()
    changed = value.clone()
    changed[:, :, 1] += 1
    before = read_points(value, SIZES, locations, weights)
    after = read_points(changed, SIZES, locations, weights)
    assert torch.equal(before[..., :4], after[..., :4])
    assert not torch.allclose(before[..., 4:], after[..., 4:])


def test_a_second_gradient_is_refused_not_wrong():
    value, locations, weights = arguments(learn=True)
    out = read_points(value, SIZES, locations, weights).square().sum()
    grad = torch.autograd.grad(out, value, create_graph=True)[0]
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


# --- memory ------------------------------------------------------------------------


def numbers_used(call) -> tuple[object, float, float]:
    """Result of a call, most float32 numbers it held at once, and how many it kept."""
    result, most, kept = memory(call)
    return result, most / 4, kept / 4


@pytest.mark.parametrize("sizes", [((40, 30),), ((40, 30), (20, 15), (10, 8), (5, 4))])
def test_memory_is_what_the_docstring_states(sizes, core):
    b, q, m, k, d = 2, 1200, 4, 4, 16
    given = arguments(b, q, m, k, d, sizes, torch.float32, learn=True)
    value, locations, weights = given
    out, most, kept = numbers_used(
        lambda: read_points(value, sizes, locations, weights)
    )
    result = b * q * m * d
    level = b * m * (40 * 30 * d + 4 * q * k + q * k * d)  # the largest one
    slack = 1000  # scalars and the like
    assert kept <= result + slack  # nothing for the backward pass
    if core == "cpp":  # its loops hold a map of a head or two, outside torch's memory
        level = 0
    assert 0.5 * level < most <= level + 2 * result + slack

    grad = torch.ones_like(out)
    gradients = sum(x.numel() for x in given)
    _, most, kept = numbers_used(lambda: out.backward(grad))
    assert kept <= gradients + slack
    assert most <= 2 * level + 2 * gradients + slack


# --- input that is not as it should be ---------------------------------------------


def test_sizes_that_hold_other_tokens():
    value, locations, weights = arguments()
    sizes = ((6, 4), (3, 2), (2, 1))
    words = r"sizes \[\(6, 4\), \(3, 2\), \(2, 1\)\] hold 32 tokens, the value has 31"
    with pytest.raises(ValueError, match=words):
        read_points(value, sizes, locations, weights)


@pytest.mark.parametrize(
    "change",
    [
        lambda locations, weights: (locations[..., :2, :, :], weights),
        lambda locations, weights: (locations, weights[:, :2]),
        lambda locations, weights: (locations[:1], weights[:1]),
        lambda locations, weights: (locations[..., :1], weights),
        lambda locations, weights: (locations[:, :, :1], weights[:, :, :1]),
    ],
    ids=["levels", "queries", "images", "coordinates", "heads"],
)
def test_points_that_do_not_belong(change):
    value, locations, weights = arguments()
    with pytest.raises(ValueError, match=r"expected \[B, Q, M, L, K, 2\]"):
        read_points(value, SIZES, *change(locations, weights))


def test_no_queries():
    value, locations, weights = arguments(q=0, learn=True)
    found = read_points(value, SIZES, locations, weights)
    assert found.shape == (2, 0, 8)
    found.sum().backward()
    assert (value.grad == 0).all()


def test_locations_far_outside_read_nothing():
    value, locations, weights = arguments(learn=True)
    found = read_points(value, SIZES, locations * 1e20 + 3, weights)
    found.sum().backward()
    assert (found == 0).all() and (value.grad == 0).all()


def test_infinitely_far_reads_nothing_from_every_side():
    """And has no gradient. 3e38 doubled is infinite, too."""
    value, locations, weights = arguments(dtype=torch.float32)
    far = [float("inf"), float("-inf"), 3e38, -3e38]
    beyond = [(a, b) for a in far for b in (0.5, *far)]
    beyond += [(b, a) for a, b in beyond]
    for place in beyond:
        there = locations.clone()
        there[0, 1, 1] = torch.tensor(place)  # all points of one query and head
        given = [x.clone().requires_grad_() for x in (value, there, weights)]
        found = read_points(given[0], SIZES, *given[1:])
        found.sum().backward()
        assert (found[0, 1, 4:] == 0).all(), place
        assert found.isfinite().all() and (found != 0).sum() >= 40
        assert (given[1].grad[0, 1, 1] == 0).all(), place
        assert (given[2].grad[0, 1, 1] == 0).all(), place
        assert all(x.grad.isfinite().all() for x in given)


@pytest.mark.parametrize(
    "kind",
    [torch.tensor, np.array, list, lambda s: [torch.tensor(each) for each in s]],
    ids=["tensor", "array", "list", "list of tensors"],
)
def test_sizes_of_other_kinds(kind):
    """Other implementations pass a tensor `spatial_shapes [L, 2]`."""
    value, locations, weights = arguments()
    wanted = read_points(value, SIZES, locations, weights)
    found = read_points(value, kind(SIZES), locations, weights)
    assert torch.equal(found, wanted)
    with pytest.raises(ValueError, match=r"\(5, 6\).* hold 37 tokens"):
        read_points(value, kind(((5, 6), *SIZES[1:])), locations, weights)


@pytest.mark.parametrize(
    "sizes",
    [
        ((4, 6), (7, 1), (0, 3)),
        ((4, 6), (7, 1), (0, 0)),
        ((4, 6), (7, 1), (-1, 0)),
        ((4, 6), (7, 1), (-1, -1)),
        ((4, 6), (2, 3), (1, 1, 1)),
        ((4, 6), (2, 3), (1.0, 1)),
        ((4, 6), (2, 3), 1),
        torch.tensor(((4, 6), (7, 1), (0, 3))),
    ],
    ids=str,
)
def test_a_level_that_is_no_map(sizes):
    value, locations, weights = arguments()
    with pytest.raises(ValueError, match="level 2 has size .*at least"):
        read_points(value, sizes, locations, weights)


def test_no_levels():
    value, locations, weights = arguments(sizes=())
    assert value.shape[1] == 0
    with pytest.raises(ValueError, match=r"sizes \[\] hold 0 tokens"):
        read_points(value, (), locations, weights)


def test_a_location_that_is_no_number_is_not_hidden():
    value, locations, weights = arguments()
    locations[1, 2, 0, 1, 1, 0] = float("nan")
    found = read_points(value, SIZES, locations, weights)
    assert found[1, 2, :4].isnan().all()  # head 0 of that query, nothing else
    assert found.isnan().sum() == 4
    locations.requires_grad_()
    read_points(value, SIZES, locations, weights).sum().backward()
    there = locations.grad[1, 2, 0, 1, 1]
    assert there[0] == 0 and there[1].isnan()  # in both backends
    assert locations.grad.isnan().sum() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_the_cpu(dtype):
    value, locations, weights = arguments(dtype=torch.float32)
    exact = read_points(value.to(dtype).float(), SIZES, locations, weights)
    given = value.to(dtype).requires_grad_()
    found = read_points(given, SIZES, locations, weights)
    assert found.dtype == dtype
    assert torch.equal(found, exact.to(dtype))  # rounded once, at the end
    found.sum().backward()
    assert given.grad.dtype == dtype and given.grad.isfinite().all()
