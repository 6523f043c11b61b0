"""AdaMixer's parts against plain loops, at their start, and with bad input."""

import math

import pytest
import torch
from torch import nn

from detr_steps.boxes import iof
from detr_steps.nn.adaptive_mixing import AdaptiveMixing, Mixing, sample_3d
from detr_steps.nn.channel_map import ChannelMap
from detr_steps.nn.iof_attention import OverlapAttention
from detr_steps.nn.memory import Memory
from detr_steps.nn.queries import Queries
from detr_steps.nn.trace import SamplingPoints
from detr_steps.nn.xyzr import (
    THINNEST,
    boxes_to_xyzr,
    image_pixels,
    refine_xyzr,
    xyzr_code,
    xyzr_to_boxes,
)
from detr_steps.ops.sample import sample_by_hand

float64 = torch.float64
STRIDES, SIZES = (4, 8, 16), ((6, 8), (3, 4), (2, 2))
B, Q, C = 2, 3, 8
MIXING = Mixing(groups=2, points=3, out_points=5)


def draw(*shape: int) -> torch.Tensor:
    return torch.rand(shape, dtype=torch.float64) - 0.5


@pytest.fixture
def memory() -> Memory:
    """Two images of 32 x 24 and 20 x 17 pixels, the second one padded."""
    torch.manual_seed(1)
    pixels = torch.tensor([[32.0, 24.0], [20.0, 17.0]]).double()
    extents = torch.tensor(
        [[w * s, h * s] for (h, w), s in zip(SIZES, STRIDES)]
    ).double()
    valid = pixels[:, None] / extents
    return Memory(draw(B, sum(h * w for h, w in SIZES), C), None, None, SIZES, valid)


@pytest.fixture
def queries() -> Queries:
    torch.manual_seed(2)
    boxes = torch.rand(B, Q, 4, dtype=torch.float64) * 0.6 + 0.2
    return Queries(draw(B, Q, C), None, boxes, (Q,))


@pytest.fixture
def module() -> AdaptiveMixing:
    torch.manual_seed(0)
    made = MIXING.build(C, STRIDES)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.double()


def points_slowly(module, queries, memory, image, query):
    """(x, y, z) in pixels of each group and point, from the formulas."""
    w_image, h_image = (memory.valid[image, 0] * torch.tensor([32.0, 24.0])).tolist()
    cx, cy, w, h = queries.references[image, query].tolist()
    cx, w, cy, h = cx * w_image, w * w_image, cy * h_image, h * h_image
    z = math.log2(math.sqrt(w * h))
    offsets = module.offsets(queries.content[image, query]).view(2, 3, 3)
    return [
        [(cx + dx * w, cy + dy * h, z + dz) for dx, dy, dz in group]
        for group in offsets.tolist()
    ]


