"""Deformable attention: its start, where it looks, what it reads, bad input."""

import pytest
import torch
from torch import nn

from detr_steps.nn.deform_attention import (
    DeformableAttention,
    MultiScaleDeformableAttention,
    ReferencePoints,
    Sampling,
    star,
)
from detr_steps.nn.point_weights import FromKeys, FromQuery, Uniform
from detr_steps.ops.sample import sample_by_hand

SIZES = ((4, 6), (2, 3))
TOKENS = 30


def stirred(module: nn.Module, std: float = 0.5) -> nn.Module:
    """All weights at random: fresh ones say the same for every query."""
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=std)
    return module.double()


@pytest.fixture
def attention() -> MultiScaleDeformableAttention:
    return stirred(MultiScaleDeformableAttention(8, heads=2, levels=2, points=3))


def scene(b=2, q=5, channels=8, corners=2, sizes=SIZES):
    """Queries, references and value, all at random."""
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    references = draw(b, q, len(sizes), corners)
    references = ReferencePoints(references, sizes)
    tokens = sum(h * w for h, w in sizes)
    return draw(b, q, channels) - 0.5, references, draw(b, tokens, channels) - 0.5


# --- the start ---------------------------------------------------------------------


def test_parameters_are_those_of_the_paper():
    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(MultiScaleDeformableAttention(256, 8, 4, 4)) == 230_272
    assert count(DeformableAttention(256, 8, 4)) == 156_256


def test_defaults_are_those_of_the_paper():
    assert MultiScaleDeformableAttention(16).shape == (8, 4, 4)
    assert DeformableAttention(16).shape == (8, 1, 4)
    assert Sampling() == Sampling(heads=8, points=4, weights=FromQuery())
    assert Sampling().build(16, 3).shape == (8, 3, 4)


@pytest.mark.parametrize("weights", [FromQuery(), FromKeys(), Uniform()], ids=str)
def test_sizes_may_be_a_tensor(weights):
    attention = MultiScaleDeformableAttention(8, 2, 2, 3, weights).double()
    query, references, value = scene()
    wanted, _ = attention(query, references, value)
    asked = references._replace(sizes=torch.tensor(SIZES))
    found, seen = attention(query, asked, value, trace=True)
    assert torch.allclose(found, wanted, atol=1e-12)
    asked = references._replace(sizes=((4, 7), (2, 1), (0, 3)))
    with pytest.raises(ValueError, match="level 2 has size .0, 3."):
        attention(query, asked, value)


def test_the_star_of_eight_heads():
    found = star(8, 2, 3)
    assert found.shape == (8, 2, 3, 2)
    directions = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    wanted = torch.tensor(directions).float()
    for point in range(3):
        for level in range(2):
            step = found[:, level, point]
            assert torch.allclose(step, (point + 1) * wanted, atol=1e-5)


def test_at_the_start_all_queries_look_at_the_star_with_equal_weights():
    module = MultiScaleDeformableAttention(16, 4, 2, 3)
    query, references, value = (x for x in scene(channels=16))
    _, seen = module(query.float(), references, value.float(), trace=True)
    assert torch.allclose(seen.weights, torch.tensor(1 / 6))
    moved = seen.locations - references.points[:, :, None, :, None]
    pixels = moved * torch.tensor([[6.0, 4.0], [3.0, 2.0]])[:, None]
    assert torch.allclose(pixels, star(4, 2, 3).double().expand_as(pixels), atol=1e-5)
    assert (module.value.bias == 0).all() and (module.output.bias == 0).all()
    assert module.value.weight.abs().max() <= (6 / 32) ** 0.5


# --- where it looks ----------------------------------------------------------------


def test_offsets_from_a_point_count_pixels_of_each_level(attention):
    query, references, _ = scene()
    found = attention.locate(query, references)
    offsets = attention.offsets(query).view(2, 5, 2, 2, 3, 2)
    for level, (h, w) in enumerate(SIZES):
        for axis, side in enumerate((w, h)):  # x by the width, y by the height
            at = references.points[:, :, level, axis, None, None]
            wanted = at + offsets[:, :, :, level, :, axis] / side
            assert torch.allclose(found[:, :, :, level, :, axis], wanted)


def test_offsets_from_a_box_count_halves_of_its_sides_over_k(attention):
    query, references, _ = scene(corners=4)
    found = attention.locate(query, references)
    offsets = attention.offsets(query).view(2, 5, 2, 2, 3, 2)
    for axis in range(2):
        at = references.points[..., axis, None][:, :, None]
        side = references.points[..., 2 + axis, None][:, :, None]
        wanted = at + offsets[..., axis] * side / 2 / 3
        assert torch.allclose(found[..., axis], wanted)


