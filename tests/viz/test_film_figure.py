"""The time-lapse shows the film's own numbers, with AP to scrub on."""

import numpy as np
import pytest
import torch
from small import small_detr

from detr_steps import viz
from detr_steps.analysis import film as filming
from detr_steps.analysis.attention import unpack
from detr_steps.data.scenes import Scenes
from detr_steps.viz.engine.readout import State


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    model = small_detr(classes=6, queries=9)
    states = [(s, small_detr(s, classes=6, queries=9).state_dict()) for s in (0, 50)]
    made = filming.record(model, states, Scenes("val", size=64), (3, 5))
    path = tmp_path_factory.mktemp("film") / "film.safetensors"
    filming.save(path, made)
    return filming.read(path, [{"step": 25, "AP": 0.125}, {"step": 50, "AP": 0.5}])


def test_frames_are_steps_and_the_curve_is_the_record(film):
    figure, shot = viz.time_lapse(film, 1), film.shots[1]
    assert figure.notes["frame_name"] == "step"
    assert figure.notes["frames"] == ["0", "50"] and figure.notes["frame_x"] == [0, 50]
    assert figure.arrays["curve"].tolist() == [[25, 50], [0.125, 0.5]]
    assert figure.notes["curve"] == {"x": "step", "y": "AP"}
    assert (figure.arrays["maps"] == shot.maps.numpy()).all()
    assert np.allclose(figure.arrays["peaks"], shot.peaks)
    assert np.allclose(figure.arrays["spread"], shot.spread)
    assert (figure.arrays["matched"] == shot.matched.numpy()).all()
    assert "AP is 0.12 at step 25 and 0.50 at step 50" in figure.summary
    start = figure.notes["start"]["item"]
    assert figure.notes["start"]["frame"] == 1 and shot.matched[-1, start] >= 0
    assert f"Query {shot.queries[start]} ends as" in figure.summary


def test_without_a_record_there_is_no_curve(film):
    bare = filming.Film(film.steps, film.scenes, film.shots, 3, film.names)
    figure = viz.time_lapse(bare)
    assert "curve" not in figure.arrays and "AP" not in figure.summary


def test_a_few_queries_are_those_matched_most(film):
    shot, few = film.shots[1], viz.time_lapse(film, 1, max_queries=3)
    items = few.notes.get("items", [0, 1, 2])  # left out where they are the first
    assert len(items) == 3 and few.arrays["maps"].shape[1] == 3
    places = [shot.queries.tolist().index(query) for query in items]
    assert (few.arrays["maps"] == shot.maps[:, places].numpy()).all()
    assert (few.arrays["boxes"] == shot.boxes[:, places].numpy()).all()
    often = (shot.matched >= 0).sum(0)
    assert often[places].min() >= 1 and (shot.matched[-1, places] >= 0).all()
    with pytest.raises(ValueError, match="max_queries=0"):
        viz.time_lapse(film, max_queries=0)


def test_it_opens_on_the_query_asked_for(film):
    wanted = film.shots[0].queries.tolist()[-1]
    figure = viz.time_lapse(film, query=wanted)
    assert figure.notes["start"]["item"] == len(film.shots[0].queries) - 1
    assert f"Query {wanted} ends as" in figure.summary
    with pytest.raises(ValueError, match="query 99 is not in the film"):
        viz.time_lapse(film, query=99)


def test_a_picture_beyond_the_last_is_named(film):
    with pytest.raises(ValueError, match="picture 2 of a film of 2"):
        viz.time_lapse(film, 2)


def test_a_film_keeps_the_picture(film):
    rgb = Scenes("val", size=64).draw([5]).rgb[0]
    shown = torch.from_numpy(viz.time_lapse(film, 1).picture.copy()).permute(2, 0, 1)
    assert (shown.float() / 255 - rgb).abs().mean() < 0.05


def test_sparsity_is_drawn_beside_ap_and_changes_are_marked(film):
    shot, figure = film.shots[1], viz.time_lapse(film, 1, sparsity=True)
    cells = shot.maps.shape[-2] * shot.maps.shape[-1]
    assert figure.notes["flat"] == pytest.approx(-np.log(cells), abs=1e-4)
    assert "flat" not in viz.time_lapse(film, 1).notes
    item = figure.notes["start"]["item"]
    state = State(figure)
    maps = unpack(shot.packed)[:, item].mean(1).flatten(1).double()  # [F, h · w]
    entropy = torch.special.entr(maps / maps.sum(-1, keepdim=True)).sum(-1)
    assert np.allclose(state.sparsity(), -entropy, atol=0.02)
    had = shot.matched[:, item].tolist()
    assert state.changes() == [1] * (had[0] != had[1])
    when = "changed at step 50" if state.changes() else "never changed"
    assert when in figure.summary
    times = "time" if len(state.changes()) == 1 else "times"
    assert f"◆ {len(state.changes())} {times}" in dict(state.lines[2:3]).popitem()[0]


def test_the_sparsity_of_one_head_is_its_own(film):
    figure = viz.time_lapse(film, sparsity=True)
    spread = film.shots[0].spread_heads[:, 0, 2].double()
    assert np.allclose(State(figure, item=0, head=2).sparsity(), -spread.log())
