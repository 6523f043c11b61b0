"""`detr-steps predict IMAGE…`: boxes on a PNG and in a JSON file."""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from .. import interop
from ..data.pictures import BadPicture, picture_size, picture_tensor, read_picture
from ..data.transforms import Augment, Sample
from ..detections import Detections
from ..files import write_json, write_whole
from ..images import ImageBatch, normalise
from .models import add_model, say_how

MOST_PIXELS = 100_000_000  # of an image file; more is a mistake or an attack


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `predict`."""
    parser = commands.add_parser("predict", help="find objects in image files")
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE")
    add_model(parser, "--model", "--official", default="detr-tiny")
    parser.add_argument("--out", type=Path, default=Path("predictions"))
    parser.add_argument("--threshold", type=float, default=0.5, help="least score")
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Predict on each image; a broken one is named and does not stop the others."""
    model, names, rule = _model(options)
    failed = 0
    for path in options.images:
        try:
            picture = open_picture(path)
            found = predict(model, picture, rule, options.threshold)
        except (BadPicture, ValueError) as error:
            print(f"left out {error}")
            failed += 1
            continue
        target = options.out / path.stem
        write_json(target.with_suffix(".json"), as_json(path, found, names))
        drawn = draw(picture, found, names)
        write_whole(target.with_suffix(".png"), partial(drawn.save, format="PNG"))
        print(f"{path}: {len(found.scores)} objects -> {target}.png, .json")
    return 1 if failed else 0


def _model(
    options: argparse.Namespace,
) -> tuple[nn.Module, list[str], tuple[int, int]]:
    model, names, rule, report, _ = interop.open_checkpoint(
        options.model, options.preset, options.device
    )
    say_how(report)
    return model, names, rule


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
    sample = Sample.start(picture, np.zeros((0, 4)))
    sample = Augment.none(*rule)(sample, np.random.default_rng(0))
    device = next(model.parameters()).device
    pixels = normalise(picture_tensor(sample.picture))
    batch = ImageBatch.from_list([pixels]).to(device)
    found = model.detect(batch, [(picture.height, picture.width)])[0]
    keep = found.scores >= threshold
    return Detections(*(part[keep].cpu() for part in found))


def as_json(path: Path, found: Detections, names: list[str]) -> dict:
    """Detections as plain values: boxes xyxy in pixels."""
    rows = zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist())
    return {
        "image": path.name,
        "detections": [
            {
                "box": [round(x, 2) for x in box],
                "score": round(score, 4),
                "label": label,
            }
            | {"name": names[label] if label < len(names) else str(label)}
            for box, score, label in rows
        ],
    }


def draw(picture: Image.Image, found: Detections, names: list[str]) -> Image.Image:
    """Paint boxes and names on a copy of the image, at its own size."""
    from PIL import ImageDraw, ImageFont

    from ..viz import COLOURS

    picture = picture.copy()
    pen = ImageDraw.Draw(picture)
    width = max(2, round(max(picture.size) / 300))
    font = ImageFont.load_default(max(10, round(max(picture.size) / 55)))
    for box, score, label in zip(found.boxes.tolist(), found.scores, found.labels):
        colour = COLOURS[int(label) % len(COLOURS)]
        pen.rectangle(box, outline=colour, width=width)
        text = f"{names[int(label)]} {float(score):.2f}"
        place = (box[0], max(0, box[1] - font.size - 2 * width))
        pen.rectangle(pen.textbbox(place, text, font=font), fill=colour)
        pen.text(place, text, fill="white", font=font)
    return picture
