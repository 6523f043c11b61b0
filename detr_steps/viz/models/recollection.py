"""Which sets of queries a scheme trains, as a graph to hover over."""

from ...systems.sqr import Recollect
from ..engine.figure import InteractiveFigure
from ..engine.sets import sets_of_queries


def recollection(
    scheme: Recollect, layers: int = 6, *, start: int | None = None
) -> InteractiveFigure:
    """Hover a set of queries of a training step: the path it has taken through layers.

    `scheme` SQR or DQR on so many decoder `layers`; `start` the set to begin with,
    counted through all layers after the queries at the start (0), by default the last.
    Raises: ValueError where nothing is recollected, or sets would not fit in memory.
    Source: Chen et al. 2023, figure 3. Built in chapters/11_sqr.ipynb.
    """
    scheme.check(layers, 1)
    counts = scheme.sets(layers)
    title = f"{sum(counts)} sets in training, {layers} at inference"
    return sets_of_queries(scheme.paths(layers), start=start, title=title)
