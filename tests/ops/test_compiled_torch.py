"""The compiled op among torch's own: compile, export, autocast, second derivatives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from detr_steps.nn.deform_attention import (
    MultiScaleDeformableAttention,
    ReferencePoints,
)
from detr_steps.ops import backend
from detr_steps.ops.read_points import read_points

if backend.trouble():
    pytest.skip(f"no compiled op: {backend.trouble()}", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
SIZES = ((4, 6), (2, 3), (1, 1))
SHAPES = [4, 6, 2, 3, 1, 1]
POINTS = [4, 4, 4]


@pytest.fixture(autouse=True)
def compiled():
    with backend.use("cpp"):
        yield


def given(q=3, dtype=torch.float32, learn=False) -> list:
    """Value, locations and weights of two images and heads."""
    torch.manual_seed(0)
    shapes = (2, 31, 2, 8), (2, q, 2, 3, 4, 2), (2, q, 2, 3, 4)
    return [torch.rand(shape, dtype=dtype, requires_grad=learn) for shape in shapes]


def flat(value, locations, weights) -> list:
    """The same as the operators want it: points counted over all levels."""
    return [value, SHAPES, POINTS, locations.flatten(3, 4), weights.flatten(3, 4)]


def read(value, locations, weights):
    return read_points(value, SIZES, locations, weights)


def with_grads(function, arguments) -> list:
    arguments = [x.detach().requires_grad_() for x in arguments]
    result = function(*arguments)
    return [result, *torch.autograd.grad(result.square().sum(), arguments)]


def test_opcheck():
    """Schema, autograd, shapes and tracing of both operators: torch's four checks."""
    ops = torch.ops.detr_steps
    arguments = [x.detach() if torch.is_tensor(x) else x for x in flat(*given())]
    wanted = [x.requires_grad_() if torch.is_tensor(x) else x for x in flat(*given())]
    found = torch.library.opcheck(ops.ms_deform_attn.default, wanted)
    assert list(found.values()) == ["SUCCESS"] * 4
    fixed = [*arguments, torch.rand(2, 3, 16), False]
    found = torch.library.opcheck(ops.ms_deform_attn_backward.default, fixed)
    assert list(found.values()) == ["SUCCESS"] * 4


def test_compile_leaves_it_whole():
    fast = torch.compile(read, fullgraph=True, backend="aot_eager", dynamic=True)
    for queries in (3, 7):
        mine = with_grads(read, given(queries))
        other = with_grads(fast, given(queries))
        assert all(torch.equal(a, b) for a, b in zip(mine, other))


def test_compile_notices_another_backend():
    fast = torch.compile(read, fullgraph=True, backend="aot_eager")
    mine = fast(*given())
    with backend.use("torch"):
        other, wanted = fast(*given()), read(*given())
    assert torch.equal(mine, read(*given())) and torch.equal(other, wanted)


