"""Sets of queries as a poster: the graph, one path through it, a legend."""

from collections.abc import Sequence

import numpy as np

from .readout import State
from .sheet import ACCENT, CHANGED, INK, SOFT, Place, Sheet

TOP, TALL = 0.04, 0.8  # as in sets.mjs


def said_of(path: tuple[int, ...]) -> str:
    """Say which decoder layers, from 1, have made a set."""
    if not path:
        return "Marked are the queries at the start."
    missing = [layer for layer in range(1, path[-1]) if layer not in path]
    skipped = f", past {_list(missing)}" if missing else ", none is skipped"
    return f"The marked set of layer {path[-1]} was made by {_list(path)}{skipped}."


def _list(layers: Sequence[int]) -> str:
    return f"layer{'s' * (len(layers) != 1)} {', '.join(map(str, layers))}"


def draw_sets(sheet: Sheet, state: State, room: Place) -> None:
    """Draw the first state of such a figure into a room of its poster."""
    sets = state.arrays["sets"].tolist()
    layers = [layer for layer, _ in sets]
    counts = [layers.count(layer) for layer in range(max(layers) + 1)]
    stage = room._replace(high=room.high - 92)
    spots = [
        stage.at(
            (layer + 0.5) / len(counts),
            TOP + TALL * (i - layers.index(layer) + 0.5) / counts[layer],
        )
        for i, layer in enumerate(layers)
    ]
    path = _path(sets, state.notes["start"]["item"])
    order = sorted(range(len(sets)), key=lambda i: i in path)
    for i in order:
        if sets[i][1] >= 0:
            ends, here = (spots[sets[i][1]], spots[i]), i in path
            ink = _ink(sets, i) + ("" if here else "59")
            sheet.line(_bend(*ends), ink, 3.5 if here else 1)
    size = min(9, 0.36 * TALL * stage.high / max(counts))
    for i, (x, y) in enumerate(spots):
        ink = INK if sets[i][1] < 0 else _ink(sets, i)
        if layers.index(layers[i]) == i:
            _disc(sheet, x, y, size + 4.5, INK)
            _disc(sheet, x, y, size + 3, "#ffffff")
        _disc(sheet, x, y, size + (i in path), ink + ("" if i in path else "8c"))
    for layer, count in enumerate(counts):
        x, y = stage.at((layer + 0.5) / len(counts), TOP + TALL + 0.06)
        sheet.text(x, y, f"layer {layer}" if layer else "start", 12, INK, anchor="ms")
        words = f"{count} set{'s' * (count != 1)}"
        sheet.text(x, y + 16, words, 12, SOFT, anchor="ms")
    said = said_of(tuple(sets[i][0] for i in path[1:]))
    sheet.text(room.x, stage.bottom + 22, said, 14, bold=True)
    x, y = room.x, stage.bottom + 50
    for colour, words in (
        (ACCENT, "from the layer just before"),
        (CHANGED, "recollected from further back"),
    ):
        sheet.line((x, y - 5, x + 24, y - 5), colour, 3)
        x += 40 + sheet.text(x + 32, y, words, 12.5, SOFT) + 14
    _disc(sheet, x + 7, y - 5, 7, INK)
    _disc(sheet, x + 7, y - 5, 5.4, "#ffffff")
    sheet.text(x + 22, y, "all that inference computes", 12.5, SOFT)


def _path(sets: list[list[int]], item: int) -> list[int]:
    path = [item]
    while sets[path[0]][1] >= 0:
        path.insert(0, sets[path[0]][1])
    return path


def _ink(sets: list[list[int]], i: int) -> str:
    layer, parent = sets[i]
    return CHANGED if layer - sets[parent][0] > 1 else ACCENT


def _bend(start: tuple[float, float], end: tuple[float, float]) -> np.ndarray:
    """Points of a curve that leaves and arrives level."""
    t = np.linspace(0, 1, 25)
    middle = (start[0] + end[0]) / 2
    x = (1 - t) ** 3 * start[0] + 3 * t * (1 - t) * middle + t**3 * end[0]
    y = start[1] + (end[1] - start[1]) * (3 * t**2 - 2 * t**3)
    return np.stack([x, y], -1).ravel()


def _disc(sheet: Sheet, x: float, y: float, radius: float, fill: str) -> None:
    sheet.plate(Place(x - radius, y - radius, 2 * radius, 2 * radius), fill, radius)