def test_the_star_reaches_the_border_of_a_box():
    module = MultiScaleDeformableAttention(16, 8, 1, 4)
    box = torch.tensor([0.5, 0.4, 0.2, 0.6]).view(1, 1, 1, 4)
    found = module.locate(torch.randn(1, 1, 16), ReferencePoints(box, ((9, 9),)))[
        0, 0, :, 0
    ]
    last = found[:, 3]  # point K of each head
    assert torch.allclose(last.amin(0), torch.tensor([0.4, 0.1]), atol=1e-5)
    assert torch.allclose(last.amax(0), torch.tensor([0.6, 0.7]), atol=1e-5)


# --- what it reads -----------------------------------------------------------------


@pytest.mark.parametrize("corners", [2, 4])
def test_equation_3_head_by_head(attention, corners):
    query, references, value = scene(corners=corners)
    found, seen = attention(query, references, value, trace=True)
    assert torch.allclose(seen.weights.sum((-1, -2)), torch.ones(()).double())
    table = attention.value(value)  # [B, S, C]
    maps = [
        part.transpose(1, 2).unflatten(2, size)
        for part, size in zip(table.split([24, 6], 1), SIZES)
    ]  # [B, C, h, w]
    heads = []
    for head in range(2):
        mine = slice(4 * head, 4 * head + 4)
        total = 0
        for level in range(2):
            at = seen.locations[:, :, head, level]  # [B, Q, K, 2]
            read = sample_by_hand(maps[level][:, mine], at)  # [B, D, Q, K]
            total = total + (read * seen.weights[:, None, :, head, level]).sum(-1)
        heads.append(total)
    wanted = attention.output(torch.cat(heads, 1).transpose(1, 2))
    assert torch.allclose(found, wanted, atol=1e-12)


def test_trace_changes_nothing(attention):
    given = scene()
    with_trace, without = attention(*given, trace=True), attention(*given)
    assert torch.equal(with_trace[0], without[0]) and without[1] is None


def test_one_level_is_the_same_code():
    one = stirred(DeformableAttention(8, 2, 3))
    same = MultiScaleDeformableAttention(8, 2, 1, 3).double()
    same.load_state_dict(one.state_dict())
    given = scene(sizes=((5, 6),))
    assert torch.equal(one(*given)[0], same(*given)[0])


def test_padding_reads_as_zero(attention):
    query, references, value = scene()
    padding = torch.zeros(2, TOKENS, dtype=torch.bool)
    padding[1, 10:] = True
    found, _ = attention(query, references, value, padding)
    other = value.clone()
    other[1, 10:] = 99.0
    assert torch.equal(found, attention(query, references, other, padding)[0])
    assert not torch.allclose(found[1], attention(query, references, value)[0][1])
    assert torch.equal(found[0], attention(query, references, value)[0][0])


def test_a_warp_moves_the_picture():
    """One head, one point, equal weights: a query fetches one other place, unmixed."""
    warp = Sampling(heads=1, points=1, weights=Uniform()).build(8, 1).double()
    with torch.no_grad():
        for part in (warp.value, warp.output):
            part.weight.copy_(torch.eye(8))
        warp.offsets.bias.copy_(torch.tensor([2.0, -1.0]))  # two right, one up
    _, _, value = scene(sizes=((4, 6),))
    x, y = torch.meshgrid(torch.arange(6.0), torch.arange(4.0), indexing="xy")
    centres = torch.stack(((x + 0.5) / 6, (y + 0.5) / 4), -1).view(1, 24, 1, 2)
    references = ReferencePoints(centres.expand(2, -1, -1, -1).double(), ((4, 6),))
    found, _ = warp(torch.randn(2, 24, 8).double(), references, value)
    found, value = found.unflatten(1, (4, 6)), value.unflatten(1, (4, 6))
    assert torch.allclose(found[:, 1:, :4], value[:, :3, 2:], atol=1e-12)
    assert (found[:, 0].abs() < 1e-12).all()  # came from above the map


def test_eight_heads_of_one_point_start_as_the_neighbours_of_a_pixel():
    """So K = 1 is a warp for one head only: together they are a 3 x 3 convolution."""
    module = DeformableAttention(8, heads=8, points=1).double()
    with torch.no_grad():
        for part in (module.value, module.output):
            part.weight.copy_(torch.eye(8))
    _, _, value = scene(sizes=((5, 5),))
    centre = torch.full((2, 1, 1, 2), 0.5).double()
    found, _ = module(
        torch.randn(2, 1, 8).double(), ReferencePoints(centre, ((5, 5),)), value
    )
    square = value.unflatten(1, (5, 5))
    around = [(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)]
    for head, (dx, dy) in enumerate(around):
        assert torch.allclose(found[:, 0, head], square[:, 2 + dy, 2 + dx, head])


