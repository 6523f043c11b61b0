"""The one judge of all exercises: it runs a reader's function and names what is wrong.

The chapters' files hold data: `exercise`s with the right answer and, for each known
mistake, its diagnosis.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import cleandoc, signature

import torch
from torch import Tensor

from . import Verdict, right, wrong
from .progress import counted

CLOSE = 1e-4  # float32 sums in another order differ by less, known mistakes by more
Fits = Mapping[str, Callable]  # diagnosis -> does it fit a value? True, or words for {}


class Fault(Exception):
    """What is wrong with a reader's function; its words are the diagnosis."""


def numbers(*shape: int) -> Tensor:
    """Draw `shape` numbers from 0 to 1: always the same, the global seed is left."""
    return torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def tensors(count: int = 0) -> Callable[[object], object]:
    """Make a function that lets one tensor (0) or so many through; else TypeError."""

    def convert(value: object) -> object:
        parts = value if count else [value]
        whole = isinstance(parts, tuple | list) and len(parts) == (count or 1)
        if not (whole and all(isinstance(part, Tensor) for part in parts)):
            raise TypeError(type(value).__name__)
        return value

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
    try it on. `when` introduces errors. `kept` is said where an argument was changed.
    """

    cases: Sequence[tuple]
    answer: object = None
    mistakes: Mapping[str, object] = field(default_factory=dict)
    before: Fits = field(default_factory=dict)
    after: Fits = field(default_factory=dict)
    errors: Mapping[str, str] = field(default_factory=dict)
    convert: Callable[[object], object] = tensors()
    kind: str = "a tensor is wanted, but {who} returns a {kind}: return a tensor."
    part: int | None = None
    shape: str = "{}"
    nan: str = "0 / 0 gives it, or a softmax over nothing but -inf."
    otherwise: str | Callable[..., str] = ""
    unit: str = "number"
    when: str = ""
    kept: str = ""

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


def present(
    check: Callable, module: str, name: str, about: str, trials: list
) -> Callable:
    """Make a check count its calls, and look as if it was defined in its chapter."""
    check = counted(check, module, name)
    check.__module__, check.__name__, check.__qualname__ = module, name, name
    check.__doc__, check.trials = cleandoc(about), trials
    return check


def exercise(
    module: str,
    name: str,
    about: str,
    *,
    praise: str = "right",
    named: bool = False,
    blank: str = "your function returns None",
    by_hand: bool = False,
    then: Sequence[Trial] = (),
    **first: object,
) -> Callable[[object], Verdict]:
    """Make the check of an exercise: a function of the reader's, `about` its docstring.

    `module`, `name` where the check is found; `first` the fields of its first trial;
    the first trial that fails decides. `named` the reader's function is called by its
    name; `blank` what is said while nothing is written yet; `by_hand` the reader gives
    what came out and no function. The check never raises, whatever the function does.
    """
    trials = [Trial(**first), *then]

    def check(mine: object) -> Verdict:
        if mine is None and not by_hand:
            return wrong("not yet: give your function")
        given = (lambda: mine) if by_hand else mine
        called = getattr(mine, "__name__", "") if named else ""
        try:
            for trial in trials:
                _ask(given, trial, called, blank)
        except Fault as fault:
            return wrong(str(fault))
        return right(praise)

    return present(check, module, name, about, trials)


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


def _ask(mine: Callable, trial: Trial, name: str, blank: str) -> None:
    """Ask all cases of a trial; raises Fault."""
    values = [_value(mine, case, trial, name, blank) for case in trial.cases]
    part = trial.part
    judged = values if part is None else [value[part] for value in values]
    fault = None if trial.answer is None else compare(judged, trial)
    fault = fault or next(filter(None, (fit(v, trial.after) for v in values)), None)
    if fault:
        raise Fault(fault)


def _value(mine: Callable, case: tuple, trial: Trial, name: str, blank: str) -> object:
    """Call the reader's function: what is to be judged; raises Fault."""
    try:
        given = [x.clone() if isinstance(x, Tensor) else x for x in case]
        value = mine(*given)
    except Exception as error:  # the reader's code: say what happened
        raise Fault(_stopped(error, case, trial, name)) from error
    if trial.kept and not all(map(same_numbers, _tensors(given), _tensors(case))):
        raise Fault(trial.kept)
    if any(x is None for x in (value if isinstance(value, tuple) else (value,))):
        again = f"{name} still returns None. Write it, then run this cell again."
        raise Fault(f"not yet: {again if name else blank}")
    try:
        value = trial.convert(value)
    except (AttributeError, RuntimeError, TypeError, ValueError) as error:
        words = {"who": name or "your function", "kind": type(value).__name__}
        raise Fault(trial.kind.format(**words)) from error
    if fault := fit(value, trial.before):
        raise Fault(fault)
    return value


def _tensors(arguments: Sequence) -> list[Tensor]:
    return [x for x in arguments if isinstance(x, Tensor)]


def _stopped(error: Exception, case: tuple, trial: Trial, name: str) -> str:
    said = f"{type(error).__name__}: {error}".rstrip(".")
    for words, diagnosis in trial.errors.items():
        if words in said:
            return diagnosis
    given = (str(list(x.shape)) if isinstance(x, Tensor) else str(x) for x in case)
    verb = "it stops with" if name else "it raised"
    return f"{trial.when} {verb} {said}. It was called with {', '.join(given)}.".strip()


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
    if said:
        return said
    at = tuple(((mine - theirs).abs() > CLOSE).nonzero()[0].tolist())
    where = f"for the first {trial.unit} that differs, {list(at)}, " if at else ""
    return (
        f"the numbers differ, and not by a mistake I know: {where}expected "
        f"{theirs[at].item():.4g}, got {mine[at].item():.4g}. Try it on one "
        f"{trial.unit}."
    )
