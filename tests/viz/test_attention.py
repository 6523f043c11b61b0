"""Figures of a model's attention: they show its own numbers."""

import numpy as np
import pytest
import torch
from small import small_detr

from detr_steps import ImageBatch, viz
from detr_steps.analysis import attention as analysis
from detr_steps.data.scenes import Scenes
from detr_steps.images import normalise
from detr_steps.nn.trace import stack_maps
from detr_steps.objective.matching import pad_targets
from detr_steps.viz.models import attention


@pytest.fixture(scope="module")
def scenes():
    return Scenes("val", size=64).draw([3, 5])


@pytest.fixture(scope="module")
def model():
    return small_detr(classes=6, queries=9).eval()


@pytest.fixture(scope="module")
def output(model, scenes):
    with torch.no_grad():
        return model(scenes.images, trace=True)


def restored(figure):
    """The weights that the browser will see: [F, Q, M, h, w]."""
    maps, peaks = figure.arrays["maps"], figure.arrays["peaks"]
    return maps / 255 * peaks[..., None, None], peaks[..., None, None]


def test_the_maps_are_the_models(model, scenes, output):
    figure = viz.decoder_attention(model, scenes, image=1)
    shown, peaks = restored(figure)
    cross = stack_maps(output.trace.decoder_cross)[:, 1].transpose(1, 2)
    wanted = cross.unflatten(-1, output.trace.sizes[0]).numpy()  # [Y, Q, M, h, w]
    assert (np.abs(shown - wanted) <= peaks / 509 + 1e-6).all()
    assert figure.view == "attention" and figure.notes["pick"] == "box"
    assert figure.notes["frames"] == ["1", "2", "3"]
    wide = np.exp(-(wanted.mean(2) * np.log(wanted.mean(2))).sum((-2, -1)))
    assert np.allclose(figure.arrays["spread"], wide, rtol=2e-3)


def test_the_answers_are_the_models(model, scenes, output):
    figure = viz.layers(model, scenes, image=1)
    p = output.logits[:, 1].softmax(-1)[..., :-1]
    assert np.allclose(figure.arrays["scores"], p.amax(-1), atol=1e-3)
    assert (figure.arrays["labels"] == p.argmax(-1).numpy()).all()
    assert np.allclose(figure.arrays["boxes"], output.boxes[:, 1], atol=1e-3)
    assert np.allclose(figure.arrays["truth"], scenes.targets[1]["boxes"])
    matched = model.match(output, pad_targets(scenes.targets, 6, "cpu"))[:, 1]  # [Y, N]
    things = len(scenes.targets[1]["labels"])
    for layer in range(3):
        for thing, query in enumerate(matched[layer, :things]):
            assert figure.arrays["matched"][layer, query] == thing
        assert (figure.arrays["matched"][layer] >= 0).sum() == things
    assert figure.view == "layers" and figure.notes["names"] == Scenes().class_names


def test_it_starts_with_the_surest_query_after_the_last_layer(model, scenes, output):
    start = viz.decoder_attention(model, scenes).notes["start"]
    scores = output.logits[-1, 0].softmax(-1)[:, :-1].amax(-1)
    assert start == {"frame": 2, "item": int(scores.argmax()), "head": -1}


def test_an_output_serves_as_well_but_knows_no_matches(model, scenes, output):
    from_output = viz.decoder_attention(output, scenes)
    from_model = viz.decoder_attention(model, scenes)
    assert np.abs(restored(from_output)[0] - restored(from_model)[0]).max() < 0.01
    assert "matched" in from_model.arrays and "matched" not in from_output.arrays
    assert "truth" in from_output.arrays


def test_a_bare_batch_has_no_truth_and_numbers_for_names(model, scenes):
    figure = viz.decoder_attention(model, scenes.images)
    assert not {"truth", "matched"} & set(figure.arrays)
    assert "class " in figure.summary
    named = viz.decoder_attention(model, scenes.images, names=list("abcdef"))
    assert named.notes["names"] == list("abcdef")


