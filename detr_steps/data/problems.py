"""What can be wrong with detection data, and what training does about each."""

import re
import reprlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

# How much a kind of problem costs, worst first.
STOP, LOST, CHANGED, NOTE = "stop", "lost", "changed", "note"

EDGE_ROUNDING = 1.0  # pixels over the edge that pass for rounding, clipped silently

# kind -> (how much it costs, what training does)
KINDS: dict[str, tuple[str, str]] = {
    "unreadable annotations": (STOP, "training does not start"),
    "no category": (STOP, "training does not start"),
    "boxes look like x0 y0 x1 y1": (STOP, "training does not start"),
    "boxes look relative": (STOP, "training does not start"),
    "no usable image": (STOP, "training does not start"),
    "no box to learn from": (STOP, "training does not start"),
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
    "bad crowd flag": (CHANGED, "iscrowd is neither 0 nor 1 and taken as 0"),
    "other size": (CHANGED, "boxes are scaled with the picture"),
    "bad mask": (CHANGED, "the box takes the mask's place where masks are asked for"),
    "no stored size": (CHANGED, "the size is read from the picture"),
    "turned picture": (NOTE, "the picture is turned upright, as its boxes are"),
    "picture left turned": (NOTE, "not turned: its boxes were drawn on it as stored"),
    "more than 8 bits": (NOTE, "the brightness is scaled to 8 bits"),
    "nearly black": (NOTE, "the picture is used as it is"),
    "path shortened": (NOTE, "the file lies under the end of its listed path"),
    "duplicate file name": (NOTE, "each entry is used with its own boxes only"),
    "duplicate annotation id": (NOTE, "both annotations are used"),
    "duplicate category name": (NOTE, "they stay two classes"),
    "bad area": (NOTE, "the box's area is used to tell small objects from large"),
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
        return one_line(f"{where}{detail}")


_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def one_line(text: str) -> str:
    """Write control characters and broken surrogates as escapes.

    File names hold anything: a line break would tear a report apart, and half a
    surrogate pair would end the printing with an error.
    """
    return _UNPRINTABLE.sub(lambda found: ascii(found[0])[1:-1], text)


def quoted(value: Any, length: int = 80) -> str:
    """Show any JSON value in a message: cut, and no deeper than a few levels."""
    # only containers can be deep; reprlib would cut texts and numbers much earlier
    shown = reprlib.repr(value) if isinstance(value, list | dict) else repr(value)
    return shown[:length]


def count(problems: list[Problem]) -> dict[str, int]:
    """Number of problems per kind, in the order of `KINDS`."""
    found = Counter(problem.kind for problem in problems)
    return {kind: found[kind] for kind in KINDS if found[kind]}


def listed(problems: list[Problem], kind: str, shown: int | None) -> Iterator[str]:
    """Lines about all problems of one kind, at most `shown` of them each."""
    problems = [problem for problem in problems if problem.kind == kind]
    yield f"  {kind}, {len(problems)}x: {KINDS[kind][1]}"
    for problem in problems[:shown]:
        yield f"    {problem}"
    if shown is not None and len(problems) > shown:
        yield f"    … and {len(problems) - shown} more"


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
    with np.errstate(over="ignore"):  # 1e308 + 1e308 is over the edge as well
        over = (corner + extent > size + EDGE_ROUNDING).any(1)
    as_corners = ((extent > corner) & (extent <= size + EDGE_ROUNDING)).all(1)
    if as_corners.mean() > 0.98 and over.mean() > 0.1:
        detail = "COCO boxes are [x, y, width, height] in pixels: convert them"
        return [Problem("boxes look like x0 y0 x1 y1", "", None, detail)]
    if (np.abs(box) <= 1).all():
        detail = "all values are at most 1, COCO boxes are in pixels: multiply them"
        return [Problem("boxes look relative", "", None, detail)]
    return []
