"""Queries in groups: joined, split, and blind to one another."""

import pytest
import torch

from detr_steps.nn.attention import Attention
from detr_steps.nn.layers import DecoderLayer
from detr_steps.nn.memory import Memory
from detr_steps.nn.queries import Queries, join


def queries(*sizes: int, corners: int = 4) -> Queries:
    q = sum(sizes)
    generator = torch.Generator().manual_seed(q)
    draw = lambda n: torch.rand(2, q, n, generator=generator)  # noqa: E731
    return Queries(draw(16), draw(16), draw(corners), sizes)


def same(one: Queries, other: Queries) -> bool:
    return one.groups == other.groups and all(
        torch.equal(a, b) for a, b in zip(one[:3], other[:3])
    )


def test_join_undoes_split():
    whole = queries(3, 2, 4)
    parts = whole.split()
    assert [each.groups for each in parts] == [(3,), (2,), (4,)]
    assert torch.equal(parts[1].content, whole.content[:, 3:5])
    assert same(join(parts), whole)
    assert whole.first(3).groups == (3,)
    assert same(whole.first(3), parts[0])


def test_what_a_system_does_not_have_stays_absent():
    """DAB makes positions from references, DETR has no references."""
    bare = queries(2, 3)._replace(positions=None)
    assert [each.positions for each in bare.split()] == [None, None]
    assert join(bare.split()).positions is None
    assert join([queries(2)._replace(references=None)] * 2).references is None


def test_points_and_boxes_cannot_be_joined():
    with pytest.raises(ValueError, match="points and those with boxes apart"):
        join([queries(2, corners=2), queries(2, corners=4)])
    with pytest.raises(ValueError, match="cannot be joined"):
        join([queries(2), queries(2)._replace(references=None)])


def layer_and_memory() -> tuple[DecoderLayer, Memory]:
    torch.manual_seed(0)
    layer = DecoderLayer(Attention(16, 4), Attention(16, 4), 16, 32, 0.0)
    return layer, Memory(torch.randn(2, 7, 16), torch.randn(2, 7, 16), None)


@pytest.mark.parametrize("sizes", [(3,), (3, 3), (3, 3, 3), (2, 5), (1, 4, 2)])
def test_a_group_sees_only_itself(sizes):
    """Each group gets what it would get alone; the memory is not repeated."""
    layer, memory = layer_and_memory()
    whole = queries(*sizes)
    content, seen = layer(whole, memory, trace=True)
    assert torch.allclose(content, layer(whole, memory)[0], atol=1e-5)
    start = 0
    for group in whole.split():
        mine = slice(start, start := start + group.groups[0])
        alone, own = layer(group, memory, trace=True)
        assert torch.allclose(content[:, mine], alone, atol=1e-5)
        maps = seen.self_attention.weights[:, :, mine]
        expected = own.self_attention.weights
        assert torch.allclose(maps[..., mine], expected, atol=1e-5)
        assert torch.allclose(maps.sum(-1), torch.ones(()), atol=1e-5)  # none elsewhere


def test_equal_groups_cost_one_call_of_attention():
    layer, memory = layer_and_memory()
    calls = []
    layer.self_attention.register_forward_hook(
        lambda _, given, made: calls.append(given[0].shape)
    )
    layer(queries(3, 3, 3), memory)
    layer(queries(2, 5), memory)
    assert calls == [(6, 3, 16), (2, 2, 16), (2, 5, 16)]
