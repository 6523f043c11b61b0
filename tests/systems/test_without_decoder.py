"""Systems without a decoder: trained, scored, drawn and looked into, or refused."""

import json
from dataclasses import replace

import pytest
import torch
from small import small_encoder_only_config, small_tsp_config, unequal_batch

from detr_steps import experiment, interop, viz, zoo
from detr_steps.analysis import ap_by_layer, film, predictions
from detr_steps.analysis import attention as seeing
from detr_steps.analysis.matching_stability import matches_along
from detr_steps.analysis.sparsity import sparsity, sparsity_by_layer
from detr_steps.cli import main
from detr_steps.data.export import export
from detr_steps.data.scenes import Scenes
from detr_steps.describable import from_json, to_json

CONFIGS = {"encoder": small_encoder_only_config(), "tsp": small_tsp_config()}
ONE = {"boxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]]), "labels": torch.tensor([1])}
SCENES = {part: Scenes(part, size=64) for part in ("train", "val")}


@pytest.fixture(scope="module", params=CONFIGS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    torch.manual_seed(0)
    return CONFIGS[name].build().eval()


@pytest.fixture(scope="module")
def run(name, tmp_path_factory):
    """A run of two steps that keeps weights."""
    out = tmp_path_factory.mktemp(name) / "run"
    description = {
        "recipe": {"steps": 2, "batch": 2, "evaluate_images": 2, "keep": [0, 2]},
        "model": to_json(CONFIGS[name]),
        "start": {},
        "data": to_json(SCENES["train"]),
        "validation": to_json(SCENES["val"]),
    }
    experiment.run(description, out, device="cpu")
    return out


def test_a_config_comes_back_from_json(name):
    config = CONFIGS[name]
    assert from_json(json.loads(json.dumps(to_json(config)))) == config


def test_a_run_is_scored_and_predicts(run, tmp_path, capsys):
    folder = export(SCENES["val"], tmp_path / "own", range(3))
    pair = [str(folder / "images"), str(folder / "annotations" / "instances.json")]
    assert main(["evaluate", str(run), "--data", *pair]) == 0
    assert "AP_S" in capsys.readouterr().out
    picture = next((folder / "images").iterdir())
    out = ["--out", str(tmp_path / "found"), "--threshold", "0.001"]
    assert main(["predict", str(picture), "--model", str(run), *out]) == 0
    (file,) = (tmp_path / "found").glob("*.json")
    assert json.loads(file.read_text())["detections"]
    assert all(p.isfinite().all() for p in zoo.load(run).parameters())


def test_weights_start_a_model_of_other_classes(run, name):
    model = replace(CONFIGS[name], classes=4).build()
    report = interop.load(model, run, ["a", "b", "c", "d"])
    heads = {"encoder": {"class_head"}, "tsp": {"class_head", "point_head"}}[name]
    assert {each.partition(".")[0] for each in report.kept} == heads
    theirs = zoo.weights(run)
    assert all(torch.equal(model.state_dict()[n], theirs[n]) for n in report.loaded)
    assert report.loaded and not report.missing and not report.unexpected


def test_detections_and_layers_agree(model):
    data = SCENES["val"]
    logits, boxes, targets = predictions(model, data, limit=6, batch=4)
    kind = model.config.classification
    scores = ap_by_layer(logits, boxes, targets, data, classification=kind)
    assert len(scores) == len(logits)
    found = model.detect(unequal_batch(), [(32, 48), (40, 24)])
    for each, (h, w) in zip(found, [(32, 48), (40, 24)]):
        assert each.boxes.isfinite().all() and len(each.scores)
        limit = torch.tensor([w, h, w, h]) * 1.5
        assert (each.boxes <= limit).all() and (each.boxes >= -limit).all()


def test_one_image_is_cut_out_of_everything(model):
    batch = unequal_batch()
    with torch.no_grad():
        whole = model(batch, trace=True)
    asked, given = (seeing.run_with_trace(x, batch, 1) for x in (model, whole))
    assert type(asked) is type(given) is type(whole)
    for one, other in ((asked.logits, given.logits), (asked.boxes, given.boxes)):
        assert torch.allclose(one, other, atol=1e-4) and one.shape[1] == 1
    assert torch.equal(given.real, whole.real[1:])
    target = ONE
    objects = seeing.matched_objects(model, given, target)
    assert objects.shape == given.logits.shape[:1] + given.logits.shape[2:3]
    assert (objects >= 0).sum() <= len(objects)


def test_sparsity_is_of_the_maps_there_are(model, name):
    batch = unequal_batch()
    found = sparsity_by_layer(model, batch)
    assert list(found) == [{"encoder": "encoder", "tsp": "decoder_self"}[name]]
    with torch.no_grad():
        output = model(batch, trace=True)
    layers = getattr(output.trace, list(found)[0])
    padding = ~output.real
    wanted = [sparsity(each.weights, padding, padding).row for each in layers]
    (mine,) = found.values()
    assert torch.allclose(mine.row, torch.stack(wanted))


def test_matches_are_followed_where_queries_stay_what_they_are(model, name):
    states = [(0, model.state_dict()), (1, model.state_dict())]
    if name == "tsp":
        with pytest.raises(ValueError, match="are others in each image and step"):
            matches_along(model, states, SCENES["val"], (3, 5))
        return
    curve = matches_along(model, states, SCENES["val"], (3, 5))
    assert curve.matches.shape[:3] == (2, 2, 2) and not curve.instability().any()


OF_A_DECODER = (
    viz.decoder_attention,
    viz.layers,
    viz.decoder_points,
    viz.live.cover,
)


@pytest.mark.parametrize("figure", OF_A_DECODER)
def test_figures_of_a_decoder_say_that_there_is_none(model, figure):
    scenes = SCENES["val"].draw([3])
    with pytest.raises(ValueError, match="this model has no decoder") as said:
        figure(model, scenes)
    assert "\n" not in str(said.value)


def test_figures_of_an_encoder_and_of_the_matching(model, name):
    scenes = SCENES["val"].draw([3])
    if name == "tsp":
        with pytest.raises(ValueError, match="no encoder layers"):
            viz.encoder_attention(model, scenes)
        with pytest.raises(ValueError, match="TSPFCOS lets only some queries"):
            viz.matching_of(model, scenes)
        return
    assert "cell" in str(viz.encoder_attention(model, scenes).summary)
    assert viz.matching_of(model, scenes).summary


def test_the_matching_figure_leaves_no_padding_in(name):
    if name == "tsp":
        pytest.skip("it has no such figure")
    model = CONFIGS[name].build()
    target = ONE
    with pytest.raises(ValueError, match="image 1 is padded"):
        viz.matching_of(model, unequal_batch(), 1, targets=[target, target])


def test_there_is_no_film_of_a_decoder(model):
    states = [(0, model.state_dict())]
    with pytest.raises(ValueError, match="this model has no decoder"):
        film.record(model, states, SCENES["val"], (3,))
