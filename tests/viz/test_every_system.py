"""Every figure of a model, of every system: its own numbers, in padded batches."""

import numpy as np
import pytest
import torch
from every_system import EVERY, NAMES, SIZES, assert_says_what_it_detects, padded
from pages import assert_figures_live

from detr_steps import ImageBatch, viz
from detr_steps.analysis import attention as analysis
from detr_steps.analysis import film as filming
from detr_steps.data.scenes import Scenes
from detr_steps.nn.trace import AttentionMaps
from detr_steps.viz.models.live import grey_patch

BATCH, TARGETS = padded()
SHOWN = {"image": 1, "targets": TARGETS, "names": NAMES}


@pytest.fixture(scope="module", params=EVERY.values(), ids=EVERY)
def model(request):
    return request.param().eval()


@pytest.fixture(scope="module")
def trace(model):
    with torch.no_grad():
        return model(BATCH, trace=True).trace


def assert_whole(figure) -> None:
    """It has a picture without padding, names, a poster and a page."""
    assert figure.picture.shape[:2] == SIZES[1]
    assert figure.notes["names"] == NAMES
    assert figure.poster()[1:4] == b"PNG" and figure.title in figure.html()
    assert len(figure.summary) > 40


def assert_points(figure, layers, trace, items) -> None:
    """The figure's points are those of some queries or tokens of a trace's layers."""
    levels = layers[0].locations.shape[3]
    valid = trace.valid[1, :levels, None]  # [L, 1, 2]
    own = torch.stack([each.locations[1, items] / valid for each in layers])
    assert np.allclose(figure.arrays["locations"], own, atol=3e-3)
    own = torch.stack([each.weights[1, items] for each in layers])
    assert np.allclose(figure.arrays["weights"], own, atol=1e-3)
    rows, columns = (trace.valid[1, 0].flip(0) * torch.tensor(trace.sizes[0])).tolist()
    assert figure.notes["levels"][0] == [round(rows), round(columns)]


def assert_maps(figure, layers, size, items, image=1) -> None:
    """The figure's maps are those of the finest level, without its padding."""
    packed = torch.from_numpy(figure.arrays["maps"])
    shown = packed / 255 * torch.from_numpy(figure.arrays["peaks"])[..., None, None]
    rows, columns = shown.shape[-2:]
    for layer, mine in zip(layers, shown):
        if isinstance(layer, AttentionMaps):
            own = layer.weights.transpose(1, 2).unflatten(-1, size)
        else:
            own = analysis.density(layer, size)
        own = own[image, items, :, :rows, :columns]
        assert torch.allclose(mine, own, atol=float(own.max()) / 400)
    assert figure.arrays["spread"].min() >= 0.99


@pytest.mark.parametrize("call", [viz.decoder_attention, viz.layers])
def test_queries_show_their_own_numbers(call, model, trace):
    figure = call(model, BATCH, query=4, **SHOWN)
    assert_whole(figure)
    arrays = figure.arrays
    last = (
        arrays[name][-1].astype(np.float32) for name in ("scores", "labels", "boxes")
    )
    assert_says_what_it_detects(model, BATCH, *last)
    assert figure.notes["start"]["item"] == 4
    objects = np.sort(arrays["matched"], -1)[:, -len(TARGETS[1]["labels"]) :]
    assert (objects == [0, 1]).all()  # in every layer each object has one query
    samples = not isinstance(trace.decoder_cross[0], AttentionMaps)
    if samples and call is viz.decoder_attention:
        assert figure.view == "points"
        assert_points(figure, trace.decoder_cross, trace, range(9))
        direct = viz.decoder_points(model, BATCH, query=4, **SHOWN)
        assert direct.html() == figure.html()
    else:
        assert_maps(figure, trace.decoder_cross, trace.sizes[0], range(9))
        assert ("sampling points" in figure.summary) == samples


def test_an_output_serves_as_well(model):
    with torch.no_grad():
        output = model(BATCH, trace=True)
    calls = [viz.decoder_attention, viz.layers, viz.encoder_attention]
    for call in calls[: 3 if len(model.encoder) else 2]:
        asked, given = (call(x, BATCH, **SHOWN) for x in (model, output))
        assert set(asked.arrays) - set(given.arrays) <= {"matched"}
        for name in ("scores", "labels", "boxes"):
            if name in asked.arrays:
                a, b = (x.arrays[name].astype(float) for x in (asked, given))
                assert np.allclose(a, b, atol=2e-3)


