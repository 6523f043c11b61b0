"""Every analysis, of every system: what it says is what the model said."""

import pytest
import torch
from every_system import EVERY, SIZES, assert_says_what_it_detects, padded

from detr_steps.analysis import ap_by_layer, predictions, slot_boxes
from detr_steps.analysis import attention as seeing
from detr_steps.analysis.slots import slot_statistics
from detr_steps.data.scenes import Scenes
from detr_steps.evaluation import coco_ap

BATCH, TARGETS = padded()


@pytest.fixture(scope="module", params=EVERY.values(), ids=EVERY)
def model(request):
    return request.param().eval()


def leaves(value):
    """The tensors of nested tuples."""
    if isinstance(value, torch.Tensor):
        return [value]
    return (
        [x for each in value for x in leaves(each)] if isinstance(value, tuple) else []
    )


def test_one_image_is_cut_out_of_everything(model):
    with torch.no_grad():
        output = model(BATCH, trace=True)
    asked, given = (seeing.run_with_trace(x, BATCH, 1) for x in (model, output))
    pairs = list(zip(leaves(asked), leaves(given)))
    assert len(pairs) > 10
    for a, b in pairs:
        assert a.shape == b.shape and torch.allclose(a, b, atol=1e-4)
    for layer, whole in zip(given.trace.decoder_cross, output.trace.decoder_cross):
        assert torch.equal(layer.weights, whole.weights[1:])


def test_the_best_classes_are_those_it_detects(model):
    seen = seeing.run_with_trace(model, BATCH, 1)
    probabilities = seeing.class_probabilities(seen)
    assert probabilities.shape == (len(model.decoder), 9, 6)
    best = probabilities[-1].max(-1)
    assert_says_what_it_detects(model, BATCH, *best, seen.boxes[-1, 0])


def test_maps_hold_what_was_attended_in_the_picture(model):
    seen = seeing.run_with_trace(model, BATCH, 1)
    real = seeing.extent(BATCH, 1, seen.trace.sizes[0])
    assert (real.height, real.width) == SIZES[1]
    queries = seeing.decoder_maps(seen, real)
    grid = (real.rows, real.columns)
    assert queries.shape == (3, 9, 4, *grid)
    both = [(queries, seen.trace.decoder_cross)]
    if seen.trace.encoder:
        cells = seeing.encoder_maps(seen, real)
        assert cells.shape == (2, real.rows * real.columns, 4, *grid)
        both.append((cells, seen.trace.encoder))
    else:  # AdaMixer
        with pytest.raises(ValueError, match="no encoder layers: nothing to look at"):
            seeing.encoder_maps(seen, real)
    for maps, layers in both:
        sums = maps.sum((-2, -1))
        if isinstance(layers[0], seeing.AttentionMaps):
            assert torch.allclose(sums, torch.ones_like(sums), atol=1e-4)
        else:  # points outside of the picture are lost
            assert (sums < 1 + 1e-4).all() and sums.max() > 0.5
        packed = seeing.pack(maps)
        assert (seeing.unpack(packed) - maps).abs().max() < 1 / 509


def test_ap_of_the_last_layer_is_the_models(model):
    data = Scenes("val", size=64)
    logits, boxes, targets = predictions(model, data, limit=12, batch=5)
    aps = ap_by_layer(
        logits, boxes, targets, data, classification=model.config.classification
    )
    sizes = [target["size"] for target in targets]
    found = model.detect(data.draw(range(12)).images, sizes)
    own = coco_ap(found, targets, data.class_names, area_limits=data.area_limits)["AP"]
    assert len(aps) == 3 and aps[-1] == pytest.approx(own, abs=1e-4)


def test_slots_sort_the_confident_answers_by_query(model):
    logits, boxes, _ = predictions(model, Scenes("val", size=64), limit=6)
    probabilities = model.config.classification.probabilities(logits[-1])
    threshold = float(probabilities.amax(-1).median())
    slots = slot_boxes(probabilities, boxes[-1], threshold)
    assert sum(map(len, slots)) == (probabilities.amax(-1) >= threshold).sum() > 0
    assert slot_statistics(slots).shape == (9, 2, 4)
