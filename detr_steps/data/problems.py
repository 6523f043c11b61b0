"""What can be wrong with detection data, and what training does about each."""

from collections import Counter
from dataclasses import dataclass

# How much a kind of problem costs, worst first.
STOP, LOST, CHANGED, NOTE = "stop", "lost", "changed", "note"

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
