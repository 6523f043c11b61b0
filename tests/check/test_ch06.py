"""Chapter 06's checks: right answers pass, each slip gets its own diagnosis."""

import pytest
import torch
from torch.nn import functional

from detr_steps.check import ch06
from detr_steps.ops.sample import sample


def extent(size):
    return torch.tensor([size[1], size[0]])


def my_places(references, offsets, size):
    return references[:, None, None] + offsets / extent(size)


def test_places_right():
    assert ch06.places(my_places)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda r, o, s: None, "not yet"),
        (lambda r, o, s: [1], "return a tensor"),
        (lambda r, o, s: r + o, "it stops with"),
        (lambda r, o, s: r[:, None, None] + o, "offsets are pixels"),
        (lambda r, o, s: r[:, None, None] + o / torch.tensor(s), "swapped"),
        (lambda r, o, s: r[:, None, None] + o / (extent(s) - 1), "w - 1"),
        (lambda r, o, s: r[:, None, None] + (o + 0.5) / extent(s), "too far"),
        (lambda r, o, s: r[:, None, None] + (o - 0.5) / extent(s), "too little"),
        (lambda r, o, s: r.flip(-1)[:, None, None] + o / extent(s), "turn it round"),
        (lambda r, o, s: my_places(r, o.flip(-1), s), "dx and dy"),
        (lambda r, o, s: r[:, None, None] * extent(s) + o, "return shares"),
        (lambda r, o, s: 2 * my_places(r, o, s) - 1, "from 0 to 1"),
        (lambda r, o, s: my_places(r, -o, s), "subtracted"),
        (lambda r, o, s: my_places(r, o, s)[0], "expected [3, 2, 4, 2]"),
        (lambda r, o, s: my_places(r, o, s) * 1.5, "got"),
    ],
)
def test_places_slips(answer, word):
    verdict = ch06.places(answer)
    assert not verdict and word in verdict.message


def my_box_places(boxes, offsets, share=None):
    centre, size = boxes[:, None, None, :2], boxes[:, None, None, 2:]
    return centre + offsets * size / (share or 2 * offsets.shape[2])


def test_box_places_right():
    assert ch06.box_places(my_box_places)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda b, o: None, "not yet"),
        (lambda b, o: my_box_places(b, o, 4), "twice too far"),
        (lambda b, o: my_box_places(b, o, 2), "K times"),
        (lambda b, o: my_box_places(b, o, 1), "by 2 and by K"),
        (lambda b, o: my_box_places(b, o, 2 * o.shape[1]), "heads"),
        (lambda b, o: my_box_places(b[:, [0, 1, 3, 2]], o), "dx goes with w"),
        (lambda b, o: my_box_places(b, o) - b[:, None, None, 2:] / 2, "corner"),
        (
            lambda b, o: my_box_places(b, o) + (b[:, 2:] - b[:, :2])[:, None, None] / 2,
            "not two corners",
        ),
        (lambda b, o: b[:, None, None, :2] + o / 8, "does not matter"),
    ],
)
def test_box_places_slips(answer, word):
    verdict = ch06.box_places(answer)
    assert not verdict and word in verdict.message


def my_core(value, size, locations, scores, axis=-1, weights=None, read=sample):
    if weights is None:
        weights = scores.softmax(axis)
    heads = []
    for m in range(value.shape[1]):
        grid = value[:, m].T.unflatten(1, size)[None]  # [1, D, h, w]
        found = read(grid, locations[None, :, m])[0]  # [D, Q, K]
        heads.append((found * weights[:, m]).sum(-1).T)  # [Q, D]
    return torch.cat(heads, 1)


def aligned(grid, where):
    return functional.grid_sample(grid, 2 * where - 1, align_corners=True)


def together(value, size, locations, scores):
    weights = scores.flatten(1).softmax(1).view_as(scores)
    return my_core(value, size, locations, scores, weights=weights)


def one_head(value, size, locations, scores, which):
    first = (slice(None), slice(1))
    if which == "value":
        value = value[first].expand_as(value)
    else:
        locations = locations[first].expand_as(locations)
    return my_core(value, size, locations, scores)


def regrouped(value, size, locations, scores):
    maps = value.reshape(len(value), value.shape[2], value.shape[1]).transpose(1, 2)
    return my_core(maps, size, locations, scores)


def turned(value, size, locations, scores):
    read = my_core(value, size, locations, scores)
    return read.unflatten(1, (value.shape[1], -1)).transpose(1, 2).flatten(1)


def by_head(value, size, locations, scores):
    return my_core(value, size, locations, scores).unflatten(1, (value.shape[1], -1))


def test_core_right():
    assert ch06.core(my_core)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda v, s, x, w: None, "not yet"),
        (lambda v, s, x, w: my_core(v, s, x, w, weights=w), "softmax first"),
        (lambda v, s, x, w: my_core(v, s, x, w, axis=0), "queries compete"),
        (lambda v, s, x, w: my_core(v, s, x, w, axis=1), "over the heads"),
        (together, "sum to 1"),
        (lambda v, s, x, w: my_core(v, s, x, 0 * w), "plain mean"),
        (lambda v, s, x, w: my_core(v, s, x.flip(-1), w), "x and y"),
        (lambda v, s, x, w: my_core(v, s[::-1], x, w), "(h, w)"),
        (lambda v, s, x, w: my_core(v, s, 2 * x - 1, w), "shares"),
        (lambda v, s, x, w: my_core(v, s, x, w, read=aligned), "half a pixel"),
        (lambda v, s, x, w: one_head(v, s, x, w, "value"), "channels of head 0"),
        (lambda v, s, x, w: one_head(v, s, x, w, "where"), "where head 0 looks"),
        (regrouped, "permute"),
        (turned, "in the result"),
        (lambda *given: by_head(*given).sum(1), "added up"),
        (by_head, "side by side"),
        (lambda v, s, x, w: my_core(v, s, x, w) + 1, "expected"),
    ],
)
def test_core_slips(answer, word):
    verdict = ch06.core(answer)
    assert not verdict and word in verdict.message


def to_grid(at, size, half=0.5, less=0):
    return 2 * (at + half) / (extent(size) - less) - 1


def test_half_pixel_right():
    assert ch06.half_pixel(to_grid)


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (lambda at, s: None, "not yet"),
        (lambda at, s: 1.0, "like the one"),
        (lambda at, s: to_grid(at, s, 0, 1), "old line"),
        (lambda at, s: to_grid(at, s, 0), "half a pixel"),
        (lambda at, s: to_grid(at, s, 0.5, 1), "w - 1"),
        (lambda at, s: to_grid(at, s[::-1]), "x comes first"),
        (lambda at, s: (to_grid(at, s) + 1) / 2, "-1 to 1"),
        (lambda at, s: to_grid(at, s, -0.5), "wrong direction"),
        (lambda at, s: to_grid(at, s) * 1.1, "the first pixel"),
    ],
)
def test_half_pixel_slips(answer, word):
    verdict = ch06.half_pixel(answer)
    assert not verdict and word in verdict.message
