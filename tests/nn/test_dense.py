"""Dense attention in the place of a deformable one."""

import pytest
import torch

from detr_steps.nn.attention import attend
from detr_steps.nn.dense import Dense
from detr_steps.nn.memory import Memory
from detr_steps.nn.queries import Queries


def parts(heads: int = 2):
    torch.manual_seed(0)
    module = Dense(heads).build(8, 1)
    content, positions = torch.randn(2, 5, 8), torch.randn(2, 5, 8)
    queries = Queries(content, positions, torch.rand(2, 5, 2), (5,))
    tokens, positions = torch.randn(2, 12, 8), torch.randn(2, 12, 8)
    return module, queries, Memory(tokens, positions, None, ((3, 4),))


def test_every_query_reads_all_tokens_with_their_positions():
    module, queries, memory = parts(heads=1)
    attended, seen = module.read(queries, memory, trace=True)
    mixed, expected = attend(
        module.query(queries.content + queries.positions),
        module.key(memory.tokens + memory.positions),
        module.value(memory.tokens),
    )
    torch.testing.assert_close(seen.weights[:, 0], expected)
    torch.testing.assert_close(attended, module.output(mixed))


def test_a_level_embedding_changes_nothing():
    """One vector on all keys shifts all scores of a query alike: softmax forgets it."""
    module, queries, memory = parts()
    shifted = memory._replace(positions=memory.positions + torch.randn(8))
    torch.testing.assert_close(
        module.read(queries, memory)[0], module.read(queries, shifted)[0]
    )


def test_the_reference_does_not_matter():
    module, queries, memory = parts()
    elsewhere = queries._replace(references=1 - queries.references)
    torch.testing.assert_close(
        module.read(queries, memory)[0], module.read(elsewhere, memory)[0]
    )


def test_padded_tokens_are_neither_read_nor_counted():
    module, queries, memory = parts()
    padding = torch.zeros(2, 12, dtype=bool)
    padding[:, 9:] = True
    short = Memory(memory.tokens[:, :9], memory.positions[:, :9], None, ((3, 3),))
    torch.testing.assert_close(
        module.read(queries, memory._replace(padding=padding))[0],
        module.read(queries, short)[0],
    )


def test_several_levels_are_refused():
    with pytest.raises(ValueError, match="levels=1"):
        Dense().build(8, 4)


def test_default_heads_are_those_of_the_paper():
    assert Dense() == Dense(heads=8)
