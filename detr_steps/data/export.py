"""Drawn scenes as a COCO-format folder, for any other tool (chapter 00)."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .masks import encode_mask, tight_box
from .panoptic_files import ids_to_rgb
from .scenes import SceneBatch, Scenes

AT_ONCE = 64  # scenes drawn together
LICENCE = {
    "id": 1,
    "name": "CC BY 4.0",
    "url": "https://creativecommons.org/licenses/by/4.0/",
}


def export(
    source: Scenes,
    folder: Path | str,
    indices: Sequence[int],
    *,
    overwrite: bool = False,
) -> Path:
    """Write scenes as images/*.png, annotations/instances.json and panoptic files.

    Boxes are [x, y, width, height] in pixels, masks RLE, areas visible pixels.
    Category ids start at 1: things first, then stuff. annotations/panoptic.json
    belongs to panoptic/*.png, whose colours are ids R + 256 G + 65536 B. The folder
    appears whole or not at all, and the same call writes the same bytes.

    Raises: FileExistsError when the folder is not empty and `overwrite` is not given.
    """
    folder = Path(folder)
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        if not overwrite:
            raise FileExistsError(
                f"{folder} exists and is not empty: choose another folder or overwrite"
            )
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    try:
        _write(source, partial, list(indices))
        _replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _replace(new: Path, folder: Path) -> None:
    """Put a finished folder in the place of an old one, never mixing the two."""
    old = folder.with_name(f".{folder.name}.old-{os.getpid()}")
    if folder.exists():
        folder.rename(old)
    try:
        new.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    if old.is_dir():
        shutil.rmtree(old)
    else:
        old.unlink(missing_ok=True)


def _write(source: Scenes, folder: Path, indices: list[int]) -> None:
    for name in ("images", "annotations", "panoptic"):
        (folder / name).mkdir(parents=True)
    instances, panoptic = _head(source), _head(source, stuff=True)
    for begin in range(0, len(indices), AT_ONCE):
        scenes = source.draw(indices[begin : begin + AT_ONCE])
        for row in range(len(scenes.targets)):
            _write_scene(scenes, row, folder, instances, panoptic)
    _write_json(folder / "annotations" / "instances.json", instances)
    _write_json(folder / "annotations" / "panoptic.json", panoptic)


def _head(source: Scenes, stuff: bool = False) -> dict[str, Any]:
    things = [(name, "thing", 1) for name in source.class_names]
    others = [(name, "stuff", 0) for name in source.stuff_names] if stuff else []
    categories = [
        {"id": number, "name": name, "supercategory": kind}
        | ({"isthing": isthing} if stuff else {})
        for number, (name, kind, isthing) in enumerate(things + others, start=1)
    ]
    described = f"Scenes, {source.split} split, {source.size} px, seed {source.seed}"
    return {
        "info": {"description": described, "version": "1"},  # of the drawings
        "licenses": [LICENCE],
        "images": [],
        "annotations": [],
        "categories": categories,
    }


def _write_scene(
    scenes: SceneBatch, row: int, folder: Path, instances: dict, panoptic: dict
) -> None:
    target = scenes.targets[row]
    number, (height, width) = target["image_id"], target["size"]
    name = f"{number:012d}.png"
    rgb = scenes.rgb[row].mul(255).round().byte().permute(1, 2, 0)  # [H, W, 3]
    Image.fromarray(rgb.cpu().numpy()).save(folder / "images" / name)
    image = {"id": number, "file_name": name, "height": height, "width": width}
    image["license"] = LICENCE["id"]
    instances["images"].append(image)
    panoptic["images"].append(image)
    masks = scenes.masks(row).cpu().numpy()  # [n, H, W]
    for annotation in _instances(target, masks):
        # ids from 1 in the whole file: to pycocotools 0 means "no object"
        annotation = {"id": len(instances["annotations"]) + 1, **annotation}
        instances["annotations"].append(annotation)
    stuff = scenes.stuff[row].cpu().numpy()  # [H, W]
    things = sum("isthing" in c and c["isthing"] for c in panoptic["categories"])
    ids, segments = _panoptic(target, masks, stuff, things)
    Image.fromarray(ids_to_rgb(ids)).save(folder / "panoptic" / name)
    panoptic["annotations"].append(
        {"image_id": number, "file_name": name, "segments_info": segments}
    )


def _instances(target: dict[str, Any], masks: np.ndarray) -> Iterator[dict[str, Any]]:
    for label, mask in zip(target["labels"].tolist(), masks):
        yield {
            "image_id": target["image_id"],
            "category_id": label + 1,
            "bbox": tight_box(mask),
            "area": int(mask.sum()),
            "iscrowd": 0,
            "segmentation": encode_mask(mask),
        }


def _panoptic(
    target: dict[str, Any], masks: np.ndarray, stuff: np.ndarray, things: int
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Segment ids [H, W] of one image and what each segment is."""
    background = ~masks.any(axis=0)
    kinds = np.unique(stuff[background]).tolist()
    labels = target["labels"].tolist()
    categories = [label + 1 for label in labels] + [things + 1 + k for k in kinds]
    regions = [*masks, *(background & (stuff == kind) for kind in kinds)]
    ids = np.zeros(stuff.shape, dtype=np.int64)
    segments = []
    for number, (category, region) in enumerate(zip(categories, regions), start=1):
        ids[region] = number
        segments.append(
            {
                "id": number,
                "category_id": category,
                "area": int(region.sum()),
                "bbox": tight_box(region),
                "iscrowd": 0,
            }
        )
    return ids, segments


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