def test_cells_show_their_own_numbers(model, trace):
    if not trace.encoder:  # AdaMixer
        for call in (viz.encoder_attention, viz.encoder_points):
            with pytest.raises(ValueError, match="no encoder layers: nothing to look"):
                call(model, BATCH, **SHOWN)
        return
    figure = viz.encoder_attention(model, BATCH, **SHOWN)
    assert_whole(figure)
    h, w = trace.sizes[0]
    rows, columns = -(-SIZES[1][0] * h // 64), -(-SIZES[1][1] * w // 64)
    cells = [row * w + column for row in range(rows) for column in range(columns)]
    if isinstance(trace.encoder[0], AttentionMaps):
        assert_maps(figure, trace.encoder, trace.sizes[0], cells)
        with pytest.raises(TypeError, match="viz.encoder_attention"):
            viz.encoder_points(model, BATCH, **SHOWN)
        return
    centres = torch.from_numpy(figure.arrays["references"][0, :, 0].astype(np.float32))
    at = (centres * torch.tensor([columns, rows]) - 0.5).round().int()
    tokens = [y * w + x for x, y in at.tolist()]
    assert set(tokens) <= set(cells) and len(tokens) <= 64
    assert_points(figure, trace.encoder, trace, tokens)
    last = len(trace.sizes) - 1
    coarse = viz.encoder_points(model, BATCH, viz.Pixels(last, corner=(0, 0)), **SHOWN)
    first = sum(h * w for h, w in trace.sizes[:-1])
    own = trace.encoder[-1].weights[1, first]
    assert np.allclose(coarse.arrays["weights"][-1, 0], own, atol=1e-3)
    assert_whole(coarse)


def test_a_decoder_without_points_names_the_right_call(model, trace):
    if isinstance(trace.decoder_cross[0], AttentionMaps):
        with pytest.raises(TypeError, match="viz.decoder_attention"):
            viz.decoder_points(model, BATCH, **SHOWN)


def test_matching_pairs_as_the_model_does(model):
    figure = viz.matching_of(model, BATCH, 1, -1, targets=TARGETS, names=NAMES)
    assert_whole(figure)
    arrays = figure.arrays
    found = (arrays[name].astype(np.float32) for name in ("scores", "labels", "boxes"))
    assert_says_what_it_detects(model, BATCH, *found)
    seen = analysis.run_with_trace(model, BATCH, 1)
    matched = analysis.matched_objects(model, seen, TARGETS[1])[-1]
    weights = np.array(figure.notes["weights"])[:, None, None]
    cost = (weights * arrays["parts"]).sum(0)  # [Q, 2]
    best = min(
        np.ndindex(9, 9), key=lambda p: (p[0] == p[1], cost[p[0], 0] + cost[p[1], 1])
    )
    assert matched[list(best)].tolist() == [0, 1]


def test_a_covered_picture_is_looked_at_again(model):
    shown = viz.live.cover(model, BATCH, 1, targets=TARGETS, names=NAMES, at=(0.2, 0.3))
    assert_whole(shown.figure)
    alone = ImageBatch(BATCH.pixels[1:], BATCH.padding[1:])
    covered = grey_patch(alone, shown.point, shown.patch, shown.real)
    assert (covered.pixels != alone.pixels).any()
    covered = ImageBatch(
        torch.cat((BATCH.pixels[:1], covered.pixels)), BATCH.padding, BATCH.padded
    )
    arrays = shown.figure.arrays
    last = (
        arrays[name][-1].astype(np.float32) for name in ("scores", "labels", "boxes")
    )
    assert_says_what_it_detects(model, covered, *last)


def test_a_training_can_be_filmed_kept_and_shown(model, tmp_path):
    data = Scenes("val", size=64)
    states = [(step, model.state_dict()) for step in (0, 10)]
    filming.save(
        tmp_path / "film.safetensors", filming.record(model, states, data, (3,))
    )
    film = filming.read(tmp_path / "film.safetensors", [{"step": 10, "AP": 0.25}])
    figure = viz.time_lapse(film)
    seen = analysis.run_with_trace(model, data.draw([3]).images)
    scores, labels = analysis.class_probabilities(seen)[-1].max(-1)
    shot = film.shots[0]
    chosen = shot.queries.long()
    assert torch.allclose(shot.scores[-1].float(), scores[chosen], atol=1e-3)
    assert torch.equal(shot.labels[-1].long(), labels[chosen])
    layers = seen.trace.decoder_cross[-1:] * 2  # the same at both steps
    assert_maps(figure, layers, seen.trace.sizes[0], chosen, image=0)
    assert figure.poster() and "AP is 0.25" in figure.summary


@pytest.mark.browser
@pytest.mark.parametrize("name", ["refine", "within levels", "dense decoder"])
def test_figures_of_sampling_models_are_alive(name, page, watch, tmp_path):
    model = EVERY[name]().eval()
    calls = (viz.decoder_attention, viz.layers, viz.encoder_attention)
    figures = [call(model, BATCH, **SHOWN) for call in calls]
    figures.append(viz.matching_of(model, BATCH, 1, targets=TARGETS, names=NAMES))
    page_file = tmp_path / "figures.html"
    page_file.write_text("\n".join(figure.html() for figure in figures), "utf-8")
    page.goto(page_file.as_uri())
    assert assert_figures_live(page, watch) == 4
    assert watch.outside == []
