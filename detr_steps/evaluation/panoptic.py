"""A model that paints masks, scored: boxes, masks and segments from one forward pass.

Built in chapters/03_panoptic.ipynb.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import distributed, nn

from ..data.dataset import Batches, Dataset
from ..data.panoptic_files import ids_of
from ..detections import Panoptic
from ..distributed import world
from ..systems import segmentation
from .coco import Found, score
from .mask_ap import Rows, found_rows, mask_ap, true_rows
from .panoptic_quality import Counts, PanopticPair, count, merge, summarise


class PanopticDataset(Dataset, Protocol):
    """Targets have `masks [n, H, W]` bool at the size of the original image."""

    things: int  # labels below it can be counted


class _One(NamedTuple):
    """What was found in one image, small enough to travel between processes."""

    boxes: Found
    target: dict
    counts: Counts
    true_masks: Rows
    found_masks: Rows


def panoptic_pair(found: Panoptic, target: dict, name: str) -> PanopticPair:
    """An answer and the truth, as `panoptic_quality` takes them.

    The true masks must not overlap; pixels in none of them are void.
    Raises: ValueError with the image's `name`.
    """
    masks, labels = target["masks"].cpu().numpy(), target["labels"].tolist()
    crowds = target.get("iscrowd", [False] * len(labels))
    truth = {n + 1: (labels[n], bool(crowds[n])) for n in range(len(labels))}
    classes = {segment.id: segment.label for segment in found.segments}
    return PanopticPair(found.ids.numpy(), classes, ids_of(masks, name), truth)


def evaluate_panoptic(
    model: nn.Module,
    data: PanopticDataset,
    *,
    batch: int = 8,
    limit: int | None = None,
    device: torch.device | str | None = None,
    threshold: float = segmentation.THRESHOLD,
) -> dict[str, Any]:
    """Run a `PanopticDETR` over the evaluation images of `data` and score everything.

    The numbers of `evaluate`, stuff boxes counted like those of things; `mask_AP`,
    `mask_AP50`, `mask_AP75` and `mask_AP_S`, `_M`, `_L` of the things' masks; `PQ`,
    `SQ`, `RQ` of all classes, `PQ_things`, `PQ_stuff` and so on. `threshold` of the
    panoptic answer. Under torch.distributed every process takes its share of the images
    and all return the same numbers.
    Raises: ValueError as `panoptic_quality` and `coco_ap`.
    """
    rank, processes = world()
    model = getattr(model, "module", model)
    device = device or next(model.parameters()).device
    batches = data.evaluation_batches(
        batch, limit, device=device, rank=rank, world=processes
    )
    found = _see(model, batches, data.things, threshold)
    if processes > 1:
        shares: list[Any] = [None] * processes
        distributed.all_gather_object(shares, found)
        found = [one for share in shares for one in share]
        # one order whatever the number of processes: it breaks ties between scores
        found.sort(key=lambda one: one.target["image_id"])
    return _score(found, data)


@torch.no_grad()
def pairs_at(
    model: nn.Module,
    data: PanopticDataset,
    thresholds: Sequence[float],
    *,
    batch: int = 8,
    limit: int | None = None,
    device: torch.device | str | None = None,
) -> dict[float, list[PanopticPair]]:
    """Answers and truth at several thresholds, from one forward pass.

    For each of `thresholds` a list of the images, as `panoptic_quality` takes it. All
    stay in memory: for some hundreds of small images. Raises: as `panoptic_pair`.
    Built in chapters/03_panoptic.ipynb.
    """
    device = device or next(model.parameters()).device
    pairs: dict[float, list[PanopticPair]] = {each: [] for each in thresholds}
    for images, targets in data.evaluation_batches(batch, limit, device=device):
        sizes = [target["size"] for target in targets]
        output = model.predict(images, sizes)
        frames = segmentation.frames(images, sizes)
        for threshold, into in pairs.items():
            found = segmentation.panoptic(model, output, frames, threshold)
            into += [
                panoptic_pair(answer, target, f"image {target['image_id']}")
                for answer, target in zip(found, targets)
            ]
    return pairs


@torch.no_grad()
def _see(
    model: nn.Module, batches: Batches, things: int, threshold: float
) -> list[_One]:
    seen = []
    for images, targets in batches:
        sizes = [target["size"] for target in targets]
        output, frames = (
            model.predict(images, sizes),
            segmentation.frames(images, sizes),
        )
        answers = zip(
            model.detections(output, sizes),
            segmentation.panoptic(model, output, frames, threshold),
            segmentation.instances(model, output, frames, threshold=0.0),
            targets,
        )
        seen += [_one(*each, things) for each in answers]
    return seen


def _one(boxes, answer, instances, target: dict, things: int) -> _One:
    name = f"image {target['image_id']}"
    rows = true_rows(target, things), found_rows(instances)
    small = {key: value for key, value in target.items() if key != "masks"}
    counts = count(panoptic_pair(answer, target, name), name)
    return _One(Found(boxes), small, counts, *rows)


def _score(found: Sequence[_One], data: PanopticDataset) -> dict[str, Any]:
    total: Counts = {}
    for one in found:
        merge(total, one.counts)
    names, limits = data.class_names[: data.things], data.area_limits
    rows = ([one.true_masks for one in found], [one.found_masks for one in found])
    masks = mask_ap(*rows, names, area_limits=limits)
    quality = flat(summarise(total, range(data.things)))
    masks = {f"mask_{k}": v for k, v in masks.items() if k.startswith("AP")}
    return score([(one.boxes, one.target) for one in found], data) | masks | quality


def flat(quality: dict[str, Any]) -> dict[str, float | None]:
    """The three groups of `panoptic_quality` under one name each: `PQ`, `PQ_things`."""
    return {
        f"{key.upper()}{'' if group == 'all' else '_' + group}": quality[group][key]
        for key in ("pq", "sq", "rq")
        for group in ("all", "things", "stuff")
    }
