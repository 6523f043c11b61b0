"""What can be wrong with detection data, and what training does about each."""

from collections import Counter
from dataclasses import dataclass

import numpy as np

# How much a kind of problem costs, worst first.
STOP, LOST, CHANGED, NOTE = "stop", "lost", "changed", "note"

EDGE_ROUNDING = 1.0  # pixels over the edge that pass for rounding, clipped silently

# kind -> (how much it costs, what training does)
KINDS: dict[str, tuple[str, str]] = {
    "unreadable annotations": (STOP, "training does not start"),
    "boxes look like x0 y0 x1 y1": (STOP, "training does not start"),
    "boxes look relative": (STOP, "training does not start"),
    "no usable image": (STOP, "training does not start"),
    "missing file": (LOST, "the image is left out"),
    "unreadable file": (LOST, "the image is left out, another takes its place"),
    "wrong shape": (LOST, "the image is left out: its boxes belong to another picture"),
    "bad image entry": (LOST, "the entry is left out"),
    "duplicate image id": (LOST, "the first entry is kept"),
    "duplicate category id": (LOST, "the first entry is kept"),
    "bad category entry": (LOST, "the entry is left out"),
    "unknown image": (LOST, "the annotation is left out"),
    "unknown category": (LOST, "the annotation is left out"),
    "bad box": (LOST, "the annotation is left out"),
    "not-a-number box": (LOST, "the annotation is left out"),
    "empty box": (LOST, "the annotation is left out"),
    "box outside": (LOST, "the annotation is left out"),
    "repeated annotation": (LOST, "the first one is kept"),
    "box over the edge": (CHANGED, "the box is clipped to the picture"),
    "other size": (CHANGED, "boxes are scaled with the picture"),
    "bad mask": (CHANGED, "the box takes the mask's place where masks are asked for"),
    "no stored size": (CHANGED, "the size is read from the picture"),
    "turned picture": (NOTE, "the picture is turned upright, as its boxes are"),
    "picture left turned": (NOTE, "not turned: its boxes were drawn on it as stored"),
    "duplicate annotation id": (NOTE, "both annotations are used"),
    "duplicate category name": (NOTE, "they stay two classes"),
    "unused category": (NOTE, "the class exists and is never seen"),
    "no boxes": (NOTE, "the image is used: everything on it is background"),
    "crowd": (NOTE, "not trained on; in evaluation neither a hit nor a miss"),
}


@dataclass(frozen=True)
class Problem:
    """One fault: its kind, the file and the annotation id (or None) it is about."""

    kind: str
    file: str
    annotation: int | str | None = None
    detail: str = ""

    @property
    def cost(self) -> str:
        """How much this costs: "stop", "lost", "changed" or "note"."""
        return KINDS[self.kind][0]

    @property
    def action(self) -> str:
        """What training does about it."""
        return KINDS[self.kind][1]

    def __str__(self) -> str:
        where = self.file or "(whole file)"
        if self.annotation is not None:
            where += f", annotation {self.annotation}"
        detail = f": {self.detail}" if self.detail else ""
        return f"{where}{detail}"


def count(problems: list[Problem]) -> dict[str, int]:
    """Number of problems per kind, in the order of `KINDS`."""
    found = Counter(problem.kind for problem in problems)
    return {kind: found[kind] for kind in KINDS if found[kind]}


def stopping(problems: list[Problem]) -> list[Problem]:
    """The problems that make training on the data senseless."""
    return [problem for problem in problems if problem.cost == STOP]


def suspicious_boxes(boxes: list[tuple], sizes: list[tuple]) -> list[Problem]:
    """Find boxes in a wrong format: corners where sizes belong, or fractions.

    A single odd box proves nothing; these tests need a pattern that holds for (nearly)
    every box of the file, and at least eight boxes.
    """
    if len(boxes) < 8:
        return []
    box, size = np.array(boxes), np.array(sizes)[:, ::-1]  # size: [n, 2] (W, H)
    corner, extent = box[:, :2], box[:, 2:]
    over = (corner + extent > size + EDGE_ROUNDING).any(1)
    as_corners = ((extent > corner) & (extent <= size + EDGE_ROUNDING)).all(1)
    if as_corners.mean() > 0.98 and over.mean() > 0.1:
        detail = "COCO boxes are [x, y, width, height] in pixels: convert them"
        return [Problem("boxes look like x0 y0 x1 y1", "", None, detail)]
    if (np.abs(box) <= 1).all():
        detail = "all values are at most 1, COCO boxes are in pixels: multiply them"
        return [Problem("boxes look relative", "", None, detail)]
    return []
