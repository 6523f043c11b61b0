"""A ranking of trained models: a table to sort, a chart of the score against a cost."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .figure import InteractiveFigure

CAPTION = (
    "Lines: lowest to highest seed. Filled: nobody else is better at no higher cost. "
    "Where lines overlap the order of two rows is not settled."
)
BLANK = np.full((60, 100, 3), 255, np.uint8)  # nothing to see: it gives the shape


@dataclass(frozen=True)
class Column:
    """What a ranking can be sorted by: a name, its `digits`, "high" or "low" better."""

    name: str
    digits: int = 2
    better: str = "low"


@dataclass(frozen=True)
class Entry:
    """A row: its `scores` seed by seed, its `costs` in the columns' order.

    `recipe` lines that tell how it is made: the command first.
    """

    title: str
    scores: Sequence[float]
    costs: Sequence[float]
    recipe: Sequence[str] = ()


def ranking_of(
    entries: Sequence[Entry],
    columns: Sequence[Column],
    *,
    title: str = "Ranking",
) -> InteractiveFigure:
    """Sort trained models by score or cost, and see one against the other.

    `columns`: the score's, then one for each cost. The best is chosen at the start.
    Raises: ValueError without entries, or for one without scores or with other costs.
    """
    _check(entries, columns)
    means = [sum(each.scores) / len(each.scores) for each in entries]
    values = [[mean, *each.costs] for mean, each in zip(means, entries)]
    best = int(np.argmax(means))
    arrays = {
        "values": np.array(values, np.float32),
        "spread": np.array([_ends(each.scores) for each in entries], np.float32),
        "seeds": np.array([len(each.scores) for each in entries], np.int16),
    }
    notes = {
        "titles": [each.title for each in entries],
        "columns": [vars(column) for column in columns],
        "recipes": [list(each.recipe) for each in entries],
        "start": {"item": best},
        "item_name": "row",
    }
    first = f"{columns[0].name} {means[best]:z.{columns[0].digits}f}"
    summary = f"{len(entries)} models. Best: {entries[best].title}, {first}."
    return InteractiveFigure(
        "ranking",
        arrays,
        notes,
        picture=BLANK,
        title=title,
        summary=summary,
        caption=CAPTION,
    )


def _ends(scores: Sequence[float]) -> tuple[float, float]:
    return min(scores), max(scores)


def _check(entries: Sequence[Entry], columns: Sequence[Column]) -> None:
    if not entries or not columns:
        raise ValueError("nothing to rank: give entries, and a column for the score")
    for each in entries:
        if not each.scores:
            raise ValueError(f"{each.title!r} has no scores: train it first")
        if len(each.costs) != len(columns) - 1:
            raise ValueError(
                f"{each.title!r} has {len(each.costs)} costs for {len(columns) - 1} "
                f"columns after the score"
            )
    for column in columns:
        if column.better not in ("high", "low"):
            raise ValueError(f"{column.name}: better is {column.better!r}: high or low")
