"""`same`, `predict`, `reveal`: what a reader leans on in every chapter."""

import pytest
import torch

from detr_steps.check import Verdict, predict, reveal, right, same, wrong


def test_equal_functions_are_the_same():
    trials = [(torch.rand(3),) for _ in range(4)]
    verdict = same(lambda x: x * 2, lambda x: x + x, *trials)
    assert verdict and repr(verdict) == "✓ the same on 4 trials"


def test_a_difference_is_named_with_its_place():
    a = torch.zeros(2, 3)
    b = a.clone()
    b[1, 2] = 0.5
    with pytest.raises(AssertionError, match=r"index \(1, 2\): mine 0, theirs 0.5"):
        same(a, b)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_never_the_same(bad):
    with pytest.raises(AssertionError):
        same(torch.tensor([bad]), torch.tensor([bad]))


def test_shapes_must_agree_and_are_not_broadcast():
    with pytest.raises(AssertionError, match=r"shapes \[1, 3\] and \[3\]"):
        same(torch.zeros(1, 3), torch.zeros(3))


def test_tuples_are_compared_part_by_part():
    pair = (torch.zeros(2), torch.ones(2))
    assert same(pair, pair)
    with pytest.raises(AssertionError):
        same(pair, (torch.zeros(2), torch.zeros(2)))


def test_the_tolerance_is_what_it_says():
    a, b = torch.zeros(1), torch.full((1,), 1e-3)
    assert same(a, b, tolerance=2e-3)
    with pytest.raises(AssertionError):
        same(a, b, tolerance=5e-4)


def test_a_guess_is_shown_beside_the_answer(capsys):
    predict("how many", 3)
    reveal("how many", 4)
    out = capsys.readouterr().out
    assert "Noted: 3" in out
    assert "you expected:  3" in out and "what happened: 4" in out


def test_no_guess_is_no_fault(capsys):
    predict("never asked", None)
    reveal("never asked", 7)
    assert "(no guess)" in capsys.readouterr().out


def test_verdicts_are_true_or_false():
    assert right("a") and not wrong("b")
    assert repr(wrong("why")) == "✗ why"
    assert isinstance(right("a"), Verdict)
