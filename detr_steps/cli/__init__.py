"""`detr-steps`: train, evaluate, predict, data export | check, doctor, zoo."""

import argparse
import sys
from collections.abc import Sequence

from ..training.trainer import Diverged
from . import data, doctor, predict, train, zoo


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a fault of the user's ends in one line, not in a traceback."""
    try:
        options = _parser().parse_args(arguments)  # its help lists what the zoo has
        return options.run(options) or 0
    except (OSError, ValueError, KeyError, TypeError, Diverged) as error:
        reason = error.args[0] if isinstance(error, KeyError) else error
        print(f"detr-steps: {reason}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("detr-steps: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="detr-steps", description="The DETR family, one idea at a time."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (train, predict, data, doctor, zoo):
        module.add_commands(commands)
    return parser
