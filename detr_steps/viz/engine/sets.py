"""Sets of queries through the decoder layers: a graph to hover over."""

from collections.abc import Sequence

import numpy as np

from .figure import InteractiveFigure
from .sets_poster import said_of

CAPTION = (
    "Drawn is one training step: a dot is all queries of an image, with a matching and "
    "a loss of its own. At inference only the ringed sets exist."
)
BLANK = np.full((50, 100, 3), 255, np.uint8)  # nothing to see: it gives the shape


def sets_of_queries(
    paths: Sequence[Sequence[tuple[int, ...]]],
    *,
    start: int | None = None,
    title: str = "Sets of queries, layer by layer",
) -> InteractiveFigure:
    """Hover a set of queries: which decoder layers have made it, one after the other.

    `paths [Y][sets]` the layers, from 1, that each set of a layer has been through,
    that layer last; `start` the set to begin with, counted through all layers after
    the queries at the start (0), by default the last. Raises: ValueError for a path
    whose beginning is no set of its layer.
    """
    nodes = [((), 0, -1)]  # path, layer, parent
    places = {(): 0}
    for layer, each in enumerate(paths, 1):
        for path in each:
            if path[-1:] != (layer,) or path[:-1] not in places:
                raise ValueError(
                    f"the path {path} of a set of layer {layer}: it should end with "
                    "its layer, and begin as a set of an earlier one does"
                )
            nodes.append((path, layer, places[path[:-1]]))
        places |= {path: i for i, (path, *_) in enumerate(nodes)}
    item = len(nodes) - 1 if start is None else start
    counts = [len(each) for each in paths]
    return InteractiveFigure(
        "sets",
        {"sets": np.array([node[1:] for node in nodes], np.int16)},
        {"start": {"item": item}, "item_name": "set"},
        picture=BLANK,
        title=title,
        summary=f"{len(paths)} decoder layers refine {', '.join(map(str, counts))} "
        f"sets, {sum(counts)} in all. {said_of(nodes[item][0])}",
        caption=CAPTION,
    )
