"""Sixteen ways in which such an operator goes wrong, and that this one does not.

Who computes: torch's operators, the compiled loops of the CPU, and the CUDA kernels in
the emulator, each step. Some traps are met more thoroughly in other files; here all of
them stand in one place, one test each. Number 13, a launch that fails without a word,
needs a launch: tests/ops/test_binding.py.
"""

import warnings
from types import SimpleNamespace

import pytest
import torch
from agreement import worst
from kernel_calls import Call
from torch import Tensor
from torch.nn.functional import grid_sample

from benchmarks.gpu import timing
from detr_steps.cuda_lab import emulator, trouble
from detr_steps.nn.deform_attention import (
    MultiScaleDeformableAttention,
    ReferencePoints,
)
from detr_steps.ops import backend
from detr_steps.ops.read_points import read_points

if backend.trouble() or trouble("emulator"):
    reason = backend.trouble() or trouble("emulator")
    pytest.skip(f"no compiler: {reason}", allow_module_level=True)

KERNELS = ("naive", "points", "vectors", "tiles")
EVERYBODY = ("torch", "cpp", *KERNELS)


def read(who: str, sizes: tuple, value: Tensor, locations: Tensor, weights: Tensor):
    """The sum as `who` computes it; locations [B, Q, M, L, K, 2]."""
    if who in KERNELS:
        flat = locations.flatten(3, 4).contiguous(), weights.flatten(3).contiguous()
        counts = [weights.shape[-1]] * len(sizes)
        return emulator.forward(who, value, sizes, counts, *flat)
    with backend.use(who):
        return read_points(value, sizes, locations, weights)


def one_point(x: float, y: float, size=(3, 4), width=16) -> tuple:
    """A map in which pixel n holds n, and a single point."""
    numbers = torch.arange(float(size[0] * size[1]))
    value = numbers[None, :, None, None].expand(1, -1, 1, width).contiguous()
    at = torch.tensor([x / size[1], y / size[0]]).view(1, 1, 1, 1, 1, 2)
    return (size,), value, at, torch.ones(1, 1, 1, 1, 1)


@pytest.mark.parametrize("who", EVERYBODY)
def test_1_x_is_the_column_and_pixels_have_their_centre_at_one_half(who):
    got = read(who, *one_point(x=2.5, y=1.5))  # pixels are half a pixel in
    assert got.flatten()[0] == pytest.approx(1 * 4 + 2)


@pytest.mark.parametrize("who", EVERYBODY)
@pytest.mark.parametrize("x", [-0.5, 0.0, 0.5, 3.5, 4.0, 4.5])
def test_2_at_the_border_as_grid_sample(who, x):
    sizes, value, at, weight = one_point(x, y=1.2)
    image = value[..., 0].view(1, 1, 3, 4)
    grid = 2 * at.view(1, 1, 1, 2) - 1
    wanted = grid_sample(image, grid, align_corners=False).item()
    got = read(who, sizes, value, at, weight).flatten()[0].item()
    assert got == pytest.approx(wanted, abs=1e-5)


def test_3_exactly_on_a_pixel_compiled_and_torch_take_the_same_of_two_gradients():
    torch.manual_seed(0)
    sizes, at = ((5, 7),), torch.cartesian_prod(torch.arange(7), torch.arange(5))
    at = ((at + 0.5) / torch.tensor((7.0, 5.0))).view(1, 35, 1, 1, 1, 2)
    value, weight = torch.randn(1, 35, 1, 16), torch.ones(1, 35, 1, 1, 1)
    grads = []
    for name in ("torch", "cpp"):
        given = at.clone().requires_grad_()
        read(name, sizes, value, given, weight).square().sum().backward()
        grads.append(given.grad)
    assert worst(*grads) < 1e-5


@pytest.mark.parametrize("who", EVERYBODY)
def test_4_a_nan_is_not_silent(who):
    sizes, value, at, weight = one_point(float("nan"), y=1.0)
    assert read(who, sizes, value, at, weight).isnan().all()


def test_5_locations_stay_in_float32_however_short_the_rest_is():
    layer = MultiScaleDeformableAttention(32, 2, 1, 4).bfloat16()
    references = ReferencePoints(torch.rand(1, 6, 1, 2), ((2, 3),))
    query = torch.randn(1, 6, 32, dtype=torch.bfloat16)
    assert layer.locate(query, references).dtype == torch.float32


@pytest.mark.parametrize("who", EVERYBODY)
def test_6_a_thousand_halves_are_added_in_float32(who):
    """1 + 31 small terms: in float16 each of them would vanish."""
    small = 2.0**-12
    value = torch.ones(1, 1, 1, 16, dtype=torch.float16)
    weights = torch.full((1, 1, 1, 1, 32), small)
    weights[..., 0] = 1
    at = torch.full((1, 1, 1, 1, 32, 2), 0.5)
    got = read(who, ((1, 1),), value, at, weights).flatten()[0].item()
    assert got == pytest.approx(1 + 31 * small, abs=2**-11)
    assert got > 1


