"""The judge of all exercises, and what every exercise's data must hold."""

import importlib

import pytest
import torch

from detr_steps.check.trying import Trial, compare, exercise, numbers, tensors, turned

CHAPTERS = ("ch00", "ch01", "ch02", "ch05", "ch06", "ch07", "ch08")
CHECKS = {
    f"{chapter}.{name}": check
    for chapter in CHAPTERS
    for name, check in vars(
        importlib.import_module(f"detr_steps.check.{chapter}")
    ).items()
    if hasattr(check, "trials")
}


def diagnoses(check):
    """(trial, diagnosis, mistake) of all mistakes whose numbers are known."""
    for trial in check.trials:
        for diagnosis, mistakes in trial.mistakes.items():
            for mistake in mistakes if isinstance(mistakes, list) else [mistakes]:
                yield trial, diagnosis, mistake


def test_no_exercise_is_missed():
    assert len(CHECKS) == 25  # and chapter 07's drawing, which is no exercise of these


@pytest.mark.parametrize("name", CHECKS)
def test_each_exercise_names_its_three_likeliest_mistakes(name):
    check = CHECKS[name]
    assert len({diagnosis for _, diagnosis, _ in diagnoses(check)}) >= 2
    known = [fault for t in check.trials for fault in (t.mistakes | t.before | t.after)]
    assert len(set(known)) >= 3 and all(len(words) > 10 for words in known)


@pytest.mark.parametrize("name", CHECKS)
def test_the_right_answer_is_right(name):
    for trial in CHECKS[name].trials:
        if trial.answer is not None:
            right = [trial.give(trial.answer, case) for case in trial.cases]
            assert compare(right, trial) is None


@pytest.mark.parametrize("name", CHECKS)
def test_no_diagnosis_hides_another(name):
    """Each mistake is told apart, by one trial at least, from those before it."""
    said = {}
    for trial, diagnosis, mistake in diagnoses(CHECKS[name]):
        wrong = [trial.give(mistake, case) for case in trial.cases]
        if "ch07" in name:  # a kernel writes where it should, whatever it writes
            assert wrong[0].shape == trial.give(trial.answer, trial.cases[0]).shape
        said.setdefault((diagnosis, str(mistake)), []).append(compare(wrong, trial))
    for (diagnosis, _), found in said.items():
        assert set(found) <= {diagnosis, None} and diagnosis in found


@pytest.mark.parametrize("name", CHECKS)
def test_each_check_says_what_it_checks(name):
    check = CHECKS[name]
    first = check.__doc__.splitlines()[0]
    assert first.startswith("Check ") and first.endswith(".")
    assert f"{check.__module__}.{check.__qualname__}" == f"detr_steps.check.{name}"


def double(**fields):
    return exercise(
        "a", "b", "Check it.", cases=[(numbers(4),)], answer=scaled, **fields
    )


def scaled(x, by=2.0):
    return by * x


def test_a_mistake_is_an_option_an_argument_a_result_a_function_or_numbers():
    check = double(
        mistakes={
            "an option": {"by": 3.0},
            "an argument": {"x": turned},
            "the result": {"result": torch.neg},
            "argument and result": {"x": turned, "result": torch.neg},
            "a function": lambda x: x + 2,
            "numbers": torch.zeros(4),
            "one of two": [{"by": 4.0}, {"by": 5.0}],
        }
    )
    assert check(lambda x: x + x)
    for says, mine in {
        "an option": lambda x: 3 * x,
        "an argument": lambda x: 2 * x.flip(0),
        "the result": lambda x: -2 * x,
        "argument and result": lambda x: -2 * x.flip(0),
        "a function": lambda x: 2 + x,
        "numbers": torch.zeros_like,
        "one of two": lambda x: 5 * x,
    }.items():
        assert check(mine).message == says


def test_a_mistake_must_explain_all_cases():
    check = exercise(
        "a",
        "b",
        "Check it.",
        cases=[(1,), (2,)],
        answer=lambda n: n + 1,
        mistakes={"doubled": lambda n: 2 * n},
        convert=float,
    )
    assert check(lambda n: 2 * n).message == "doubled"
    assert "expected 3, got 5" in check(lambda n: 2 if n == 1 else 5).message


def test_an_unknown_mistake_gets_the_place_and_both_numbers():
    message = double(unit="cell")(lambda x: 2 * x + torch.eye(4)[2]).message
    two = 2 * numbers(4)[2].item()
    assert "for the first cell that differs, [2]" in message
    assert f"expected {two:.4g}, got {two + 1:.4g}" in message
    assert "Try it on one cell" in message


def test_shapes_kinds_and_nan_are_said():
    check = double(shape="[n] = {}", nan="0 / 0.")
    assert (
        "the shape is [1, 4], expected [n] = [4]." in check(lambda x: x[None]).message
    )
    assert "NaN at [0]: 0 / 0." in check(lambda x: x / 0 - x / 0).message
    assert "your function returns a list" in check(lambda x: [1.0]).message
    assert "not yet: give your function" == check(None).message
    assert "not yet: your function returns None" == check(lambda x: None).message


def test_an_error_is_told_with_what_the_function_was_called_with():
    message = double()(lambda x: x @ torch.ones(3)).message
    assert "it raised RuntimeError" in message and "called with [4]." in message
    known = double(errors={"ZeroDivision": "do not divide"})
    assert known(lambda x: 1 / 0).message == "do not divide"


def test_a_named_function_is_called_by_its_own_name():
    def my_own(x):
        return None

    message = double(named=True)(my_own).message
    assert message.startswith("not yet: my_own still returns None")


def test_a_function_that_changes_its_arguments_spoils_nothing():
    check = double()
    assert check(lambda x: x.mul_(2)) and check(lambda x: x.mul_(2))


@pytest.mark.parametrize("name", [name for name in CHECKS if "ch07" not in name])
def test_checks_leave_the_notebooks_random_numbers_alone(name):
    torch.manual_seed(7)
    CHECKS[name](lambda *given: given[0])
    after = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(after, torch.rand(3))


def test_later_trials_wait_for_the_first_and_look_at_one_part_of_several():
    twice = Trial([(3,)], lambda n: 2 * n, otherwise="not for 3", convert=float)
    check = exercise(
        "a", "b", "Check it.", cases=[(1,)], answer=2.0, convert=float, then=[twice]
    )
    assert check(lambda n: n + 1).message == "not for 3"
    assert check(lambda n: 2 * n) and "expected 2" in check(lambda n: n).message
    pair = double(convert=tensors(2), part=1, after={"a list": lambda v: len(v) != 2})
    assert pair(lambda x: (x, 2 * x)) and not pair(lambda x: (2 * x, x))
    assert "returns a Tensor" in pair(lambda x: x).message


@pytest.mark.parametrize("name", [name for name in CHECKS if "ch07" not in name])
def test_whatever_a_function_returns_gets_a_verdict(name):
    odd = [7, "x", [], (), {}, object(), float("nan"), (2, 7), (1, 2, 3), [[1], [2, 3]]]
    odd += [torch.tensor(1), torch.zeros(0), torch.zeros(2, 3, 4), torch.ones(1) > 0]
    odd += [(torch.tensor(1),) * count for count in (1, 2, 3, 4)]
    odd += [(torch.zeros(0), torch.zeros(9, 4)), ("a", "b", "c")]
    for value in odd:
        verdict = CHECKS[name](lambda *given, value=value: value)
        assert not verdict and verdict.message
        assert not CHECKS[name](value)
