"""`detr-steps export MODEL --to FORMAT`: a file that runs without this library."""

import argparse
from pathlib import Path

from .. import experiment, zoo
from ..interop.export import SUFFIXES, ExportOptions, export, limits
from .arguments import whole


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `export`."""
    parser = commands.add_parser(
        "export",
        help="write a model as ONNX, TorchScript or PT2",
        description="Write a model to a file that needs no detr_steps: pixels and "
        "padding in; boxes (shares of the picture), scores and labels out. The file is "
        "compared with the model before it gets its name.",
    )
    parser.add_argument("model", help="name in the zoo, or folder of a run")
    parser.add_argument("--to", required=True, choices=tuple(SUFFIXES))
    parser.add_argument(
        "--out", type=Path, help="the file (MODEL.onnx, .torchscript, .pt2)"
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
    description = zoo.recipe(options.model)
    size = options.size or [experiment.resize_rule(description)[0]] * 2
    wanted = ExportOptions(options.to, tuple(size), options.dynamic)
    out = options.out or Path(Path(options.model).stem + SUFFIXES[options.to])
    model = zoo.load(options.model)
    found = export(model, out, wanted, experiment.class_names(description))
    megabytes = out.stat().st_size / 1e6
    print(f"{out}: {megabytes:.1f} MB, largest differences from the model: {found}")
    if limit := limits(model, wanted):
        print(limit)
    return 0
