"""The state of the zoo: which recipes have weights, which seeds records, what lacks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .reading import recipes, ships_weights
from .runs import (
    RUNS,
    Run,
    complete_seeds,
    has_weights,
    minutes,
    minutes_left,
    missing,
    runs_in,
    trainable,
)

HEADER = ("recipe", "weights", "records", "begun", "minutes", "missing")


@dataclass(frozen=True)
class State:
    """What the zoo has of one recipe, and what it lacks.

    `weights` there, to come, or not wanted (None); `seeds` with whole records; runs
    that have `begun` and are not in the zoo; `minutes` of one run, None where unknown;
    runs that are `missing`; `trainable` where its data can be drawn here.
    """

    name: str
    weights: bool | None
    seeds: list[int]
    begun: list[Run]
    minutes: float | None
    missing: list[Run]
    trainable: bool


def look(seeds: int = 3, root: Path = RUNS) -> list[State]:
    """See the state of every recipe, as seen by a queue for so many seeds."""
    return [_state(name, seeds, root) for name in recipes()]


def _state(name: str, seeds: int, root: Path) -> State:
    done = complete_seeds(name)
    return State(
        name=name,
        weights=has_weights(name) if ships_weights(name) else None,
        seeds=done,
        begun=[r for r in runs_in(root) if r.name == name and r.seed not in done],
        minutes=minutes(name, root),
        missing=missing(name, seeds, root) if trainable(name) else [],
        trainable=trainable(name),
    )


def table(states: Sequence[State], seeds: int, root: Path = RUNS) -> str:
    """Write the states as a table, a line each, and what all that is missing takes."""
    rows = [HEADER, *map(_row, states)]
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    runs = [run for state in states for run in state.missing]
    return "\n".join([*lines, "", _sum(runs, seeds, root)])


def _row(state: State) -> tuple[str, ...]:
    weights = {True: "yes", False: "to come", None: "-"}[state.weights]
    missing = " ".join(str(run.seed) for run in state.missing)
    return (
        state.name,
        weights,
        " ".join(map(str, state.seeds)) or "-",
        ", ".join(map(progress, state.begun)) or "-",
        "?" if state.minutes is None else f"{state.minutes:.0f}",
        (missing or "-") if state.trainable else "needs data that is not here",
    )


def progress(run: Run) -> str:
    """How far a run has come: `1: 1200/4000 (at work)`."""
    step = run.steps if run.finished else run.step
    note = " (at work)" if run.process is not None else ""
    return f"{run.seed}: {step}/{run.steps}{note}"


def _sum(runs: Sequence[Run], seeds: int, root: Path) -> str:
    if not runs:
        return f"nothing is missing for {seeds} seeds of each recipe"
    known = [minutes_left(run, root) for run in runs]
    total = sum(value for value in known if value is not None)
    more = f", {known.count(None)} of unknown length" if None in known else ""
    return (
        f"{len(runs)} runs are missing for {seeds} seeds of each recipe: about "
        f"{total:.0f} minutes{more}, one run at a time"
    )
