"""A film holds what the model said and read at every kept step."""

import json
import shutil

import pytest
import torch
from small import small_config, small_detr

from detr_steps import zoo
from detr_steps.analysis import film as filming
from detr_steps.analysis.attention import effective_cells, unpack
from detr_steps.data.scenes import Scenes
from detr_steps.describable import from_json, to_json
from detr_steps.files import write_json, write_tensors
from detr_steps.objective.matching import pad_targets
from detr_steps.training.folder import kept_file

DATA = Scenes("val", size=64)
SCENES = (3, 5)
MODELS = {step: small_detr(step, classes=6, queries=9) for step in (0, 40, 100)}


@pytest.fixture(scope="module")
def film():
    states = ((step, model.state_dict()) for step, model in MODELS.items())
    actor = small_detr(7, classes=6, queries=9)
    before = {k: v.clone() for k, v in actor.state_dict().items()}
    made = filming.record(actor, states, DATA, SCENES, queries=8)
    after = actor.state_dict()
    assert all(torch.equal(value, after[key]) for key, value in before.items())
    return made


def test_every_frame_is_what_that_model_read_and_said(film):
    assert film.steps == [0, 40, 100] and film.layer == 3
    scenes = DATA.draw(SCENES)
    for image, shot in enumerate(film.shots):
        for frame, model in enumerate(MODELS.values()):
            with torch.no_grad():
                seen = model(scenes.images, trace=True)
            chosen = shot.queries.long()
            cross = seen.trace.decoder_cross[-1].weights[image][:, chosen]  # [M, Q, S]
            cross = cross.transpose(0, 1).unflatten(-1, seen.trace.sizes[0])
            shown = unpack(shot.packed)[frame]
            most = cross.amax((-2, -1), keepdim=True)
            assert ((shown - cross).abs() <= most / 509 + 1e-6).all()
            boxes = seen.boxes[-1, image, chosen]
            assert torch.allclose(shot.boxes[frame].float(), boxes, atol=1e-3)
            p = seen.logits[-1, image, chosen].softmax(-1)[:, :-1]
            assert torch.allclose(shot.scores[frame].float(), p.amax(-1), atol=1e-3)
            assert torch.equal(shot.labels[frame].long(), p.argmax(-1))
            wide = effective_cells(cross.mean(1))
            assert torch.allclose(shot.spread[frame].float(), wide, rtol=2e-3)
    assert torch.equal(film.shots[1].rgb, (scenes.rgb[1] * 255).round().byte())


def test_the_matches_are_the_models_own_and_those_matched_lastly_are_shown(film):
    scenes, last = DATA.draw(SCENES), MODELS[100]
    with torch.no_grad():
        seen = last(scenes.images, trace=True)
    matched = last.match(seen, pad_targets(scenes.targets, 6, "cpu"))[-1]  # [B, N]
    for image, shot in enumerate(film.shots):
        queries = shot.queries.tolist()
        assert len(queries) == 8 and queries == sorted(queries)
        for thing in range(len(scenes.targets[image]["labels"])):
            at = queries.index(matched[image, thing])
            assert shot.matched[-1, at] == thing
        count = len(scenes.targets[image]["labels"])
        assert (shot.matched[-1] >= 0).sum() == len(shot.truth) == count


def test_a_film_comes_back_from_its_file(film, tmp_path):
    record = [{"step": 50, "AP": 0.1}, {"step": 60}, {"step": 100, "AP": 0.3}]
    filming.save(tmp_path / "a.safetensors", film)
    again = filming.read(tmp_path / "a.safetensors", record)
    for shot, copied in zip(film.shots, again.shots):
        for name in shot.__dataclass_fields__:
            assert torch.equal(getattr(shot, name), getattr(copied, name)), name
    assert (again.steps, again.names) == (film.steps, DATA.class_names)
    assert torch.allclose(again.curve, torch.tensor([[50, 100], [0.1, 0.3]]))
    assert filming.read(tmp_path / "a.safetensors").curve is None


def test_another_file_is_no_film(tmp_path):
    write_tensors(tmp_path / "b.safetensors", {"x": torch.zeros(1)}, {})
    with pytest.raises(ValueError, match="is no film: it has no 'scenes'"):
        filming.read(tmp_path / "b.safetensors")


def test_no_weights_no_film():
    with pytest.raises(ValueError, match="no weights were kept"):
        filming.record(MODELS[0], [], DATA, SCENES)


@pytest.fixture
def own_zoo(tmp_path, monkeypatch):
    """A zoo with one run whose weights were kept on the way."""
    (tmp_path / "zoo").mkdir()
    monkeypatch.setenv(zoo.VARIABLE, str(tmp_path / "zoo"))
    run = tmp_path / "run"
    for step, model in MODELS.items():
        half = {k: v.half() for k, v in model.state_dict().items()}
        write_tensors(kept_file(run, step), half, {"step": step})
    write_tensors(run / "model.safetensors", half, {"step": 100})
    config = small_config(classes=6, queries=9)
    write_json(
        run / "recipe.json",
        {
            "recipe": {"steps": 100},
            "model": to_json(config),
            "validation": to_json(Scenes("val", size=32)),
        },
    )
    (run / "record.jsonl").write_text(json.dumps({"step": 100, "AP": 0.5}) + "\n")
    return run


def test_publishing_a_run_films_it(own_zoo):
    zoo.publish_film(own_zoo, "mine")
    zoo.publish_record(own_zoo, "mine")
    film = zoo.film("mine")
    assert zoo.films() == ["mine"] and film.steps == [0, 40, 100]
    assert film.scenes == list(zoo.FILMED)
    assert film.curve.tolist() == [[100.0], [0.5]]


def test_a_run_that_kept_nothing_leaves_no_old_film(own_zoo):
    zoo.publish_film(own_zoo, "mine")
    zoo.publish_record(own_zoo, "mine")
    shutil.rmtree(own_zoo / "kept")
    assert zoo.publish_film(own_zoo, "mine") is None
    with pytest.raises(FileNotFoundError, match="no film of 'mine'.*none.*keep"):
        zoo.film("mine")


@pytest.mark.parametrize("name", zoo.films())
def test_the_films_in_the_zoo_end_with_the_published_weights(name):
    film, model = zoo.film(name), zoo.load(name)
    data = from_json(zoo.recipe(name)["validation"])
    again = filming.record(model, [(0, model.state_dict())], data, film.scenes)
    for shot, now in zip(film.shots, again.shots):
        both = [q for q in shot.queries.tolist() if q in now.queries.tolist()]
        assert both
        for query in both:
            a = shot.queries.tolist().index(query)
            b = now.queries.tolist().index(query)
            assert torch.allclose(shot.boxes[-1, a], now.boxes[-1, b], atol=2e-3)
            assert torch.allclose(shot.peaks[-1, a], now.peaks[-1, b], rtol=1e-2)
    assert film.steps[-1] == zoo.recipe(name)["recipe"]["steps"]
    assert film.curve.shape[1] > 3
