"""Four ways to weigh points, and levels that do not exchange."""

import math

import pytest
import torch
from torch import nn

from detr_steps.nn.deform_attention import ReferencePoints, Sampling
from detr_steps.nn.point_weights import FromKeys, FromQuery, Learned, Uniform
from detr_steps.nn.within_levels import WithinLevels
from detr_steps.ops.sample import sample_by_hand

SIZES = ((4, 6), (2, 3))
KINDS = [FromQuery(), FromKeys(), Learned(), Uniform()]


def stirred(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    return module.double()


def build(weights, **numbers) -> nn.Module:
    settings = dict(heads=2, points=3) | numbers
    return stirred(Sampling(weights=weights, **settings).build(8, len(SIZES)))


def scene(q: int = 5):
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    return (
        draw(2, q, 8) - 0.5,
        ReferencePoints(draw(2, q, 2, 2), SIZES),
        draw(2, 30, 8) - 0.5,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_weights_add_up_to_one_and_everything_learns(kind):
    module = build(kind)
    out, seen = module(*scene(), trace=True)
    assert seen.weights.shape == (2, 5, 2, 2, 3)
    total = seen.weights.sum((-1, -2))
    assert torch.allclose(total, torch.ones_like(total))
    out.square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad.isfinite().all() and (parameter.grad != 0).any(), name


@pytest.mark.parametrize(
    ("kind", "on_query", "on_value"),
    [
        (FromQuery(), True, False),
        (FromKeys(), True, True),
        (Learned(), False, False),
        (Uniform(), False, False),
    ],
)
def test_what_the_weights_depend_on(kind, on_query, on_value):
    """The offsets depend on the query too: they are switched off here."""
    module = build(kind)
    nn.init.zeros_(module.offsets.weight)
    query, references, value = scene()
    weights = module(query, references, value, trace=True)[1].weights
    other_query = module(query + 1, references, value, trace=True)[1].weights
    other_value = module(query, references, value.flip(1), trace=True)[1].weights
    assert torch.allclose(weights, other_query) != on_query
    assert torch.allclose(weights, other_value) != on_value


def test_scores_from_keys_are_scaled_dot_products():
    module = build(FromKeys())
    query, references, value = scene()
    _, seen = module(query, references, value, trace=True)
    asked = module.weights.query(query).unflatten(-1, (2, 4))
    keys = module.weights.key(value).split([24, 6], 1)
    scores = torch.zeros(2, 5, 2, 2, 3, dtype=torch.float64)
    for level, (size, part) in enumerate(zip(SIZES, keys)):
        maps = part.transpose(1, 2).unflatten(2, size)
        for head in range(2):
            at = seen.locations[:, :, head, level]
            read = sample_by_hand(maps[:, 4 * head : 4 * head + 4], at)  # [B, D, Q, K]
            dots = torch.einsum("bdqk,bqd->bqk", read, asked[:, :, head])
            scores[:, :, head, level] = dots / math.sqrt(4)
    wanted = scores.flatten(-2).softmax(-1).view_as(scores)
    assert torch.allclose(seen.weights, wanted, atol=1e-12)


def test_keys_of_padding_score_zero():
    module = build(FromKeys())
    query, references, value = scene()
    padding = torch.zeros(2, 30, dtype=torch.bool)
    padding[:, 3:] = True
    other = value.clone()
    other[:, 3:] = 7.0
    first = module(query, references, value, padding, trace=True)[1]
    second = module(query, references, other, padding, trace=True)[1]
    assert torch.equal(first.weights, second.weights)


def test_uniform_and_learned_start_alike():
    for kind in (Learned(), Uniform(), FromQuery()):
        module = Sampling(heads=2, points=3, weights=kind).build(8, 2).double()
        weights = module(*scene(), trace=True)[1].weights
        assert torch.allclose(weights, torch.full_like(weights, 1 / 6))


# --- without exchange between levels -----------------------------------------------


def within() -> nn.Module:
    return stirred(WithinLevels(heads=2, points=3).build(8, len(SIZES)))


def test_a_token_hears_of_its_own_level_only():
    module = within()
    query, references, value = scene(30)
    before, seen = module(query, references, value, trace=True)
    assert before.shape == (2, 30, 8) and seen.locations.shape == (2, 30, 2, 1, 3, 2)
    other = value.clone()
    other[:, 24:] += 1
    after = module(query, references, other)[0]
    assert torch.equal(before[:, :24], after[:, :24])
    assert not torch.allclose(before[:, 24:], after[:, 24:])


def test_each_level_is_read_like_a_single_map():
    module = within()
    query, references, value = scene(30)
    padding = torch.zeros(2, 30, dtype=torch.bool)
    padding[1, 26:] = True
    found, _ = module(query, references, value, padding)
    alone = Sampling(heads=2, points=3).build(8, 1).double()
    alone.load_state_dict(module.state_dict())
    second = ReferencePoints(references.points[:, 24:, 1:], SIZES[1:])
    wanted, _ = alone(query[:, 24:], second, value[:, 24:], padding[:, 24:])
    assert torch.allclose(found[:, 24:], wanted, atol=1e-12)


def test_queries_without_a_level_are_refused():
    with pytest.raises(ValueError, match="5 queries for 30 tokens"):
        within()(*scene())
