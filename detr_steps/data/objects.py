"""The annotations of a COCO-format file, one by one: which can be used, and how."""

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from .ids import ById, whole_number
from .masks import BadMask, check_segmentation
from .problems import EDGE_ROUNDING, Problem, quoted

EMPTY_SIDE = 0.01  # pixels: a box with a shorter side is empty

Box = tuple[float, float, float, float]


class Row(NamedTuple):
    """One object: box (x0 y0 x1 y1), area, both in pixels, category id, crowd, mask."""

    box: Box
    area: float
    category: int
    crowd: bool
    segmentation: Any


@dataclass
class Image:
    """One entry of `images`, with the objects on it.

    `id` as the file writes it; `file` relative to the folder of pictures; `size`
    (H, W) or None where nothing tells it; `number` what stands for the id.
    """

    id: int | float | str
    file: str
    size: tuple[int, int] | None
    present: bool = True
    number: int | None = None
    rows: list[Row] = field(default_factory=list)


class Objects:
    """Hands each annotation to its image, or notes why it cannot be used."""

    def __init__(
        self,
        images: ById[Image],
        categories: ById[int | None],
        names: dict[int, str],
        problems: list[Problem],
    ) -> None:
        self.images, self.categories, self.names = images, categories, names
        self.problems = problems
        self.seen: dict[Any, tuple] = {}  # annotation id -> what it was
        self.raw_boxes: list[Box] = []
        self.raw_sizes: list[tuple[int, int]] = []

    def add(self, annotation: Any) -> None:
        """Take one annotation, or note why not."""
        if not isinstance(annotation, dict):
            return self._note("bad box", "", None, quoted(annotation))
        number = _annotation_id(annotation.get("id"))
        image = self.images.find(annotation.get("image_id"))
        if image is None or image.size is None:
            file = image.file if image else ""
            detail = _unknown("image", annotation.get("image_id"), self.images)
            return self._note("unknown image", file, number, detail)
        category = self.categories.find(annotation.get("category_id"))
        if category is None:
            detail = _unknown(
                "category", annotation.get("category_id"), self.categories
            )
            return self._note("unknown category", image.file, number, detail)
        box = self._box(annotation.get("bbox"), image, number)
        if box is not None and not self._repeated(image, number, category, box):
            self._keep(annotation, image, number, category, box)

    def _note(self, kind: str, file: str, number: int | str | None, detail: str):
        self.problems.append(Problem(kind, file, number, detail))

    def _box(self, bbox: Any, image: Image, number: Any) -> Box | None:
        """Check `[x, y, w, h]` and return it as clipped corners."""
        numbers = [*map(_number, bbox)] if isinstance(bbox, list) else []
        if len(numbers) != 4 or None in numbers:
            detail = f"bbox {quoted(bbox, 60)}"
            return self._note("bad box", image.file, number, detail)
        x, y, w, h = numbers
        if not all(map(math.isfinite, numbers)):
            detail = f"bbox {quoted(bbox, 60)}"
            return self._note("not-a-number box", image.file, number, detail)
        self.raw_boxes.append((x, y, w, h))
        self.raw_sizes.append(image.size)
        return self._clip((x, y, w, h), image, number)

    def _clip(self, box: Box, image: Image, number: Any) -> Box | None:
        (x, y, w, h), (height, width) = box, image.size
        detail = f"x {x:g} y {y:g} w {w:g} h {h:g} in {width}x{height}"
        if w < EMPTY_SIDE or h < EMPTY_SIDE:
            return self._note("empty box", image.file, number, detail)
        clipped = max(x, 0.0), max(y, 0.0), min(x + w, width), min(y + h, height)
        if min(clipped[2] - clipped[0], clipped[3] - clipped[1]) < EMPTY_SIDE:
            return self._note("box outside", image.file, number, detail)
        over = max(-x, -y, x + w - width, y + h - height)
        if over > EDGE_ROUNDING:
            self._note("box over the edge", image.file, number, detail)
        return clipped

    def _repeated(self, image: Image, number: Any, category: int, box: Box) -> bool:
        if number is None:
            return False
        what = (image.id, category, box)
        before = self.seen.setdefault(number, what)
        if before is what:
            return False
        kind = "repeated annotation" if before == what else "duplicate annotation id"
        self._note(kind, image.file, number, "")
        return before == what

    def _keep(
        self, annotation: dict, image: Image, number: Any, category: int, box: Box
    ) -> None:
        crowd = self._crowd(annotation.get("iscrowd"), image, number)
        if crowd:
            self._note("crowd", image.file, number, self.names[category])
        area = self._area(annotation.get("area"), box, image, number)
        mask = self._mask(annotation.get("segmentation"), image, number)
        image.rows.append(Row(box, area, category, crowd, mask))

    def _crowd(self, flag: Any, image: Image, number: Any) -> bool:
        if flag in (1, "1", "true", "True"):  # JSON's true and 1.0 equal 1
            return True
        if flag not in (None, 0, "0", "false", "False", ""):
            detail = f"iscrowd {quoted(flag, 60)}"
            self._note("bad crowd flag", image.file, number, detail)
        return False

    def _area(self, value: Any, box: Box, image: Image, number: Any) -> float:
        area = _number(value)
        if area is not None and 0 < area <= image.size[0] * image.size[1]:
            return area
        if value is not None:
            detail = f"area {quoted(value, 60)}"
            self._note("bad area", image.file, number, detail)
        return (box[2] - box[0]) * (box[3] - box[1])

    def _mask(self, segmentation: Any, image: Image, number: Any) -> Any:
        if not segmentation:
            return None
        try:
            check_segmentation(segmentation, image.size)
        except BadMask as bad:
            return self._note("bad mask", image.file, number, str(bad))
        return segmentation


def _unknown(what: str, value: Any, known: ById) -> str:
    shown = f"{what} {quoted(value, 60)}"
    if len(alike := known.alike(value)) > 1:
        ids = ", ".join(quoted(other, 20) for other in alike[:5])
        return f"{shown} may be any of the ids {ids}"
    return f"{shown} is not listed or not usable"


def _annotation_id(value: Any) -> int | str | None:
    number = whole_number(value) if isinstance(value, int | float) else None
    return value if isinstance(value, str) else number


def _number(value: Any) -> float | None:
    """A number, also written as a text; true is none, and neither is "1_0"."""
    if isinstance(value, bool) or (isinstance(value, str) and "_" in value):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None