def test_padding_is_cut_from_picture_and_maps(model):
    scenes = Scenes("val", size=72).draw([3, 5]).rgb
    rgb = [scenes[0, :, :64], scenes[1, :, :33, :50]]
    batch = ImageBatch.from_list([normalise(x) for x in rgb])
    for call in (viz.decoder_attention, viz.encoder_attention, viz.layers):
        figure = call(model, batch, image=1)
        assert figure.arrays["maps"].shape[-2:] == (5, 7)
        assert figure.picture.shape == (33, 50, 3)
        wanted = rgb[1].permute(1, 2, 0).numpy() * 255
        assert np.abs(figure.picture - wanted).mean() < 12  # coded with losses
        assert figure.notes["cover"] == [1.12, pytest.approx(40 / 33, abs=1e-4)]
    assert "cover" not in viz.decoder_attention(model, batch, image=0).notes


def test_cells_ask_for_themselves(model, scenes, output):
    figure = viz.encoder_attention(model, scenes, image=1)
    shown, peaks = restored(figure)
    own = stack_maps(output.trace.encoder)[:, 1].transpose(1, 2).unflatten(-1, (8, 8))
    assert (np.abs(shown - own.numpy()) <= peaks / 509 + 1e-6).all()
    assert figure.notes["pick"] == "cell" and "boxes" not in figure.arrays
    largest = scenes.targets[1]["boxes"][:, 2:].prod(-1).argmax()
    x, y = (scenes.targets[1]["boxes"][largest, :2] * 8).int().tolist()
    assert figure.notes["start"]["item"] == y * 8 + x
    most = own[-1, y * 8 + x].mean(0)
    row, column = divmod(int(most.argmax()), 8)
    words = f"the cell in row {y + 1}, column {x + 1} reads most in row {row + 1}, "
    assert words + f"column {column + 1} ({most.max():.2f}" in figure.summary


def test_crowds_are_no_objects(model, scenes):
    target = dict(scenes.targets[0])
    target["iscrowd"] = torch.ones(len(target["labels"]), dtype=torch.bool)
    target["iscrowd"][0] = False
    figure = viz.decoder_attention(
        model, scenes.images, targets=[target, scenes.targets[1]]
    )
    assert len(figure.arrays["truth"]) == 1
    assert figure.arrays["matched"].max() == 0


def test_a_few_queries_are_the_matched_and_the_surest(model, scenes):
    whole = viz.decoder_attention(model, scenes)
    few = viz.decoder_attention(model, scenes, max_queries=4)
    items = few.notes["items"]
    assert len(items) == 4 and items == sorted(items)
    assert "4 of 9 queries" in few.summary and "items" not in whole.notes
    assert (few.arrays["maps"] == whole.arrays["maps"][:, items]).all()
    assert (few.arrays["matched"] >= 0).any(0).all()
    surest = int(whole.arrays["scores"][-1].argmax())
    bare = viz.decoder_attention(model, scenes.images, max_queries=1)
    assert bare.notes["items"] == [surest]
    with pytest.raises(ValueError, match="max_queries=0"):
        viz.decoder_attention(model, scenes, max_queries=0)


@pytest.mark.parametrize("call", [viz.decoder_attention, viz.layers])
def test_it_opens_on_the_query_asked_for(model, scenes, call):
    scores = viz.layers(model, scenes).arrays["scores"]
    dullest = int(scores[-1].argmin())
    whole = call(model, scenes, query=dullest)
    assert whole.notes["start"]["item"] == dullest
    assert f"Query {dullest} reads most" in whole.summary
    few = call(model, scenes.images, max_queries=2, query=dullest)  # it takes a place
    items = few.notes["items"]
    assert len(items) == 2 and items[few.notes["start"]["item"]] == dullest


