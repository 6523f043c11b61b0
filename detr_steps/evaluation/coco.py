"""Average precision as COCO defines it (chapters/02_detr.ipynb)."""

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import Tensor, distributed, nn

from ..boxes import cxcywh_to_xyxy
from ..data.dataset import Batches, Dataset
from ..distributed import world
from .names import distinct

ALL, SMALL, MEDIUM, LARGE = range(4)  # area ranges, in COCOeval's order
MOST = 100  # detections of an image that count, the best ones


class HasDetections(Protocol):
    """What a model found in one image, `d` boxes."""

    boxes: Tensor  # [d, 4] x0 y0 x1 y1 in pixels of the original image
    scores: Tensor  # [d]
    labels: Tensor  # [d] 0 to classes - 1


def coco_ap(
    detections: Sequence[HasDetections],
    targets: Sequence[dict[str, Any]],
    class_names: Sequence[str],
    *,
    area_limits: tuple[float, float] = (32, 96),
) -> dict[str, Any]:
    """Score detections of a list of images with pycocotools.

    `targets` one dict per image: `boxes` [n, 4] cx cy w h in [0, 1], `labels` [n],
    `size` (H, W) in pixels, and where known `area` [n] in pixels and `iscrowd` [n]
    (a detection on a crowd is neither hit nor false alarm). `area_limits`: sides in
    pixels of the squares that part small, medium and large objects.

    Returns AP, AP50, AP75, AP_S, AP_M, AP_L, AR_100 in [0, 1] and `per_class` (name to
    AP; names that several classes share are numbered, as `names.distinct` does). A
    number is None where there is no object to find (none at all, of that size, of that
    class), and 0.0 where there are objects and nothing was found.

    Raises: ValueError for lists of different length, a label outside the classes, or
    a box or score that is not finite.
    Source: cocodataset.org, detection evaluation. Built in chapters/02_detr.ipynb.
    """
    if len(detections) != len(targets):
        raise ValueError(
            f"{len(detections)} images with detections, {len(targets)} with targets"
        )
    truth = [_target_rows(i, *pair) for i, pair in _with(targets, class_names)]
    found = [_detection_rows(i, *pair) for i, pair in _with(detections, class_names)]
    return average_precision(truth, found, class_names, area_limits)


def average_precision(
    truth: list[list[dict]],
    found: list[list[dict]],
    class_names: Sequence[str],
    area_limits: tuple[float, float],
    kind: str = "bbox",
) -> dict[str, Any]:
    """The numbers of `coco_ap` from COCO records of each image; `kind` bbox or segm."""
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints as it goes
        precision, recall = _score(truth, found, len(class_names), area_limits, kind)
    return _summary(precision, recall, class_names)


def _with(items: Sequence, class_names: Sequence[str]):
    return enumerate((item, len(class_names)) for item in items)


def _target_rows(image: int, target: dict[str, Any], classes: int) -> list[dict]:
    height, width = target["size"]
    boxes = cxcywh_to_xyxy(target["boxes"].detach().cpu().double())  # [n, 4]
    boxes = boxes * boxes.new_tensor((width, height, width, height))
    rows = _rows(image, boxes, target["labels"], classes, "target")
    for key, name in (("area", "area"), ("iscrowd", "iscrowd")):
        for row, value in zip(rows, _listed(target.get(key, ()))):
            row[name] = value
    return rows


def _detection_rows(image: int, found: HasDetections, classes: int) -> list[dict]:
    scores = found.scores.detach().cpu().double()
    if not torch.isfinite(scores).all():
        raise ValueError(f"detections of image {image} have a score that is not finite")
    boxes = found.boxes.detach().cpu().double()
    rows = _rows(image, boxes, found.labels, classes, "detection")
    for row, score in zip(rows, scores.tolist()):
        row["score"] = score
    return rows


def _listed(values: Any) -> list:
    return values.tolist() if hasattr(values, "tolist") else list(values)


def _rows(
    image: int, boxes: Tensor, labels: Tensor, classes: int, what: str
) -> list[dict]:
    """COCO records of one image from corner boxes in pixels."""
    if not torch.isfinite(boxes).all():
        raise ValueError(f"{what} of image {image} has a box that is not finite")
    numbers = _listed(labels)
    if any(not 0 <= label < classes for label in numbers):
        wrong = max(numbers, key=abs)
        raise ValueError(
            f"{what} of image {image} has label {wrong}, but there are only "
            f"{classes} classes (0 to {classes - 1})"
        )
    sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=0)  # [n, 2]
    records = torch.cat((boxes[:, :2], sides), dim=1).tolist()
    return [
        {
            "image_id": image,
            "category_id": label,
            "bbox": box,
            "area": box[2] * box[3],
            "iscrowd": 0,
        }
        for box, label in zip(records, numbers)
    ]


