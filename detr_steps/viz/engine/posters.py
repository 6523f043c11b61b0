"""Posters of interactive figures: the first state, as a picture that stands alone.

Laid out like figure.mjs at its full width. A poster is what stays where frames are
dropped: on GitHub, in a notebook that is not trusted, on paper.
"""

import io
import textwrap
from collections.abc import Callable

import numpy as np
from scipy.optimize import linear_sum_assignment

from . import still
from .bench_poster import anchor_bench
from .poster_controls import fit, frame_row, glow, head_tiles, query_bars
from .ranking_poster import draw_ranking
from .readout import SCALE, State, colour_of
from .segments_poster import draw_segments
from .sets_poster import draw_sets
from .sheet import ACCENT, INK, SOFT, Place, Sheet, ink_on

NINTH = "#b8f2e6"  # as in points.mjs: the ninth of nine taps
MOST_QUERIES = 25  # rows of a cost table that are readable on a poster
SIDE = 330  # width of the words and controls beside the stage
Lines = list[tuple[str, str | None]]


def poster(figure, size: tuple[int, int], kind: str = "png", hint: str = "") -> bytes:
    """Draw the first state of a figure at `size` (width, height), as PNG or WebP.

    `hint`: a line at the upper right, for where the live figure should be.
    """
    sheet = Sheet(size)
    wide, high = size
    sheet.text(17, 36, figure.title, 15, bold=True)
    sheet.text(wide - 17, 36, hint, 11, SOFT, anchor="rs")
    lines = textwrap.wrap(figure.caption, 128)[:2]
    for number, line in enumerate(reversed(lines)):
        sheet.text(17, high - 16 - 15 * number, line, 11, SOFT)
    bottom = high - 22 - 15 * len(lines)
    room = Place(17, 52, wide - 34, bottom - 52)
    VIEWS[figure.view](sheet, State(figure), room)
    file, image = io.BytesIO(), sheet.finished()
    image.save(file, kind, optimize=True, quality=72, method=6)
    return file.getvalue()


# --- views ---------------------------------------------------------------------------


def _attention(sheet: Sheet, state: State, room: Place) -> None:
    if state.notes.get("pick") == "cell" and 1 < state.frames < 4:
        _side_by_side(sheet, state, room)
        return
    stage, side = _columns(state, room)
    glow(sheet, state, stage)
    _marks(sheet, state, stage)
    _controls(sheet, state, room, state.lines)
    head_tiles(sheet, state, side._replace(y=side.y + 100, high=side.high - 140))


def _side_by_side(sheet: Sheet, state: State, room: Place) -> None:
    """All of a few frames, with their heads: a still has no buttons."""
    columns, tiles = state.frames, state.arrays["maps"].shape[2] + 1
    wide = (room.wide + 18) / columns - 18
    sheet.text(room.x, room.y + 14, state.lines[0][0], 14, bold=True)
    for frame in range(columns):
        each = State(state.figure, frame)
        column = Place(room.x + frame * (wide + 18), room.y + 28, wide, room.high - 28)
        sheet.text(column.x, column.y + 13, each.frame_name, 12.5, bold=True)
        row = fit(state, Place(0, 0, wide / tiles, 110)).high if tiles > 2 else 0
        stage = Place(column.x, column.y + 22, wide, column.high - row - 84)
        stage = fit(state, stage)
        glow(sheet, each, stage)
        _marks(sheet, each, stage)
        y, (words, colour) = stage.bottom + 18, each.lines[1]
        lines = _line(sheet, column.x, y, words, colour, 12, int(wide / 8))
        place = column._replace(y=y + 18 * lines - 8, high=row + 12)
        head_tiles(sheet, each, place, tiles)


