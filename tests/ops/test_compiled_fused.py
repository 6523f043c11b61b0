"""Softmax and locations within the op: the same numbers, and every gradient."""

import pytest
import torch

from detr_steps.nn import deform_attention
from detr_steps.nn.deform_attention import (
    MultiScaleDeformableAttention,
    ReferencePoints,
)
from detr_steps.nn.point_weights import Uniform
from detr_steps.ops import backend
from detr_steps.ops import read_points as read_points_module
from detr_steps.ops.fused import ms_deform_attn_fused as fused
from detr_steps.ops.read_points import fused_read_points, has_fused_kernel, read_points

if backend.trouble():
    pytest.skip(f"no compiled op: {backend.trouble()}", allow_module_level=True)

SIZES = ((4, 6), (2, 3), (1, 1))
SHAPES, POINTS = [4, 6, 2, 3, 1, 1], [2, 2, 2]


def given(sides=2, q=3, dtype=torch.float64) -> list:
    """Value, references, offsets and logits of two images and heads."""
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 31, 2, 8), (2, q, 3, sides), (2, q, 2, 6, 2), (2, q, 2, 6)
    value, references, offsets, logits = (
        torch.rand(shape, generator=generator, dtype=dtype) for shape in shapes
    )
    return [value, references, 2 * offsets - 1, 4 * logits]


def in_pieces(value, references, offsets, logits):
    """What MultiScaleDeformableAttention does, and read_points."""
    at = references[:, :, None, :, None]  # [B, Q, 1, L, 1, 2 or 4]
    offsets = offsets.unflatten(3, (3, 2))
    if at.shape[-1] == 4:
        locations = at[..., :2] + offsets * at[..., 2:] / (2 * 2)
    else:
        extent = at.new_tensor([(w, h) for h, w in SIZES])
        locations = at + offsets / extent[:, None]
    weights = logits.softmax(-1).unflatten(3, (3, 2))
    return read_points(value, SIZES, locations, weights)


def in_one(value, references, offsets, logits):
    return fused(value, SHAPES, POINTS, references, offsets, logits)


def with_grads(function, arguments, learn=(0, 1, 2, 3)) -> list:
    arguments = [x.detach().clone() for x in arguments]
    wanted = [arguments[i].requires_grad_() for i in learn]
    result = function(*arguments)
    return [result.detach(), *torch.autograd.grad(result.square().sum(), wanted)]


@pytest.mark.parametrize("learn", [(0, 1, 2, 3), (0, 2, 3)], ids=["all", "fixed at"])
@pytest.mark.parametrize("sides", [2, 4], ids=["points", "boxes"])
def test_same_as_in_pieces(sides, learn):
    mine = with_grads(in_one, given(sides), learn)
    for one, other in zip(mine, with_grads(in_pieces, given(sides), learn)):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_boxes_without_extent_have_gradients():
    arguments = given(4)
    arguments[1][..., 2:] = 0
    for one, other in zip(*(with_grads(f, arguments) for f in (in_one, in_pieces))):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_levels_with_points_of_their_own():
    value, references, offsets, logits = given(4)
    arguments = [x.requires_grad_() for x in (value, references, offsets, logits)]
    assert torch.autograd.gradcheck(
        lambda *x: fused(x[0], SHAPES, [1, 0, 5], *x[1:]), arguments
    )


@pytest.mark.parametrize("sides", [2, 4], ids=["points", "boxes"])
def test_opcheck(sides):
    ops = torch.ops.detr_steps
    value, *others = (x.requires_grad_() for x in given(sides))
    arguments = [value, SHAPES, POINTS, *others]
    found = torch.library.opcheck(ops.ms_deform_attn_fused.default, arguments)
    assert list(found.values()) == ["SUCCESS"] * 4
    fixed = [x.detach() if torch.is_tensor(x) else x for x in arguments]
    fixed.append(torch.rand(2, 3, 16, dtype=torch.float64))
    found = torch.library.opcheck(ops.ms_deform_attn_fused_backward.default, fixed)
    assert list(found.values()) == ["SUCCESS"] * 4


def test_compile_leaves_it_whole():
    fast = torch.compile(in_one, fullgraph=True, backend="aot_eager", dynamic=True)
    for queries in (3, 7):
        for learn in ((0, 1, 2, 3), (0, 2, 3)):
            mine = with_grads(in_one, given(q=queries), learn)
            other = with_grads(fast, given(q=queries), learn)
            assert all(torch.equal(a, b) for a, b in zip(mine, other))


