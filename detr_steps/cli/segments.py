"""What `predict --panoptic` and `evaluate --panoptic` do: segments of all pixels."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from torch import nn

from .. import experiment, interop
from ..data.panoptic_files import Answer, PanopticFiles
from ..data.panoptic_folder import PanopticFolder
from ..data.panoptic_scenes import PanopticScenes
from ..data.problems import one_line
from ..data.transforms import Augment
from ..detections import Panoptic, Segment
from ..evaluation.names import is_class, match_names
from ..files import write_json, write_whole
from ..systems.panoptic import PanopticDETR
from .lettering import lettering
from .outputs import marks, png_marks
from .pictures import to_batch

OPACITY = 0.55  # of a segment's colour over the picture


def require_masks(opened: interop.Opened, source: object) -> None:
    """Raise ValueError, with the cure, for a model that paints no masks."""
    if not isinstance(opened.model, PanopticDETR):
        raise ValueError(
            f"{source} is a {type(opened.model).__name__}, which paints no masks: "
            "leave out --panoptic, or name a panoptic model"
        )


def categories_of(opened: interop.Opened, ids: list[int]) -> list[dict | None]:
    """COCO's entry of each label, None for a label that is no class."""
    things = opened.model.config.things
    return [
        {
            "id": number,
            "name": name,
            "supercategory": "thing" if label < things else "stuff",
            "isthing": int(label < things),
        }
        if is_class(name)
        else None
        for label, (name, number) in enumerate(zip(opened.class_names, ids))
    ]


@dataclass
class PaintJob:
    """A model that paints, and what it wrote so far; as `predict.Job` for boxes.

    `categories` in label order; `drawn` the names on pictures.
    """

    model: nn.Module
    rule: tuple[int, int]
    categories: list[dict | None]
    threshold: float
    drawn: list[str] = field(default_factory=list)

    def name(self, label: int) -> str:
        """What a label is called."""
        category = self.categories[label]
        return f"(no {label})" if category is None else category["name"]

    def write(
        self, path: Path, picture: Image.Image, place: str, image_id: int | None
    ) -> Panoptic:
        """Write `place`.json and `place`.png of one picture; what was found in it."""
        batch = to_batch(self.model, picture, self.rule)
        size = (picture.height, picture.width)
        (found,) = self.model.panoptic(batch, [size], self.threshold)
        content = self._as_json(path, found, image_id)
        write_json(Path(f"{place}.json"), content)
        image = paint(picture, found, self.name)
        save = partial(image.save, format="PNG", pnginfo=png_marks(path))
        write_whole(Path(f"{place}.png"), save)
        self.drawn += [each["name"] for each in content["segments"]]
        return found

    def _as_json(self, path: Path, found: Panoptic, image_id: int | None) -> dict:
        numbered = {} if image_id is None else {"image_id": image_id}
        height, width = found.ids.shape
        return {
            "image": one_line(path.name),
            **numbered,
            "width": width,
            "height": height,
            **marks(path),
            "segments": [self._row(segment) for segment in found.segments],
        }

    def _row(self, segment: Segment) -> dict:
        category = self.categories[segment.label] or {}
        return {
            "id": segment.id,
            "score": round(segment.score, 4),
            "area": segment.area,
            "label": segment.label,
            "category_id": category.get("id"),
            "isthing": bool(category.get("isthing")),
            "name": one_line(self.name(segment.label)),
        }


def answers(
    job: PaintJob, pictures: Iterator[tuple[Path, Image.Image, str, int | None]]
) -> Iterator[Answer]:
    """Paint pictures one by one, say so, and hand on what was found."""
    for path, picture, place, number in pictures:
        found = job.write(path, picture, place, number)
        count = len(found.segments)
        print(one_line(f"{path}: {count} segments -> {place}.png, {place}.json"))
        yield Answer(number, one_line(path.name), found)


def paint(picture: Image.Image, found: Panoptic, name) -> Image.Image:
    """Lay the colours of all segments over a copy of the image, with their names.

    Stuff has the colour of its class, a thing one of its own; edges are white.
    """
    from ..viz import COLOURS

    pixels, ids = np.array(picture, dtype=np.float32), found.ids.numpy()
    for segment in found.segments:
        # a number per segment: neighbours of one class must not run together
        colour = Image.new("RGB", (1, 1), COLOURS[segment.id % len(COLOURS)])
        mask = ids == segment.id
        tint = np.array(colour.getpixel((0, 0)), dtype=np.float32)
        pixels[mask] = (1 - OPACITY) * pixels[mask] + OPACITY * tint
    edge = np.zeros_like(ids, dtype=bool)
    edge[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    edge[1:] |= ids[1:] != ids[:-1]
    pixels[edge] = 255
    image = Image.fromarray(pixels.round().astype(np.uint8))
    _write_names(image, found, name)
    return image


def _write_names(image: Image.Image, found: Panoptic, name) -> None:
    pen = ImageDraw.Draw(image)
    size = max(10, round(max(image.size) / 55))
    for segment in found.segments:
        y, x = middle(found.ids.numpy() == segment.id)
        text = lettering(f"{name(segment.label)} {segment.score:.2f}")
        long = text.width(size)
        x = max(0, min(x - long / 2, image.width - long))  # all of it on the picture
        y = max(0, min(y - size / 2, image.height - 1.25 * size))
        pen.rectangle((x, y, x + long, y + 1.25 * size), fill="black")
        text.draw(pen, (x, y), size, "white")


def middle(mask: np.ndarray) -> tuple[int, int]:
    """A pixel (y, x) of a mask, near its middle: the middle itself may be outside."""
    at = np.argwhere(mask)
    return tuple(at[((at - at.mean(0)) ** 2).sum(1).argmin()].tolist())


def panoptic_data(
    pair: experiment.Pair | None, opened: interop.Opened, source: object
) -> PanopticFolder | PanopticScenes:
    """What to score segments on: a folder and its panoptic JSON, or the run's own.

    Raises: ValueError with the cure where there is no such ground truth.
    """
    if pair is None:
        described = (opened.description or {}).get("validation", {})
        if described.get("kind") != PanopticScenes.__name__:
            raise ValueError(
                f"{source} says of no panoptic ground truth: add --data IMAGES JSON "
                "(COCO: --data val2017 annotations/panoptic_val2017.json)"
            )
        return experiment.open_data(opened.description)[1]
    images, file = pair
    files = PanopticFiles(file)
    used = {label for each in files.images for label, _ in each.segments.values()}
    there = [label in used for label in range(len(files.class_names))]
    try:
        labels = match_names(files.class_names, opened.class_names, there)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    return PanopticFolder(
        images,
        files,
        augment=Augment.none(*opened.resize),
        labels=labels,
        class_names=opened.class_names,
        things=opened.model.config.things,
    )