def _layers(sheet: Sheet, state: State, room: Place) -> None:
    columns = min(3, state.frames)
    rows = -(-state.frames // columns)
    wide, high = room.wide / columns, (room.high - 72) / rows
    words = f"{state.item_name}, {state.head_name}"
    sheet.text(room.x, room.y + 14, words, 14, bold=True)
    for frame in range(state.frames):
        row, column = divmod(frame, columns)
        each = State(state.figure, frame)
        x, y = room.x + column * wide, room.y + 28 + row * high
        stage = fit(state, Place(x, y, wide - 96, high - 10))
        glow(sheet, each, stage)
        _marks(sheet, each, stage, few=True)
        words = [each.frame_name, each.answer, *each.match.split(", ")]
        lines = [line for text in words for line in textwrap.wrap(text, 12)]
        for number, line in enumerate(lines):
            at = stage.right + 9, stage.y + 13 + 17 * number
            sheet.text(*at, line, 11.5, bold=number == 0)
    last = State(state.figure, state.frames - 1)
    query_bars(sheet, last, room._replace(y=room.bottom - 38, high=34))


def _points(sheet: Sheet, state: State, room: Place) -> None:
    stage, side = _columns(state, room)
    sheet.picture(stage, state.figure.shown)
    for box in state.arrays["boxes"][state.frame] if state.notes.get("cells") else ():
        sheet.box(stage, box, "#ffffff", 0.8)
    _objects(sheet, state, stage)
    if "boxes" in state.arrays:
        sheet.box(stage, state.at("boxes"), state.colour(), 2)
    weights = state.at("weights").astype(float)  # [M, L, K]
    _dots(sheet, stage, weights, state.at("locations").astype(float))
    x, y = stage.at(*state.at("references")[0].astype(float))
    sheet.rimmed([(x - 8, y, x + 8, y), (x, y - 8, x, y + 8)], "white", 2)
    said = ", ".join(filter(None, (state.answer, state.match)))
    lines = [(state.item_name, None), (said, state.colour() if said else None)]
    _controls(sheet, state, room, lines)
    shares = weights.sum(-1) / weights.sum()  # [M, L]
    place = side._replace(y=side.y + 70, high=side.high - 120)
    _shares(sheet, state, place, shares)


def _matching(sheet: Sheet, state: State, room: Place) -> None:
    arrays, notes = state.arrays, state.notes
    cost = still.total_cost(arrays["parts"], notes.get("weights"))
    pairs = {}
    if notes.get("rule", "hungarian") != "none":
        pairs = {int(n): int(q) for q, n in zip(*linear_sum_assignment(cost))}
    stage = fit(state, Place(room.x, room.y, 290, room.high - 80))
    sheet.picture(stage, state.figure.shown)
    for n, box in enumerate(arrays["truth"]):
        sheet.box(stage, box, "white", 1.2, dash=True)
        if n in pairs:
            sheet.box(stage, arrays["boxes"][pairs[n]], colour_of(n), 2)
    if not pairs and "start" in notes:
        sheet.box(stage, arrays["boxes"][notes["start"]["item"]], ACCENT, 2)
    if pairs:
        weights, y = notes.get("weights") or [1] * len(notes["parts"]), stage.bottom
        terms = [f"{w:g} × {name}" for w, name in zip(weights, notes["parts"])]
        sheet.text(room.x, y + 26, f"cost = {' + '.join(terms)}", 12)
        sheet.text(room.x, y + 46, "framed: the cheapest pairing", 12, SOFT)
    place = Place(room.x + 310, room.y - 6, room.wide - 310, room.high)
    _table(sheet, state, place, cost, pairs)


VIEWS: dict[str, Callable] = {
    "attention": _attention,
    "layers": _layers,
    "points": _points,
    "matching": _matching,
    "bench": anchor_bench,
    "sets": draw_sets,
    "ranking": draw_ranking,
    "segments": draw_segments,
}


# --- parts ---------------------------------------------------------------------------


def _columns(state: State, room: Place) -> tuple[Place, Place]:
    """The stage on the left, above the frames; words and controls on the right."""
    frames = 66 if "flat" in state.notes else 42
    stage = fit(state, Place(room.x, room.y, room.wide - SIDE - 22, room.high - frames))
    return stage, room._replace(x=room.right - SIDE, wide=SIDE)


def _controls(sheet: Sheet, state: State, room: Place, lines: Lines) -> None:
    """Words beside the stage, frames under it, queries beside these."""
    stage, side = _columns(state, room)
    y = side.y + 14
    for number, (words, colour) in enumerate(lines):
        y += 2 + 18 * _line(sheet, side.x, y, words, colour, 13 if number else 15)
    high = 50 if "flat" in state.notes else 26
    frame_row(sheet, state, stage._replace(y=room.bottom - high - 7, high=high))
    query_bars(sheet, state, side._replace(y=room.bottom - 37, high=34))


def _line(
    sheet: Sheet,
    left: float,
    y: float,
    words: str,
    colour: str | None,
    size: int,
    letters: int = 42,
) -> int:
    """Write words, wrapped, from a baseline down; returns how many lines they took."""
    x = left
    if colour == SCALE:
        sheet.picture(Place(x, y - 9, 36, 10), still.LUT[None], radius=3)
        x += 42
    elif colour:
        sheet.plate(Place(x, y - 9, 10, 10), colour, radius=3)
        x += 16
    wrapped = textwrap.wrap(words, letters)
    for line, text in enumerate(wrapped):
        sheet.text(left if line else x, y + 18 * line, text, size, bold=size > 13)
    return len(wrapped)


def _objects(sheet: Sheet, state: State, stage: Place, few: bool = False) -> None:
    mine = state.at("matched")
    for n, box in enumerate(state.arrays.get("truth", ())):
        if n == mine or not few:
            sheet.box(stage, box, "white", 2 if n == mine else 1, dash=True)


def _marks(sheet: Sheet, state: State, stage: Place, few: bool = False) -> None:
    if state.notes.get("pick") == "cell":
        (row, column), (h, w) = state.cell, state.arrays["maps"].shape[-2:]
        x, y = state.notes.get("cover", (1, 1))
        cell = np.array([(column + 0.5) * x / w, (row + 0.5) * y / h, x / w, y / h])
        sheet.box(stage, cell, "white", 2)
    _objects(sheet, state, stage, few)
    if "boxes" not in state.arrays:
        return
    for other in () if few else _sure(state):
        if other != state.item:
            sheet.box(stage, state.at("boxes", other), state.colour(other), 1.2)
    box, colour = state.at("boxes"), state.colour()
    sheet.box(stage, box, colour, 2.4 if few else 2.8)
    if not few:
        sheet.name(stage, box, f"{state.item_name} {state.answer}", colour)
        sheet.ring(*stage.at(float(box[0]), float(box[1])), 5)


def _sure(state: State) -> list[int]:
    if "scores" not in state.arrays:
        return list(range(state.items))
    scores = state.arrays["scores"][state.frame]
    sure = np.flatnonzero(scores >= state.notes.get("threshold", 0.5))
    return list(sure) if len(sure) else list(range(state.items))


def _dots(sheet: Sheet, stage: Place, weights: np.ndarray, places: np.ndarray) -> None:
    """The points inside the picture, the heaviest below."""
    for flat in np.argsort(-weights, axis=None):
        m, level, k = np.unravel_index(flat, weights.shape)
        x, y = places[m, level, k]
        if 0 <= x <= 1 and 0 <= y <= 1:
            radius = 1.5 + 16 * weights[m, level, k] ** 0.5
            _dot(sheet, *stage.at(x, y), radius, m, level)


def _dot(sheet: Sheet, x: float, y: float, r: float, head: int, level: int) -> None:
    sides, turn = (32, 4, 4, 3)[level % 4], 0.5 if level % 4 == 1 else 0
    angles = 2 * np.pi * (np.arange(sides) + turn) / sides
    ends = np.stack([x + r * np.sin(angles), y - r * np.cos(angles)], -1) * 2
    ends = [tuple(end) for end in ends]
    colour = NINTH if head == 8 else colour_of(head)
    sheet.pen.polygon(ends, colour + "d9", "#0009")


def _shares(sheet: Sheet, state: State, room: Place, shares: np.ndarray) -> None:
    """Which head reads how much from which level: a table of dots."""
    heads, levels = shares.shape
    head = state.notes.get("head_name", "head")
    wide, high = min(60, (room.wide - 70) / levels), min(30, (room.high - 30) / heads)
    for level, (h, w) in enumerate(state.notes["levels"]):
        x = room.x + 90 + level * wide
        sheet.text(x, room.y + 12, f"{h} × {w}", 11, SOFT, anchor="ms")
    for m in range(heads):
        y = room.y + 34 + m * high
        sheet.text(room.x, y + 4, f"{head} {m + 1}", 12)
        for level in range(levels):
            r = (high / 2 - 2) * float(shares[m, level] / shares.max()) ** 0.5
            _dot(sheet, room.x + 90 + level * wide, y, max(r, 1), m, level)
    y = room.y + 34 + heads * high
    even = state.notes.get("even")
    alike, words = (
        "every point counts alike",
        f"dots: weight of each {head} on each level",
    )
    sheet.text(room.x, y + 4, alike if even else words, 11, SOFT)


def _table(
    sheet: Sheet, state: State, room: Place, cost: np.ndarray, pairs: dict
) -> None:
    """The cost table; of many queries, those that are paired and the first others."""
    queries, objects = cost.shape
    notes, good = state.notes, _goodness(cost, state.notes.get("better") == "high")
    shown = sorted(range(queries), key=lambda q: q not in pairs.values())
    shown = sorted(shown[:MOST_QUERIES])
    wide, high = (room.wide - 70) / objects, min(24, room.high / (len(shown) + 1))
    rows = notes.get("row_names") or [f"query {q}" for q in range(queries)]
    columns = notes.get("column_names") or [f"object {n}" for n in range(objects)]
    for n, name in enumerate(columns):
        x, y = room.x + 70 + (n + 0.5) * wide, room.y + high - 5
        sheet.text(x, y, name[: int(wide // 5.5)], 10.5, SOFT, anchor="ms")
    for line, q in enumerate(shown):
        y = room.y + (line + 1) * high
        sheet.text(room.x + 62, y + high - 5, rows[q], 10.5, SOFT, anchor="rs")
        for n in range(objects):
            cell = Place(room.x + 70 + n * wide, y, wide - 1, high - 1)
            colour = _mix(ACCENT, "#ffffff", 0.06 + 0.84 * float(good[q, n]))
            mine = pairs.get(n) == q
            sheet.plate(cell, colour, 2, INK if mine else None)
            value = f"{cost[q, n]:z.{notes.get('digits', 1)}f}".replace("-", "−")
            middle = cell.x + cell.wide / 2
            sheet.text(middle, y + high - 5, value, 10.5, ink_on(colour), mine, "ms")


def _goodness(cost: np.ndarray, high: bool) -> np.ndarray:
    """From 0 for the worst entry of a table to 1 for the best."""
    far = cost - cost.min() if high else cost.max() - cost
    return (far / (np.ptp(cost) or 1)) ** 2


def _mix(colour: str, ground: str, share: float) -> str:
    pairs = ((int(c[i : i + 2], 16) for c in (colour, ground)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a * share + b * (1 - share)):02x}" for a, b in pairs)