def test_compile_as_the_very_first_thing():
    """Nothing is loaded yet when torch.compile looks at the function."""
    code = """
import torch
from detr_steps.ops.read_points import read_points
at = torch.full((1, 1, 1, 1, 1, 2), 0.5)
given = torch.arange(6.0).view(1, 6, 1, 1), ((2, 3),), at, torch.ones(1, 1, 1, 1, 1)
fast = torch.compile(read_points, fullgraph=True, backend="aot_eager")
print(fast(*given).item())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(ROOT), backend.VARIABLE: "cpp"},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.returncode) == ("2.5\n", 0), done.stderr


def test_export_keeps_one_node():
    class Read(nn.Module):
        def forward(self, value, locations, weights):
            return read(value, locations, weights)

    program = torch.export.export(Read(), tuple(given()))
    called = [str(n.target) for n in program.graph.nodes if n.op == "call_function"]
    assert called.count("detr_steps.ms_deform_attn.default") == 1
    assert not any("grid_sampl" in name for name in called)
    assert torch.equal(program.module()(*given()), read(*given()))


def test_autocast_computes_in_float32():
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(16, heads=2, levels=3, points=4)
    query, value = torch.rand(2, 5, 16), torch.rand(2, 31, 16)
    places = ReferencePoints(torch.rand(2, 5, 3, 2), SIZES)
    exact = attention(query, places, value)[0]
    with torch.autocast("cpu", torch.bfloat16):
        rough = attention(query, places, value)[0]
    assert rough.dtype == torch.bfloat16
    assert (rough - exact).abs().max() < 0.03 * exact.abs().max()
    rough.float().sum().backward()
    assert all(
        p.grad.isfinite().all() for p in attention.parameters() if p.grad is not None
    )


def test_a_second_gradient_is_refused():
    value, *points = given(learn=True)
    grad = torch.autograd.grad(
        read(value, *points).square().sum(), value, create_graph=True
    )[0]
    with pytest.raises(RuntimeError, match="has no second gradient"):
        grad.sum().backward()


def test_operator_refuses_what_does_not_belong_together():
    """Also without read_points in front of it: it reads plain memory."""
    value, shapes, points, locations, weights = flat(*given())
    op = torch.ops.detr_steps.ms_deform_attn
    for wrong in (
        (value[:, 1:], shapes, points, locations, weights),
        (value, shapes, [4, 4, 3], locations, weights),
        (value, shapes, [4, 9, -1], locations, weights),
        (value, [4, 6, 2, 3, 0, 1], points, locations, weights),
        (value, [-4, -6, 2, 3, 1, 1], points, locations, weights),
        # sums and products that wrap around in 64 bits, to 31 tokens and 12 points
        (value, [2**32, 2**32, 31, 1, 2**32, 2**32], points, locations, weights),
        (value, [2**62, 4, 31, 1, 2**62, 4], points, locations, weights),
        (value[:, :0], [2**32, 2**32], [12], locations, weights),
        (value, shapes, [2**63 - 1, 2**63 - 1, 14], locations, weights),
        (value, shapes, [4, 4, 2**32 + 4], locations, weights),
        (value, shapes, points, locations[:, :2], weights),
        (value, shapes, points, locations[..., :1], weights),
        (value[:1], shapes, points, locations, weights),
        (value, shapes, points, locations[:, :, :1], weights[:, :, :1]),
    ):
        with pytest.raises(RuntimeError, match="belong together"):
            op(*wrong)
    with pytest.raises(RuntimeError, match="one dtype"):
        op(value, shapes, points, locations.double(), weights)
    with pytest.raises(RuntimeError, match="float32 or float64"):
        op(value.half(), shapes, points, locations.half(), weights.half())
    for wrong in ((value[0], shapes, points), (value, shapes[:4], points)):
        with pytest.raises(RuntimeError, match="expected value"):
            op(*wrong, locations, weights)


@pytest.mark.parametrize(
    "value", [(1, 2**32, 1, 0), (1, 2**32, 0, 2), (0, 2**32, 1, 2)]
)
def test_sizes_beyond_32_bits_are_refused_though_empty(value):
    """Inside the loops places are counted in 32 bits."""
    b, _, m, _ = value
    given = torch.empty(b, 1, m, 1, 2), torch.empty(b, 1, m, 1)
    for shapes in ([2**32, 1], [1, 2**32], [2**16, 2**16]):
        with pytest.raises(RuntimeError, match="a size of 2\\^31 or more"):
            torch.ops.detr_steps.ms_deform_attn(torch.empty(value), shapes, [1], *given)


def test_an_image_with_too_many_numbers():
    """Of no images, so that it takes no memory."""
    given = torch.empty(0, 3, 2**8, 1, 2), torch.empty(0, 3, 2**8, 1)
    op, sizes = torch.ops.detr_steps.ms_deform_attn, ([2**8, 2**8], [1])
    with pytest.raises(RuntimeError, match="value has 2\\^31 numbers or more"):
        op(torch.empty(0, 2**16, 2**8, 2**7), *sizes, *given)
    most = op(torch.empty(0, 2**16, 2**8, 2**7 - 1), *sizes, *given)
    assert most.shape == (0, 3, 2**8 * (2**7 - 1))


def test_levels_with_points_of_their_own():
    """D-FINE has 3, 6 and 3; here one level has none."""
    value, locations, weights = given(dtype=torch.float64)
    points = [2, 0, 4]
    here = [0, 1, 8, 9, 10, 11]  # of 4 points on each of 3 levels
    wanted = torch.zeros_like(weights)
    wanted.flatten(3)[..., here] = weights.flatten(3)[..., here]
    locations = locations.flatten(3, 4)[..., here, :]
    found = torch.ops.detr_steps.ms_deform_attn(
        value, SHAPES, points, locations, weights.flatten(3)[..., here]
    )
    wanted = read(value, given(dtype=torch.float64)[1], wanted)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


def test_other_devices():
    """`auto` leaves them to torch, `cpp` says what to do."""
    meta = [x.to("meta") for x in given()]
    with pytest.raises(ValueError, match="computes on the CPU, .* are on meta"):
        read(*meta)
    with backend.use("auto"):
        assert read(*meta).shape == (2, 3, 16)


def test_use_comes_back():
    assert backend.chosen() == "cpp"
    with pytest.raises(KeyError), backend.use("torch"):
        assert backend.chosen() == "torch"
        raise KeyError
    assert backend.chosen() == "cpp"
    with pytest.raises(ValueError, match="backend 'c': expected one of"):
        with backend.use("c"):
            pass
