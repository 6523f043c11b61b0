"""Detections in COCO's results format, which pycocotools and the COCO server take."""

import json
import os
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..files import write_whole
from .coco import MOST, HasDetections


def result_rows(
    found: HasDetections, image_id: Hashable, category_ids: Sequence[Any]
) -> list[dict[str, Any]]:
    """The best 100 detections of one image, one dict each, best first.

    `bbox` x y w h in pixels; `category_ids[label]`, None where a label has none: what
    bears it is left out. Source: cocodataset.org, results format.
    """
    boxes = found.boxes.detach().cpu().double()
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)  # [n, 2]
    scores, labels = found.scores.tolist(), found.labels.tolist()
    rows = zip(boxes[:, :2].tolist(), sides.tolist(), scores, labels)
    best = sorted(rows, key=lambda row: row[2], reverse=True)[:MOST]
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[label],
            "bbox": [round(value, 3) for value in (*corner, *side)],
            "score": round(score, 6),
        }
        for corner, side, score, label in best
        if category_ids[label] is not None
    ]


def results_of(
    pairs: Iterable[tuple[HasDetections, dict]], data: object
) -> list[dict[str, Any]]:
    """Rows of all images of `evaluation.detect`, with the ids of the data's file.

    Of drawn Scenes those of `detr-steps data export`: categories from 1.
    """
    usual = list(range(1, len(data.class_names) + 1))
    categories: Sequence[Any] = getattr(data, "category_ids", usual)
    images: Mapping[Any, Any] = getattr(data, "image_ids", {})
    rows = []
    for found, target in pairs:
        number = target["image_id"]
        rows += result_rows(found, images.get(number, number), categories)
    return rows


def write_results(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write rows as JSON, one detection a line, whole or not at all.

    Raises: FileExistsError, for such a file bears no sign of who made it.
    """
    if os.path.lexists(path):
        raise FileExistsError(f"{path} is there already: remove it, or name another")
    lines = ",\n".join(json.dumps(row) for row in rows)
    text = f"[\n{lines}\n]\n" if rows else "[]\n"
    write_whole(Path(path), lambda part: part.write_text(text, encoding="utf-8"))
