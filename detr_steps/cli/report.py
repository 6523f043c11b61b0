"""`detr-steps report RUN`: a page of curves and pictures of a run."""

import argparse
from pathlib import Path

from .. import report
from ..training.device import pick_device
from .arguments import whole


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `report`."""
    parser = commands.add_parser(
        "report",
        help="see on one page whether a run learns",
        description="Write one HTML page, and the same as a PNG beside it: losses, AP "
        "by size and class, learning rate, gradient norm, validation pictures with "
        "ground truth and detections over time, what was left out of the data, and the "
        "commands. Also of a run that is being trained or was stopped.",
    )
    parser.add_argument(
        "run_name",
        metavar="RUN",
        help="folder of a run, name in the zoo, or a record.jsonl",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (RUN/report.html; of the zoo NAME-report.html)",
    )
    parser.add_argument(
        "--pictures", type=whole(0), default=4, help="of the validation data (4)"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="least score shown (0.5)"
    )
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Write the files and print where they are."""
    device = pick_device(options.device)
    for file in report.write(
        options.run_name,
        options.out,
        pictures=options.pictures,
        threshold=options.threshold,
        device=device,
    ):
        print(file)
    return 0
