"""How long panoptic quality of COCO's validation set takes: 5,000 images on one core.

    python -m benchmarks.panoptic_quality [--images 5000] [--share 0.05]

Pictures of 480 x 640 pixels, each with so many true segments and a prediction that
shifts them. `--share` measures that part of the images and scales the seconds up, where
the machine has no minute to spare. Seconds are the processor's, which other work on the
machine hardly changes; they go to the screen and to
benchmarks/results/panoptic_quality.json.
"""

import argparse
import time

import numpy as np

from detr_steps.cli.arguments import share, whole
from detr_steps.evaluation.panoptic_quality import (
    MOST_IDS,
    PanopticPair,
    panoptic_quality,
)

from .measuring import RESULTS, machine, save

SIZE = (480, 640)
CLASSES, THINGS = 133, 80  # COCO's


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=whole(1), default=5000)
    parser.add_argument("--segments", type=whole(1), default=200)
    parser.add_argument("--share", type=share, default=1.0)
    options = parser.parse_args()
    measured = max(1, round(options.images * options.share))
    pair = made_up(options.segments)  # one, so that drawing it is not measured
    start = time.process_time()
    found = panoptic_quality((pair for _ in range(measured)), range(THINGS))
    taken = time.process_time() - start
    result = {
        "images": options.images,
        "measured_images": measured,
        "segments": options.segments,
        "processor_seconds": round(taken * options.images / measured, 1),
        "pq": round(found["all"]["pq"], 4),
        "machine": machine(),
    }
    for name, value in result.items():
        print(f"{name:18} {value}")
    save(RESULTS / "panoptic_quality.json", result)


def made_up(segments: int) -> PanopticPair:
    """A picture of so many true segments, and the same one shifted by 5 pixels."""
    random = np.random.default_rng(0)
    ids = 1 + random.choice(
        MOST_IDS - 1, segments, replace=False
    )  # as colours of PNGs are
    labels = random.integers(0, CLASSES, segments).tolist()
    true = ids[nearest_centre(random.random((segments, 2)) * SIZE)]
    there = {int(n): label for n, label in zip(ids, labels) if (true == n).any()}
    truth = {
        number: (label, n % 50 == 0) for n, (number, label) in enumerate(there.items())
    }
    predicted = np.roll(true, 5, axis=1)
    return PanopticPair(predicted, there, true, truth)


def nearest_centre(centres: np.ndarray) -> np.ndarray:
    """The number of the nearest of `centres [n, 2]` (y, x) for every pixel: [H, W]."""
    rows, columns = np.indices(SIZE)
    best, far = np.zeros(SIZE, dtype=int), np.full(SIZE, np.inf)
    for number, (y, x) in enumerate(centres):
        distance = (rows - y) ** 2 + (columns - x) ** 2
        best = np.where(distance < far, number, best)
        far = np.minimum(distance, far)
    return best


if __name__ == "__main__":
    main()
