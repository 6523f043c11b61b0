"""Numbers on the command line: what cannot be is answered in one line."""

import argparse
import math
import os
from collections.abc import Callable
from pathlib import Path


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command in one line, without the list of options."""

    def error(self, message: str) -> None:
        """End with status 2, as argparse does."""
        self.exit(2, f"{self.prog}: {message} ({self.prog} --help)\n")


def whole(least: int) -> Callable[[str], int]:
    """For `type=`: a whole number of at least so much."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number") from None
        if value < least:
            raise argparse.ArgumentTypeError(f"{text}: at least {least}")
        return value

    return read


def positive(text: str) -> float:
    """For `type=`: a finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text}: a number above 0")
    return value


def share(text: str) -> float:
    """For `type=`: a number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text}: a number from 0 to 1")
    return value


def add_folder(parser: argparse.ArgumentParser, name: str, text: str) -> None:
    """Add an option that takes a folder of pictures and their annotation file."""
    parser.add_argument(name, nargs=2, type=Path, metavar=("IMAGES", "JSON"), help=text)


def new_file(name: str) -> Path:
    """For `type=`: a file that is not there yet, so that none is lost."""
    path = Path(name)
    if os.path.lexists(path):
        raise argparse.ArgumentTypeError(
            f"{path} is there already: remove it, or name another file"
        )
    return path
