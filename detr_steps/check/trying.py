"""The one judge of all exercises: it runs a reader's function and names what is wrong.

The chapters' files hold data: `exercise`s with the right answer and, for each known
mistake, its diagnosis.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature

import torch
from torch import Tensor

from . import Verdict, right, wrong

CLOSE = 1e-4  # float32 sums in another order differ by less, known mistakes by more
Fits = Mapping[str, Callable]  # diagnosis -> does it fit a value? True, or words for {}


def numbers(*shape: int) -> Tensor:
    """Draw `shape` numbers from 0 to 1: always the same, the global seed is left."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def tensor(value: object) -> Tensor:
    """Let a tensor through; raises TypeError for anything else."""
    if not isinstance(value, Tensor):
        raise TypeError(type(value).__name__)
    return value


def tensors(count: int) -> Callable[[object], list[Tensor]]:
    """Make a function that lets so many tensors through, else raises TypeError."""

    def convert(value: object) -> list[Tensor]:
        if not isinstance(value, tuple | list) or len(value) != count:
            raise TypeError(type(value).__name__)
        return [tensor(part) for part in value]

    return convert


def same_numbers(a: object, b: object) -> bool:
    """Say whether two tensors (or what becomes one) have one shape and agree."""
    a, b = _numbers(a), _numbers(b)
    return a.shape == b.shape and torch.allclose(a, b, atol=CLOSE, equal_nan=True)


def turned(x: Tensor | tuple) -> Tensor | tuple:
    """Turn (x, y) to (y, x): a tensor's last axis, or a tuple."""
    return x.flip(-1) if isinstance(x, Tensor) else x[::-1]


@dataclass(frozen=True)
class Trial:
    """One question to a reader's function, its right answer, and the known mistakes.

    `cases` the arguments of each call. `answer` the right function, or what it returns;
    None if no numbers count. `mistakes` diagnosis -> what is wrong, or a list of it: a
    function; the numbers; or a dict of what differs in `answer`: an option, an argument
    (a new one, or a function of the right one), the "result" (a function of the right
    one). One is named if it explains all cases. `before`, `after` the numbers are
    judged: diagnosis -> does it fit what came out? `errors` words of an error ->
    diagnosis. `convert` makes numbers of what is returned, or raises: then `kind` is
    said. `part` which of several returned things is judged. Of an unknown mistake
    `shape` says what was expected (empty: any length), `nan` why NaN, `otherwise` the
    rest: words, or a function of value, truth and arguments; `unit` the small thing to
    try it on. `when` introduces errors.
    """

    cases: Sequence[tuple]
    answer: object = None
    mistakes: Mapping[str, object] = field(default_factory=dict)
    before: Fits = field(default_factory=dict)
    after: Fits = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    convert: Callable[[object], object] = tensor
    kind: str = "a tensor is wanted, but {who} returns a {kind}: return a tensor."
    part: int | None = None
    shape: str = "{}"
    nan: str = "0 / 0 gives it, or a softmax over nothing but -inf."
    otherwise: str | Callable[..., str] = ""
    unit: str = "number"
    when: str = ""

    def give(self, how: object, case: tuple) -> object:
        """Say what comes out: of a function, of a changed `answer`, or ready."""
        if not isinstance(how, dict):
            return how(*case) if callable(how) else how
        given = signature(self.answer).bind(*case).arguments
        for name, new in how.items():
            change = callable(new) and name in given
            given[name] = new(given[name]) if change else new
        result = given.pop("result", lambda right: right)
        return result(self.answer(**given))


def exercise(
    about: str,
    *,
    praise: str = "right",
    named: bool = False,
    blank: str = "your function returns None",
    by_hand: bool = False,
    then: Sequence[Trial] = (),
    **first: object,
) -> Callable[[object], Verdict]:
    """Make the check of an exercise: a function of the reader's, with `about` as doc.

    `first` the fields of its first trial; the first trial that fails decides. `named`
    the reader's function is called by its name; `blank` what is said while nothing is
    written yet; `by_hand` the reader gives what came out and no function. The check
    never raises, whatever the reader's function does.
    """
    trials = (Trial(**first), *then)

    def check(mine: object) -> Verdict:
        if mine is None and not by_hand:
            return wrong("not yet: give your function")
        given = (lambda: mine) if by_hand else mine
        name = getattr(mine, "__name__", "") if named else ""
        faults = (_ask(given, trial, name, blank) for trial in trials)
        fault = next(filter(None, faults), None)
        return wrong(fault) if fault else right(praise)

    check.__doc__ = about
    return check


