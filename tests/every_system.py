"""One small model of every kind, and a padded batch: whatever reads a trace, reads all.

A new system is added here, and every figure and every analysis is asked about it.
"""

from collections.abc import Callable

import torch
from small import SIZES as SMALL_SIZES
from small import (
    small_adamixer_config,
    small_deformable_config,
    small_detr,
    small_panoptic,
)
from torch import nn

from detr_steps import ImageBatch, LoopLast
from detr_steps.data.scenes import Scenes
from detr_steps.images import normalise
from detr_steps.nn.deform_attention import Sampling
from detr_steps.nn.dense import Dense
from detr_steps.nn.within_levels import WithinLevels
from detr_steps.objective.classification import Focal, Softmax
from detr_steps.systems.query_sources import Proposals

NAMES = Scenes().class_names
SIZES = [(64, 64), (50, 40)]  # no multiples of any stride
DENSE, ONE_LEVEL = Dense(heads=4), dict(maps=1, levels=1)
SMALL = Sampling(heads=4, points=2)


def detr(**changes: object) -> nn.Module:
    return small_detr(classes=6, queries=9, **changes)


def panoptic() -> nn.Module:
    backbone = SMALL_SIZES["backbone"]  # the trace of DETR, maps of the same size
    return small_panoptic(classes=6, queries=9, backbone=backbone)


def deformable(**changes: object) -> nn.Module:
    torch.manual_seed(0)
    model = small_deformable_config(classes=6, queries=9, **changes).build()
    for name, value in model.named_parameters():
        if "offsets.weight" in name:  # or all queries sample the same star
            nn.init.normal_(value, std=0.05)
        if "box_heads" in name and name.endswith("weight"):  # or refine nothing
            nn.init.normal_(value, std=0.1)
    return model


def adamixer() -> nn.Module:
    torch.manual_seed(0)
    model = small_adamixer_config(queries=9).build()
    for name, value in model.named_parameters():
        if name.endswith(("offsets.weight", "kernels.weight")):
            nn.init.normal_(value, std=0.05)  # or all queries do the same
        if "box_heads" in name and name.endswith("weight"):  # or refine nothing
            nn.init.normal_(value, std=0.1)
    return model


def dense_in(*parts: str) -> nn.Module:
    """One level; dense attention in the place of sampling."""
    both = {f"{part}_sampling": SMALL for part in ("encoder", "decoder")}
    dense = {f"{part}_sampling": DENSE for part in parts}
    return deformable(**ONE_LEVEL, **(both | dense))


EVERY: dict[str, Callable[[], nn.Module]] = {
    "detr": detr,
    "detr focal": lambda: detr(classification=Focal()),
    "panoptic": panoptic,
    "deformable": deformable,
    "refine": lambda: deformable(refine=True),
    "two stages": lambda: deformable(refine=True, query_source=Proposals()),
    "deformable softmax": lambda: deformable(classification=Softmax()),
    "within levels": lambda: deformable(encoder_sampling=WithinLevels(4, 2)),
    "dense": lambda: dense_in("encoder", "decoder"),
    "dense encoder": lambda: dense_in("encoder"),
    "dense decoder": lambda: dense_in("decoder"),
    "adamixer": adamixer,
    "looped": lambda: deformable(refine=True, scheme=LoopLast(3)),
}


def padded() -> tuple[ImageBatch, list[dict]]:
    """Two scenes of unequal `SIZES`, and objects (for the second made up)."""
    scenes = Scenes("val", size=64).draw([3, 5])
    rgb = [x[:, :h, :w] for x, (h, w) in zip(scenes.rgb, SIZES)]
    boxes = torch.tensor([[0.3, 0.4, 0.4, 0.5], [0.7, 0.5, 0.3, 0.2]])
    made_up = {"boxes": boxes, "labels": torch.tensor([5, 1])}
    return ImageBatch.from_list([normalise(x) for x in rgb]), [
        scenes.targets[0],
        made_up,
    ]


def assert_says_what_it_detects(model, batch, scores, labels, boxes, image=1) -> None:
    """Each query's best class, as shown, is one of the model's own detections.

    `scores`, `labels [Q]`, `boxes [Q, 4]` cxcywh in [0, 1] of the last layer.
    """
    found = model.eval().detect(batch, SIZES)[image]
    h, w = SIZES[image]
    for score, label, (cx, cy, bw, bh) in zip(
        *map(torch.as_tensor, (scores, labels, boxes))
    ):
        corners = torch.stack((cx - bw / 2, cy - bh / 2, cx + bw / 2, cy + bh / 2))
        same = (found.labels == int(label)) & ((found.scores - score).abs() < 2e-3)
        off = (found.boxes - corners * torch.tensor([w, h, w, h])).abs().amax(-1)
        assert (same & (off < 0.3)).any(), (score, label, corners)
