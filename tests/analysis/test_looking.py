"""Shares of attention on objects, widths of maps: on maps made by hand."""

import pytest
import torch

from detr_steps.analysis import looking
from detr_steps.analysis.film import Film, Shot
from detr_steps.images import ImageBatch
from detr_steps.systems.detr import DETRConfig

SIZE = (4, 8)  # cells of 1/8 by 1/4


def test_a_box_touches_the_cells_it_lies_on():
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.07, 0.1, 0.01, 0.01], [0, 0, 9, 9]])
    hit = looking.touched(boxes, SIZE).view(3, *SIZE)
    middle = torch.zeros(SIZE, dtype=torch.bool)
    middle[1:3, 3:5] = True  # x 0.4 to 0.6, y 0.3 to 0.7
    assert torch.equal(hit[0], middle)
    assert hit[1].nonzero().tolist() == [[0, 0]]
    assert hit[2].all()


def test_share_is_the_mean_of_the_heads():
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    maps = torch.zeros(1, 2, *SIZE)
    maps[0, 0, 1, 3] = 1  # all on the object
    maps[0, 1, 1, 4], maps[0, 1, 0, 0] = 0.5, 0.5
    assert looking.share_on_object(maps.flatten(2), boxes, SIZE).tolist() == [0.75]
    uniform = torch.full((1, 1, 32), 1 / 32)
    share = looking.share_on_object(uniform, boxes, SIZE)
    assert share == pytest.approx(4 / 32)
    assert share == pytest.approx(float(looking.touched(boxes, SIZE).float().mean()))


def test_widths_are_deviations_along_x_and_y():
    maps = torch.zeros(SIZE)
    maps[1, 2] = maps[1, 4] = 0.5  # two cells of 1/8 apart, on one row
    wide, high = looking.widths(maps.flatten(), SIZE).tolist()
    assert wide == pytest.approx(1 / 8) and high == pytest.approx(0, abs=1e-6)
    both = looking.widths(torch.full((2, 3, 32), 1 / 32), SIZE)
    assert both.shape == (2, 3, 2)
    x = (torch.arange(8) + 0.5) / 8
    assert float(both[0, 0, 0]) == pytest.approx(float(x.std(correction=0)))


def test_answering_names_the_matched_query_of_every_object():
    torch.manual_seed(0)
    model = DETRConfig.tiny(queries=5, encoder_layers=1, decoder_layers=2).build()
    batch = ImageBatch.from_list([torch.randn(3, 64, 64)] * 2)
    one, two = torch.rand(1, 4) / 2 + 0.2, torch.rand(2, 4) / 2 + 0.2
    targets = [
        {"boxes": one, "labels": torch.tensor([1])},
        {"boxes": two, "labels": torch.tensor([0, 3])},
    ]
    with torch.no_grad():
        out = model.eval()(batch)
    image, query, boxes = looking.answering(model, out, targets)
    assert image.tolist() == [0, 1, 1] and torch.equal(boxes, torch.cat((one, two)))
    assert query[1] != query[2] and query.min() >= 0 and query.max() < 5


def shot(matched, peak):
    """One query, one head; its map has all on the object's cell, or is flat."""
    maps = torch.ones(len(matched), 1, 1, *SIZE, dtype=torch.uint8)
    maps[:, 0, 0, 1, 3] += torch.tensor(peak, dtype=torch.uint8)
    frames, empty = len(matched), torch.zeros(len(matched), 1)
    return Shot(
        rgb=torch.zeros(3, 8, 8, dtype=torch.uint8), queries=torch.tensor([0]),
        maps=maps, peaks=empty, spread=empty, spread_heads=empty,
        boxes=torch.zeros(frames, 1, 4), scores=empty, labels=empty,
        matched=torch.tensor(matched, dtype=torch.int16)[:, None],
        truth=torch.tensor([[0.1, 0.1, 0.01, 0.01], [0.44, 0.4, 0.01, 0.01]]),
        truth_labels=torch.tensor([0, 0]),
    )  # fmt: skip


def test_share_by_step_counts_matched_queries_only():
    film = Film([0, 9], [1, 2], [shot([1, 1], [0, 31]), shot([-1, -1], [9, 9])], 6, [])
    shares, uniform = looking.share_by_step(film)
    assert shares == pytest.approx([1 / 32, 32 / 63])
    assert uniform == pytest.approx([1 / 32, 1 / 32])


def test_a_step_without_matches_is_named():
    film = Film([0, 9], [1], [shot([1, -1], [0, 0])], 6, [])
    with pytest.raises(ValueError, match="step 9"):
        looking.share_by_step(film)