def test_large_maps_are_thinned_out_and_it_is_said(monkeypatch):
    maps = torch.rand(3, 20 * 30, 4, 20, 30)  # 4.3 MB
    maps = maps / maps.sum((-2, -1), keepdim=True)
    monkeypatch.setattr(attention, "MOST_BYTES", 2_000_000)
    less, layers, cells, text = attention.thin_out(maps)
    assert torch.equal(less, maps[-1:]) and layers == [3] and len(cells) == 600
    assert "only the last layer." in text
    monkeypatch.setattr(attention, "MOST_BYTES", 500_000)
    less, layers, cells, text = attention.thin_out(maps)
    assert torch.allclose(less[:, :, 0], maps[-1:].mean(2)) and "mean of its" in text
    monkeypatch.setattr(attention, "MOST_BYTES", 50_000)
    less, layers, cells, text = attention.thin_out(maps)
    assert less.numel() <= 50_000 and "one in 3 of" in text
    for place, cell in enumerate(cells):
        assert torch.allclose(less[0, place, 0], maps[-1, cell].mean(0))


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        (lambda m, s: viz.layers(m, s, image=2), "image 2 of a batch of 2"),
        (lambda m, s: viz.layers(m(s.images), s), "no trace"),
        (lambda m, s: viz.layers(m, s.images, targets=s.targets[:1]), "1 targets for"),
        (lambda m, s: viz.layers(m, s, names=["a"]), "1 class names for a model of 6"),
        (lambda m, s: viz.layers(m, s, query=9), "query 9 of 9: 0 to 8"),
        (
            lambda m, s: viz.encoder_attention(small_detr(encoder_layers=0), s.images),
            "no encoder layers",
        ),
    ],
)
def test_faults_are_named(model, scenes, call, fault):
    with pytest.raises(ValueError, match=fault):
        call(model, scenes)


def test_a_picture_is_no_batch(model, scenes):
    with pytest.raises(TypeError, match="ImageBatch.from_list"):
        viz.decoder_attention(model, scenes.rgb)


def test_the_words_say_what_the_arrays_hold(model, scenes):
    figure = viz.decoder_attention(model, scenes)
    start = figure.notes["start"]["item"]
    name = figure.notes["names"][figure.arrays["labels"][-1, start]]
    score = figure.arrays["scores"][-1, start]
    assert f"query {start} {name} {score:.2f}" in figure.summary
    shown, _ = restored(figure)
    mean = shown[-1, start].mean(0)
    row, column = np.unravel_index(mean.argmax(), mean.shape)
    assert f"row {row + 1}, column {column + 1}" in figure.summary
    assert "nor why" in figure.caption
    assert repr(figure) == repr(viz.decoder_attention(model, scenes))


def test_maps_of_anything_can_be_shown():
    maps, words = torch.rand(2, 3, 1, 4, 5), viz.Words(frames=["a", "b"])
    figure = viz.attention_maps(maps, torch.rand(3, 8, 10), words=words)
    assert figure.notes["frames"] == ["a", "b"] and figure.notes["pick"] == "cell"
    array = np.zeros((8, 10, 3), np.uint8)
    figure = viz.attention_maps(maps, array, words=viz.Words(title="T"))
    assert figure.summary == figure.title == "T" and "nor why" in figure.caption
    rgb, labels = torch.rand(3, 8, 10), torch.ones(2, 3).int()
    for wrong, fault in [
        ({"maps": maps[0]}, r"maps has shape \(3, 1, 4, 5\), not \[F, Q, M, h, w\]"),
        ({"maps": maps[:0]}, "none of them 0"),
        ({"words": viz.Words(frames=["a"])}, "1 names of frames for 2 frames"),
        ({"answers": viz.Answers(items=[1])}, "1 numbers of items for 3 items"),
        (
            {"answers": viz.Answers(torch.rand(2, 4, 4))},
            "has 4 along Q where 3",
        ),
        ({"rgb": torch.rand(8, 10)}, "a picture of shape"),
        ({"answers": viz.Answers(labels=labels, names="x")}, "label 1, but 1 class"),
    ]:
        with pytest.raises(ValueError, match=fault):
            viz.attention_maps(**({"maps": maps, "rgb": rgb} | wrong))


def test_packed_maps_are_shown_as_they_are():
    maps = torch.rand(2, 3, 4, 5, 6)
    packed = analysis.pack(maps)
    loose, given = (viz.attention_maps(x, torch.rand(3, 8, 10)) for x in (maps, packed))
    assert all(
        (loose.arrays[name] == given.arrays[name]).all() for name in loose.arrays
    )
