"""An interactive figure of attention maps, from nothing but numbers."""

import numpy as np
from torch import Tensor

from ...analysis.attention import PackedMaps, pack
from .answers import Answers, Words, as_picture
from .figure import InteractiveFigure

READ_NOT_WHY = (
    "Bright cells are read most; each map is scaled to its own brightest. A map shows "
    "neither what was taken from there nor why the answer came out so."
)


def attention_maps(
    maps: Tensor | PackedMaps,
    rgb: Tensor | np.ndarray,
    answers: Answers | None = None,
    words: Words | None = None,
    *,
    start: dict | None = None,
    cover: tuple[float, float] = (1.0, 1.0),
    curve: Tensor | None = None,
    flat: float | None = None,
    view: str = "attention",
) -> InteractiveFigure:
    """Show what each of Q items attends to in a picture, by head and frame.

    `maps [F, Q, M, h, w]` weights over a map (F layers or training steps), packed or
    not; `rgb [3, H, W]` in [0, 1] or uint8 `[H, W, 3]`; `answers` of the items: without
    boxes the items are the cells of the map, picked in the picture. `start` frame, item
    and head (-1 for their mean) to begin with, by default the surest item; `cover (x,
    y)` the share of the picture that the map spans; `curve [2, n]` of AP over steps,
    where the names of the frames are numbers of steps; `flat` the sparsity (negative
    entropy) of flat maps, to draw sparsity from there up to 0, and marks where what an
    item is matched with has changed; `view` "attention", or "layers": all frames side
    by side.
    Raises: ValueError for shapes that disagree and for negative weights.
    Built in chapters/02_detr.ipynb.
    """
    answers, words = answers or Answers(), words or Words()
    maps = maps if isinstance(maps, PackedMaps) else pack(maps)
    f, q = maps.peaks.shape[:2]
    told = words.notes(f) | answers.notes(q)
    told["pick"] = "cell" if answers.boxes is None else "box"
    told["start"] = {"frame": f - 1, "item": answers.surest, "head": -1} | (start or {})
    if tuple(cover) != (1.0, 1.0):
        told["cover"] = [round(float(x), 5) for x in cover]
    half = {name: getattr(maps, name).half() for name in ("spread", "spread_heads")}
    arrays = {k: x.numpy() for k, x in maps._replace(**half)._asdict().items()}
    if curve is not None:
        arrays["curve"] = curve.float().numpy()
        told |= {"curve": {"x": words.frame, "y": "AP"}, "frame_x": list(words.frames)}
    if flat is not None:
        told["flat"] = round(flat, 4)
    texts = words.texts(title="Attention", caption=READ_NOT_WHY)
    arrays |= answers.arrays
    return InteractiveFigure(view, arrays, told, picture=as_picture(rgb), **texts)