@pytest.mark.parametrize("learn", [(0, 1, 2, 3), (0, 2, 3)])
def test_deterministic_algorithms_go_by_pieces(learn, monkeypatch):
    """The kernel that computes all at once on a GPU has no fixed order."""
    asked = []
    run = torch.ops.detr_steps.ms_deform_attn_backward

    def listen(*arguments):
        asked.append(arguments[-1])
        return run(*arguments)

    monkeypatch.setattr(torch.ops.detr_steps, "ms_deform_attn_backward", listen)
    monkeypatch.setattr(torch.ops.detr_steps, "ms_deform_attn_fused_backward", None)
    torch.use_deterministic_algorithms(True)
    try:
        found = with_grads(in_one, given(), learn)
    finally:
        torch.use_deterministic_algorithms(False)
    assert asked == [True] and len(found) == 1 + len(learn)


def test_an_empty_level_is_refused_as_elsewhere():
    with pytest.raises(RuntimeError, match="belong together"):
        fused(given()[0], [4, 6, 7, 1, 0, 3], POINTS, *given()[1:])


def test_a_second_gradient_is_refused():
    value, *others = (x.requires_grad_() for x in given())
    grad = torch.autograd.grad(
        in_one(value, *others).square().sum(), others[1], create_graph=True
    )[0]
    with pytest.raises(RuntimeError, match="has no second gradient"):
        grad.sum().backward()


# --- in the attention ---------------------------------------------------------------


@pytest.mark.parametrize("sides", [2, 4], ids=["points", "boxes"])
def test_the_attention_gives_the_same_in_one(sides, monkeypatch):
    torch.manual_seed(0)
    attention = MultiScaleDeformableAttention(16, heads=2, levels=3, points=4)
    torch.nn.init.normal_(attention.weights.linear.weight)
    query, value = torch.rand(2, 5, 16), torch.rand(2, 31, 16)
    places = ReferencePoints(torch.rand(2, 5, 3, sides), SIZES)

    def grads() -> list:
        result, trace = attention(query, places, value)
        assert trace is None
        return [result, *torch.autograd.grad(result.sum(), attention.parameters())]

    before = grads()
    asked = []
    monkeypatch.setattr(
        deform_attention, "has_fused_kernel", lambda *shape: asked.append(shape) or True
    )
    for one, other in zip(before, grads()):
        torch.testing.assert_close(one, other, atol=2e-6, rtol=1e-5)
    assert asked[0][0].shape == (2, 31, 2, 8) and asked[0][1:] == (3, 4)
    reading = attention(query, places, value, trace=True)[1]  # that has to be kept
    assert len(asked) == 1 and reading.weights.shape == (2, 5, 2, 3, 4)
    attention.weights = Uniform().build(16, 2, 3, 4)
    attention(query, places, value)
    assert len(asked) == 1


def test_half_precision_asks_in_float32(monkeypatch):
    """A GPU's kernel takes the value as short as it is, and nothing else."""
    seen = []
    monkeypatch.setattr(
        read_points_module,
        "ms_deform_attn_fused",
        lambda value, shapes, points, *asked: seen.extend((value, *asked)),
    )
    value, references, offsets, logits = (x.bfloat16() for x in given())
    fused_read_points(value, SIZES, references, offsets.unflatten(3, (3, 2)),
               logits.unflatten(3, (3, 2)))  # fmt: skip
    assert [x.dtype for x in seen] == [torch.bfloat16] + [torch.float32] * 3


class OnGPU:
    """What `has_fused_kernel` asks a value about, with a GPU's answers."""

    is_cuda = True

    def __init__(self, width, dtype):
        self.shape, self.dtype = (2, 31, 2, width), dtype
        self.device = torch.device("cuda")

    def element_size(self):
        return self.dtype.itemsize


def test_which_shapes_have_a_kernel(monkeypatch):
    monkeypatch.setattr(read_points_module, "compiles", lambda value: True)
    f32, bf16, f64 = torch.float32, torch.bfloat16, torch.float64
    takes = [
        (8, f32, 4, 4), (32, bf16, 4, 4), (64, f32, 4, 8), (16, torch.float16, 1, 1)
    ]  # fmt: skip
    leaves = [
        (8, bf16, 4, 4), (24, f32, 4, 4), (32, f64, 4, 4), (32, f32, 4, 9),
        (32, f32, 9, 1),
    ]  # fmt: skip
    for width, dtype, levels, points in takes:
        assert has_fused_kernel(OnGPU(width, dtype), levels, points)
    for width, dtype, levels, points in leaves:
        assert not has_fused_kernel(OnGPU(width, dtype), levels, points)
    assert not has_fused_kernel(torch.zeros(2, 31, 2, 32), 4, 4)  # on a CPU
    monkeypatch.setattr(read_points_module, "compiles", lambda value: False)
    assert not has_fused_kernel(OnGPU(32, f32), 4, 4)
