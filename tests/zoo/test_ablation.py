"""What seeds say of a change."""

import json

import pytest
import small_zoo

from detr_steps.zoo import VARIABLE, compare, steps_to
from detr_steps.zoo.ablation import Comparison


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ([0.1, 0.2, 0.3], [0.4, 0.5, 0.6], "more"),
        ([0.4, 0.5, 0.6], [0.1, 0.2, 0.3], "less"),
        ([0.1, 0.2, 0.3], [0.3, 0.5, 0.6], "open: seeds overlap"),
        ([0.1, 0.2, 0.3], [0.8, 0.9], "open: 2 seeds"),
        ([0.1], [0.8, 0.9, 0.9], "open: 1 seed"),
        ([], [0.8], "open: 0 seeds"),
    ],
)
def test_three_seeds_that_do_not_overlap_decide(before, after, verdict):
    assert Comparison(before, after).verdict == verdict


def test_gain_is_the_difference_of_means_in_points():
    found = Comparison([0.1, 0.2], [0.25, 0.3])
    assert found.gain == pytest.approx(12.5)
    assert str(found) == "+12.5 AP points (open: 2 seeds)"
    assert Comparison([], [0.3]).gain is None
    assert str(Comparison([], [0.3])) == "no runs (open: 0 seeds)"


def test_a_comparison_says_of_which_score_it_is():
    found = Comparison([0.2], [0.1], "mask_AP_S")
    assert str(found) == "-10.0 mask AP S points (open: 1 seed)"


def test_records_of_all_seeds_are_compared(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    for name, scores in (("base", (0.1, 0.2)), ("changed", (0.4,)), ("planned", ())):
        small_zoo.add(tmp_path, name)
        for seed, score in enumerate(scores):
            file = f"record-seed{seed}.jsonl" if seed else "record.jsonl"
            lines = [{"step": 1, "AP": 0.0, "AP_S": 0.0}]
            lines += [{"step": 2, "AP": score, "AP_S": score / 2}, {"step": 3}]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (tmp_path / name / file).write_text(text)
    found = compare("base", "changed")
    assert (found.before, found.after, found.seeds) == ([0.1, 0.2], [0.4], 1)
    small = compare("base", "changed", "AP_S")
    assert small.after == [0.2] and "AP S points" in str(small)
    assert compare("base", "planned").verdict == "open: 0 seeds"
    with pytest.raises(KeyError, match="no 'nothing' in the zoo"):
        compare("base", "nothing")
    assert (steps_to("base", 0.0), steps_to("base", 0.1)) == (1, 2)
    assert steps_to("base", 0.2) is None and steps_to("base", 0.05, "AP_S") == 2


def test_a_claim_holds_fails_or_stays_open():
    more = Comparison([0.1, 0.2, 0.3], [0.4, 0.5, 0.6])
    assert more.holds("more") is True and more.holds("less") is False
    assert Comparison([0.1], [0.4]).holds("more") == "open: 1 seed"


def test_the_reach_is_that_of_any_two_seeds():
    found = Comparison([0.1, 0.2], [0.25, 0.3, 0.26])
    assert found.reach == pytest.approx((5.0, 20.0))
    assert found.detail == "+12.0 (+5.0 to +20.0)"
    nothing = Comparison([], [0.3])
    assert nothing.reach is None and nothing.detail == "no runs"


@pytest.mark.parametrize(
    ("after", "says"),
    [
        ([0.495, 0.5, 0.505], True),  # none is farther than a point
        ([0.48, 0.5, 0.505], "no difference seen"),
        ([0.52, 0.53, 0.53], False),
        ([0.47, 0.47, 0.46], False),
        ([0.5, 0.5], "open: 2 seeds"),
        ([], "open: 0 seeds"),
    ],
)
def test_alike_is_within_a_margin(after, says):
    assert Comparison([0.5, 0.5, 0.502], after).alike(1.0) == says
