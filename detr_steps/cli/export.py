"""`detr-steps export MODEL --to FORMAT`: a file that runs without this library.

`--to weights` is a folder for this library, without what only training needs.
"""

import argparse
from pathlib import Path

from .. import interop
from ..interop.export import SUFFIXES, ExportError, ExportOptions, export, limits
from ..interop.keeping import keep_for_inference
from .arguments import whole
from .models import add_model, say_how

WEIGHTS = "weights"


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `export`."""
    parser = commands.add_parser(
        "export",
        help="write a model as ONNX, TorchScript or PT2, or its weights alone",
        description="Write a model to a file that needs no detr_steps: pixels and "
        "padding in; boxes (shares of the picture), scores and labels out. The file is "
        "compared with the model before it gets its name. As weights: a folder that "
        "detr-steps opens, without the queries and parts that only training needs.",
    )
    add_model(parser, "model")
    parser.add_argument("--to", required=True, choices=(*SUFFIXES, WEIGHTS))
    parser.add_argument(
        "--out",
        type=Path,
        help="the file (MODEL.onnx, .torchscript, .pt2), the folder (MODEL-weights)",
    )
    parser.add_argument(
        "--size",
        type=whole(1),
        nargs=2,
        metavar=("H", "W"),
        help="of the pictures, in pixels (a square as high as those of the training)",
    )
    parser.add_argument(
        "--dynamic", action="store_true", help="any number of pictures of any size"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Export, compare, and say how large the differences are."""
    opened = interop.open_checkpoint(options.model, options.preset)
    say_how(opened.report)
    if options.to == WEIGHTS:
        return _keep_weights(opened, options)
    size = options.size or [opened.resize[0]] * 2
    wanted = ExportOptions(options.to, tuple(size), options.dynamic)
    out = options.out or Path(Path(options.model).stem + SUFFIXES[options.to])
    found = export(opened.model, out, wanted, opened.class_names)
    megabytes = out.stat().st_size / 1e6
    print(f"{out}: {megabytes:.1f} MB, largest differences from the model: {found}")
    if limit := limits(opened.model, wanted):
        print(limit)
    return 0


def _keep_weights(opened: interop.Opened, options: argparse.Namespace) -> int:
    if options.size or options.dynamic:
        raise ExportError("weights take pictures of any size: no --size, no --dynamic")
    out = options.out or Path(f"{Path(options.model).stem}-weights")
    dropped = keep_for_inference(opened, out)
    megabytes = (out / "model.safetensors").stat().st_size / 1e6
    print(f"{out}: {megabytes:.1f} MB, {dropped:,} numbers that only training needs "
          "left out; it answers as before, bit for bit")  # fmt: skip
    return 0
