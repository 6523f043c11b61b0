"""`detr-steps data export | check`."""

import argparse
import sys
from pathlib import Path

from ..data.check import check_path
from ..data.coco import CocoFolder
from ..data.dataset import Dataset
from ..data.export import export
from ..data.scenes import Scenes
from ..distributed import world


def add_commands(commands: argparse._SubParsersAction) -> None:
    """Add `data export` and `data check`."""
    parser = commands.add_parser("data", help="write Scenes as COCO; look through data")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    write = verbs.add_parser("export", help="write Scenes as a COCO-format folder")
    write.add_argument("folder", type=Path)
    write.add_argument("--split", default="val", choices=["train", "val", "test"])
    write.add_argument("--count", type=int, default=100, help="number of scenes")
    write.add_argument("--size", type=int, default=128, help="side in pixels")
    write.add_argument("--seed", type=int, default=0)
    write.add_argument("--overwrite", action="store_true")
    write.set_defaults(run=run_export)
    look = verbs.add_parser("check", help="report every problem before training")
    look.add_argument("path", type=Path, help="COCO-format folder or annotation file")
    look.add_argument(
        "--images", type=Path, metavar="DIR", help="where the pictures lie"
    )
    look.add_argument("--all", action="store_true", help="list every single problem")
    look.set_defaults(run=run_check)


def run_export(options: argparse.Namespace) -> int:
    """Write the folder."""
    scenes = Scenes(options.split, options.size, options.seed)
    folder = export(
        scenes, options.folder, range(options.count), overwrite=options.overwrite
    )
    print(f"{options.count} scenes in {folder}")
    return 0


def run_check(options: argparse.Namespace) -> int:
    """Print the reports; 0 all is used, 1 something is left out, 2 no training."""
    reports = check_path(options.path, options.images, progress=sys.stderr.isatty())
    for report in reports:
        _print(report.text(None) if options.all else str(report))
    return max(report.exit_status for report in reports)


def say_left_out(*data: Dataset | None, after: bool = False) -> None:
    """Print what training leaves out of folders, in the first process only.

    `after` training, the folders in which it came upon broken pictures are named again.
    """
    if world()[0]:
        return
    for folder in data:
        if not isinstance(folder, CocoFolder):
            continue  # drawn scenes lack nothing
        if (text := folder.left_out()) and (folder.skipped or not after):
            _print(text)


def _print(text: str) -> None:
    """Print names in any script; a console that lacks letters shows their codes."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "backslashreplace").decode(encoding))
