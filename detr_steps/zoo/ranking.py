"""The zoo's models side by side: score, cost, and how each is made."""

from collections.abc import Mapping, Sequence

from ..training.folder import flat
from ..viz.engine.figure import InteractiveFigure
from ..viz.engine.ranking import Column, Entry, ranking_of
from .comparing import full
from .reading import recipe, scores

LINES = 4  # of a recipe's differences that are told


def ranking(
    recipes: Mapping[str, str],
    costs: Mapping[str, Mapping[str, float]],
    *,
    score: str = "AP",
    also: Mapping[str, str] | None = None,
    digits: Sequence[int] = (),
    title: str = "Who is best, and at what cost?",
) -> InteractiveFigure:
    """Sort trained models by score or cost; a row tells its recipe.

    `recipes` title -> name in the zoo; `costs` column -> {name: number}, lower is
    better, with so many `digits` each (2 by default); `also` column -> further score,
    the mean of the seeds. A recipe is told as the command that makes it, and what
    differs from the first one's. Raises: KeyError for an unknown name or one without a
    cost; ValueError for one without a record.
    Built in chapters/12_more_queries.ipynb.
    """
    also = also or {}
    settings = [flat(full(recipe(name))) for name in recipes.values()]
    entries = [
        Entry(
            each,
            scores(name, score),
            [cost[name] for cost in costs.values()]
            + [_mean(scores(name, key)) for key in also.values()],
            [f"detr-steps zoo train {name}", *_differs(settings[0], own)],
        )
        for (each, name), own in zip(recipes.items(), settings)
    ]
    places = [*digits, *[2] * (len(costs) - len(digits))]
    columns = [Column(score, 3, "high"), *map(Column, costs, places)]
    columns += [Column(name, 2, "high") for name in also]
    return ranking_of(entries, columns, title=title)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)  # of none: what has none is named later


def _differs(before: Mapping, after: Mapping) -> list[str]:
    """What one recipe has changed of another, in a few lines; all settings of each."""
    changed = {k: v for k, v in after.items() if before.get(k) != v}
    changed |= {k: "none" for k in before.keys() - after.keys()}
    # another system differs in much: its kind is told first
    order = sorted(changed.items(), key=lambda item: (item[0] != "model.kind", item))
    lines = [f"{key}: {value}" for key, value in order]
    if len(lines) > LINES:
        lines = [*lines[: LINES - 1], f"and {len(lines) - LINES + 1} more"]
    return lines