def _score(
    truth: list[list[dict]],
    found: list[list[dict]],
    classes: int,
    area_limits: tuple[float, float],
    kind: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Precision [T, R, K, A] and recall [T, K, A]; -1 where there is no object."""
    images, categories = len(truth), max(classes, 1)
    run = COCOeval(
        _data_set(truth, images, categories),
        _data_set(found, images, categories),
        kind,
    )
    small, medium = (side**2 for side in area_limits)
    far = 1e10
    run.params.areaRng = [[0, far], [0, small], [small, medium], [medium, far]]
    run.params.maxDets = [MOST]
    run.evaluate()
    run.accumulate()
    return run.eval["precision"][..., 0], run.eval["recall"][..., 0]


def _data_set(rows: list[list[dict]], images: int, classes: int) -> COCO:
    data = COCO()
    flat = [row for image in rows for row in image]
    for number, row in enumerate(flat, start=1):  # to COCOeval, id 0 means "no match"
        row["id"] = number
    data.dataset = {
        # sizes are asked for, though run lengths have their own
        "images": [{"id": i, "height": 0, "width": 0} for i in range(images)],
        "categories": [{"id": i} for i in range(classes)],
        "annotations": flat,
    }
    data.createIndex()
    return data


def _summary(
    precision: np.ndarray, recall: np.ndarray, class_names: Sequence[str]
) -> dict[str, Any]:
    per_class = {
        name: _mean(precision[:, :, k, ALL])
        for k, name in enumerate(distinct(class_names))
    }
    return {
        "AP": _mean(precision[..., ALL]),
        "AP50": _mean(precision[0, ..., ALL]),
        "AP75": _mean(precision[5, ..., ALL]),
        "AP_S": _mean(precision[..., SMALL]),
        "AP_M": _mean(precision[..., MEDIUM]),
        "AP_L": _mean(precision[..., LARGE]),
        "AR_100": _mean(recall[..., ALL]),
        "per_class": per_class,
    }


def _mean(values: np.ndarray) -> float | None:
    known = values[values > -1]
    return float(known.mean()) if known.size else None


def evaluate(
    model: nn.Module,
    data: Dataset,
    *,
    batch: int = 32,
    limit: int | None = None,
    device: torch.device | str | None = None,
) -> dict[str, Any]:
    """Run a model over the evaluation images of `data` and score it with `coco_ap`.

    `batch` images at a time in each process; `limit` only so many images; `device`
    where the model's parameters are by default. The model's training mode is put
    back. Under torch.distributed every process takes its share of the images and all
    return the same numbers. A model that paints masks is scored on these as well, as
    `evaluate_panoptic` says.

    Raises: ValueError as `coco_ap`.
    """
    paints = hasattr(getattr(model, "module", model), "panoptic")
    if paints and hasattr(data, "things"):
        from .panoptic import evaluate_panoptic  # it stands on this module

        return evaluate_panoptic(model, data, batch=batch, limit=limit, device=device)
    pairs = detect(model, data, batch=batch, limit=limit, device=device)
    if world()[1] > 1:
        return _score_together(pairs, data, world()[1])
    return score(pairs, data)


def detect(
    model: nn.Module,
    data: Dataset,
    *,
    batch: int = 32,
    limit: int | None = None,
    device: torch.device | str | None = None,
) -> list[tuple[HasDetections, dict]]:
    """What a model finds in the evaluation images of `data`, each with its target.

    Under torch.distributed those of this process's share; arguments as of `evaluate`.
    """
    rank, processes = world()
    model = getattr(model, "module", model)  # what DistributedDataParallel wraps
    device = device or next(model.parameters()).device
    was_training = model.training
    model.eval()
    try:
        return _detect_all(
            model,
            data.evaluation_batches(
                batch, limit, device=device, rank=rank, world=processes
            ),
        )
    finally:
        model.train(was_training)


@torch.no_grad()
def _detect_all(model: nn.Module, batches: Batches) -> list[tuple[Any, dict]]:
    pairs = []
    for images, targets in batches:
        found = model.detect(images, [target["size"] for target in targets])
        pairs += zip((Found(one) for one in found), targets)
    return pairs


class Found:
    """Detections on the CPU, so that they can travel between processes."""

    def __init__(self, found: HasDetections) -> None:
        self.boxes = found.boxes.cpu()
        self.scores = found.scores.cpu()
        self.labels = found.labels.cpu()


def score(pairs: list[tuple[HasDetections, dict]], data: Dataset) -> dict[str, Any]:
    """Score what `detect` has found, as `coco_ap` does."""
    limits = getattr(data, "area_limits", (32, 96))
    detections, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return coco_ap(detections, targets, data.class_names, area_limits=limits)


def _score_together(pairs: list, data: Dataset, processes: int) -> dict[str, Any]:
    shares: list[Any] = [None] * processes
    distributed.all_gather_object(shares, pairs)
    answer: list[Any] = [None]
    if distributed.get_rank() == 0:
        everything = [pair for share in shares for pair in share]
        # one order whatever the number of processes: it breaks ties between scores
        everything.sort(key=lambda pair: pair[1]["image_id"])
        try:
            answer = [score(everything, data)]
        except Exception as error:  # tell the others, they are waiting
            answer = [error]
    distributed.broadcast_object_list(answer, src=0)
    if isinstance(answer[0], Exception):
        raise answer[0]
    return answer[0]
