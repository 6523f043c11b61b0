"""Seconds and memory of masks at 800 x 1,333 pixels, with all of 100 queries kept.

    python -m benchmarks.panoptic_masks [--queries 100]

The paper's model with fresh weights, which take as long as trained ones. The boxes come
first and are not counted; then every kept query gets a mask, and every pixel a segment.
Beside it what the head would hold if all masks were made at once, at full size. The
most bytes of tensors held at a time and seconds of the processor go to the screen and
to benchmarks/results/panoptic_masks.json.
"""

import argparse
import time

import torch

from detr_steps import ImageBatch, PanopticDETRConfig
from detr_steps.cli.arguments import whole
from detr_steps.systems import segmentation

from .measuring import RESULTS, machine, memory, save

SIZE = (800, 1333)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--queries", type=whole(1), default=100)
    options = parser.parse_args()
    torch.manual_seed(0)
    # things only: of stuff, queries without training would all name the same
    config = PanopticDETRConfig.coco_r50(queries=options.queries, things=250)
    model = config.build().eval()
    with torch.no_grad():
        model.class_head.bias[-1] = -20  # nobody says "no object": all are kept
    batch = ImageBatch.from_pixels(torch.randn(1, 3, *SIZE))
    output = model.predict(batch, [SIZE])
    frames = segmentation.frames(batch, [SIZE])

    def paint():
        return segmentation.panoptic(model, output, frames, threshold=0.0)

    start = time.process_time()
    (found,), most, _ = memory(paint)
    taken = time.process_time() - start
    pixels = SIZE[0] * SIZE[1]
    result = {
        "queries": options.queries,
        "segments": len(found.segments),
        "processor_seconds": round(taken, 1),
        "megabytes": round(most / 1e6),
        "megabytes_of_all_masks": round(options.queries * pixels * 4 / 1e6),
        "machine": machine(),
    }
    for name, value in result.items():
        print(f"{name:23} {value}")
    save(RESULTS / "panoptic_masks.json", result)


if __name__ == "__main__":
    main()
