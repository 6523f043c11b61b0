"""The anchor bench as a poster: picture and profiles, three maps, the numbers."""

import numpy as np

from . import still
from .bench import Look, Profile, look
from .poster_controls import fit
from .readout import State
from .sheet import ACCENT, LINE, SOFT, Place, Sheet

LAW, EXPECTED, BARS = "#d55e00", "#009e73", "#8cc3e6"  # as in bench.mjs
LAW_WORDS = "Gaussian, width ∝ √(w / w_ref)"
MAPS = "position", "content", "sum"
WEIGHTS = "W = identity", "untrained W", "trained W"
DEPTH = 78  # of a profile


def anchor_bench(sheet: Sheet, state: State, room: Place) -> None:
    """Draw the first state of a bench into a room of its poster."""
    start, notes = state.notes["start"], state.notes
    seen, cover = look(state.arrays, start), notes["cover"]
    stage = fit(state, Place(room.x, room.y, 324, room.high - DEPTH - 8))
    sheet.picture(stage, state.figure.shown)
    _boxes(sheet, stage, start)
    across = stage._replace(y=stage.bottom + 6, high=DEPTH)
    down = stage._replace(x=stage.right + 6, wide=DEPTH)
    _profile(sheet, across, seen.x, cover[0], upright=False)
    _profile(sheet, down, seen.y, cover[1], upright=True)
    side = Place(down.right + 22, room.y, room.right - down.right - 22, room.high)
    bottom = _tiles(sheet, state, side, seen)
    head = state.head_name if start["weights"] else "all heads alike"
    words = [
        (notes["query"], True),
        (f"{WEIGHTS[start['weights']]}, {head}, T = {start['temperature']:g}", False),
        *_measured(seen, start),
    ]
    for number, (line, bold) in enumerate(words):
        sheet.text(side.x, bottom + 36 + 27 * number, line, 16, bold=bold)
    _legend(sheet, side._replace(y=bottom + 40 + 27 * len(words)))


def _measured(seen: Look, start: dict) -> list[tuple[str, bool]]:
    lines = []
    for i, (name, side) in enumerate((("across", "w"), ("down", "h"))):
        profile: Profile = seen[1 + i]
        lines.append(
            (
                f"{name}: width {profile.width:.3f}, predicted {profile.predicted:.3f}",
                True,
            )
        )
        sizes = f"{start['expected'][i]:.2f} / {start['anchor'][2 + i]:.2f}"
        ratio = f"a = {side}_ref / {side} = {sizes} = {profile.ratio:.2f}"
        lines.append((ratio if start["modulate"] else "not modulated: a = 1", False))
    return lines


def _boxes(sheet: Sheet, stage: Place, start: dict) -> None:
    x, y, w, h = start["anchor"]
    sheet.box(stage, np.array([x, y, *start["expected"]]), EXPECTED, 2, dash=True)
    sheet.box(stage, np.array(start["anchor"]), ACCENT, 3)
    for right, below in ((0, 0), (w / 2, 0), (0, h / 2), (w / 2, h / 2)):
        if x + right <= 1 and y + below <= 1:
            sheet.ring(*stage.at(x + right, y + below), 4, ACCENT)


def _profile(
    sheet: Sheet, place: Place, profile: Profile, cover: float, upright: bool
) -> None:
    """Bars over the cells, the Gaussian dashed; upright: right of a picture."""
    n = len(profile.weights)
    at = np.linspace(0, 1, 81)
    law = profile.gaussian(at / cover + 0.5 / n)
    top = max(profile.weights.max(), law.max())

    def spot(along: float, value: float) -> tuple[float, float]:
        across = value / top
        return place.at(across, along) if upright else place.at(along, 1 - across)

    for j, weight in enumerate(profile.weights):
        ends = spot(j / n * cover, 0), spot(min((j + 1) / n * cover, 1), weight)
        (x0, x1), (y0, y1) = map(sorted, zip(*ends))
        sheet.plate(Place(x0, y0, max(x1 - x0 - 1, 1), max(y1 - y0 - 1, 1)), BARS, 0)
    sheet.line([*spot(0, 0), *spot(1, 0)], LINE, 1)
    for i in range(0, 80, 4):
        ends = [spot(u, v) for u, v in zip(at[i : i + 3], law[i : i + 3])]
        sheet.line(np.ravel(ends), LAW, 2)


def _tiles(sheet: Sheet, state: State, side: Place, seen: Look) -> float:
    """The three maps, each scaled to its own maximum; returns where they end."""
    grey = still.grey_of(state.figure.shown)
    wide = (side.wide - 12) / 3
    for number, (name, values) in enumerate(zip(MAPS, seen.maps)):
        x = side.x + number * (wide + 6)
        sheet.text(x, side.y + 13, name, 15, bold=True)
        tile = fit(state, Place(x, side.y + 22, wide, side.high))
        shown = values * (255 / values.max())
        sheet.picture(tile, still.glow(grey, shown, state.notes["cover"]))
        sheet.box(tile, np.array(state.notes["start"]["anchor"]), "white", 1)
        top = f"max {values.max():.{3 if values.max() < 0.01 else 2}f}"
        sheet.text(tile.x, tile.bottom + 18, top, 13, SOFT)
    return tile.bottom + 16


def _legend(sheet: Sheet, place: Place) -> None:
    rows = (
        "anchor",
        "size that the content expects",
        "softmax over the cells",
        LAW_WORDS,
    )
    for number, words in enumerate(rows):
        y = place.y + 6 + 23 * number
        mark = Place(place.x, y - 12, 24, 13)
        if number < 2:
            box = np.array([0.5, 0.5, 1, 1])
            sheet.box(mark, box, (ACCENT, EXPECTED)[number], 2, dash=number == 1)
        elif number == 2:
            sheet.plate(mark, BARS, 0)
        else:
            for x in (mark.x, mark.x + 10, mark.x + 20):
                sheet.line((x, y - 5, x + 6, y - 5), LAW, 2.5)
        sheet.text(place.x + 34, y, words, 15, SOFT)
