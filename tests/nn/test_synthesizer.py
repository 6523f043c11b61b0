"""Weights without keys: against plain loops, and what they cannot see."""

import math

import pytest
import torch
from small import small_config, unequal_batch

from detr_steps.describable import from_json, to_json
from detr_steps.images import ImageBatch
from detr_steps.nn.memory import Memory
from detr_steps.nn.queries import tokens_as_queries
from detr_steps.nn.synthesizer import DenseWeights, DotProduct, RandomWeights

B, S, C, M = 2, 6, 8, 2
KINDS = {
    "dense": DenseWeights(S),
    "random": RandomWeights(S),
    "fixed": RandomWeights(S, learned=False),
    "mixed": RandomWeights(S, mixed=True),
}


def memory(seed: int = 0, padded: bool = False) -> Memory:
    draw = torch.Generator().manual_seed(seed)
    padding = torch.zeros(B, S, dtype=torch.bool)
    padding[1, 4:] = padded
    tokens, positions = torch.randn(2, B, S, C, generator=draw)
    return Memory(tokens, positions, padding if padded else None)


def made(kind):
    torch.manual_seed(1)
    module = kind.build(C, M)
    for value in module.parameters():  # not only what a fresh module can show
        torch.nn.init.normal_(value, std=0.5)
    return module


def scores_of(module, name, at, image, head, query):
    """One row of scores, number by number."""
    table = getattr(module, "table", None)
    if name in ("random", "fixed"):
        return table[head, query]
    x = at.tokens[image, query] + at.positions[image, query]
    if name == "dense":
        hidden = [
            max(0.0, float(w @ x + b)) for w, b in zip(*module.first.parameters())
        ]
        rows = module.second(torch.tensor(hidden))
        return rows[head * S : (head + 1) * S]
    part, d = slice(head * C // M, (head + 1) * C // M), C // M
    q = module.query(x)[part]
    keys = [module.key(at.tokens[image, s] + at.positions[image, s]) for s in range(S)]
    dots = torch.stack([q @ k[part] for k in keys]) / math.sqrt(d)
    a, b = module.shares.exp() / module.shares.exp().sum()
    return a * table[head, query] + b * dots


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", KINDS)
@torch.no_grad()
def test_it_is_the_plain_loop(name, padded):
    module, at = made(KINDS[name]), memory(padded=padded)
    found, seen = module.read(tokens_as_queries(at), at, trace=True)
    assert seen.weights.shape == (B, M, S, S)
    for image in range(B):
        real = 4 if padded and image == 1 else S
        values = module.value(at.tokens[image])
        for query in range(S):
            heads = []
            for head in range(M):
                row = scores_of(module, name, at, image, head, query)[:real]
                weights = row.exp() / row.exp().sum()
                same = seen.weights[image, head, query]
                assert torch.allclose(same[:real], weights, atol=1e-5)
                assert not same[real:].any()
                part = slice(head * C // M, (head + 1) * C // M)
                heads.append(weights @ values[:real, part])
            mine = module.output(torch.cat(heads))
            assert torch.allclose(found[image, query], mine, atol=1e-5)


@torch.no_grad()
def test_what_weights_cannot_see():
    at, other = memory(), memory(seed=3)
    mixture = at._replace(tokens=torch.cat((at.tokens[:, :1], other.tokens[:, 1:]), 1))
    looks = {}
    for name, kind in KINDS.items():
        looks[name] = [
            made(kind).read(tokens_as_queries(m), m, trace=True)[1].weights
            for m in (at, mixture)
        ]
    for name in ("random", "fixed"):  # neither picture nor query
        assert torch.equal(*looks[name])
    dense = looks["dense"]  # the same query, other keys
    assert torch.allclose(dense[0][:, :, 0], dense[1][:, :, 0], atol=1e-6)
    assert not torch.allclose(dense[0][:, :, 1], dense[1][:, :, 1], atol=1e-3)
    mixed = looks["mixed"]
    assert not torch.allclose(mixed[0][:, :, 0], mixed[1][:, :, 0], atol=1e-3)


def test_only_learned_tables_learn():
    learned, fixed = (RandomWeights(S, learned=x).build(C, M) for x in (True, False))
    assert learned.table.requires_grad and not fixed.table.requires_grad
    assert "table" in fixed.state_dict()  # drawn once, and kept


def test_other_sizes_are_refused():
    module = DenseWeights(S + 1).build(C, M)
    with pytest.raises(ValueError, match="6 tokens, but rows of weights for 7"):
        module.read(tokens_as_queries(memory()), memory())
    with pytest.raises(ValueError, match="3 heads do not divide 8"):
        DenseWeights(S).build(C, 3)
    with pytest.raises(ValueError, match="0 tokens"):
        RandomWeights(0).build(C, M)


@pytest.mark.parametrize("kind", [DenseWeights(16), RandomWeights(16, mixed=True)])
def test_a_detector_with_it_learns_and_comes_back_from_json(kind):
    config = small_config(encoder_attention=kind)
    assert from_json(to_json(config)) == config
    model = config.build()
    size = 4 * model.backbone.strides[-1]
    batch = ImageBatch.from_pixels(torch.randn(2, 3, size, size))
    target = {
        "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.2]]),
        "labels": torch.tensor([0]),
    }
    model.loss(model(batch), [target] * 2)["total"].backward()
    for name, value in model.encoder[0].attention.named_parameters():
        assert value.grad is not None and value.grad.abs().sum() > 0, name
    with pytest.raises(ValueError, match="pictures of one size"):
        model(unequal_batch())


def test_plain_attention_is_what_it_was():
    torch.manual_seed(0)
    plain = small_config().build()
    torch.manual_seed(0)
    named = small_config(encoder_attention=DotProduct()).build()
    for a, b in zip(plain.state_dict().values(), named.state_dict().values()):
        assert torch.equal(a, b)
