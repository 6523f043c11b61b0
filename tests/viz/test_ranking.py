"""The ranking sorts by what is asked, and its chart shows who is beaten by nobody."""

import json

import numpy as np
import pytest
import sample_figures as figures
from pages import live_figures, read

from detr_steps import zoo
from detr_steps.viz.engine.ranking import Column, Entry, ranking_of
from detr_steps.viz.engine.ranking_poster import beaten_by_none

SCORE, TIME = Column("AP", 3, "high"), Column("times")
HERE = 'document.getElementById("figure").detrFigure'


def made(*rows):
    entries = [Entry(f"row {i}", [a], [b]) for i, (a, b) in enumerate(rows)]
    return ranking_of(entries, (SCORE, TIME))


def test_numbers_are_means_and_ends_of_seeds():
    figure = figures.ranking()
    assert np.allclose(figure.arrays["values"][0], [0.55 / 3, 1.0, 310])
    assert np.allclose(figure.arrays["spread"][1], [0.23, 0.26])
    assert figure.arrays["seeds"].tolist() == [3, 3, 3, 1, 2]
    assert figure.notes["start"]["item"] == 3 and "Best: DAB, SQR 13" in figure.summary


@pytest.mark.parametrize("high", [False, True])
def test_nobody_beats_the_front(high):
    random = np.random.default_rng(0)
    values = random.integers(0, 5, (40, 2)).astype(float)  # ties as well
    found = beaten_by_none(values, 1, high)
    for i, (a, b) in enumerate(values):
        beaten = any(x > a and (y >= b if high else y <= b) for x, y in values)
        assert (i in found) == (not beaten)


def test_the_page_sorts_and_finds_the_same_front(page, watch, tmp_path):
    figure = figures.ranking()
    page.set_viewport_size({"width": 860, "height": 600})
    figure.save_html(tmp_path / "figure.html")
    page.goto((tmp_path / "figure.html").as_uri())
    (frame,) = live_figures(page)
    values = figure.arrays["values"].astype(float)
    for column in (0, 2, 1):
        name = figure.notes["columns"][column]["name"]
        frame.get_by_role("button", name=f"sort by {name}").click()
        sign = -1 if column == 0 else 1
        order = np.argsort(sign * values[:, column], kind="stable").tolist()
        assert frame.evaluate(f"() => {HERE}.order") == order
        titles = frame.locator("tr[data-i] th").all_inner_texts()
        assert titles == [figure.notes["titles"][i] for i in order]
        front = set(frame.evaluate(f"() => {HERE}.front()"))
        assert front == beaten_by_none(values, column or 1, False)
    frame.locator("tr[data-i='1']").click()
    assert read(frame, ".words p").startswith("DETR, 3 groups")
    assert "zoo train row-1" in read(frame, ".recipe")
    page.keyboard.press("Escape")
    page.keyboard.press("ArrowUp")
    assert not read(frame, ".words p").startswith("DETR, 3 groups")
    assert watch.errors == [] and watch.outside == []


def test_the_zoos_rows_tell_how_they_are_made(tmp_path, monkeypatch):
    figure = zoo.ranking(
        {"base": "slow-base", "long": "slow-long"},
        {"times": {"slow-base": 1.0, "slow-long": 1.0}},
    )
    base, long = figure.notes["recipes"]
    assert base == ["detr-steps zoo train slow-base"]
    assert long[0] == "detr-steps zoo train slow-long"
    told = dict(line.split(": ", 1) for line in long[1:] if not line.startswith("and"))
    recipe = json.loads((zoo.folder() / "slow-long" / "recipe.json").read_text())
    for key, value in told.items():
        part = recipe
        for name in key.split("."):
            part = part[name]
        assert str(part) == value, key
    assert np.allclose(figure.arrays["values"][1, 0], np.mean(zoo.scores("slow-long")))


def test_further_scores_are_columns_that_are_better_high():
    figure = zoo.ranking(
        {"base": "slow-base", "long": "slow-long"},
        {"times": {"slow-base": 1.0, "slow-long": 2.0}},
        also={"small": "AP_S", "large": "AP_L"},
    )
    assert [(c["name"], c["better"]) for c in figure.notes["columns"]] == [
        ("AP", "high"),
        ("times", "low"),
        ("small", "high"),
        ("large", "high"),
    ]
    for k, key in ((2, "AP_S"), (3, "AP_L")):
        wanted = [np.mean(zoo.scores(name, key)) for name in ("slow-base", "slow-long")]
        assert np.allclose(figure.arrays["values"][:, k], wanted)


def test_another_system_is_told_by_its_kind_first():
    costs = {"times": {"more-refine": 1.0, "more-adamixer": 1.0}}
    figure = zoo.ranking({"a": "more-refine", "b": "more-adamixer"}, costs)
    assert figure.notes["recipes"][1][1] == "model.kind: AdaMixerConfig"


def test_what_cannot_be_ranked_is_named():
    with pytest.raises(ValueError, match="nothing to rank"):
        ranking_of([], (SCORE,))
    with pytest.raises(ValueError, match="'a' has no scores: train it first"):
        ranking_of([Entry("a", [], [1.0])], (SCORE, TIME))
    with pytest.raises(ValueError, match="'a' has 2 costs for 1"):
        ranking_of([Entry("a", [0.1], [1.0, 2.0])], (SCORE, TIME))
    with pytest.raises(ValueError, match="better is 'big'"):
        ranking_of([Entry("a", [0.1], [])], (Column("AP", 2, "big"),))
    with pytest.raises(KeyError):
        zoo.ranking({"a": "slow-base"}, {"times": {}})
    with pytest.raises(ValueError, match="'a' has no scores: train it first"):
        zoo.ranking({"a": "slow-teacher-800"}, {}, also={"small": "AP_S"})


def test_a_single_score_needs_no_cost():
    figure = ranking_of([Entry("a", [0.1], []), Entry("b", [0.2], [])], (SCORE,))
    assert figure.poster() and figure.notes["start"]["item"] == 1
