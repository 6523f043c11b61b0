"""Run some steps once, for a tool that watches: `python -m benchmarks.gpu.once small`.

`small`: every step on shapes that leave tiles and levels half empty, for a tool that
makes everything a hundred times slower. `encoder` or `decoder`: the standard shape, one
step each, after a warm-up, for a profiler.
"""

import sys

import torch

from .cases import ODD, STANDARD, Shape, make
from .engines import STEPS, Card

SMALL = {
    "cut tiles": ODD["cut tiles"],
    "decoder": Shape(2, 37, 2, 32, ((13, 17), (7, 9)), (4, 4)),
    "one pixel": Shape(2, None, 1, 32, ((1, 1), (1, 3), (4, 1)), (2, 3, 1)),
}


def main() -> None:
    """Run what the arguments ask for."""
    engine = Card.ready()
    shapes = SMALL if sys.argv[1] == "small" else {sys.argv[1]: STANDARD[sys.argv[1]]}
    for shape in shapes.values():
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            if sys.argv[1] != "small" and dtype != torch.float32:
                continue
            given = make(shape, "gaussian", dtype, "cuda")
            for direction, steps in STEPS.items():
                for step in steps:
                    getattr(engine, direction)(step, given)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
