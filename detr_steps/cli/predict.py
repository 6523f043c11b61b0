"""`detr-steps predict IMAGE…`: boxes on a PNG and in a JSON file."""

import argparse
import os
import re
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from PIL import Image
from torch import nn

from .. import experiment, interop
from ..data.panoptic_files import write_panoptic
from ..data.pictures import BadPicture, picture_size, read_picture
from ..data.problems import one_line
from ..detections import Detections
from ..evaluation import result_rows, write_results
from ..files import write_json, write_whole
from ..systems.segmentation import THRESHOLD
from ..training.device import pick_device
from . import segments
from .arguments import new_file, share
from .lettering import lettering, said_once
from .models import add_model, say_how
from .outputs import Outputs, made_for, marks, png_marks
from .pictures import to_batch

MOST_PIXELS = 100_000_000  # of an image file; more is a mistake or an attack
# of a folder; a file that is named is tried whatever its ending
ENDINGS = "jpg jpeg jpe jfif png bmp gif tif tiff webp avif jp2 ppm pgm pnm tga".split()
NUMBER = re.compile(r"(\d{1,15})$", re.ASCII)  # ends the names of COCO's pictures


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `predict`."""
    parser = commands.add_parser(
        "predict",
        help="find objects in image files",
        description="Writes a drawing and a JSON file for each picture, over no file "
        "that it has not made of the same picture itself.",
    )
    parser.add_argument(
        "images", nargs="+", type=Path, metavar="IMAGE", help="file, or folder of files"
    )
    add_model(parser, "--model", "--official", default="detr-tiny")
    parser.add_argument("--out", type=Path, default=Path("predictions"))
    parser.add_argument(
        "--threshold", type=share, help="least score (0.5; with --panoptic 0.85)"
    )
    parser.add_argument(
        "--panoptic",
        action="store_true",
        help="segments of all pixels instead of boxes; the model must have a mask head",
    )
    parser.add_argument(
        "--results",
        type=new_file,
        metavar="FILE",
        help="write COCO's results format: the best 100 of each picture, of any score; "
        "with --panoptic all segments, and a folder of PNGs of that name",
    )
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Predict on each image; a broken one is named and does not stop the others."""
    options.device = pick_device(options.device)
    pictures = pictures_of(options.images)
    outputs = Outputs(options.out, pictures, options.results)
    opened = interop.open_checkpoint(options.model, options.preset, options.device)
    if options.panoptic:
        segments.require_masks(opened, options.model)
    say_how(opened.report)
    numbers = image_ids(pictures) if options.results else {}
    opening = Opening(pictures, outputs, numbers)
    find = _segments if options.panoptic else _boxes
    for line in said_once(find(options, opened, opening)):
        print(line, file=sys.stderr)
    return 1 if opening.failed else 0


def _boxes(
    options: argparse.Namespace, opened: interop.Opened, opening: "Opening"
) -> list[str]:
    """Find boxes in all pictures; the names that were drawn."""
    model, names, rule = opened[:3]
    threshold = 0.5 if options.threshold is None else options.threshold
    job = Job(model, rule, names, _category_ids(opened), threshold)
    for path, picture, place, number in opening:
        count = job.write(path, picture, place, number)
        print(one_line(f"{path}: {count} objects -> {place}.png, {place}.json"))
    if options.results:
        _write_results(options.results, job.rows, opening.numbers)
    return job.drawn


def _segments(
    options: argparse.Namespace, opened: interop.Opened, opening: "Opening"
) -> list[str]:
    """Paint all pictures; the names that were drawn."""
    threshold = THRESHOLD if options.threshold is None else options.threshold
    categories = segments.categories_of(opened, _category_ids(opened))
    job = segments.PaintJob(opened.model, opened.resize, categories, threshold)
    found = segments.answers(job, iter(opening))
    if options.results:
        count = write_panoptic(options.results, found, categories)
        folder = options.results.with_suffix("")
        said = f"segments of {count} pictures -> {options.results}, {folder}"
        print(one_line(f"{said}; image ids: {_ids_are(opening.numbers)}"))
    else:
        deque(found, maxlen=0)  # each is written as it comes
    return job.drawn


@dataclass
class Opening:
    """Opens pictures one by one; broken ones are named, counted, and left out."""

    pictures: list[Path]
    outputs: Outputs
    numbers: dict[Path, int]
    failed: int = 0

    def __iter__(self) -> Iterator[tuple[Path, Image.Image, str, int | None]]:
        """Path, picture, where its results go without an ending, its image id."""
        for path in self.pictures:
            try:
                picture = open_picture(path)
            except (BadPicture, ValueError) as error:
                print(f"left out {error}")
                self.failed += 1
                continue
            yield path, picture, self.outputs.place(path), self.numbers.get(path)


@dataclass
class Job:
    """A model and what it has found so far.

    `rule` and `threshold` as in `predict`; `names` and `category_ids` in label order;
    `rows` of COCO's results; `drawn` the names on pictures.
    """

    model: nn.Module
    rule: tuple[int, int]
    names: list[str]
    category_ids: list[int]
    threshold: float
    rows: list[dict] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)

    def write(
        self, path: Path, picture: Image.Image, place: str, image_id: int | None
    ) -> int:
        """Write `place`.json and `place`.png of one picture; the number of objects."""
        everything = predict(self.model, picture, self.rule, 0.0)
        if image_id is not None:
            self.rows += result_rows(everything, image_id, self.category_ids)
        found = at_least(everything, self.threshold)
        classes = list(zip(self.names, self.category_ids))
        content = as_json(path, picture, found, classes, image_id)
        write_json(Path(f"{place}.json"), content)
        save = partial(
            draw(picture, found, self.names).save,
            format="PNG",
            pnginfo=png_marks(path),
        )
        write_whole(Path(f"{place}.png"), save)
        self.drawn += [each["name"] for each in content["detections"]]
        return len(found.scores)


