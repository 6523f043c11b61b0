"""How long does it take? {encoder, decoder} x {forward, backward} x points x types."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from .cases import DRY, DTYPES, SPREADS, STANDARD, Inputs, exact, make
from .checks import LIMITS, distance
from .engines import (
    STEPS,
    Card,
    Emulated,
    torch_backward,
    torch_forward,
    unfused_forward,
)
from .official import Official
from .record import FAILED, Record, row_key
from .timing import seconds, seconds_eager, sets_needed


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    case: str
    direction: str
    points: str
    dtype: str
    step: str

    @property
    def key(self) -> str:
        """Its name in the record."""
        return row_key(vars(self))


def rows(official: bool) -> Iterator[Row]:
    """All lines, those that the goals ask for first."""
    for dtype in DTYPES:
        for case in STANDARD:
            for spread in ("trained", *(s for s in SPREADS if s != "trained")):
                for direction, steps in STEPS.items():
                    names = [*steps, "torch"]
                    if direction == "forward":
                        names.append("tiles, softmax and locations by torch")
                    if official and dtype == "fp32":  # it knows no other
                        names.append("official")
                    for name in names:
                        yield Row(case, direction, spread, dtype, name)


def run(
    record: Record, engine: Card | Emulated, dry: bool, official: Path | None
) -> None:
    """Fill in what is missing."""
    theirs, last, sets = None, None, []
    for row in rows(official is not None):
        if record.late:
            return
        if record.has("table", row.key):
            continue
        if row.step == "official" and theirs is None:
            theirs = Official(official)
            _check_official(theirs, record)
        which = (row.case, row.points, row.dtype)
        if which != last:
            last, sets = which, _inputs(row, engine, dry)
        try:
            found = vars(row) | {"us": 1e6 * _measure(row, engine, sets, theirs)}
            record.put("table", row.key, found)
        except Exception as error:
            record.put(FAILED, row.key, f"{type(error).__name__}: {error}"[:300])
            torch.cuda.empty_cache()


def _inputs(row: Row, engine: Card | Emulated, dry: bool) -> list[Inputs]:
    shape = (DRY if dry else STANDARD)[row.case]
    first = make(shape, row.points, DTYPES[row.dtype], engine.device, 0, row.case)
    return [first] + [
        make(shape, row.points, DTYPES[row.dtype], engine.device, seed, row.case)
        for seed in range(1, sets_needed(first.bytes))
    ]


def _measure(
    row: Row, engine: Card | Emulated, sets: Sequence[Inputs], theirs: Official | None
) -> float:
    """Seconds of one call."""
    if row.step == "torch":
        return _torch(row, sets)
    return seconds([_call(row, engine, given, theirs) for given in sets])


def _call(
    row: Row, engine: Card | Emulated, given: Inputs, theirs: Official | None
) -> Callable[[], object]:
    if row.step == "official":
        return getattr(theirs, row.direction)(given)
    if row.step.startswith("tiles,"):
        return unfused_forward(engine, "tiles", given)
    return lambda: getattr(engine, row.direction)(row.step, given)


def _torch(row: Row, sets: Sequence[Inputs]) -> float:
    """Pure torch: autograd cannot be captured here, so its launches count; it takes
    milliseconds. One set of inputs for the backward pass, as what it keeps is large."""
    if row.direction == "forward":
        return seconds_eager([lambda g=g: torch_forward(g) for g in sets[:2]])
    return seconds_eager([torch_backward(sets[0])])


def _check_official(theirs: Official, record: Record) -> None:
    """Compare with numbers that are right before comparing times."""
    given = make(STANDARD["decoder"], "gaussian", device="cuda")
    off = distance(theirs.forward(given)(), exact(given)[0])
    record.put(
        "check", "official forward fp32", {"ok": off <= LIMITS["fp32"], "off": off}
    )
