"""The forward kernels, run thread by thread, against torch's operators in float64."""

import shutil
from pathlib import Path

import pytest
import torch
from agreement import worst
from kernel_calls import CALLS, Call

from detr_steps.cuda_lab import KernelFault, emulator, trouble

pytestmark = pytest.mark.skipif(trouble("emulator") is not None, reason=f"{trouble()}")
KERNELS = Path(__file__).parents[2] / "kernels"
STEPS = ("naive", "points", "vectors", "tiles")
FAST = STEPS[1:]
TOLERANCE = {
    torch.float32: 2e-6,
    torch.float16: 1e-3,
    torch.bfloat16: 8e-3,
    torch.float64: 1e-12,
}
SHORT = (torch.float32, torch.float16, torch.bfloat16)

ODD = {  # shapes that only the naive step takes
    "an odd width": Call(((3, 3), (2, 2)), (4, 4), d=7),
    "41 points": Call(((3, 3), (2, 2)), (20, 21), b=1, d=16),
}


def run(step: str, call: Call, given: list, **options) -> torch.Tensor:
    value, locations, weights = given
    sizes = call.maps, call.points
    return emulator.forward(step, value, *sizes, locations, weights, **options)


def check(got: torch.Tensor, call: Call, given: list) -> None:
    wanted = call.read(*given)
    assert got.dtype == given[0].dtype and got.shape == wanted.shape
    assert worst(got, wanted) < TOLERANCE[got.dtype]


# --- the steps -----------------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", CALLS)
def test_each_step_reads_what_torch_reads(step, name):
    call = CALLS[name]
    given = call.draw()
    check(run(step, call, given), call, given)


@pytest.mark.parametrize("dtype", SHORT[1:])
@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", ("a decoder", "an encoder", "32 points"))
def test_half_precision_is_computed_in_float32(dtype, step, name):
    call = CALLS[name]
    given = call.draw(dtype)
    check(run(step, call, given), call, given)


@pytest.mark.parametrize("d", (8, 16, 32, 64))
@pytest.mark.parametrize("k", (3, 4))
def test_all_widths(d, k):
    call = Call(((4, 5), (2, 3)), (4 * k - 4, 4), b=1, q=None, m=1, d=d)
    given = call.draw()
    check(run("tiles", call, given), call, given)


def test_many_queries_share_longer_strips():
    call = Call(((2, 2),), (1,), b=1, q=32_770, m=1, d=8)
    given = call.draw()
    check(run("tiles", call, given), call, given)


@pytest.mark.parametrize("name", [*ODD, "a decoder"])
def test_naive_takes_any_shape_and_float64(name):
    call = (CALLS | ODD)[name]
    for dtype in TOLERANCE:
        given = call.draw(dtype)
        check(run("naive", call, given), call, given)


@pytest.mark.parametrize("step", FAST)
@pytest.mark.parametrize("name", ODD)
def test_a_fast_step_refuses_shapes_it_is_not_made_for(step, name):
    with pytest.raises(ValueError, match="does not take"):
        run(step, ODD[name], ODD[name].draw())


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("empty", (Call(q=0), Call(b=0)))
def test_nothing_to_do(step, empty):
    result = run(step, empty, empty.draw())
    assert result.shape == (empty.b, empty.queries, empty.m * empty.d)


# --- where the points lie ------------------------------------------------------------


@pytest.mark.parametrize("step", STEPS)
def test_points_on_pixels_borders_and_far_outside(step):
    call = Call(((4, 5),), (16,), b=1, q=8, m=1)
    value, locations, weights = call.draw()
    x = torch.tensor([0, 1, -0.5 / 5, 0.5 / 5, 4.5 / 5, 5.5 / 5, -3, 1e30])
    y = torch.tensor([0.5, 0.5 / 4, 3.5 / 4, 0, 1, -0.5 / 4, 4.5 / 4, -1e30])
    locations = torch.stack(torch.meshgrid(x, y, indexing="ij"), -1)  # [8, 8, 2]
    locations = locations.repeat(1, 2, 1)[None, :, None].contiguous()
    given = [value, locations, weights]
    check(run(step, call, given), call, given)


@pytest.mark.parametrize("step", STEPS)
def test_a_nan_shows_where_it_belongs_and_nowhere_else(step):
    call = Call(((4, 5), (2, 2)), (8, 8), b=1, q=6)
    value, locations, weights = call.draw()
    locations[0, 2, 1, 5, 0] = torch.nan
    result = run(step, call, [value, locations, weights]).view(1, 6, 2, 32)
    assert result[0, 2, 1].isnan().all() and result.isnan().sum() == 32


# --- the fused operator --------------------------------------------------------------


@pytest.mark.parametrize("numbers", (2, 4))
@pytest.mark.parametrize("dtype", SHORT)
@pytest.mark.parametrize("name", ("an encoder", "other points on each level"))
def test_softmax_and_locations_in_the_kernel(numbers, dtype, name):
    call = CALLS[name]
    value, asked = call.draw(dtype)[0], call.ask(numbers)
    got = emulator.forward("tiles", value, call.maps, call.points, *asked)
    wanted = call.read(value, *call.answer(*asked))
    assert worst(got, wanted) < max(1e-5, TOLERANCE[dtype])


def test_large_logits_do_not_overflow():
    call = Call(((3, 3),), (4,), b=1, q=2)
    references, offsets, logits = call.ask(2)
    value = call.draw()[0]
    asked = (references, offsets, logits + 500)
    got = emulator.forward("tiles", value, call.maps, call.points, *asked)
    wanted = call.read(value, *call.answer(*asked))
    assert worst(got, wanted) < 1e-4


# --- barriers ------------------------------------------------------------------------


@pytest.mark.parametrize("step", FAST)
def test_the_order_of_threads_does_not_matter(step):
    call = Call(((9, 3), (3, 2)), (8, 8), b=1, q=None)
    given = call.draw()
    first = run(step, call, given)
    for schedule in (1, 2):
        assert torch.equal(run(step, call, given, schedule=schedule), first)


@pytest.mark.parametrize(
    "file, barrier",
    (
        ("points.cuh", "  __syncthreads();\n"),
        ("points.cuh", "  __syncwarp();\n"),
        ("forward_tiles.cuh", "    __syncwarp();"),
    ),
)
def test_each_barrier_of_tiles_is_needed(file, barrier, tmp_path):
    folder = tmp_path / "kernels"
    shutil.copytree(KERNELS, folder)
    source = folder / "cuda" / file
    text = source.read_text("utf-8")
    assert text.count(barrier) == 1
    source.write_text(text.replace(barrier, ""), "utf-8")
    call = Call(((9, 9),), (16,), b=1, q=None, m=1)
    with pytest.raises(KernelFault):
        for schedule in range(3):
            run("tiles", call, call.draw(), schedule=schedule, folder=folder)
