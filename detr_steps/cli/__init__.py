"""`detr-steps`: train, evaluate, predict, report, export, data, doctor, zoo."""

import io
import os
import sys
import traceback
from collections.abc import Sequence

from . import data, doctor, evaluate, export, predict, report, train, zoo
from .arguments import Parser
from .faults import DEBUG, explain, plain_warnings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; any fault ends in one line on stderr, not in a traceback.

    Returns 0, 2 for a fault that the user can mend, 1 for any other, 130 for Ctrl-C.
    """
    try:
        options = _parser().parse_args(arguments)  # its help lists what the zoo has
        _never_die_of_letters()
        options.typed = list(sys.argv[1:] if arguments is None else arguments)
        with plain_warnings():
            return options.run(options) or 0
    except KeyboardInterrupt:
        print("detr-steps: stopped", file=sys.stderr)
        return 130
    except Exception as error:
        if os.environ.get(DEBUG):
            traceback.print_exc()
        line, status = explain(error)
        print(f"detr-steps: {line}", file=sys.stderr)
        return status


def _parser() -> Parser:
    parser = Parser(
        prog="detr-steps", description="The DETR family, one idea at a time."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (train, evaluate, predict, report, export, data, doctor, zoo):
        module.add_commands(commands)
    return parser


def _never_die_of_letters() -> None:
    """Letters that a console lacks are printed as their codes, as on stderr."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook's knows all letters
        sys.stdout.reconfigure(errors="backslashreplace")
