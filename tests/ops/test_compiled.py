"""The compiled core against the one made of torch's operators."""

import pytest
import torch
from agreement import worst
from kernel_calls import arguments

from detr_steps.ops import backend
from detr_steps.ops.read_points import read_points

if backend.trouble():
    pytest.skip(f"no compiled op: {backend.trouble()}", allow_module_level=True)

MAPS = {
    "four levels": ((16, 16), (8, 8), (4, 4), (2, 2)),
    "one level": ((3, 7),),
    "one pixel": ((1, 1),),
    "lines of pixels": ((1, 5), (4, 1), (2, 2)),
}
TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}


def both_passes(name: str, given: list, sizes) -> list:
    """Result and gradients of a backend."""
    value, locations, weights = given = [x.detach().requires_grad_() for x in given]
    with backend.use(name):
        result = read_points(value, sizes, locations, weights)
    grad = torch.linspace(-1, 1, result.numel(), dtype=result.dtype)
    grads = torch.autograd.grad(result, given, grad.view_as(result))
    return [result.detach(), *grads]


def assert_agree(given, sizes, tolerance):
    mine, torchs = (both_passes(name, given, sizes) for name in ("cpp", "torch"))
    for what, one, other in zip(("result", "value", "locations", "weights"),
                                mine, torchs):  # fmt: skip
        assert one.shape == other.shape and one.dtype == other.dtype
        assert worst(one, other) <= tolerance, what


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("sizes", MAPS.values(), ids=MAPS)
@pytest.mark.parametrize("width", [1, 3, 4, 8, 12, 16, 20, 32, 40, 64])
def test_any_head_width(width, sizes, dtype):
    given = arguments(sizes, d=width, dtype=dtype)
    assert_agree(given, sizes, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("points", [1, 2, 3, 5, 8, 16, 17])
def test_any_number_of_points(points, dtype):
    for sizes in MAPS.values():
        assert_agree(arguments(sizes, k=points, dtype=dtype), sizes, TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("width", [8, 16, 20])
def test_many_queries(width, dtype):
    """So many that the maps are packed first; some pixels add up 1,000 terms."""
    sizes = MAPS["four levels"]
    given = arguments(sizes, q=340, m=2, d=width, dtype=dtype)
    assert_agree(given, sizes, 5 * TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("points", [3, 4, 5, 9, 17])
def test_few_queries_on_maps_that_no_cache_holds(points, dtype):
    """Over 1 MiB an image's maps are read four points of every head at a time."""
    sizes = ((50, 40), (25, 20))
    given = arguments(sizes, b=1, q=3, m=8, k=points, d=16, dtype=dtype)
    assert given[0].nbytes > 2**20
    assert_agree(given, sizes, 5 * TOLERANCE[dtype])


@pytest.mark.parametrize("queries", [3, 400])
def test_threads_change_nothing(queries):
    sizes = MAPS["four levels"]
    given = arguments(sizes, q=queries)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(both_passes("cpp", given, sizes))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other))


@pytest.mark.parametrize("shape", [{"b": 0}, {"q": 0}])
def test_nothing_to_do(shape):
    sizes = MAPS["four levels"]
    found = both_passes("cpp", arguments(sizes, **shape), sizes)
    wanted = both_passes("torch", arguments(sizes, **shape), sizes)
    assert [x.shape for x in found] == [x.shape for x in wanted]
    assert all((x == 0).all() for x in found)


def test_not_contiguous():
    sizes = MAPS["four levels"]
    given = arguments(sizes)
    turned = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in given]
    assert not any(x.is_contiguous() for x in turned)
    for one, other in zip(both_passes("cpp", given, sizes),
                          both_passes("cpp", turned, sizes)):  # fmt: skip
        assert torch.equal(one, other)
    with backend.use("cpp"):
        wide = read_points(given[0], sizes, *given[1:])
        value = given[0].clone().requires_grad_()
        result = read_points(value, sizes, *given[1:])
    grad = torch.randn(*wide.shape[:2], 2 * wide.shape[2])[..., ::2]
    one = torch.autograd.grad(result, value, grad, retain_graph=True)[0]
    other = torch.autograd.grad(result, value, grad.contiguous())[0]
    assert torch.equal(one, other)


def test_mixed_precision_is_the_widest():
    sizes = MAPS["one level"]
    value, locations, weights = arguments(sizes, dtype=torch.float64)
    given = [value.float(), locations, weights.float()]
    assert_agree(given, sizes, 1e-6)


def test_points_exactly_on_pixels_take_the_same_gradient():
    """Where the derivative jumps, both cores take the one to the right and below."""
    h, w = sizes = (8, 16)
    rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    at = torch.stack(((columns + 0.5) / w, (rows + 0.5) / h), -1)
    locations = at.view(1, 1, 1, 1, -1, 2)
    value = torch.rand(1, h * w, 1, 8)
    weights = torch.ones(1, 1, 1, 1, h * w)
    assert_agree([value, locations, weights], (sizes,), 1e-6)


def test_gradients_of_every_argument():
    sizes = ((2, 3), (1, 1))
    given = arguments(sizes, b=1, q=2, m=2, k=2, d=9, dtype=torch.float64)
    with backend.use("cpp"):
        assert torch.autograd.gradcheck(
            lambda value, *points: read_points(value, sizes, *points),
            [x.requires_grad_() for x in given],
        )
