"""Draws the README's picture: scenes, what `detr-tiny` finds, where one query looks.

python tools/readme_picture.py
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from detr_steps import viz, zoo
from detr_steps.boxes import cxcywh_to_xyxy
from detr_steps.data.scenes import Scenes
from detr_steps.nn.trace import stack_maps

SCENES = (277, 52, 7, 21)
OUT = Path(__file__).parent.parent / "data" / "readme.png"


def main() -> None:
    """Write data/readme.png."""
    viz.style()
    model, scenes = zoo.load("detr-tiny"), Scenes("val")
    batch = scenes.draw(SCENES)
    found = model.detect(batch.images, [(128, 128)] * len(SCENES))
    with torch.no_grad():
        output = model(batch.images, trace=True)
    figure = plt.figure(figsize=(11, 4.9))
    top, bottom = figure.subfigures(2, 1, height_ratios=[3, 2])
    for ax, rgb, each in zip(top.subplots(1, 4), batch.rgb, found):
        sure = each.scores > 0.5
        names = [scenes.class_names[label] for label in each.labels[sure]]
        viz.picture(rgb, ax)
        viz.boxes_on(ax, each.boxes[sure], names, "white")
    probabilities = model.config.classification.probabilities(output.logits[-1, 0])
    scores = probabilities.amax(-1)  # [Q]
    moved = (output.boxes[-1, 0] - output.boxes[0, 0]).abs().sum(-1)  # [Q]
    query = int((moved * (scores > 0.9)).argmax())  # sure, and moved most
    maps = stack_maps(output.trace.decoder_cross)[:, 0, :, query].mean(1)  # [Y, S]
    maps = maps.unflatten(-1, output.trace.sizes[0])
    for layer, ax in enumerate(bottom.subplots(1, len(maps))):
        box = cxcywh_to_xyxy(output.boxes[layer, 0, query]) * scenes.size
        viz.attention(ax, batch.rgb[0], maps[layer], box, f"layer {layer + 1}")
    figure.savefig(OUT, dpi=110)
    print(OUT)


if __name__ == "__main__":
    main()
