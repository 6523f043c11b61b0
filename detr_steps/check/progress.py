"""Counts what a reader has solved in this session; written down only when asked."""

import json
import linecache
import re
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import wraps
from pathlib import Path

from ..files import write_whole

SOLUTION = re.compile(r"#\s*(@title\s+)?solution\b", re.IGNORECASE)
NOT_YET = "not yet"  # how a check begins that found nothing to judge


@dataclass
class Progress:
    """One exercise in this session: `tries` counts answers, not what is unwritten."""

    chapter: str  # two digits
    exercise: str  # the name of its check
    solved: bool = False
    tries: int = 0


_counted: dict[tuple[str, str], Progress] = {}
_met: set[str] = set()  # chapters of which this session has called a check


def counted(check: Callable, module: str, name: str) -> Callable:
    """Make a check count its calls; `module` is the chapter's, as in check.ch02.

    What a solution's cell calls is not counted, and its verdict is folded.
    """
    chapter = module.rpartition(".ch")[2]
    if re.fullmatch(r"\d\d", chapter):
        _counted[chapter, name] = Progress(chapter, name)

    @wraps(check)
    def judge(*arguments: object, **options: object) -> object:
        verdict = check(*arguments, **options)
        _met.add(chapter)
        if in_solution():
            return replace(verdict, folded=True)
        _note(chapter, name, verdict)
        return verdict

    return judge


def _note(chapter: str, name: str, verdict: object) -> None:
    entry = _counted.get((chapter, name))
    if entry is None or verdict.message.startswith(NOT_YET):
        return
    entry.tries += 1
    entry.solved = entry.solved or verdict.right


def in_solution() -> bool:
    """True where the cell that runs, whatever it calls, begins as a solution's does."""
    frame = sys._getframe(1)
    while (
        frame is not None
    ):  # a cell has no name to stop at: Colab's is "<cell line: 0>"
        lines = linecache.getlines(frame.f_code.co_filename)
        if lines and SOLUTION.match(lines[0]):
            return True
        frame = frame.f_back
    return False


def progress() -> list[Progress]:
    """List the exercises of the chapters that this session has met, in order."""
    entries = (entry for entry in _counted.values() if entry.chapter in _met)
    return sorted(entries, key=lambda entry: entry.chapter)


def summary(path: Path | str | None = None) -> None:
    """Print which exercises of this session are solved, and write them down if asked.

    `path` a new JSON file: a list with, for each exercise, `chapter`, `exercise`,
    `solved` and `tries`. Without it nothing is written.

    Raises:
        FileExistsError: the file is there already; it is left as it is.
    """
    entries = progress()
    if path is not None:
        _save(Path(path), entries)
    for entry in entries:
        state = "solved" if entry.solved else "open" if entry.tries else "not tried"
        tries = f"{entry.tries} {'try' if entry.tries == 1 else 'tries'}"
        said = f", {tries}" if entry.tries else ""
        print(f"{entry.chapter}  {entry.exercise:20} {state}{said}")
    solved = sum(entry.solved for entry in entries)
    print(f"{solved} of {len(entries)} exercises solved in this session")
    if path is not None:
        print(f"written to {path}")


def _save(path: Path, entries: list[Progress]) -> None:
    if path.exists():
        raise FileExistsError(f"{path} is there already: give the summary a new name")
    text = json.dumps([asdict(entry) for entry in entries], indent=1) + "\n"
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))
