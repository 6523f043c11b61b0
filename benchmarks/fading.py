"""How long the rates of fading take: COCO's validation set, 300 queries, 6 layers.

    python -m benchmarks.fading [--images 5000] [--threads 2]

Predictions are made up: a fifth of the queries lie near an object of their class, as a
trained model's do. 200 different images of 80 classes take turns, 115 MB, so that they
do not fit in a cache. The plain loop of benchmarks/slow_fading.py is timed on a few of
them. Wall-clock and processor seconds: the former suffer from whatever else runs.
"""

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from detr_steps.analysis.fading import READINGS, rates
from detr_steps.boxes import cxcywh_to_xyxy

from .measuring import RESULTS, machine, save
from .slow_fading import Image, slow_rates

LAYERS, QUERIES, CLASSES, DIFFERENT, FEW = 6, 300, 80, 200, 4

Images = tuple[list[Tensor], list[Tensor], list[dict]]


def made_up(images: int, seed: int = 0) -> Images:
    """Scores `[Y, Q, classes]`, boxes `[Y, Q, 4]`, targets of so many images."""
    draw = torch.Generator().manual_seed(seed)
    return tuple(map(list, zip(*(_image(draw) for _ in range(images)))))


def _image(draw: torch.Generator) -> tuple[Tensor, Tensor, dict]:
    n = int(torch.randint(1, 15, (), generator=draw))  # COCO: 7 on average
    true = torch.rand(n, 4, generator=draw) * 0.4 + 0.2
    labels = torch.randint(0, CLASSES, (n,), generator=draw)
    near = QUERIES // 5
    thing = torch.randint(0, n, (near,), generator=draw)
    boxes = torch.rand(LAYERS, QUERIES, 4, generator=draw) * 0.4 + 0.2
    noise = torch.randn(LAYERS, near, 4, generator=draw)
    boxes[:, :near] = (true[thing] + 0.03 * noise).clamp(min=0.01)
    scores = torch.rand(LAYERS, QUERIES, CLASSES, generator=draw) * 0.1
    sure = torch.rand(LAYERS, near, 1, generator=draw)
    scores[:, :near].scatter_(2, labels[thing].expand(LAYERS, -1)[..., None], sure)
    target = {"boxes": cxcywh_to_xyxy(true), "labels": labels}
    return scores, cxcywh_to_xyxy(boxes), target


def timed(work: Callable[[], object]) -> dict[str, float]:
    """Wall-clock and processor seconds of one call."""
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return {
        "seconds": round(time.perf_counter() - wall, 2),
        "processor_seconds": round(time.process_time() - processor, 2),
    }


def measure(images: int) -> dict:
    """Every reading on so many images, and the plain loop's pace on a few."""
    some = made_up(DIFFERENT)
    often = -(-images // DIFFERENT)
    given = [(part * often)[:images] for part in some]
    few = [part[:FEW] for part in some]
    rules = dict(iou=0.5, reading="winner", fp_reading="fp", min_score=0.0)
    rates(*few)  # warms up
    rows = {name: timed(lambda r=name: rates(*given, reading=r)) for name in READINGS}
    slow = timed(lambda: slow_rates([Image(*x) for x in zip(*few)], **rules))
    pace = slow["processor_seconds"] / FEW
    ours = rows["winner"]["processor_seconds"] / images
    return {
        "images": images,
        "readings": rows,
        "plain_loop_seconds_per_image": round(pace, 3),
        "times_faster": round(pace / ours),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    result = {"threads": options.threads, **measure(options.images)}
    for name, value in result.items():
        print(f"{name:30} {value}")
    save(RESULTS / "fading.json", result | {"machine": machine()})


if __name__ == "__main__":
    main()
