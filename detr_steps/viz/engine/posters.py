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
from .readout import (
    SCALE,
    answer_of,
    colour_of,
    frame_name,
    get,
    item_name,
    lines_of,
    match_of,
    start_of,
)
from .sheet import ACCENT, INK, LINE, SOFT, TINT, Place, Sheet, ink_on

NINTH = "#b8f2e6"  # as in points.mjs: the ninth of nine taps
MOST_QUERIES = 25  # rows of a cost table that are readable on a poster


def poster(figure, size: tuple[int, int], kind: str = "png") -> bytes:
    """Draw the first state of a figure at `size` (width, height), as PNG or WebP."""
    sheet = Sheet(size)
    wide, high = size
    sheet.text(17, 36, figure.title, 15, bold=True)
    lines = textwrap.wrap(figure.caption, 128)[:2]
    for number, line in enumerate(reversed(lines)):
        sheet.text(17, high - 16 - 15 * number, line, 11, SOFT)
    bottom = high - 22 - 15 * len(lines)
    room = Place(17, 52, wide - 34, bottom - 52)
    VIEWS[figure.view](sheet, figure, room)
    file, image = io.BytesIO(), sheet.finished()
    image.save(file, kind, optimize=True, quality=72, method=6)
    return file.getvalue()


# --- views ---------------------------------------------------------------------------


def _attention(sheet: Sheet, figure, room: Place) -> None:
    frame, item, head = start_of(figure)
    side = Place(room.x + room.wide - 330, room.y, 330, room.high)
    stage = _fit(figure, Place(room.x, room.y, room.wide - 352, room.high - 42))
    grey = still.grey_of(figure.shown)
    sheet.picture(stage, still.glow(grey, *_map(figure, frame, item, head)))
    _marks(sheet, figure, stage, frame, item)
    for number, (words, colour) in enumerate(lines_of(figure, frame, item, head)):
        _line(sheet, side, number, words, colour)
    place = Place(side.x, side.y + 100, side.wide, side.high - 140)
    _heads(sheet, figure, place, frame, item, head, grey)
    row = Place(stage.x, room.y + room.high - 33, stage.wide, 26)
    _frames(sheet, figure, row, frame)
    _bars(sheet, figure, side._replace(y=row.y - 4, high=34), frame, item)


