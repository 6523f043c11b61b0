"""Running a reader's function, and naming what is wrong with its numbers."""

from collections.abc import Callable

import torch
from torch import Tensor

from . import Verdict, right, wrong


def call(
    mine: Callable | None,
    *inputs: object,
    unwritten: Callable[[object], bool] = lambda value: value is None,
) -> tuple[object, Verdict | None]:
    """Run a reader's function: its result, or a verdict on why there is none.

    `unwritten` says of a result that nothing was written yet.
    """
    if mine is None:
        return None, wrong("not yet: give your function")
    try:
        value = mine(*inputs)
    except Exception as error:  # the reader's code: say what happened, do not raise
        return None, wrong(f"it raised {type(error).__name__}: {error}")
    if unwritten(value):
        return None, wrong("not yet: your function returns None")
    return value, None


def compare(value: Tensor, truth: Tensor, mistakes: tuple, on_one: str) -> Verdict:
    """Judge numbers; `mistakes` pairs of what a mistake gives, and its diagnosis.

    `on_one` the small thing that a reader without diagnosis should try it on.
    """
    if value.shape != truth.shape:
        return wrong(f"shape {list(value.shape)}, expected {list(truth.shape)}")
    if torch.allclose(value, truth, atol=1e-4):
        return right("right")
    for number, diagnosis in mistakes:
        if torch.allclose(value, number.to(value.dtype), atol=1e-4):
            return wrong(diagnosis)
    return wrong(
        f"the numbers differ, and not by a mistake I know: try it on one {on_one}"
    )
