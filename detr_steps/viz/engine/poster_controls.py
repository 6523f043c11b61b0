"""The controls of a poster, as controls.mjs has them: frames, heads, queries."""

import numpy as np

from . import still
from .readout import State
from .sheet import ACCENT, CHANGED, INK, LINE, SOFT, TINT, Place, Sheet


def glow(
    sheet: Sheet, state: State, place: Place, head: int | None = None, radius: float = 6
) -> None:
    """Lay the map of a head (by default the state's) over the grey picture."""
    head = state.head if head is None else head
    values = still.head_map(state.at("maps"), state.at("peaks"), head)
    grey, cover = still.grey_of(state.figure.shown), state.notes.get("cover", (1, 1))
    sheet.picture(place, still.glow(grey, values, cover), radius)


def fit(state: State, room: Place) -> Place:
    """The largest rectangle of the picture's shape, from the left top of a room."""
    height, width = still.size_of(state.figure)
    scale = min(room.wide / width, room.high / height)
    return Place(room.x, room.y, width * scale, height * scale)


def head_tiles(
    sheet: Sheet, state: State, room: Place, columns: int | None = None
) -> None:
    """Small maps of the mean and of each head, as large as fit; so many in a row."""
    heads = state.arrays["maps"].shape[2]
    if heads < 2:
        return
    height, width = still.size_of(state.figure)
    columns = columns or max(
        range(1, heads + 2),  # those that make the largest tiles
        key=lambda n: min(340 / n, 290 / -(-(heads + 1) // n) * width / height),
    )
    rows = -(-(heads + 1) // columns)
    cell = Place(0, 0, (room.wide - 6) / columns - 6, (room.high - 6) / rows - 6)
    cell = fit(state, cell)
    for m in range(-1, heads):
        row, column = divmod(m + 1, columns)
        x, y = room.x + 3 + column * (cell.wide + 6), room.y + 3 + row * (cell.high + 6)
        if m == state.head:
            ring = Place(x - 3, y - 3, cell.wide + 6, cell.high + 6)
            sheet.plate(ring, ACCENT, radius=7)
        _head(sheet, state, cell._replace(x=x, y=y), m)


def _head(sheet: Sheet, state: State, tile: Place, head: int) -> None:
    """A head's map with its number and the weight of its heaviest cell."""
    glow(sheet, state, tile, head, radius=5)
    name, wide = ("mean", 38) if head < 0 else (str(head + 1), 17)
    sheet.plate(Place(tile.x, tile.bottom - 16, wide, 16), "#000a", radius=4)
    sheet.text(tile.x + 5, tile.bottom - 4, name, 10.5, "white")
    peak = f"{still.peak_of(state.at('maps'), state.at('peaks'), head):.2f}"
    x, y = tile.right - 4, tile.y + 12
    sheet.text(x + 0.7, y + 0.7, peak, 10, "#000c", anchor="rs")
    sheet.text(x, y, peak, 10, "white", anchor="rs")


def frame_row(sheet: Sheet, state: State, row: Place) -> None:
    """The layers as buttons; where they are many, or training steps, a timeline."""
    if state.frames < 2:
        return
    if "curve" in state.arrays or state.frames > 8:
        x = row.x + sheet.text(row.x, row.y + 17, state.frame_name, 12, SOFT) + 10
        _timeline(sheet, state, Place(x, row.y, row.right - x, row.high))
        return
    kind = state.notes.get("frame_name", "layer")
    x = row.x + sheet.text(row.x, row.y + 17, kind, 12, SOFT) + 8
    wide = (row.right - x) / state.frames
    for i, name in enumerate(state.frame_names):
        button, here = Place(x + i * wide, row.y, wide - 2, row.high), i == state.frame
        sheet.plate(button, ACCENT if here else TINT, 4, LINE)
        middle, colour = button.x + button.wide / 2, "white" if here else INK
        sheet.text(middle, row.y + 17, name, 12, colour, anchor="ms")


def _timeline(sheet: Sheet, state: State, row: Place) -> None:
    """Frames at equal distances, and over them the curve, if there is one."""
    middles = row.x + (np.arange(state.frames) + 0.5) * row.wide / state.frames
    for x in middles:
        sheet.line((x, row.bottom - 6, x, row.bottom), LINE, 1)
    here = middles[state.frame]
    sheet.line((here, row.y - 4, here, row.bottom), ACCENT, 2)
    if "flat" in state.notes:
        _along(sheet, state, row, middles)
    if "curve" not in state.arrays:
        return
    steps, values = state.arrays["curve"].astype(float)
    frames = state.notes.get("frame_x", range(state.frames))
    x = np.interp(steps, frames, middles)
    y = row.bottom - 2 - values / (values.max() or 1) * (row.high - 12)
    sheet.line(np.stack([x, y], -1).ravel(), ACCENT, 1.8)
    value = values[np.abs(steps - frames[state.frame]).argmin()]
    words = f"{state.notes['curve']['y']} {value:.2f}{_reach(state.notes['curve'])}"
    if "flat" in state.notes:
        sheet.text(row.x + 2, row.y + 5, words, 11, ACCENT)
        return
    left = state.frame > state.frames / 2
    at = here + (-6 if left else 6), row.y + 5
    sheet.text(*at, words, 11, ACCENT, anchor="rs" if left else "ls")


def _reach(curve: dict) -> str:
    """From where to where a curve goes, in words, if the figure says so."""
    if "reach" not in curve:
        return ""
    low, high = curve["reach"]
    return f" ({low:.2f} to {high:.2f})"


def _along(sheet: Sheet, state: State, row: Place, middles: np.ndarray) -> None:
    """Sparsity of the map shown, flat maps below; where its object changed."""
    values = state.sparsity()
    y = row.y + 4 + values / state.notes["flat"] * (row.high - 18)
    sheet.line(np.stack([middles, y], -1).ravel(), CHANGED, 1.8)
    words = f"sparsity {values[state.frame]:z.2f}".replace("-", "−")
    sheet.text(row.x + 2, row.y + 19, words, 11, CHANGED)
    each = row.wide / state.frames
    for frame in state.changes():
        x, y = row.x + frame * each, row.bottom - 6
        sheet.polygon((x, y - 5, x + 4, y, x, y + 5, x - 4, y), INK)


def query_bars(
    sheet: Sheet, state: State, row: Place, least: float | None = None
) -> None:
    """A bar for each query, as high as its score, in the colour of its class.

    Pale below `least`, by default the figure's threshold.
    """
    if "scores" not in state.arrays:
        return
    words = f"{state.notes.get('item_name', 'query')} scores"  # the key of the bars
    x = row.x + sheet.text(row.x, row.y + 21, words, 12, SOFT) + 8
    each = (row.right - x) / state.items
    gap = 1 if each > 5 else 0
    least = state.notes.get("threshold", 0.5) if least is None else least
    for i in range(state.items):
        score, mine = float(state.at("scores", i)), i == state.item
        left, wide = x + i * each + gap, max(each - 2 * gap, 1)
        if mine:
            sheet.plate(Place(left, row.y, wide, row.high), LINE, radius=0)
            sheet.plate(Place(left, row.bottom - 3, wide, 3), INK, radius=0)
        sure = mine or score >= least
        tall = 3 + (row.high - 10) * score
        bar = Place(left, row.bottom - 5 - tall, wide, tall)
        sheet.plate(bar, state.colour(i) + ("" if sure else "73"), radius=0)
