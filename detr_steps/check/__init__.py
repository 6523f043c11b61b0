"""Checks for readers: is mine the same, what did I predict, is my exercise right?

The checks of each chapter's exercises are in `ch00`, `ch01`, …; each returns a
`Verdict` that says what is wrong and where to look, not only that something is.
`summary` tells which of them are solved.
"""

import html
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .progress import summary as summary

_guesses: dict[str, object] = {}


@dataclass(frozen=True)
class Verdict:
    """What a check found; shows itself as one or two lines.

    `folded` it is about the course's own solution: a notebook hides it until asked for.
    """

    right: bool
    message: str
    folded: bool = False

    def __repr__(self) -> str:
        return f"{'✓' if self.right else '✗'} {self.message}"

    def __bool__(self) -> bool:
        return self.right

    def _repr_html_(self) -> str | None:
        if not self.folded:
            return None
        said = html.escape(repr(self))
        return f"<details><summary>What the check says</summary>{said}</details>"


def right(message: str) -> Verdict:
    """Make the verdict of a right answer."""
    return Verdict(True, message)


def wrong(message: str) -> Verdict:
    """Make the verdict of a wrong answer; the message is the diagnosis."""
    return Verdict(False, message)


def same(
    mine: Callable | Tensor,
    theirs: Callable | Tensor,
    *trials: tuple,
    tolerance: float = 1e-5,
) -> Verdict:
    """Check that two functions agree on trials, or that two tensors do.

    Each of `trials` is a tuple of arguments both functions are called with. Raises:
    AssertionError that tells where they first differ, so that a notebook stops there.
    """
    pairs = [(mine, theirs)] if not trials else [(mine(*t), theirs(*t)) for t in trials]
    for number, (a, b) in enumerate(pairs):
        fault = _difference(a, b, tolerance)
        assert fault is None, f"not the same (trial {number}): {fault}"
    return right(f"the same on {len(pairs)} trial{'s' if len(pairs) > 1 else ''}")


def _difference(a: object, b: object, tolerance: float) -> str | None:
    if isinstance(a, tuple | list) and isinstance(b, tuple | list):
        found = (_difference(x, y, tolerance) for x, y in zip(a, b, strict=True))
        return next((fault for fault in found if fault), None)
    a, b = torch.as_tensor(a), torch.as_tensor(b)
    if a.shape != b.shape:
        return f"shapes {list(a.shape)} and {list(b.shape)}"
    gap = (a.double() - b.double()).abs()
    if not gap.isfinite().all() or (gap > tolerance).any():
        at = tuple(int(i) for i in (~(gap <= tolerance)).nonzero()[0])
        return f"at index {at}: mine {a[at].item():.6g}, theirs {b[at].item():.6g}"
    return None


def predict(question: str, guess: object = None) -> None:
    """Store what you expect before you run; `reveal` shows it beside what happened."""
    _guesses[question] = guess
    if guess is None:
        print(f"Your guess? Write it into predict({question!r}, …), then go on.")
    else:
        print(f"Noted: {guess}")


def reveal(question: str, answer: object) -> None:
    """Show the stored guess beside the answer."""
    guess = _guesses.get(question)
    print(f"you expected:  {'(no guess)' if guess is None else guess}")
    print(f"what happened: {answer}")
