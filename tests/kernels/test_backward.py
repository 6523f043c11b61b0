"""The backward kernels, run thread by thread, against autograd in float64."""

import shutil
from pathlib import Path

import pytest
import torch
from agreement import worst
from kernel_calls import CALLS as SHARED
from kernel_calls import Call
from torch import Tensor

from detr_steps.cuda_lab import emulator, traffic, trouble

pytestmark = pytest.mark.skipif(trouble("emulator") is not None, reason=f"{trouble()}")
KERNELS = Path(__file__).parents[2] / "kernels"
STEPS = ("naive", "vectors", "sorted", "fixed")
FAST = STEPS[1:]
FUSED = ("vectors", "sorted")
SHORT = (torch.float32, torch.float16, torch.bfloat16)
SCHEDULES = (0, 1, 2, 3)
TOLERANCE = 1e-5  # values of 16 bits are exact in float32, and so is the reference

CALLS = SHARED | {
    "20 points": Call(((4, 6), (2, 3)), (7, 13), b=1, q=9),
    # 64 x 64 pixels fall onto 32 x 32 buckets
    "points all over a large map": Call(((64, 64),), (4,), b=1, q=64, m=1),
    "points all over lines": Call(((2, 99), (99, 1)), (4, 4), b=1, q=64, m=1),
}
ODD = {  # shapes that only the naive step takes
    "an odd width": Call(((3, 3), (2, 2)), (4, 4), d=7),
    "wider than a warp": Call(((3, 3),), (3,), b=1, q=3, m=1, d=50),
    "wider than a block": Call(((2, 2),), (2,), b=1, q=2, m=1, d=1030),
    "41 points": Call(((3, 3), (2, 2)), (20, 21), b=1, d=16),
}