def test_7_what_32_bits_cannot_count_is_refused():
    """Sizes only: nothing of this is allocated."""
    operator = torch.ops.detr_steps.ms_deform_attn
    value = torch.zeros(1).expand(1, 2**16, 2**11, 16)  # 2^31 numbers, 4 bytes
    at = torch.zeros(1).expand(1, 0, 2**11, 1, 2)
    with pytest.raises(RuntimeError, match="2\\^31"):
        operator(value, [2**8, 2**8], [1], at, at[..., 0])


@pytest.mark.parametrize("name", ["torch", "cpp"])
def test_8_a_second_gradient_is_refused_not_zero(name):
    sizes, value, at, weight = one_point(1.2, 1.3)
    at.requires_grad_()
    with pytest.raises(RuntimeError, match="once_differentiable"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read_twice = read(name, sizes, value, at, weight).square().sum()
            (grad,) = torch.autograd.grad(read_twice, at, create_graph=True)
            grad.sum().backward()


@pytest.mark.parametrize("name", ["torch", "cpp"])
def test_9_it_does_not_matter_how_things_lie_in_memory(name):
    torch.manual_seed(0)
    sizes = ((3, 4),)
    value = torch.randn(16, 1, 12, 2).permute(3, 2, 1, 0)
    at = torch.rand(2, 2, 2, 1, 1, 5).permute(0, 5, 3, 4, 1, 2)
    weights = torch.rand(5, 2, 2, 1, 1).permute(1, 0, 3, 4, 2)
    settled = [x.contiguous() for x in (value, at, weights)]
    assert not at.is_contiguous() and not value.is_contiguous()
    assert torch.equal(
        read(name, sizes, value, at, weights), read(name, sizes, *settled)
    )


@pytest.mark.parametrize("who", EVERYBODY)
@pytest.mark.parametrize("b, q", [(0, 3), (2, 0)])
def test_10_nothing_is_no_error(who, b, q):
    call = Call(((2, 1), (1, 1)), (2, 2), b=b, q=q, d=16)
    value, at, weights = call.draw()
    at, weights = at.unflatten(3, (2, 2)), weights.unflatten(3, (2, 2))
    assert read(who, call.maps, value, at, weights).shape == (b, q, 2 * 16)


def test_11_sixty_five_images_are_as_good_as_sixty_four():
    call = Call(((2, 3),), (2,), b=65, q=1, m=1, d=8)
    value, at, weights = given = call.draw()
    wanted = call.read(*given)
    at, weights = at[:, :, :, None], weights[:, :, :, None]
    for who in ("torch", "cpp", "naive"):
        assert worst(read(who, call.maps, value, at, weights), wanted) < 1e-6


def test_12_fixed_point_gives_the_same_bits_in_any_order():
    call = Call(((4, 5), (2, 2)), (4, 4), q=None)
    given, grad = call.draw(), torch.randn(2, 24, 64)
    grads = [
        emulator.backward("fixed", given[0], call.maps, call.points, *given[1:], grad,
                          schedule=order)[0] for order in (0, 1, 5)
    ]  # fmt: skip
    assert all(torch.equal(grads[0], each) for each in grads[1:])


def test_14_bytes_of_one_type_are_never_read_as_another():
    operator = torch.ops.detr_steps.ms_deform_attn
    value, at, weights = Call(((2, 2),), (1,), d=8).draw()
    with pytest.raises(RuntimeError, match="dtype"):
        operator(value, [2, 2], [1], at.double(), weights)
    with pytest.raises(RuntimeError, match="belong together"):
        operator(value, [2, 3], [1], at, weights)  # 6 pixels of 4


def test_15_padding_reads_as_zero():
    torch.manual_seed(0)
    layer = MultiScaleDeformableAttention(32, 2, 1, 4)
    value, padding = torch.randn(1, 6, 32), torch.tensor([[0, 0, 1, 0, 0, 1]]).bool()
    references = ReferencePoints(torch.rand(1, 6, 1, 2), ((2, 3),))
    query, other = torch.randn(1, 6, 32), value.clone()
    other[padding] = 1e6  # whatever stands there
    one, two = (layer(query, references, x, padding)[0] for x in (value, other))
    assert torch.equal(one, two)


def test_16_a_benchmark_takes_turns_with_more_inputs_than_a_cache_holds(monkeypatch):
    cache, inputs = 60 * 2**20, 36 * 2**20  # of an H200; of an encoder's value
    card = SimpleNamespace(L2_cache_size=cache)
    monkeypatch.setattr(timing, "on_card", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: card)
    assert timing.sets_needed(inputs) * inputs >= 2 * cache
