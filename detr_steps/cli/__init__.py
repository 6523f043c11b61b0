"""`detr-steps`: train, evaluate, predict, export, data, doctor, zoo."""

import os
import sys
import traceback
from collections.abc import Sequence

from . import data, doctor, export, predict, train, zoo
from .arguments import Parser
from .faults import DEBUG, explain, plain_warnings


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; any fault ends in one line on stderr, not in a traceback.

    Returns 0, 2 for a fault that the user can mend, 1 for any other, 130 for Ctrl-C.
    """
    parser = Parser(
        prog="detr-steps", description="The DETR family, one idea at a time."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (train, predict, export, data, doctor, zoo):
        module.add_commands(commands)
    options = parser.parse_args(arguments)
    options.typed = list(sys.argv[1:] if arguments is None else arguments)
    try:
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
