"""What an interactive figure says in words, as its poster says it."""

import numpy as np

from . import still
from .plots import COLOURS

SCALE = "scale"  # in place of a colour: the whole colour map


def colour_of(label: int) -> str:
    """The colour of a class, the same in all pictures of the course."""
    return COLOURS[int(label) % len(COLOURS)]


class State:
    """A figure at one `frame`, `item`, `head` (-1: mean of all); by default its start.

    `at(name)` is the entry of an array for this frame and item.
    """

    def __init__(
        self,
        figure,
        frame: int | None = None,
        item: int | None = None,
        head: int | None = None,
    ) -> None:
        start = {"item": 0, "head": -1} | figure.notes.get("start", {})
        self.figure, self.arrays, self.notes = figure, figure.arrays, figure.notes
        self.frames, self.items = next(iter(figure.arrays.values())).shape[:2]
        frame = start.get("frame", self.frames - 1) if frame is None else frame
        item = start["item"] if item is None else item
        self.frame, self.item = min(frame, self.frames - 1), min(item, self.items - 1)
        self.head = start["head"] if head is None else head

    def at(self, name: str, item: int | None = None) -> np.ndarray | float | None:
        """An entry of an array, or None where the figure has no such array."""
        index = self.frame, self.item if item is None else item
        return self.arrays[name][index] if name in self.arrays else None

    def colour(self, item: int | None = None) -> str:
        """The colour of the class that an item answers with."""
        return colour_of(self.at("labels", item) or 0)

    @property
    def item_name(self) -> str:
        """Name of the query or cell; some may have been left out."""
        number = self.notes.get("items", range(self.items))[self.item]
        return f"{self.notes.get('item_name', 'query')} {number}"

    @property
    def frame_names(self) -> list[str]:
        """Names of all layers or training steps."""
        return self.notes.get("frames") or [str(i + 1) for i in range(self.frames)]

    @property
    def frame_name(self) -> str:
        """Name of the layer or training step."""
        kind = self.notes.get("frame_name", "layer")
        return f"{kind} {self.frame_names[self.frame]}"

    @property
    def head_name(self) -> str:
        """Name of the head, or of the mean of all."""
        return f"head {self.head + 1}" if self.head >= 0 else "mean of heads"

    @property
    def cell(self) -> tuple[int, int]:
        """Row and column of the item, where items are cells."""
        number = self.notes.get("items", range(self.items))[self.item]
        return divmod(number, self.arrays["maps"].shape[-1])

    @property
    def answer(self) -> str:
        """The class a query answers with, and its probability."""
        label, score = self.at("labels"), self.at("scores")
        if label is None:
            return ""
        return self._class(label) + ("" if score is None else f" {score:.2f}")

    @property
    def match(self) -> str:
        """Which object a query was matched with, and how well its box fits.

        Without a match in this frame, the one that it has in another.
        """
        n = self.at("matched")
        if n is None:
            return ""
        if n >= 0:
            return self._fits(n)
        others = self.arrays["matched"][:, self.item]
        others = others[others >= 0]
        if not len(others):
            return "matched to no object"
        return f"not matched: {self._fits(others[-1])}"

    def _fits(self, n: int) -> str:
        words = f"object {n}"
        if "truth_labels" in self.arrays:
            words += f" ({self._class(self.arrays['truth_labels'][n])})"
        if "truth" in self.arrays:
            overlap = still.overlap(self.at("boxes"), self.arrays["truth"][n])
            words += f", IoU {overlap:.2f}"
        return words

    @property
    def spread(self) -> float | None:
        """As over how many cells the map shown is spread; None where it is unknown."""
        found = self._spreads
        return None if found is None else float(found[self.frame])

    def sparsity(self) -> np.ndarray:
        """Negative entropy of the item's map in each frame, as attention.mjs has it."""
        return -np.log(self._spreads.astype(float))

    @property
    def _spreads(self) -> np.ndarray | None:
        one = self.head < 0 or self.arrays["maps"].shape[2] == 1
        name, head = ("spread", ()) if one else ("spread_heads", (self.head,))
        if name not in self.arrays:
            return None
        return self.arrays[name][(slice(None), self.item, *head)]

    def changes(self) -> list[int]:
        """Frames at which the item has another object than in the frame before."""
        had = self.arrays["matched"][:, self.item]
        return [int(f) + 1 for f in np.flatnonzero(had[1:] != had[:-1])]

    @property
    def lines(self) -> list[tuple[str, str | None]]:
        """The lines beside a map, each with its colour, or SCALE, or None."""
        peak = still.peak_of(self.at("maps"), self.at("peaks"), self.head)
        who = f"{self.head_name}: " if self.arrays["maps"].shape[2] > 1 else ""
        weight = f"{who}heaviest cell {peak:.2f}"
        if (spread := self.spread) is not None:
            weight += f", spread over {spread:.1f} cells"
        if self.notes.get("pick") == "cell":
            row, column = self.cell
            where = f"cell in row {row + 1}, column {column + 1}"
            return [(where, None), (weight, SCALE)]
        lines = [
            (self.item_name, None),
            (self.answer, None if self.at("labels") is None else self.colour()),
            (self.match + self._changed, None),
            (weight, SCALE),
        ]
        return [line for line in lines if line[0]]

    @property
    def _changed(self) -> str:
        if "flat" not in self.notes:
            return ""
        times = len(self.changes())
        return f"; ◆ {times} time{'s' * (times != 1)}"

    def _class(self, label: int) -> str:
        names = self.notes.get("names")
        return names[int(label)] if names else f"class {int(label)}"
