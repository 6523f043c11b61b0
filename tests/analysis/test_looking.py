"""Shares of attention on objects, widths of maps: on maps made by hand."""

import pytest
import torch

from detr_steps.analysis import looking
from detr_steps.analysis.film import Film, Shot
from detr_steps.images import ImageBatch
from detr_steps.systems.conditional_detr import ConditionalDETRConfig
from detr_steps.systems.dab_detr import DABDETRConfig
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


SMALL = {"queries": 5, "encoder_layers": 1, "decoder_layers": 2}


@pytest.mark.parametrize("config", [DETRConfig, ConditionalDETRConfig, DABDETRConfig])
def test_shares_by_layer_are_those_of_the_trace_and_of_place_alone(config):
    torch.manual_seed(0)
    model = config.tiny(**SMALL).build().eval()
    batch = ImageBatch.from_list([torch.randn(3, 64, 128)] * 2)
    target = {
        "boxes": torch.tensor([[0.5, 0.5, 0.2, 0.4]]),
        "labels": torch.tensor([1]),
    }
    with torch.no_grad():
        out = model(batch, trace=True)
        image, query, boxes = looking.answering(model, out, [target] * 2)
        shares = looking.shares_by_layer(model, batch, [target] * 2)
        maps = out.trace.decoder_cross[1].weights[image, :, query]
        expected = looking.share_on_object(maps, boxes, SIZE).mean()
        assert shares["all"][1] == pytest.approx(float(expected), abs=1e-5)
        if config is DETRConfig:
            assert shares["place"] == []
            return
        for layer in model.decoder:  # without contents place alone is all there is
            for part in (
                layer.cross_attention.query,
                layer.cross_attention.query_position,
            ):
                if part is not None:
                    part.weight.zero_(), part.bias.zero_()
        alone = looking.shares_by_layer(model, batch, [target] * 2)
    assert alone["all"] == pytest.approx(alone["place"], abs=1e-5)
    assert shares["all"][0] != pytest.approx(shares["place"][0], abs=1e-6)


def test_queries_before_layers_are_the_models_own():
    torch.manual_seed(0)
    model = ConditionalDETRConfig.tiny(**SMALL).build().eval()
    with torch.no_grad():
        memory = model.encode(ImageBatch.from_list([torch.randn(3, 64, 64)]))
        first, second = looking.before_layers(model, memory)
        after, _, _ = model.step(0, first, memory)
    assert not first.content.any() and torch.equal(after.content, second.content)


def test_maps_are_judged_by_share_width_and_whether_it_follows():
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.4], [0.5, 0.5, 0.5, 0.4]])
    maps = torch.zeros(2, 1, *SIZE)
    maps[0, 0, 1, 3:5], maps[1, 0, 1, 2:6] = 0.5, 0.25
    share, wide, follows = looking.judge_maps(maps.flatten(2), boxes, SIZE).tolist()
    own = looking.widths(maps.flatten(2), SIZE)[..., 0].mean()
    assert (share, follows) == pytest.approx((1, 1)) and wide == pytest.approx(
        float(own)
    )
    assert looking.judge_maps(maps.flatten(2), boxes.flip(0), SIZE)[2] < -0.99


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