def _write_results(file: Path, rows: list[dict], numbers: dict[Path, int]) -> None:
    write_results(file, rows)
    said = f"{len(rows)} detections -> {file}; image ids: {_ids_are(numbers)}"
    print(one_line(said))


def _ids_are(numbers: dict[Path, int]) -> str:
    named = all(number == _number(path) for path, number in numbers.items())
    return "the numbers in the file names" if named else "as noted in the JSON files"


def pictures_of(paths: list[Path]) -> list[Path]:
    """The named files, and the pictures in named folders, each once.

    What this tool has drawn before is no picture of a folder. Raises: ValueError for a
    folder without any.
    """
    found: dict[str, Path] = {}
    for path in paths:
        inside = _pictures_in(path) if os.path.isdir(path) else [path]
        if not inside:
            raise ValueError(
                f"{path}: no picture in this folder (folders in it are not looked "
                "through: name them)"
            )
        for each in inside:
            found.setdefault(os.path.abspath(each), each)
    return list(found.values())


def _pictures_in(folder: Path) -> list[Path]:
    return [
        path
        for path in sorted(folder.iterdir())
        if path.suffix[1:].lower() in ENDINGS
        and not path.name.startswith("._")  # macOS's notes beside each file
        and not os.path.isdir(path)
        and made_for(path) is None
    ]


def image_ids(pictures: list[Path]) -> dict[Path, int]:
    """Numbers for COCO's results: those that end the file names, else from 1.

    COCO's own pictures are called by their ids, as `000000000139.jpg`.
    """
    numbers = [_number(path) for path in pictures]
    if None in numbers or len({*numbers}) < len(numbers):
        numbers = list(range(1, len(pictures) + 1))
    return dict(zip(pictures, numbers))


def _number(path: Path) -> int | None:
    found = NUMBER.search(path.stem)
    return int(found[1]) if found else None


def _category_ids(opened: interop.Opened) -> list[int]:
    """Of each label; those of somebody else's checkpoints are their labels."""
    if opened.description is None:
        return list(range(len(opened.class_names)))
    return experiment.category_ids(opened.description)


def open_picture(path: Path) -> Image.Image:
    """Open an image file as upright RGB.

    Raises: BadPicture for a file that is no image; ValueError for a gigantic one.
    """
    height, width = picture_size(path)  # from the header, before any memory
    if height * width > MOST_PIXELS:
        raise ValueError(
            f"{path}: {width} x {height} pixels, more than {MOST_PIXELS:,}: scale it"
        )
    return read_picture(path)


def predict(
    model: nn.Module,
    picture: Image.Image,
    rule: tuple[int, int],
    threshold: float = 0.5,
) -> Detections:
    """Detect objects of at least a score in one image, boxes in its own pixels.

    `rule`: short side the image is scaled to and longest side allowed, in pixels.
    """
    batch = to_batch(model, picture, rule)
    found = model.detect(batch, [(picture.height, picture.width)])[0]
    keep = found.scores >= threshold
    return Detections(*(part[keep].cpu() for part in found))


def at_least(found: Detections, threshold: float) -> Detections:
    """Those of at least a score."""
    keep = found.scores >= threshold
    return Detections(*(part[keep] for part in found))


def as_json(
    path: Path,
    picture: Image.Image,
    found: Detections,
    classes: list[tuple[str, int]],
    image_id: int | None = None,
) -> dict:
    """Detections as plain values: boxes xyxy in pixels; `classes` (name, COCO id)."""
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
    numbered = {} if image_id is None else {"image_id": image_id}
    return {
        "image": one_line(path.name),
        **numbered,
        "width": picture.width,
        "height": picture.height,
        **marks(path),
        "detections": [
            {
                "box": [round(x, 2) for x in box],
                "score": round(score, 4),
                "label": label,
                "category_id": classes[label][1],
                "name": one_line(classes[label][0]),
            }
            for box, score, label in rows
        ],
    }


def draw(picture: Image.Image, found: Detections, names: list[str]) -> Image.Image:
    """Paint boxes and names, in any script, on a copy of the image, at its own size."""
    from PIL import ImageDraw

    from ..viz import COLOURS

    picture = picture.copy()
    pen = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) / 300))
    size = max(10, round(max(picture.size) / 55))
    for box, score, label in zip(found.boxes.tolist(), found.scores, found.labels):
        colour = COLOURS[int(label) % len(COLOURS)]
        pen.rectangle(box, outline=colour, width=width)
        text = lettering(f"{names[int(label)]} {float(score):.2f}")
        long = text.width(size)
        x = max(0, min(box[0], picture.width - long))  # all of it on the picture
        y = max(0, box[1] - size - 2 * width)
        pen.rectangle((x, y, x + long, y + 1.25 * size), fill=colour)
        text.draw(pen, (x, y), size, "white")
    return picture
