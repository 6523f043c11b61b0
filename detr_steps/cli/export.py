"""`detr-steps export MODEL --to FORMAT`: a file that runs without this library."""

import argparse
from pathlib import Path

from .. import interop
from ..interop.export import SUFFIXES, ExportOptions, export, limits
from .arguments import whole
from .models import add_model, say_how


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `export`."""
    parser = commands.add_parser(
        "export",
        help="write a model as ONNX, TorchScript or PT2",
        description="Write a model to a file that needs no detr_steps: pixels and "
        "padding in; boxes (shares of the picture), scores and labels out. The file is "
        "compared with the model before it gets its name.",
    )
    add_model(parser, "model")
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
    opened = interop.open_checkpoint(options.model, options.preset)
    say_how(opened.report)
    size = options.size or [opened.resize[0]] * 2
    wanted = ExportOptions(options.to, tuple(size), options.dynamic)
    out = options.out or Path(Path(options.model).stem + SUFFIXES[options.to])
    found = export(opened.model, out, wanted, opened.class_names)
    megabytes = out.stat().st_size / 1e6
    print(f"{out}: {megabytes:.1f} MB, largest differences from the model: {found}")
    if limit := limits(opened.model, wanted):
        print(limit)
    return 0
