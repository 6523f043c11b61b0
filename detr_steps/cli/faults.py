"""What a user reads when something fails: one line, whatever it was."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from ..training.device import OutOfMemory, is_out_of_memory
from ..training.trainer import Diverged

DEBUG = "DETR_STEPS_DEBUG"  # a variable: set, errors come with their traceback
EXPECTED = (OSError, ValueError, Diverged, OutOfMemory)  # they name fault and cure
# what a process that reads pictures may meet: it arrives as text
IN_WORKERS = ("RuntimeError", "ValueError", "OSError", "FileNotFoundError")


def explain(error: Exception) -> tuple[str, int]:
    """One line about an error, and the exit status: 2 for what the user can mend."""
    name, text = type(error).__name__, str(error)
    expected = isinstance(error, EXPECTED)
    if isinstance(error, KeyError) and error.args:
        text = str(error.args[0])
        expected = " " in text  # an unknown name of the zoo, and those there are
    if text.startswith("Caught ") and "DataLoader worker process" in text:
        name, text = _last_line(text)
        expected = name in IN_WORKERS
    text = _joined(text) or name
    if "DataLoader worker" in text:
        return f"a process that reads pictures died ({text}): try --workers 0", 2
    if is_out_of_memory(error) and not isinstance(error, OutOfMemory):
        return f"out of memory: take a smaller batch or smaller pictures ({text})", 2
    if expected:
        return text, 2
    return f"unexpected {name}: {text} ({DEBUG}=1 shows where it comes from)", 1


def _joined(text: str) -> str:
    """Several lines as one."""
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()]
    return "; ".join(lines).replace(":; ", ": ").replace(",; ", ", ")


def _last_line(text: str) -> tuple[str, str]:
    """Kind and message of the error at the end of another process's traceback."""
    last = text.rstrip().splitlines()[-1]
    name, _, message = last.partition(": ")
    return name.rpartition(".")[2], message or last


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Warnings for users in one line each, without the line of code they come from."""
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message, category, *where, **more):
            if issubclass(category, UserWarning):
                print(f"detr-steps: {message}", file=sys.stderr)
            else:
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield
