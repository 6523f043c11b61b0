"""Segments as a poster: the first state of such a figure."""

import numpy as np

from . import still
from .poster_controls import fit, frame_row, query_bars
from .readout import State
from .sheet import ACCENT, Place, Sheet

SIDE = 364  # width of words and tiles beside the stage


def fate_of(state: State) -> str:
    """Say how a query fared at a threshold."""
    owner, overlap = state.arrays["owner"][state.frame], state.at("overlap")
    pixels = int((owner == state.item + 1).sum())
    if not pixels:
        kept = state.at("scores") > state.notes["frame_x"][state.frame]
        return "kept, owns no pixel" if kept else "not kept"
    share = f"{100 * pixels / owner.size:.1f} % of the pixels"
    if "true" not in state.arrays:
        return share
    found = "a hit" if overlap > 0.5 else "a false alarm"
    return f"{share}: {found}, IoU {overlap:.2f}"


def shares_of(state: State) -> list[str]:
    """Each map's share of all that the query's maps weigh, in words."""
    if "shares" not in state.arrays:
        return []
    shares = state.arrays["shares"][state.item].astype(float)
    return [f"{int(100 * share + 0.5)} %" for share in shares]  # as JavaScript rounds


def draw_segments(sheet: Sheet, state: State, room: Place) -> None:
    """Draw the first state of such a figure into a room of its poster."""
    stage = Place(room.x, room.y, room.wide - SIDE - 22, room.high - 42)
    stage = fit(state, stage)
    sheet.picture(stage, still.tinted(state))
    owner = state.arrays["owner"][state.frame]
    _edges(sheet, stage, owner, None, 0.8)
    _edges(sheet, stage, owner, state.item + 1, 2.4)
    x, y = room.right - SIDE, room.y
    sheet.text(x, y + 14, state.item_name, 15, bold=True)
    sheet.plate(Place(x, y + 25, 10, 10), state.colour(), radius=3)
    sheet.text(x + 16, y + 34, state.answer, 13)
    sheet.text(x, y + 54, fate_of(state), 13)
    side = Place(x, y + 72, SIDE, room.bottom - 48 - y - 72)
    _tiles(sheet, state, side)
    frame_row(sheet, state, stage._replace(y=room.bottom - 33, high=26))
    least = state.notes["frame_x"][state.frame]
    query_bars(sheet, state, Place(x, room.bottom - 37, SIDE, 34), least)
    box = _reach(owner == state.item + 1)
    if box is not None:
        words = f"{state.item_name} {state.answer}"
        sheet.name(stage, box, words, state.colour())


def _edges(
    sheet: Sheet, stage: Place, owner: np.ndarray, one: int | None, width: float
) -> None:
    """Borders between owners, or around one of them."""
    mine = owner if one is None else owner == one
    h, w = mine.shape
    across = np.argwhere(mine[:, 1:] != mine[:, :-1])
    down = np.argwhere(mine[1:] != mine[:-1])
    ends = [(x + 1, y, x + 1, y + 1) for y, x in across]
    ends += [(x, y + 1, x + 1, y + 1) for y, x in down]
    lines = [(*stage.at(a / w, b / h), *stage.at(c / w, d / h)) for a, b, c, d in ends]
    sheet.rimmed(lines, "white", width)


def _reach(mask: np.ndarray) -> np.ndarray | None:
    """The box around a mask: cxcywh in shares of the picture."""
    if not mask.any():
        return None
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    y0, y1 = rows[0] / len(mask), (rows[-1] + 1) / len(mask)
    x0, x1 = columns[0] / mask.shape[1], (columns[-1] + 1) / mask.shape[1]
    return np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])


def _tiles(sheet: Sheet, state: State, room: Place) -> None:
    """Attention maps, then the stages of the head, four in a row."""
    stages = state.arrays["stages"][state.item]
    maps = state.arrays["maps"][state.item] if "maps" in state.arrays else ()
    names = [f"map {m + 1}" for m in range(len(maps))] + state.notes["stages"]
    shares = shares_of(state)
    rows = -(-len(names) // 4)
    cell = Place(0, 0, room.wide / 4 - 6, room.high / rows - 6)
    cell = fit(state, cell)
    grey, cover = still.grey_of(state.figure.shown), state.notes.get("cover", (1, 1))
    for i, (values, name) in enumerate(zip([*maps, *stages], names)):
        row, column = divmod(i, 4)
        x, y = room.x + column * (cell.wide + 6), room.y + row * (cell.high + 6)
        tile = cell._replace(x=x, y=y)
        if i == state.head:
            ring = Place(x - 3, y - 3, cell.wide + 6, cell.high + 6)
            sheet.plate(ring, ACCENT, radius=7)
        span = cover if i < len(maps) else (1, 1)
        sheet.picture(tile, still.glow(grey, values.astype(float), span), 5)
        wide = sheet.text(x + 5, tile.bottom - 4, name, 10.5, "white") + 10
        sheet.plate(Place(x, tile.bottom - 16, wide, 16), "#000a", radius=4)
        sheet.text(x + 5, tile.bottom - 4, name, 10.5, "white")
        if i < len(shares):
            right, top = tile.right - 4, tile.y + 12
            sheet.text(right + 0.7, top + 0.7, shares[i], 10, "#000c", anchor="rs")
            sheet.text(right, top, shares[i], 10, "white", anchor="rs")
