"""Rows that backward kernels add: counted at once, and one by one."""

import math

import pytest
import torch

from detr_steps.cuda_lab import traffic

SIZES = ((11, 9), (5, 4))
PIXELS = 11 * 9 + 5 * 4


def one_by_one(locations, sizes, block):
    """The same with a set of (image, block, head, level, pixel)."""
    single, touched = [0] * len(sizes), [set() for _ in sizes]
    b, q, m, levels, k, _ = locations.shape
    for place in torch.cartesian_prod(*map(torch.arange, (b, q, m, levels, k))):
        i, query, head, level, point = place.tolist()
        h, w = sizes[level]
        x, y = (locations[i, query, head, level, point] * torch.tensor((w, h))).tolist()
        x, y = x - 0.5, y - 0.5
        for column in {math.floor(x), math.ceil(x)} & set(range(w)):
            for line in {math.floor(y), math.ceil(y)} & set(range(h)):
                single[level] += 1
                touched[level].add((i, block[query].item(), head, line, column))
    return single, [len(one) for one in touched]


@pytest.mark.parametrize(
    "order, queries", (("tiles", 64), ("strips", 64), ("strips", 7))
)
def test_rows_are_those_of_a_count_one_by_one(order, queries):
    torch.manual_seed(0)
    locations = torch.rand(2, PIXELS, 2, 2, 3, 2) * 1.4 - 0.2
    locations[:, ::5] = torch.tensor((4.5 / 9, 3.5 / 11))  # on a pixel of the first
    found = traffic.adds(locations, SIZES, order, queries)
    wanted = one_by_one(locations, SIZES, traffic.blocks(PIXELS, SIZES, order, queries))
    assert (found.single.tolist(), found.grouped.tolist()) == wanted


def test_tiles_are_squares_of_each_level():
    block = traffic.blocks(PIXELS, SIZES)
    first = block[:99].view(11, 9)
    assert (first[:8, :8] == 0).all() and (first[:8, 8] == 1).all()
    assert (first[8:, :8] == 2).all() and (first[8:, 8] == 3).all()
    assert (block[99:] == 4).all()


def test_neighbours_that_look_at_one_pixel_add_one_row():
    locations = torch.full((1, 64, 1, 1, 4, 2), 3.5 / 8)  # the middle of a pixel
    found = traffic.adds(locations, ((8, 8),))
    assert found.single.item() == 256 and found.grouped.item() == 1
    assert found.saved == 256


def test_what_lies_outside_adds_nothing():
    locations = torch.full((1, 64, 1, 1, 4, 2), -1.0)
    assert traffic.adds(locations, ((8, 8),)).single.item() == 0


def test_queries_that_are_no_pixels_do_not_lie_in_tiles():
    with pytest.raises(ValueError, match="strips"):
        traffic.blocks(300, SIZES)
    with pytest.raises(ValueError, match="'rows'"):
        traffic.blocks(PIXELS, SIZES, "rows")


def test_a_larger_map_repeats_offsets_from_its_own_centres():
    offsets = torch.arange(2 * 3 * 1 * 4 * 2.0).view(2, 3, 1, 4, 2)
    found = traffic.enlarged(offsets, (5, 7))
    assert found.shape == (1, 35, 1, 1, 4, 2)
    for row, column in ((0, 0), (1, 2), (4, 6), (3, 5)):
        at = found[0, row * 7 + column, 0, 0] * torch.tensor([7, 5])
        wanted = offsets[row % 2, column % 3, 0] + torch.tensor(
            [column + 0.5, row + 0.5]
        )
        torch.testing.assert_close(at, wanted)
