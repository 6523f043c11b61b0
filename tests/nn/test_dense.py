"""Dense attention with the arguments of a deformable one."""

import pytest
import torch

from detr_steps.nn.attention import attend
from detr_steps.nn.deform_attention import Places
from detr_steps.nn.dense import Dense
from detr_steps.nn.position import sine_position

SIZES = ((3, 4),)


def parts(heads: int = 2):
    torch.manual_seed(0)
    module = Dense(heads).build(8, 1)
    query, value = torch.randn(2, 5, 8), torch.randn(2, 12, 8)
    return module, query, value, Places(torch.rand(2, 5, 1, 2), SIZES)


def test_every_query_reads_all_tokens_with_their_places():
    module, query, value, places = parts(heads=1)
    read, weights = module(query, places, value, trace=True)
    where = sine_position(torch.zeros(2, 3, 4, dtype=bool), 8, shift=-0.5).flatten(1, 2)
    mixed, expected = attend(
        module.query(query), module.key(value + where), module.value(value)
    )
    torch.testing.assert_close(weights[:, 0], expected)
    torch.testing.assert_close(read, module.output(mixed))


def test_the_reference_does_not_matter():
    module, query, value, places = parts()
    elsewhere = Places(1 - places.references, SIZES)
    torch.testing.assert_close(
        module(query, places, value)[0], module(query, elsewhere, value)[0]
    )


def test_padded_tokens_are_neither_read_nor_counted():
    module, query, value, places = parts()
    padding = torch.zeros(2, 3, 4, dtype=bool)
    padding[:, :, 3] = True
    small = Places(places.references, ((3, 3),))
    real = value.view(2, 3, 4, 8)[:, :, :3].flatten(1, 2)
    torch.testing.assert_close(
        module(query, places, value, padding.flatten(1))[0],
        module(query, small, real)[0],
    )


def test_several_levels_and_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="levels=1"):
        Dense().build(8, 4)
    module, query, value, places = parts()
    with pytest.raises(ValueError, match="hold 9 tokens"):
        module(query, Places(places.references, ((3, 3),)), value)