def _layers(sheet: Sheet, figure, room: Place) -> None:
    _, item, head = start_of(figure)
    count = len(figure.arrays["maps"])
    columns = min(3, count)
    rows = -(-count // columns)
    wide, high = room.wide / columns, (room.high - 72) / rows
    grey = still.grey_of(figure.shown)
    who = "mean of heads" if head < 0 else f"head {head + 1}"
    sheet.text(room.x, room.y + 14, f"{item_name(figure, item)}, {who}", 14, bold=True)
    for frame in range(count):
        x = room.x + frame % columns * wide
        y = room.y + 28 + frame // columns * high
        stage = _fit(figure, Place(x, y, wide - 96, high - 10))
        sheet.picture(stage, still.glow(grey, *_map(figure, frame, item, head)))
        _marks(sheet, figure, stage, frame, item, few=True)
        words = [frame_name(figure, frame), answer_of(figure, frame, item)]
        words += match_of(figure, frame, item).split(", ")
        lines = [line for text in words for line in textwrap.wrap(text, 12)]
        for number, line in enumerate(lines):
            at = stage.x + stage.wide + 9, stage.y + 13 + 17 * number
            sheet.text(*at, line, 11.5, bold=number == 0)
    row = Place(room.x, room.y + room.high - 38, room.wide, 34)
    _bars(sheet, figure, row, count - 1, item)


def _points(sheet: Sheet, figure, room: Place) -> None:
    frame, item, _ = start_of(figure)
    arrays = figure.arrays
    stage = _fit(figure, Place(room.x, room.y, room.wide - 352, room.high - 42))
    sheet.picture(stage, figure.shown)
    label = get(figure, "labels", frame, item)
    for box in arrays["boxes"][frame] if figure.notes.get("cells") else ():
        sheet.box(stage, box, "#ffffff", 0.8)
    if "boxes" in arrays:
        sheet.box(stage, arrays["boxes"][frame, item], colour_of(label or 0), 2)
    weights = arrays["weights"][frame, item].astype(float)  # [M, L, K]
    places = arrays["locations"][frame, item].astype(float)
    for flat in np.argsort(-weights, axis=None):
        m, level, k = np.unravel_index(flat, weights.shape)
        x, y = places[m, level, k]
        if 0 <= x <= 1 and 0 <= y <= 1:
            at = stage.x + x * stage.wide, stage.y + y * stage.high
            _dot(sheet, *at, 1.5 + 16 * weights[m, level, k] ** 0.5, m, level)
    u, v = arrays["references"][frame, item, 0].astype(float)
    x, y = stage.x + u * stage.wide, stage.y + v * stage.high
    for grow, ink in ((1.6, "#0009"), (0, "white")):
        for dx, dy in ((8, 0), (0, 8)):
            _stroke(sheet, (x - dx, y - dy, x + dx, y + dy), ink, 2 + grow)
    side = Place(room.x + room.wide - 330, room.y, 330, room.high)
    heads, levels = weights.shape[:2]
    lines = [(item_name(figure, item), None)]
    if label is not None:
        lines.append((answer_of(figure, frame, item), colour_of(label)))
    for number, (words, colour) in enumerate(lines):
        _line(sheet, side, number, words, colour)
    shares = weights.sum(-1) / weights.sum()  # [M, L]
    _shares(sheet, figure, side._replace(y=side.y + 70, high=side.high - 120), shares)
    row = Place(stage.x, room.y + room.high - 33, stage.wide, 26)
    _frames(sheet, figure, row, frame)
    row = side._replace(y=room.y + room.high - 37, high=34)
    _bars(sheet, figure, row, frame, item)


def _matching(sheet: Sheet, figure, room: Place) -> None:
    arrays, notes = figure.arrays, figure.notes
    cost = still.total_cost(arrays["parts"], notes.get("weights"))
    queries, objects = cost.shape
    pairs = {}
    if notes.get("rule", "hungarian") != "none":
        pairs = {int(n): int(q) for q, n in zip(*linear_sum_assignment(cost))}
    stage = _fit(figure, Place(room.x, room.y, 290, room.high - 80))
    sheet.picture(stage, figure.shown)
    for n, box in enumerate(arrays["truth"]):
        sheet.box(stage, box, "white", 1.2, dash=True)
        if n in pairs:
            sheet.box(stage, arrays["boxes"][pairs[n]], colour_of(n), 2)
    if not pairs and "start" in notes:
        item = notes["start"]["item"]
        sheet.box(stage, arrays["boxes"][item], ACCENT, 2)
    weights = notes.get("weights") or [1] * len(notes["parts"])
    words = " + ".join(f"{w:g} × {name}" for w, name in zip(weights, notes["parts"]))
    y = stage.y + stage.high
    if pairs:
        sheet.text(room.x, y + 26, f"cost = {words}", 12)
        sheet.text(room.x, y + 46, "framed: the cheapest pairing", 12, SOFT)
    place = Place(room.x + 310, room.y - 6, room.wide - 310, room.high)
    _table(sheet, figure, place, cost, pairs)


VIEWS: dict[str, Callable] = {
    "attention": _attention,
    "layers": _layers,
    "points": _points,
    "matching": _matching,
}


# --- parts ---------------------------------------------------------------------------


def _maps(figure, frame: int, item: int) -> tuple[np.ndarray, np.ndarray]:
    return figure.arrays["maps"][frame, item], figure.arrays["peaks"][frame, item]


def _map(figure, frame: int, item: int, head: int) -> tuple[np.ndarray, tuple]:
    values = still.head_map(*_maps(figure, frame, item), head)
    return values, figure.notes.get("cover", (1, 1))


def _fit(figure, room: Place) -> Place:
    """The largest rectangle of the picture's shape, from the left top of a room."""
    height, width = still.size_of(figure)
    scale = min(room.wide / width, room.high / height)
    return Place(room.x, room.y, width * scale, height * scale)


def _line(sheet: Sheet, side: Place, number: int, words: str, colour: str | None):
    x, y = side.x, side.y + 14 + 20 * number
    if colour == SCALE:
        sheet.picture(Place(x, y - 9, 36, 10), still.LUT[None], radius=3)
        x += 42
    elif colour:
        sheet.plate(Place(x, y - 9, 10, 10), colour, radius=3)
        x += 16
    size = 15 if number == 0 else 13
    for line, text in enumerate(textwrap.wrap(words, 40)):
        sheet.text(
            x if line == 0 else side.x, y + 18 * line, text, size, bold=size > 13
        )


def _marks(
    sheet: Sheet, figure, stage: Place, frame: int, item: int, few: bool = False
) -> None:
    arrays, notes = figure.arrays, figure.notes
    if notes.get("pick") == "cell":
        h, w = arrays["maps"].shape[-2:]
        row, column = divmod(notes["items"][item] if "items" in notes else item, w)
        x, y = notes.get("cover", (1, 1))
        cell = np.array([(column + 0.5) * x / w, (row + 0.5) * y / h, x / w, y / h])
        sheet.box(stage, cell, "white", 2)
    mine = get(figure, "matched", frame, item)
    for n, box in enumerate(arrays.get("truth", ())):
        if n == mine or not few:
            sheet.box(stage, box, "white", 2 if n == mine else 1, dash=True)
    if "boxes" not in arrays:
        return
    labels = arrays.get("labels", np.zeros(arrays["boxes"].shape[:2], int))[frame]
    for other in () if few else _sure(figure, frame):
        if other != item:
            box = arrays["boxes"][frame, other]
            sheet.box(stage, box, colour_of(labels[other]), 1.2)
    box, colour = arrays["boxes"][frame, item], colour_of(labels[item])
    sheet.box(stage, box, colour, 2.4 if few else 2.8)
    if not few:
        words = f"{item_name(figure, item)} {answer_of(figure, frame, item)}"
        sheet.name(stage, box, words, colour)
        x, y = stage.x + box[0] * stage.wide, stage.y + box[1] * stage.high
        sheet.ring(float(x), float(y), 5)


def _sure(figure, frame: int) -> list[int]:
    count = figure.arrays["boxes"].shape[1]
    scores = figure.arrays.get("scores", np.ones((frame + 1, count)))[frame]
    sure = np.flatnonzero(scores >= figure.notes.get("threshold", 0.5))
    return list(sure) if len(sure) else list(range(count))


def _heads(
    sheet: Sheet, figure, room: Place, frame: int, item: int, head: int, grey
) -> None:
    heads = figure.arrays["maps"].shape[2]
    if heads < 2:
        return
    height, width = still.size_of(figure)
    columns = max(
        range(1, heads + 2),  # those that make the largest tiles
        key=lambda n: min(340 / n, 290 / -(-(heads + 1) // n) * width / height),
    )
    rows = -(-(heads + 1) // columns)
    cell = Place(0, 0, (room.wide - 6) / columns - 6, (room.high - 6) / rows - 6)
    cell = _fit(figure, cell)
    for m in range(-1, heads):
        row, column = divmod(m + 1, columns)
        x, y = room.x + 3 + column * (cell.wide + 6), room.y + 3 + row * (cell.high + 6)
        tile = cell._replace(x=x, y=y)
        if m == head:
            ring = Place(x - 3, y - 3, cell.wide + 6, cell.high + 6)
            sheet.plate(ring, ACCENT, radius=7)
        sheet.picture(tile, still.glow(grey, *_map(figure, frame, item, m)), radius=5)
        name = "mean" if m < 0 else str(m + 1)
        wide = 38 if m < 0 else 17
        sheet.plate(Place(x, y + cell.high - 16, wide, 16), "#000a", radius=4)
        sheet.text(x + 5, y + cell.high - 4, name, 10.5, "white")
        peak = f"{still.peak_of(*_maps(figure, frame, item), m):.2f}"
        at = x + cell.wide - 4, y + 12
        sheet.text(at[0] + 0.7, at[1] + 0.7, peak, 10, "#000c", anchor="rs")
        sheet.text(*at, peak, 10, "white", anchor="rs")


def _frames(sheet: Sheet, figure, row: Place, frame: int) -> None:
    count = next(iter(figure.arrays.values())).shape[0]
    if count < 2:
        return
    kind = figure.notes.get("frame_name", "layer")
    if "curve" in figure.arrays or count > 8:
        name = frame_name(figure, frame)
        x = row.x + sheet.text(row.x, row.y + 17, name, 12, SOFT) + 10
        _timeline(sheet, figure, Place(x, row.y, row.x + row.wide - x, row.high), frame)
        return
    x = row.x + sheet.text(row.x, row.y + 17, kind, 12, SOFT) + 8
    wide = (row.x + row.wide - x) / count
    names = figure.notes.get("frames") or [str(i + 1) for i in range(count)]
    for i, name in enumerate(names):
        button = Place(x + i * wide, row.y, wide - 2, row.high)
        sheet.plate(button, ACCENT if i == frame else TINT, 4, LINE)
        middle = button.x + button.wide / 2
        colour = "white" if i == frame else INK
        sheet.text(middle, row.y + 17, name, 12, colour, anchor="ms")


def _timeline(sheet: Sheet, figure, row: Place, frame: int) -> None:
    """Frames at equal distances, and over them the curve, if there is one."""
    count = next(iter(figure.arrays.values())).shape[0]
    middles = row.x + (np.arange(count) + 0.5) * row.wide / count
    for x in middles:
        _stroke(sheet, (x, row.y + row.high - 6, x, row.y + row.high), LINE, 1)
    here = middles[frame]
    _stroke(sheet, (here, row.y - 4, here, row.y + row.high), ACCENT, 2)
    if "curve" not in figure.arrays:
        return
    steps, values = figure.arrays["curve"].astype(float)
    frames = figure.notes.get("frame_x", range(count))
    x = np.interp(steps, frames, middles)
    y = row.y + row.high - 2 - values / (values.max() or 1) * (row.high - 12)
    _stroke(sheet, np.stack([x, y], -1).ravel(), ACCENT, 1.8)
    value = values[np.abs(steps - frames[frame]).argmin()]
    words = f"{figure.notes['curve']['y']} {value:.2f}"
    left = frame > count / 2
    at = here + (-6 if left else 6), row.y + 5
    sheet.text(*at, words, 11, ACCENT, anchor="rs" if left else "ls")


def _bars(sheet: Sheet, figure, row: Place, frame: int, item: int) -> None:
    if "scores" not in figure.arrays:
        return
    scores = figure.arrays["scores"][frame].astype(float)
    labels = figure.arrays.get("labels", np.zeros_like(figure.arrays["scores"]))[frame]
    name = figure.notes.get("item_name", "query")
    words = "queries" if name == "query" else f"{name}s"
    x = row.x + sheet.text(row.x, row.y + 21, words, 12, SOFT) + 8
    each = (row.x + row.wide - x) / len(scores)
    gap = 1 if each > 5 else 0
    for i, (score, label) in enumerate(zip(scores, labels)):
        tall = 3 + (row.high - 10) * score
        left, wide = x + i * each + gap, max(each - 2 * gap, 1)
        sure = score >= figure.notes.get("threshold", 0.5) or i == item
        colour = colour_of(label) + ("" if sure else "73")
        if i == item:
            sheet.plate(Place(left, row.y, wide, row.high), LINE, radius=0)
            sheet.plate(Place(left, row.y + row.high - 3, wide, 3), INK, radius=0)
        bar = Place(left, row.y + row.high - 5 - tall, wide, tall)
        sheet.plate(bar, colour, radius=0)


def _stroke(sheet: Sheet, ends: tuple, ink: str, width: float) -> None:
    sheet.pen.line([2 * end for end in ends], ink, round(2 * width))


def _dot(sheet: Sheet, x: float, y: float, r: float, head: int, level: int) -> None:
    sides, turn = (32, 4, 4, 3)[level % 4], 0.5 if level % 4 == 1 else 0
    angles = 2 * np.pi * (np.arange(sides) + turn) / sides
    ends = np.stack([x + r * np.sin(angles), y - r * np.cos(angles)], -1) * 2
    ends = [tuple(end) for end in ends]
    colour = NINTH if head == 8 else colour_of(head)
    sheet.pen.polygon(ends, colour + "d9", "#0009")


def _shares(sheet: Sheet, figure, room: Place, shares: np.ndarray) -> None:
    """Which head reads how much from which level: a table of dots."""
    heads, levels = shares.shape
    head = figure.notes.get("head_name", "head")
    wide, high = min(60, (room.wide - 70) / levels), min(30, (room.high - 30) / heads)
    for level, (h, w) in enumerate(figure.notes["levels"]):
        x = room.x + 90 + level * wide
        sheet.text(x, room.y + 12, f"{h} × {w}", 11, SOFT, anchor="ms")
    for m in range(heads):
        y = room.y + 34 + m * high
        sheet.text(room.x, y + 4, f"{head} {m + 1}", 12)
        for level in range(levels):
            r = (high / 2 - 2) * float(shares[m, level] / shares.max()) ** 0.5
            _dot(sheet, room.x + 90 + level * wide, y, max(r, 1), m, level)
    y = room.y + 34 + heads * high
    words = f"dots: weight of each {head} on each level"
    words = "every point counts alike" if figure.notes.get("even") else words
    sheet.text(room.x, y + 4, words, 11, SOFT)


def _table(sheet: Sheet, figure, room: Place, cost: np.ndarray, pairs: dict) -> None:
    """The cost table; of many queries, those that are paired and the first others."""
    queries, objects = cost.shape
    rows = sorted(sorted(range(queries), key=lambda q: q not in pairs.values())[
        :MOST_QUERIES])  # fmt: skip
    names = figure.notes
    wide, high = (room.wide - 70) / objects, min(24, room.high / (len(rows) + 1))
    far = cost - cost.min() if names.get("better") == "high" else cost.max() - cost
    good = (far / (np.ptp(cost) or 1)) ** 2
    for n in range(objects):
        name = names.get("column_names", [f"object {i}" for i in range(objects)])[n]
        sheet.text(room.x + 70 + (n + 0.5) * wide, room.y + high - 5,
                   name[: int(wide // 5.5)], 10.5, SOFT, anchor="ms")  # fmt: skip
    for line, q in enumerate(rows):
        y = room.y + (line + 1) * high
        name = names["row_names"][q] if "row_names" in names else item_name(figure, q)
        sheet.text(room.x + 62, y + high - 5, name, 10.5, SOFT, anchor="rs")
        for n in range(objects):
            cell = Place(room.x + 70 + n * wide, y, wide - 1, high - 1)
            share = 0.06 + 0.84 * float(good[q, n])
            colour = _mix(ACCENT, "#ffffff", share)
            mine = pairs.get(n) == q
            sheet.plate(cell, colour, 2, INK if mine else None)
            value = f"{cost[q, n]:.{names.get('digits', 1)}f}".replace("-", "−")
            middle = cell.x + cell.wide / 2
            sheet.text(middle, y + high - 5, value, 10.5, ink_on(colour), mine, "ms")


def _mix(colour: str, ground: str, share: float) -> str:
    pairs = ((int(c[i : i + 2], 16) for c in (colour, ground)) for i in (1, 3, 5))
    return "#" + "".join(f"{round(a * share + b * (1 - share)):02x}" for a, b in pairs)
