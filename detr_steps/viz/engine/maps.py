"""An interactive figure of attention maps, from nothing but numbers."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...analysis.attention import effective_cells, pack
from .figure import InteractiveFigure

READ_NOT_WHY = (
    "Bright cells are read most; each map is scaled to its own brightest. A map shows "
    "neither what was taken from there nor why the answer came out so."
)


def attention_maps(
    maps: Tensor,
    rgb: Tensor | np.ndarray,
    *,
    boxes: Tensor | None = None,
    scores: Tensor | None = None,
    labels: Tensor | None = None,
    matched: Tensor | None = None,
    truth: Tensor | None = None,
    truth_labels: Tensor | None = None,
    names: Sequence[str] | None = None,
    items: Sequence[int] | None = None,
    item_name: str = "query",
    frames: Sequence[object] | None = None,
    frame_name: str = "layer",
    start: dict | None = None,
    cover: tuple[float, float] = (1.0, 1.0),
    spreads: tuple[Tensor, Tensor] | None = None,
    curve: Tensor | None = None,
    frame_x: Sequence[float] | None = None,
    view: str = "attention",
    title: str = "Attention",
    summary: str = "",
    caption: str = READ_NOT_WHY,
    **notes: object,
) -> InteractiveFigure:
    """Show where each of Q items looks in a picture, head by head, frame by frame.

    `maps [F, Q, M, h, w]` weights over a map (F layers or training steps); `rgb
    [3, H, W]` in [0, 1] or uint8 `[H, W, 3]`. Optional: `boxes [F, Q, 4]` cxcywh in
    [0, 1], best class `labels` and `scores [F, Q]`, `matched [F, Q]` object or -1,
    `truth [N, 4]` with `truth_labels [N]`; `items` the number of each of the Q where
    some were left out; `cover (x, y)` the share of the picture that the map spans;
    `spreads` of the mean `[F, Q]` and of each head `[F, Q, M]` if measured before;
    `curve [2, n]` of AP over steps with the place `frame_x [F]` of each frame on it.
    Without boxes the items are the cells of the map, picked in the picture. Further
    `notes` go to figure.mjs as they are.
    Raises: ValueError for shapes that disagree and for negative weights.
    Built in chapters/02_detr.ipynb.
    """
    check_shape("maps", maps, "F", "Q", "M", "h", "w")
    f, q = maps.shape[:2]
    small, peaks = pack(maps)
    if spreads is None:
        spreads = effective_cells(maps.float().mean(2)), effective_cells(maps)
    arrays = {"maps": small.numpy(), "peaks": peaks.numpy()}
    arrays |= _packed(
        {
            "spread": (spreads[0], (f, q), np.float16),
            "spread_heads": (spreads[1], (f, q, maps.shape[2]), np.float16),
        }
    )
    arrays |= answers(f, q, boxes=boxes, scores=scores, labels=labels, matched=matched)
    arrays |= truths(truth, truth_labels)
    frames = [str(x) for x in (frames or range(1, f + 1))]
    if curve is not None:
        arrays["curve"] = curve.float().numpy()
        notes |= {"curve": {"x": frame_name, "y": "AP"}, "frame_x": list(frame_x)}
    if len(frames) != f or (items is not None and len(items) != q):
        raise ValueError(
            f"maps {list(maps.shape)} need {f} names of frames and {q} items; got "
            f"{len(frames)} and {q if items is None else len(items)}"
        )
    told = {
        "frame_name": frame_name,
        "frames": frames,
        "pick": "cell" if boxes is None else "box",
        "item_name": item_name,
        "names": names_for(names, labels, truth_labels),
        "start": {"frame": f - 1, "item": 0, "head": -1} | (start or {}),
    }
    if items is not None and list(items) != list(range(q)):
        told["items"] = [int(i) for i in items]
    if tuple(cover) != (1.0, 1.0):
        told["cover"] = [round(float(x), 5) for x in cover]
    return InteractiveFigure(
        view,
        arrays,
        told | notes,
        picture=as_picture(rgb),
        title=title,
        summary=summary or title,
        caption=caption,
    )


def answers(
    *shape: int,
    boxes: Tensor | None = None,
    scores: Tensor | None = None,
    labels: Tensor | None = None,
    matched: Tensor | None = None,
) -> dict[str, np.ndarray]:
    """Pack what each of `shape` items answers; absent where it is None."""
    found = {
        "boxes": (boxes, (*shape, 4), np.float16),
        "scores": (scores, shape, np.float16),
        "labels": (labels, shape, np.int16),
        "matched": (matched, shape, np.int16),
    }
    return _packed(found)


def truths(truth: Tensor | None, labels: Tensor | None) -> dict[str, np.ndarray]:
    """Pack the true boxes `[N, 4]` and their labels; absent where there are none."""
    if truth is None or len(truth) == 0:
        return {}
    n = len(truth)
    found = {
        "truth": (truth, (n, 4), np.float32),
        "truth_labels": (labels, (n,), np.int16),
    }
    return _packed(found)


def _packed(found: dict) -> dict[str, np.ndarray]:
    packed = {}
    for name, (values, shape, kind) in found.items():
        if values is None:
            continue
        values = torch.as_tensor(values).detach().cpu()
        if tuple(values.shape) != shape:
            raise ValueError(
                f"{name} {list(values.shape)} do not go with the rest: expected "
                f"{list(shape)}"
            )
        packed[name] = values.float().numpy().astype(kind)
    return packed


def names_for(
    names: Sequence[str] | None, *labels: Tensor | None
) -> list[str]:  # class names that are enough for all labels
    """Class names for all labels, numbered where none are given.

    Raises: ValueError for a label without a name.
    """
    highest = max(
        (int(torch.as_tensor(x).max()) for x in labels if x is not None and len(x)),
        default=-1,
    )
    if names is None:
        return [f"class {i}" for i in range(highest + 1)]
    if highest >= len(names):
        raise ValueError(
            f"label {highest}, but {len(names)} class names: give one for each class"
        )
    return [str(name) for name in names]


def as_picture(rgb: Tensor | np.ndarray | None) -> np.ndarray | None:
    """Turn `[3, H, W]` in [0, 1] into uint8 `[H, W, 3]`; such an array stays.

    Raises: ValueError for another shape.
    """
    if rgb is None or (isinstance(rgb, np.ndarray) and rgb.dtype == np.uint8):
        picture = rgb
    else:
        rgb = torch.as_tensor(rgb).detach().float().cpu()
        picture = rgb.clamp(0, 1).mul(255).round().to(torch.uint8)
        if picture.dim() == 3 and picture.shape[0] == 3:
            picture = picture.permute(1, 2, 0)
        picture = picture.contiguous().numpy()
    if picture is not None and (picture.ndim != 3 or picture.shape[2] != 3):
        raise ValueError(
            f"a picture of shape {list(rgb.shape)}: give [3, H, W] in [0, 1]"
        )
    return picture


def check_shape(name: str, values: Tensor, *dimensions: str) -> None:
    """Raise ValueError unless a tensor has so many dimensions, none of them empty."""
    if values.dim() != len(dimensions) or 0 in values.shape:
        raise ValueError(
            f"{name} have shape {list(values.shape)}, expected "
            f"[{', '.join(dimensions)}], none of them 0: add missing ones with "
            "values[None]"
        )