def test_a_single_point_leaves_its_weight_nothing_to_learn():
    module = stirred(DeformableAttention(8, 2, 1))
    module(*scene(sizes=((5, 6),)))[0].square().sum().backward()
    assert (module.weights.linear.weight.grad.abs() < 1e-12).all()
    assert (module.offsets.weight.grad != 0).any()


def test_gradients_reach_everything(attention):
    query, references, value = scene(corners=4)
    points = references.points.requires_grad_()
    out, _ = attention(query.requires_grad_(), references, value.requires_grad_())
    out.square().sum().backward()
    for tensor in (query, points, value, *attention.parameters()):
        assert tensor.grad.isfinite().all() and (tensor.grad != 0).any()


# --- input that is not as it should be ---------------------------------------------


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        ((8, 3, 2, 4), "3 heads do not divide 8 channels"),
        ((8, 0, 2, 4), "0 heads do not divide"),
        ((8, 2, 2, 0), "0 points on 2 levels: a query must look at one point"),
        ((8, 2, 0, 4), "4 points on 0 levels"),
    ],
)
def test_numbers_that_cannot_be(numbers, words):
    with pytest.raises(ValueError, match=words):
        MultiScaleDeformableAttention(*numbers)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            lambda p: ReferencePoints(p.points, ((4, 6), (3, 2), (1, 1))),
            "hold 31 tokens",
        ),
        (
            lambda p: ReferencePoints(p.points, ((4, 6), (2, 2), (2, 1))),
            "3 sizes for 2",
        ),
        (
            lambda p: ReferencePoints(p.points, ((6, 4), (2, 2))),
            "hold 28 tokens.*has 30",
        ),
        (
            lambda p: ReferencePoints(p.points[:, :4], p.sizes),
            r"expected \[2, 5, 2, 2\]",
        ),
        (lambda p: ReferencePoints(p.points[..., :1], p.sizes), "points or .* boxes"),
        (lambda p: ReferencePoints(p.points[:, :, :1], p.sizes), "expected"),
    ],
)
def test_places_that_do_not_belong(attention, change, words):
    query, references, value = scene()
    with pytest.raises(ValueError, match=words):
        attention(query, change(references), value)


def test_references_outside_the_image_read_zeros(attention):
    query, references, value = scene()
    far = ReferencePoints(references.points + 50, SIZES)
    found, _ = attention(query, far, value)
    wanted = attention.output.bias.expand_as(found)
    assert torch.allclose(found, wanted)


def test_no_queries(attention):
    query, references, value = scene(q=0)
    found, seen = attention(query, references, value, trace=True)
    assert found.shape == (2, 0, 8) and seen.locations.shape == (2, 0, 2, 2, 3, 2)


def test_levels_of_one_pixel(attention):
    query, references, value = scene(sizes=((1, 1), (1, 1)))
    assert attention(query, references, value)[0].isfinite().all()


def test_an_image_of_padding_alone(attention):
    query, references, value = scene()
    everything = torch.ones(2, TOKENS, dtype=torch.bool)
    found, _ = attention(query, references, value, everything)
    assert torch.allclose(found, attention.output.bias.expand_as(found))


def test_offsets_that_are_no_numbers_are_not_hidden(attention):
    query, references, value = scene()
    query[1, 3, 0] = float("nan")
    found, _ = attention(query, references, value)
    broken = found.isnan().any(-1)
    assert broken[1, 3] and broken.sum() == 1
    query[1, 3, 0] = float("inf")
    assert not attention(query, references, value)[0][1, 3].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_the_cpu(attention, dtype):
    query, references, value = scene()
    exact, _ = attention(query, references, value)
    module = attention.to(dtype)
    exactly = ReferencePoints(references.points.float(), SIZES)
    found, seen = module(query.to(dtype), exactly, value.to(dtype), trace=True)
    assert found.dtype == dtype and seen.locations.dtype == torch.float32
    assert torch.allclose(found.double(), exact, atol=0.1)


def test_half_precision_offsets_do_not_blur_the_reference():
    """A pixel of a map 1000 wide is finer than bfloat16 can tell near 1."""
    module = DeformableAttention(8, 1, 1).to(torch.bfloat16)
    at = torch.tensor([0.9005, 0.5]).view(1, 1, 1, 2)
    query = torch.randn(1, 1, 8, dtype=torch.bfloat16)
    found = module.locate(query, ReferencePoints(at, ((4, 1000),)))
    assert found.flatten().tolist() == pytest.approx([0.9015, 0.5], abs=1e-6)
