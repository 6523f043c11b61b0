"""Attention against torch's own, its maps, its start and its padding."""

import math

import pytest
import torch
from torch import nn

from detr_steps.nn.attention import Attention, attend
from detr_steps.nn.layers import DecoderLayer, EncoderLayer
from detr_steps.nn.memory import Memory
from detr_steps.nn.queries import Queries


def reference(mine: Attention) -> nn.MultiheadAttention:
    """Torch's attention with the same weights, fused as torch keeps them."""
    channels = mine.output.in_features
    other = nn.MultiheadAttention(channels, mine.heads, batch_first=True)
    parts = (mine.query, mine.key, mine.value)
    with torch.no_grad():
        other.in_proj_weight.copy_(torch.cat([p.weight for p in parts]))
        other.in_proj_bias.copy_(torch.cat([p.bias for p in parts]))
        other.out_proj.load_state_dict(mine.output.state_dict())
    return other.eval()


@pytest.fixture
def attention() -> Attention:
    torch.manual_seed(0)
    module = Attention(16, 4).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.4)
    return module


def inputs(padded: bool):
    generator = torch.Generator().manual_seed(1)
    query, key, value = (torch.randn(2, n, 16, generator=generator) for n in (3, 5, 5))
    padding = torch.zeros(2, 5, dtype=torch.bool)
    padding[1, 3:] = True
    return query, key, value, padding if padded else None


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("trace", [False, True])
def test_same_as_torch(attention, padded, trace):
    query, key, value, padding = inputs(padded)
    mine, weights = attention(query, key, value, padding, trace)
    other, maps = reference(attention)(
        query, key, value, key_padding_mask=padding, average_attn_weights=False
    )
    assert torch.allclose(mine, other, atol=1e-6)
    assert (weights is not None) == trace
    if trace:
        assert torch.allclose(weights, maps, atol=1e-6)


def test_rows_sum_to_one_and_padding_gets_nothing(attention):
    weights = attention(*inputs(True), trace=True)[1]  # [B, M, Q, S]
    assert torch.allclose(weights.sum(-1), torch.ones(2, 4, 3))
    assert (weights[1, :, :, 3:] == 0).all() and (weights[0] > 0).all()


def test_what_stands_in_the_padding_does_not_matter(attention):
    query, key, value, padding = inputs(True)
    before = attention(query, key, value, padding)[0]
    key[1, 3:], value[1, 3:] = 100.0, -100.0
    assert torch.equal(attention(query, key, value, padding)[0], before)


def test_attend_by_hand():
    q, k = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    v = torch.tensor([[10.0], [20.0]])
    mixed, weights = attend(q, k, v)
    first = 1 / (1 + math.exp(-1 / math.sqrt(2)))
    assert torch.allclose(weights, torch.tensor([[first, 1 - first]]))
    assert torch.allclose(mixed, torch.tensor([[10 * first + 20 * (1 - first)]]))


def test_dropout_acts_on_weights_while_training_only():
    torch.manual_seed(0)
    module = Attention(16, 4, dropout=0.5)
    x = torch.randn(1, 6, 16)
    assert not torch.equal(module(x, x, x)[0], module(x, x, x)[0])
    module.eval()
    assert torch.equal(module(x, x, x)[0], module(x, x, x)[0])


def test_heads_must_divide_channels():
    with pytest.raises(ValueError, match="3 heads do not divide 16 channels"):
        Attention(16, 3)
    with pytest.raises(ValueError, match="0 heads"):
        Attention(16, 0)


def test_xavier_bound_is_that_of_the_fused_projection():
    module = Attention(256, 8)
    fused = math.sqrt(6 / (256 + 3 * 256))  # in_proj_weight is [3C, C]
    square = math.sqrt(6 / (256 + 256))
    for part in (module.query, module.key, module.value):
        assert 0.99 * fused < part.weight.abs().max() <= fused
    assert 0.99 * square < module.output.weight.abs().max() <= square


def test_biases_start_at_zero():
    module = Attention(32, 4)
    for part in (module.query, module.key, module.value, module.output):
        assert (part.bias == 0).all()


def test_parameter_count():
    assert sum(p.numel() for p in Attention(256, 8).parameters()) == 263_168


@pytest.fixture
def seen(monkeypatch) -> list:
    """Record what every attention is asked with."""
    calls = []
    forward = Attention.forward

    def record(self, query, key, value, padding=None, trace=False):
        calls.append((query, key, value))
        return forward(self, query, key, value, padding, trace)

    monkeypatch.setattr(Attention, "forward", record)
    return calls


def test_encoder_positions_go_to_queries_and_keys_only(seen):
    tokens, positions = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    EncoderLayer(Attention(16, 4), 16, 32, 0.0)(Memory(tokens, positions, None))
    ((query, key, value),) = seen
    assert torch.equal(query, tokens + positions) and torch.equal(key, query)
    assert torch.equal(value, tokens)


def test_decoder_positions_go_to_queries_and_keys_only(seen):
    content, positions = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    tokens, where = torch.randn(2, 5, 16), torch.randn(2, 5, 16)
    layer = DecoderLayer(Attention(16, 4), Attention(16, 4), 16, 32, 0.0)
    layer(Queries(content, positions, None, (3,)), Memory(tokens, where, None))
    own, cross = seen
    assert torch.equal(own[0], content + positions) and torch.equal(own[1], own[0])
    assert torch.equal(own[2], content)
    assert torch.equal(cross[1], tokens + where) and torch.equal(cross[2], tokens)
    assert not torch.equal(cross[0], content + positions)  # content was refined since


def test_layers_are_post_norm():
    """The last thing a layer does is normalise: mean 0, deviation 1 in each token."""
    x = torch.randn(2, 5, 16) * 7 + 3
    out = EncoderLayer(Attention(16, 4), 16, 32, 0.0)(Memory(x, x, None)).tokens
    assert torch.allclose(out.mean(-1), torch.zeros(2, 5), atol=1e-5)
    assert torch.allclose(out.std(-1, unbiased=False), torch.ones(2, 5), atol=1e-3)