def sampled_slowly(module, queries, memory, image, query) -> torch.Tensor:
    """`[G, P, C/G]`: each level read by hand, weighed by the distance along z."""
    found = torch.zeros(2, 3, C // 2, dtype=torch.float64)
    tokens = memory.tokens[image].split([h * w for h, w in SIZES])
    points = points_slowly(module, queries, memory, image, query)
    for g, group in enumerate(points):
        for p, (x, y, z) in enumerate(group):
            scores = [-((z - math.log2(s)) ** 2) / 2 for s in STRIDES]
            shares = torch.tensor(scores, dtype=torch.float64).softmax(0)
            for share, (h, w), stride, level in zip(shares, SIZES, STRIDES, tokens):
                at = torch.tensor([[x / (w * stride), y / (h * stride)]], dtype=float64)
                part = level.T.view(1, C, h, w)[:, g * 4 : g * 4 + 4]
                found[g, p] += share * sample_by_hand(part, at[None])[0, :, 0]
    return found


def mixed_slowly(module, sampled, content) -> torch.Tensor:
    """`[C]`: two matrices for each group, a norm and ReLU after each, numbers apart."""
    kernels = module.kernels(content).view(2, -1)
    rows = []
    for g in range(2):
        channel, spatial = kernels[g, :16].view(4, 4), kernels[g, 16:].view(5, 3)
        first = torch.zeros(3, 4, dtype=torch.float64)
        for p in range(3):
            for c in range(4):
                first[p, c] = sum(sampled[g, p, k] * channel[k, c] for k in range(4))
        first = norm_slowly(first).clamp(min=0)
        second = torch.zeros(5, 4, dtype=torch.float64)
        for o in range(5):
            for c in range(4):
                second[o, c] = sum(spatial[o, p] * first[p, c] for p in range(3))
        rows.append(norm_slowly(second).clamp(min=0).flatten())
    return module.output(torch.cat(rows))


def norm_slowly(x: torch.Tensor) -> torch.Tensor:
    values = x.flatten().tolist()
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return (x - mean) / math.sqrt(variance + 1e-5)


# --- against loops -----------------------------------------------------------------


def test_sampling_is_the_loop(module, queries, memory):
    points = module.locate(queries, memory)
    locations, weights = module.on_levels(points, memory)
    value = module.split(memory.tokens)
    found = sample_3d(value, memory, locations, weights)
    assert found.shape == (B, Q, 2, 3, C // 2)
    for image in range(B):
        for query in range(Q):
            wanted = sampled_slowly(module, queries, memory, image, query)
            assert torch.allclose(found[image, query], wanted, atol=1e-10)


def test_mixing_is_the_loop(module, queries, memory):
    found, seen = module.read(queries, memory)
    assert seen is None
    for image in range(B):
        for query in range(Q):
            sampled = sampled_slowly(module, queries, memory, image, query)
            wanted = mixed_slowly(module, sampled, queries.content[image, query])
            assert torch.allclose(found[image, query], wanted, atol=1e-10)


def test_offsets_count_the_boxs_own_width_and_height(module, queries, memory):
    """Not 2^z for both, as the paper writes: a wide box samples a wide place."""
    with torch.no_grad():
        module.offsets.weight.zero_()
        module.offsets.bias.view(-1, 3)[:] = torch.tensor([0.5, 0.5, 0.0])
    wide = torch.tensor([[[0.5, 0.5, 0.8, 0.1]]], dtype=torch.float64).expand(B, Q, 4)
    points = module.locate(queries._replace(references=wide), memory)
    pixels = image_pixels(memory, 4)[:, 0]  # [B, 2]
    corner = pixels * torch.tensor([0.9, 0.55])
    assert torch.allclose(points[..., :2], corner[:, None, None, None].expand_as(
        points[..., :2]))  # fmt: skip
    scale = (pixels * torch.tensor([0.8, 0.1])).prod(-1).sqrt().log2()
    assert torch.allclose(points[:, 0, 0, 0, 2], scale)


def test_the_trace_has_the_points_that_were_read(module, queries, memory):
    _, seen = module.read(queries, memory, trace=True)
    assert isinstance(seen, SamplingPoints)
    assert seen.locations.shape == (B, Q, 2, 3, 3, 2)  # G, L, P
    sums = seen.weights.sum((-2, -1))
    assert torch.allclose(sums, torch.ones_like(sums))
    levels = seen.weights.sum(-2) * MIXING.points
    assert torch.allclose(levels, torch.ones_like(levels))


def test_gradients_are_those_of_numbers(module, queries, memory):
    def run(content, tokens):
        return module.read(queries._replace(content=content),
                           memory._replace(tokens=tokens))[0]  # fmt: skip

    given = queries.content.requires_grad_(), memory.tokens.requires_grad_()
    assert torch.autograd.gradcheck(run, given, atol=1e-4)


def test_attention_is_the_loop_over_heads_and_pairs(queries):
    torch.manual_seed(0)
    attention = OverlapAttention(C, heads=2).double()
    found, _ = attention.read(queries, queries.as_memory())
    traced, seen = attention.read(queries, queries.as_memory(), trace=True)
    assert torch.allclose(found, traced, atol=1e-10)
    for image in range(B):
        content, boxes = queries.content[image], queries.references[image]
        q, k, v = (
            part(content) for part in (attention.query, attention.key, attention.value)
        )
        for head in range(2):
            at = slice(4 * head, 4 * head + 4)
            for i in range(Q):
                scores = [
                    (q[i, at] @ k[j, at]).item() / 2
                    + attention.sharpness[head].item()
                    * math.log(inside(boxes[i], boxes[j]) + 1e-7)
                    for j in range(Q)
                ]
                wanted = torch.tensor(scores, dtype=torch.float64).softmax(0)
                weights = seen.weights[image, head, i]
                assert torch.allclose(weights, wanted, atol=1e-6)
        rows = torch.cat([seen.weights[image, h] @ v[:, 4 * h : 4 * h + 4]
                          for h in range(2)], -1)  # fmt: skip
        assert torch.allclose(attention.output(rows), found[image], atol=1e-6)


def inside(a, b) -> float:
    """The share of box a that lies in box b, cxcywh."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = a.tolist(), b.tolist()
    w = min(ax + aw / 2, bx + bw / 2) - max(ax - aw / 2, bx - bw / 2)
    h = min(ay + ah / 2, by + bh / 2) - max(ay - ah / 2, by - bh / 2)
    return max(w, 0) * max(h, 0) / (aw * ah)


def test_a_box_within_another_is_whole_in_it_and_not_the_other_way():
    small, large = torch.tensor([[2.0, 2, 4, 4]]), torch.tensor([[0.0, 0, 8, 8]])
    assert iof(small, large) == 1 and iof(large, small) == 4 / 64
    assert iof(small, small) == 1 and iof(small, small + 20) == 0
    none = torch.tensor([[1.0, 1, 1, 1]])
    assert iof(none, large) == 0  # of no area: 0 / 0 is no share


# --- xyzr --------------------------------------------------------------------------


def test_boxes_and_xyzr_are_two_ways_to_say_the_same():
    pixels = torch.tensor([[[640.0, 480.0]]])
    boxes = torch.tensor([[[0.5, 0.25, 0.2, 0.1], [0.1, 0.9, 0.01, 0.9]]])
    xyzr = boxes_to_xyzr(boxes, pixels)
    x, y, z, r = xyzr[0, 0].tolist()
    assert (x, y) == pytest.approx((320, 120))
    assert z == pytest.approx(math.log2(math.sqrt(128 * 48)))
    assert r == pytest.approx(math.log2(48 / 128))
    assert torch.allclose(xyzr_to_boxes(xyzr, pixels), boxes, atol=1e-6)


@pytest.mark.parametrize("size", [(0.0, 0.0), (0.0, 0.3), (0.3, 0.0), (-1.0, 0.2)])
def test_boxes_without_area_count_as_thin_ones(size):
    """The logarithm of 0 would be minus infinity, and all that follows NaN."""
    pixels = torch.tensor([[[100.0, 50.0]]])
    box = torch.tensor([[[0.5, 0.5, *size]]], requires_grad=True)
    xyzr = boxes_to_xyzr(box, pixels)
    again = xyzr_to_boxes(xyzr, pixels)
    assert xyzr.isfinite().all() and again.isfinite().all()
    least = THINNEST / pixels[0, 0]
    assert torch.allclose(again[0, 0, 2:], torch.maximum(box[0, 0, 2:], least))
    again.sum().backward()
    assert box.grad.isfinite().all()


@pytest.mark.parametrize("delta", [-500.0, 500.0])
def test_no_step_makes_a_box_that_is_not_finite(delta):
    pixels = torch.tensor([[[100.0, 50.0]]])
    xyzr = boxes_to_xyzr(torch.tensor([[[0.5, 0.5, 0.2, 0.2]]]), pixels)
    for numbers in ([0, 0, delta, 0], [0, 0, 0, delta], [1, 1, delta, delta]):
        moved = refine_xyzr(xyzr, torch.tensor([[numbers]], dtype=torch.float32))
        boxes = xyzr_to_boxes(moved, pixels)
        again = boxes_to_xyzr(boxes, pixels)
        assert boxes.isfinite().all() and again.isfinite().all()
        further = refine_xyzr(again, torch.ones(1, 1, 4))
        assert xyzr_to_boxes(further, pixels).isfinite().all()


def test_a_step_counts_scales_in_space_and_octaves_in_size():
    xyzr = torch.tensor([[[10.0, 20.0, 3.0, 1.0]]])
    moved = refine_xyzr(xyzr, torch.tensor([[[0.5, -1.0, 1.0, -1.0]]]))
    assert moved.tolist() == [[[14.0, 12.0, 4.0, 0.0]]]


def test_the_code_divides_only_x_and_y_and_stretches_nothing():
    code = xyzr_code(torch.tensor([[[500.0, 250.0, 3.0, -1.0]]]), 16)[0, 0]
    for number, value in enumerate((0.5, 0.25, 3.0, -1.0)):
        wanted = [math.sin(value), math.cos(value),
                  math.sin(value / 100), math.cos(value / 100)]  # fmt: skip
        assert code[4 * number : 4 * number + 4].tolist() == pytest.approx(wanted)


# --- start -------------------------------------------------------------------------


def test_at_first_all_queries_sample_and_mix_alike(queries, memory):
    torch.manual_seed(0)
    module = MIXING.build(C, STRIDES).double()
    assert not module.offsets.weight.any() and not module.kernels.weight.any()
    assert module.kernels.bias.any()  # or nothing would be read at all
    bias = module.offsets.bias.view(2, 3, 3)
    assert (bias[..., 2] == -1).all()
    assert bias[..., :2].abs().max() <= 0.5 and bias[..., :2].std() > 0.1
    same = queries._replace(references=queries.references[:, :1].expand(B, Q, 4))
    found, _ = module.read(same, memory)
    assert torch.allclose(found, found[:, :1].expand(B, Q, C))


def test_sharpness_starts_between_0_and_4():
    torch.manual_seed(0)
    tau = OverlapAttention(512, heads=256).sharpness
    assert 0 <= tau.min() < 0.2 and 3.8 < tau.max() <= 4


def test_parameters_are_those_of_the_paper():
    module = Mixing().build(256, (4, 8, 16, 32))
    found = sum(p.numel() for p in module.parameters())
    kernels = 4 * (64 * 64 + 128 * 32)
    assert found == 257 * 4 * 32 * 3 + 257 * kernels + (4 * 128 * 64 + 1) * 256


def test_one_norm_for_all_maps():
    project = ChannelMap((8, 16), 32)
    assert sum(p.numel() for p in project.parameters()) == 9 * 32 + 17 * 32 + 64
    maps = [torch.randn(2, 8, 6, 5), torch.randn(2, 16, 3, 3)]
    assert [x.shape for x in project(maps)] == [(2, 32, 6, 5), (2, 32, 3, 3)]


# --- bad input ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Mixing(groups=0), "groups 0: one at least"),
        (lambda: Mixing(points=0), "points 0: one at least"),
        (lambda: Mixing(points=2.5), "points 2.5: one at least"),
        (lambda: Mixing(out_points=-1), "out_points -1: one at least"),
        (
            lambda: Mixing(groups=3).build(32, STRIDES),
            "3 groups do not divide 32 channels evenly: take groups=1",
        ),
        (lambda: Mixing(groups=6).build(32, STRIDES), "take groups=2"),
        (lambda: Mixing().build(32, (16,)), "1 level: .*give two maps of the backbone"),
        (lambda: OverlapAttention(32, 3), "3 heads do not divide 32"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
