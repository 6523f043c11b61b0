"""The option that names a model, and what is said about how it was found."""

import argparse
import os
import sys
from pathlib import Path

from .. import interop, zoo

ANY_MODEL = (
    "name in the zoo, folder of a run or one of its files, file of the authors of DETR "
    "or Deformable DETR, folder or file from Hugging Face"
)


def add_model(
    parser: argparse.ArgumentParser, *names: str, default: str | None = None
) -> None:
    """Add the model, as an option or in place, and `--preset`."""
    required = {} if default is None else {"default": default}
    parser.add_argument(*names, metavar="MODEL", help=ANY_MODEL, **required)
    parser.add_argument(
        "--preset",
        choices=interop.presets(),
        metavar="NAME",
        help="of somebody else's weights, for what no weight shows: one of "
        f"{', '.join(interop.presets())}",
    )


def say_how(report: interop.Report) -> None:
    """Print to stderr how a checkpoint was found, where that is worth a word."""
    for note in report.notes:
        print(note, file=sys.stderr)


def start_from(text: str) -> str:
    """What a run starts from, as its folder remembers it: a name of the zoo, or a path.

    A path does not depend on the folder in which the command was given. Links stay:
    in the hub's cache they bear the names, the files behind them do not.
    """
    named = text in zoo.recipes() and not Path(text).exists()
    return text if named else os.path.abspath(text)
