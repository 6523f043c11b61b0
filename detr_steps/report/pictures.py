"""Validation pictures with ground truth and detections, at the steps with weights."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import experiment
from ..boxes import cxcywh_to_xyxy
from ..describable import from_json
from ..detections import Detections
from ..images import ImageBatch, denormalise
from .story import Moment, Story


@dataclass(frozen=True)
class Shown:
    """One validation picture: `rgb [3, H, W]` in [0, 1], `truth [N, 4]` xyxy pixels,
    `labels [N]`, and what was found at each moment, at least of the threshold."""

    rgb: Tensor
    truth: Tensor
    labels: Tensor
    found: list[Detections]
    surest: list[float]  # score of the best detection at each moment, shown or not


@dataclass(frozen=True)
class Gallery:
    """Pictures through a training; class `names`; the `threshold` of what is shown."""

    moments: list[Moment]
    pictures: list[Shown]
    names: list[str]
    threshold: float

    def name(self, label: int) -> str:
        """The name of a class, or its number where it has none."""
        return self.names[label] if label < len(self.names) else str(label)


def gallery(
    story: Story, count: int, threshold: float, device: torch.device | str = "cpu"
) -> Gallery:
    """Show the first `count` validation pictures to the model of every moment.

    Raises: OSError, ValueError where data or weights are gone, damaged, or of no
    detector; the message says why there are no pictures.
    """
    moments = story.moments()
    if not moments:
        raise ValueError("there are no weights to look through")
    data = story.open_data()[1]
    model = from_json(story.description["model"]).build()
    if not hasattr(model, "detect"):
        raise ValueError("this model names pictures and finds no objects")
    pairs = list(data.evaluation_batches(1, min(count, len(data))))
    answers = [_detect(model.to(device), moment, pairs) for moment in moments]
    shown = [
        _shown(*pair, [answer[index] for answer in answers], threshold)
        for index, pair in enumerate(pairs)
    ]
    names = experiment.class_names(story.description)
    return Gallery(moments, shown, names, threshold)


@torch.no_grad()
def _detect(model, moment: Moment, pairs: list) -> list[Detections]:
    """What a moment's weights find in each picture, in its pixels."""
    try:
        model.load_state_dict(moment.load())
    except RuntimeError as error:
        raise ValueError(f"the weights of step {moment.step}: {error}") from error
    model.eval()
    device = next(model.parameters()).device
    found = []
    for batch, _ in pairs:
        size = tuple(batch.pixels.shape[-2:])
        each = model.detect(batch.to(device), [size])[0]
        found.append(Detections(*(part.cpu() for part in each)))
    return found


def _shown(
    batch: ImageBatch, targets: list[dict], found: list[Detections], least: float
) -> Shown:
    rgb, target = denormalise(batch.pixels[0].cpu()), targets[0]
    height, width = rgb.shape[-2:]
    scale = torch.tensor([width, height, width, height])
    truth = cxcywh_to_xyxy(target["boxes"].cpu()) * scale
    surest = [float(d.scores.max()) if len(d.scores) else 0.0 for d in found]
    kept = [Detections(*(part[d.scores >= least] for part in d)) for d in found]
    return Shown(rgb, truth, target["labels"].cpu(), kept, surest)
