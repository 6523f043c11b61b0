"""A ranking as a poster: the chart beside the table, sorted by score."""

import numpy as np

from .readout import State
from .sheet import ACCENT, CHANGED, INK, LINE, SOFT, TINT, Place, Sheet

LEFT, RIGHT, TOP, BOTTOM = 44, 14, 12, 34  # as in ranking.mjs: around the chart


def draw_ranking(sheet: Sheet, state: State, room: Place) -> None:
    """Draw the first state of such a figure into a room of its poster."""
    values = state.arrays["values"].astype(float)
    item, order = state.notes["start"]["item"], np.argsort(-values[:, 0], kind="stable")
    wide = room.wide * 5 / 11
    stage = room._replace(wide=wide, high=room.high - 92)
    _chart(sheet, state, stage, values, item)
    _rows(sheet, state, room._replace(x=room.x + wide + 18, wide=room.wide - wide - 18))
    said = state.notes["titles"][item]
    sheet.text(
        room.x, stage.bottom + 26, f"{said}: place 1 of {len(order)}", 14, bold=True
    )
    for line, text in enumerate(state.notes["recipes"][item][:3]):
        colour = SOFT if line else INK
        sheet.text(room.x, stage.bottom + 46 + 16 * line, text, 12, colour)


def _most(state: State, values: np.ndarray, k: int) -> float:
    own = values[:, k].max()
    if k == 0:
        own = max(own, float(state.arrays["spread"].max()))
    return 1.08 * own or 1.0


def _chart(
    sheet: Sheet, state: State, room: Place, values: np.ndarray, item: int
) -> None:
    x = min(1, values.shape[1] - 1)
    inner = Place(
        room.x + LEFT,
        room.y + TOP,
        room.wide - LEFT - RIGHT,
        room.high - TOP - BOTTOM,
    )
    sheet.plate(inner, "#ffffff", 0, LINE)
    most = [_most(state, values, k) for k in (0, x)]
    names = [state.notes["columns"][k]["name"] for k in (0, x)]
    sheet.text(inner.x + 6, inner.y + 14, names[0], 11, SOFT)
    middle = inner.x + inner.wide / 2
    sheet.text(middle, room.bottom - 4, names[1] if x else "", 11, SOFT, anchor="ms")
    for value, words in _ticks(most[0], state.notes["columns"][0]["digits"]):
        y = inner.at(0, 1 - value / most[0])[1] + 4
        sheet.text(inner.x - 5, y, words, 10, SOFT, anchor="rs")
    for value, words in _ticks(most[1], state.notes["columns"][x]["digits"]) * (x > 0):
        at = inner.at(value / most[1], 0)[0]
        sheet.text(at, inner.bottom + 14, words, 10, SOFT, anchor="ms")
    front = beaten_by_none(values, x, state.notes["columns"][x]["better"] == "high")
    for i in sorted(range(len(values)), key=lambda i: i == item):
        ink, here = (CHANGED, True) if i == item else (ACCENT, False)
        cx, cy = inner.at(
            values[i, x] / most[1] if x else 0.5, 1 - values[i, 0] / most[0]
        )
        low, high = (
            inner.at(0, 1 - float(v) / most[0])[1] for v in state.arrays["spread"][i]
        )
        sheet.line((cx, low, cx, high), ink, 2.5 if here else 1.2)
        size = 6.5 if here else 5
        disc = Place(cx - size, cy - size, 2 * size, 2 * size)
        sheet.plate(disc, ink if here or i in front else "#ffffff", size, ink)


def _ticks(most: float, digits: int) -> list[tuple[float, str]]:
    """Round numbers from 0 to below `most`, five at most, as ranking.mjs has them."""
    power = 10.0 ** np.floor(np.log10(most / 4))
    step = next(n * power for n in (1, 2, 5, 10) if most / (n * power) <= 5)
    places = max(0, min(digits, -int(np.floor(np.log10(step)))))
    values = np.arange(0, most, step).tolist()
    return [(value, f"{value:z.{places}f}") for value in values]


def beaten_by_none(values: np.ndarray, x: int, high: bool) -> set[int]:
    """Rows that no other one beats in score at as little cost; as in ranking.mjs."""
    sign = 1 if high else -1
    score, gain = values[:, 0], sign * values[:, x]
    return {
        i
        for i in range(len(values))
        if not ((score > score[i]) & (gain >= gain[i])).any()
    }


def _rows(sheet: Sheet, state: State, room: Place) -> None:
    values, columns = state.arrays["values"], state.notes["columns"]
    order = np.argsort(-values[:, 0].astype(float), kind="stable")
    high = min(24, (room.high - 24) / len(order))
    each = min(86, room.wide * 0.62 / len(columns))
    left = room.right - each * len(columns)
    for k, column in enumerate(columns):
        right = left + (k + 1) * each - 8
        sheet.text(right, room.y + 12, column["name"], 11, SOFT, anchor="rs")
    for line, i in enumerate(order):
        y, here = room.y + 22 + line * high, i == state.notes["start"]["item"]
        if here:
            sheet.plate(room._replace(y=y, high=high), TINT, 3)
        sheet.text(room.x + 6, y + high - 7, state.notes["titles"][i], 12, bold=here)
        for k, column in enumerate(columns):
            words = f"{values[i, k]:z.{column['digits']}f}"
            right = left + (k + 1) * each - 8
            sheet.text(right, y + high - 7, words, 12, bold=here, anchor="rs")