def compare(values: Sequence, trial: Trial) -> str | None:
    """Name what is wrong with the value of each case; None if nothing is."""
    truths = [trial.give(trial.answer, case) for case in trial.cases]
    if _agree(values, truths):
        return None
    for diagnosis, mistakes in trial.mistakes.items():
        for mistake in mistakes if isinstance(mistakes, list) else [mistakes]:
            if _agree(values, (trial.give(mistake, case) for case in trial.cases)):
                return diagnosis
    return next(
        _difference(value, truth, trial, case)
        for value, truth, case in zip(values, truths, trial.cases)
        if not same_numbers(value, truth)
    )


def fit(value: object, faults: Fits) -> str | None:
    """Name the first fault that fits a value; None if none does."""
    found = ((diagnosis, fits(value)) for diagnosis, fits in faults.items())
    return next((diagnosis.format(words) for diagnosis, words in found if words), None)


def _ask(mine: Callable, trial: Trial, name: str, blank: str) -> str | None:
    values, fault = [], None
    for case in trial.cases:
        value, fault = _call(
            mine, case, trial, "it stops with" if name else "it raised"
        )
        if fault is None and _unwritten(value):
            again = f"{name} still returns None. Write it, then run this cell again."
            fault = f"not yet: {again if name else blank}"
        if fault is None:
            value, fault = _convert(value, trial, name or "your function")
        if fault is not None:
            return fault
        values.append(value)
    if trial.answer is not None:
        judged = (
            values if trial.part is None else [value[trial.part] for value in values]
        )
        fault = compare(judged, trial)
    return fault or next(filter(None, (fit(v, trial.after) for v in values)), None)


def _call(
    mine: Callable, case: tuple, trial: Trial, verb: str
) -> tuple[object, str | None]:
    try:
        return mine(*(x.clone() if isinstance(x, Tensor) else x for x in case)), None
    except Exception as error:  # the reader's code: say what happened, do not raise
        said = f"{type(error).__name__}: {error}"
    for words, diagnosis in trial.errors.items():
        if words in said:
            return None, diagnosis
    given = (str(list(x.shape)) if isinstance(x, Tensor) else str(x) for x in case)
    said = f"{verb} {said}. It was called with {', '.join(given)}."
    return None, f"{trial.when} {said}".strip()


def _unwritten(value: object) -> bool:
    parts = value if isinstance(value, tuple) else (value,)
    return any(part is None for part in parts)


def _convert(value: object, trial: Trial, who: str) -> tuple[object, str | None]:
    try:
        value = trial.convert(value)
    except (TypeError, ValueError, RuntimeError):
        return None, trial.kind.format(who=who, kind=type(value).__name__)
    return value, fit(value, trial.before)


def _agree(values: Sequence, truths: Sequence) -> bool:
    return all(same_numbers(value, truth) for value, truth in zip(values, truths))


def _numbers(value: object) -> Tensor:
    return torch.as_tensor(value).detach().double()  # booleans have no minus


def _difference(value: object, truth: object, trial: Trial, case: tuple) -> str:
    """Describe a difference that no known mistake explains, as well as one can."""
    mine, theirs = _numbers(value), _numbers(truth)
    if trial.shape and mine.shape != theirs.shape:
        if theirs.ndim == 0:
            return f"one number is wanted, yours has shape {list(mine.shape)}"
        expected = trial.shape.format(list(theirs.shape))
        return f"the shape is {list(mine.shape)}, expected {expected}."
    if mine.isnan().any():
        return f"NaN at {mine.isnan().nonzero()[0].tolist()}: {trial.nan}"
    said = trial.otherwise
    said = said(value, truth, *case) if callable(said) else said
    return said or _first(mine, theirs, trial.unit)


def _first(mine: Tensor, theirs: Tensor, unit: str) -> str:
    at = tuple(((mine - theirs).abs() > CLOSE).nonzero()[0].tolist())
    where = f"for the first {unit} that differs, {list(at)}, " if at else ""
    return (
        f"the numbers differ, and not by a mistake I know: {where}expected "
        f"{theirs[at].item():.4g}, got {mine[at].item():.4g}. Try it on one {unit}."
    )