def draw(call: Call, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Value, locations, weights, and the gradient of the result."""
    generator = torch.Generator().manual_seed(2)
    result = (call.b, call.queries, call.m * call.d)
    return [*call.draw(dtype), torch.randn(result, generator=generator).to(dtype)]


def run(step: str, call: Call, given: list[Tensor], **options) -> tuple[Tensor, ...]:
    value, locations, weights, grad = given
    sizes = call.maps, call.points
    return emulator.backward(step, value, *sizes, locations, weights, grad, **options)


def exact(call: Call, given: list[Tensor]) -> tuple[Tensor, ...]:
    *arguments, grad = (x.double() for x in given)
    arguments = [x.requires_grad_() for x in arguments]
    return torch.autograd.grad(call.read(*arguments), arguments, grad)


def check(
    got: tuple[Tensor, ...], wanted: tuple[Tensor, ...], tolerance: float = TOLERANCE
) -> None:
    for one, other in zip(got, wanted, strict=True):
        assert one.shape == other.shape
        assert one.dtype in (torch.float32, torch.float64)
        assert worst(one, other) < tolerance


# --- the steps -----------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", CALLS)
def test_each_step_agrees_with_autograd(step, name):
    call = CALLS[name]
    given = draw(call)
    check(run(step, call, given), exact(call, given))


@pytest.mark.parametrize("dtype", SHORT[1:])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ("a decoder", "an encoder", "32 points"))
def test_half_precision_is_added_up_in_float32(dtype, step, name):
    call = CALLS[name]
    given = draw(call, dtype)
    check(run(step, call, given), exact(call, given))


@pytest.mark.parametrize("step", FAST)
@pytest.mark.parametrize("d", (8, 16, 32, 64))
@pytest.mark.parametrize("k", (3, 4))
def test_all_widths(step, d, k):
    call = Call(((4, 5), (2, 3)), (4 * k - 4, 4), b=1, q=None, m=1, d=d)
    given = draw(call)
    check(run(step, call, given), exact(call, given))


@pytest.mark.parametrize("name", [*ODD, "a decoder"])
@pytest.mark.parametrize("dtype", (*SHORT, torch.float64))
def test_naive_takes_any_shape_and_float64(name, dtype):
    call = (CALLS | ODD)[name]
    given = draw(call, dtype)
    tolerance = 1e-12 if dtype == torch.float64 else TOLERANCE
    check(run("naive", call, given), exact(call, given), tolerance)


@pytest.mark.parametrize("name", ODD)
def test_the_fast_steps_refuse_odd_shapes_but_fixed_takes_them(name):
    call = ODD[name]
    given = draw(call)
    for step in FUSED:
        with pytest.raises(ValueError, match="does not take"):
            run(step, call, given)
    check(run("fixed", call, given), exact(call, given))


def test_there_is_no_fixed_point_for_float64():
    with pytest.raises(ValueError, match="does not take"):
        run("fixed", Call(), draw(Call(), torch.float64))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("empty", (Call(q=0), Call(b=0)))
def test_nothing_to_do(step, empty):
    value, locations, weights = run(step, empty, draw(empty))
    assert not value.any()
    assert not locations.numel() and not weights.numel()


# --- where the points lie ------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_all_queries_look_at_one_pixel(step):
    call = Call(((6, 7),), (4,), b=1, q=80, m=1)
    value, locations, weights, grad = draw(call)
    locations = torch.tensor([2.6 / 7, 3.4 / 6]).expand_as(locations).contiguous()
    given = [value, locations, weights, grad]
    check(run(step, call, given), exact(call, given))


@pytest.mark.parametrize("step", STEPS)
def test_points_at_borders_and_far_outside(step):
    call = Call(((4, 5),), (16,), b=1, q=8, m=1)
    value, _, weights, grad = draw(call)
    # On no pixel and no border itself: there the gradient jumps.
    x = torch.tensor([0.01, 0.99, -0.4 / 5, 0.4 / 5, 4.6 / 5, 5.4 / 5, -3, 1e6])
    y = torch.tensor([0.49, 0.6 / 4, 3.4 / 4, 0.01, 0.99, -0.4 / 4, 4.4 / 4, -1e6])
    places = torch.stack(torch.meshgrid(x, y, indexing="ij"), -1)  # [8, 8, 2]
    locations = places.repeat(1, 2, 1)[None, :, None].contiguous()
    given = [value, locations, weights, grad]
    check(run(step, call, given), exact(call, given))


@pytest.mark.parametrize("step", STEPS)
def test_what_is_outside_adds_nothing_anywhere(step):
    call = Call(((4, 5),), (4,), b=1, q=5, m=1)
    value, locations, weights, grad = draw(call)
    for one in run(step, call, [value, locations + 7, weights, grad]):
        assert not one.any()


@pytest.mark.parametrize("step", ("naive", "vectors", "sorted"))
def test_a_nan_shows_in_the_rows_it_reaches_and_nowhere_else(step):
    call = Call(((4, 5), (2, 2)), (8, 8), b=1, q=6)
    value, locations, weights, grad = draw(call)
    locations[0, 2, 1, 5, 0] = torch.nan
    by_value, by_location, by_weight = run(
        step, call, [value, locations, weights, grad]
    )
    assert by_location[0, 2, 1, 5].isnan().any() and by_location.isnan().sum() <= 2
    assert by_weight[0, 2, 1, 5].isnan() and by_weight.isnan().sum() == 1
    rows = by_value.isnan().all(-1)
    assert by_value.isnan().sum() == 32 * rows.sum()
    assert 1 <= rows[0, :, 1].sum() <= 4 and not rows[0, :, 0].any()


# --- fixed point ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("name", ("an encoder", "a decoder"))
def test_fixed_gives_the_same_bits_in_any_order(name, dtype):
    call = CALLS[name]
    given = draw(call, dtype)
    first = run("fixed", call, given)
    for schedule in SCHEDULES[1:]:
        for one, other in zip(run("fixed", call, given, schedule=schedule), first):
            assert torch.equal(one, other)


def test_fixed_gives_the_same_bits_for_odd_shapes():
    call = ODD["an odd width"]
    given = draw(call)
    first = run("fixed", call, given)[0]
    for schedule in SCHEDULES[1:]:
        assert torch.equal(run("fixed", call, given, schedule=schedule)[0], first)


def test_fixed_is_more_exact_than_sums_in_float32():
    call = Call(((2, 2),), (4,), b=1, q=300, m=1, d=16)
    given = draw(call)
    wanted = exact(call, given)[0]
    error = {step: worst(run(step, call, given)[0], wanted) for step in STEPS}
    assert error["fixed"] < 1e-7
    assert error["fixed"] < min(error["naive"], error["vectors"])


@pytest.mark.parametrize("size", (1e-30, 1e-12, 1e12, 1e30))
def test_fixed_suits_gradients_of_any_size(size):
    call = Call(((3, 3),), (4,), b=1, q=70, m=1, d=16)
    value, locations, weights, grad = draw(call)
    got = run("fixed", call, [value, locations, weights, grad * size])[0]
    wanted = exact(call, [value, locations, weights, grad * size])[0]
    assert worst(got, wanted) < 1e-6


@pytest.mark.parametrize("bad", (torch.nan, torch.inf, -torch.inf))
@pytest.mark.parametrize("which", ("grad", "weights", "locations"))
def test_fixed_shows_what_is_not_finite(which, bad):
    call = Call(((4, 5),), (4,), b=2, q=6, m=2, d=16)
    value, locations, weights, grad = draw(call)
    given = {"grad": grad, "weights": weights, "locations": locations}
    if which == "locations":
        bad = torch.nan  # infinitely far away is only outside
    given[which].view(2, 6, 2, -1)[1, 3, 0, 2] = bad
    by_value = run("fixed", call, [value, locations, weights, grad])[0]
    assert by_value[1, :, 0].isnan().all()
    assert by_value[0].isfinite().all() and by_value[1, :, 1].isfinite().all()


# --- the fused operator --------------------------------------------------------------


def fused(call: Call, numbers: int, dtype: torch.dtype) -> tuple[list, tuple]:
    """Arguments, and the gradients by autograd of value, offsets and logits."""
    value, *_, grad = draw(call, dtype)
    references, offsets, logits = call.ask(numbers)
    given = [value, references, offsets, logits, grad]
    value, references, offsets, logits, grad = (x.double() for x in given)
    wanted = [x.requires_grad_() for x in (value, offsets, logits)]
    result = call.read(value, *call.answer(references, offsets, logits))
    return given, torch.autograd.grad(result, wanted, grad)


@pytest.mark.parametrize("step", FUSED)
@pytest.mark.parametrize("numbers", (2, 4))
@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("name", ("an encoder", "other points on each level"))
def test_gradients_of_offsets_and_logits(step, numbers, dtype, name):
    call = CALLS[name]
    given, wanted = fused(call, numbers, dtype)
    value, *asked = given
    got = emulator.backward(step, value, call.maps, call.points, *asked)
    check(got, wanted, 3e-5)


@pytest.mark.parametrize("step", FUSED)
@pytest.mark.parametrize("name", ("20 points", "32 points", "eight levels"))
def test_the_softmax_of_any_number_of_points(step, name):
    call = CALLS[name]
    given, wanted = fused(call, 2, torch.float32)
    value, *asked = given
    got = emulator.backward(step, value, call.maps, call.points, *asked)
    check(got, wanted, 3e-5)
    assert (got[2].sum(-1).abs() < 1e-4).all()  # more of one weight is less of others


@pytest.mark.parametrize("step", ("naive", "fixed"))
def test_other_steps_have_no_fused_kernel(step):
    given, _ = fused(Call(), 2, torch.float32)
    with pytest.raises(ValueError, match=f"'{step}' does not take 3 arrays"):
        emulator.backward(step, given[0], Call().maps, Call().points, *given[1:])


# --- the order of threads -----------------------------------------------------------


@pytest.mark.parametrize("step", ("naive", "vectors", "sorted"))
def test_the_order_of_threads_changes_only_the_rounding(step):
    call = Call(((9, 3), (3, 2)), (8, 8), b=1, q=None)
    given = draw(call)
    first = run(step, call, given)
    for schedule in SCHEDULES[1:]:
        got = run(step, call, given, schedule=schedule)
        assert worst(got[0], first[0]) < 1e-6
        assert torch.equal(got[1], first[1]) and torch.equal(got[2], first[2])


# --- how many rows are added ---------------------------------------------------------


@pytest.fixture(scope="module")
def counting(tmp_path_factory):
    """The kernels, changed so that each addition of a row adds 1 to its numbers."""
    folder = tmp_path_factory.mktemp("counting") / "kernels"
    shutil.copytree(KERNELS, folder)
    source = folder / "cuda" / "reduce.cuh"
    parts = source.read_text("utf-8").split(
        "atomicAdd(rows[pixel] + i, share * numbers[i])"
    )
    assert len(parts) == 2
    source.write_text("atomicAdd(rows[pixel] + i, 1.0f)".join(parts), "utf-8")
    return folder


def test_rows_added_to_global_memory_are_those_counted_beforehand(counting):
    call = Call(((16, 16), (8, 8)), (4, 4), b=1, q=None, m=2)
    value, locations, weights, grad = draw(call)
    pixels = [
        torch.cartesian_prod(torch.arange(h), torch.arange(w)) for h, w in call.maps
    ]
    centres = [(one.flip(1) + 0.5) / len(one) ** 0.5 for one in pixels]
    centres = torch.cat(centres)[None, :, None, None]  # [1, Q, 1, 1, 2]
    locations = centres + (locations - 0.5) / 8  # near the query's own pixel
    given = [value, locations, weights, grad]
    wanted = traffic.adds(locations.unflatten(3, (2, 4)), call.maps)
    rows = {
        step: run(step, call, given, folder=counting)[0][..., 0].sum()
        for step in ("vectors", "sorted")
    }
    assert rows["vectors"] == wanted.single.sum()
    # 32 groups of lanes, each of which may end within a pixel; 5 tiles, 2 heads.
    parts = 31 * 5 * call.m * len(call.maps)
    assert wanted.grouped.sum() <= rows["sorted"] <= wanted.grouped.sum() + parts
    assert rows["sorted"] < rows["vectors"] / 4
