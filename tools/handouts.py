"""What a lecturer hands out: copies to work in, and the key.

Called through `course.py student` and `course.py answers`. Nothing that is there is
ever overwritten: it may be a student's work.
"""

from __future__ import annotations

import argparse
import copy
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path

if __name__ == "__main__":  # run as a file: the other tools are beside it
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.notebooks import ROOT, chapters, is_solution, replace, text_of
from tools.stamps import MARK, title

INSTRUCTORS = re.compile(
    r"\s*<details>\s*<summary>[^<]*instructors[^<]*</summary>.*?</details>", re.I | re.S
)
HEADING = re.compile(r"(?m)^#{1,4} ")
SUMMARY = [
    {
        "cell_type": "markdown",
        "id": "summary-text",
        "metadata": {},
        "source": "## What you solved\n\nRun this last, in the same session. With the "
        'name of a new file, `check.summary("my-name.json")`, it also writes the count '
        "down for your lecturer; without one nothing is written.",
    },
    {
        "cell_type": "code",
        "id": "summary",
        "metadata": {},
        "source": "from detr_steps import check\n\ncheck.summary()",
        "outputs": [],
        "execution_count": None,
    },
]


def student(name: str, book: dict) -> str:
    """A chapter to work in, as the text of its file.

    Without outputs, solutions and notes for instructors; its last cell sums up what is
    solved.
    """
    book = copy.deepcopy(book)
    book["cells"] = [cell for cell in book["cells"] if not is_solution(cell)]
    for cell in book["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
        else:
            text = INSTRUCTORS.sub("", text_of(cell["source"]))
            cell["source"] = text.splitlines(keepends=True)
    book["cells"] += copy.deepcopy(SUMMARY)
    return json.dumps(book, indent=1, ensure_ascii=False, sort_keys=True) + "\n"


def answers(name: str, book: dict) -> str:
    """A chapter's key as Markdown: each exercise's text, its solution, what it says."""
    parts, text = [f"# {title(name, book)}: the key"], ""
    for cell in book["cells"]:
        source = text_of(cell["source"])
        if cell["cell_type"] == "markdown":
            text = source
        elif is_solution(cell):
            code = source.partition("\n")[2]  # without the title
            parts += [task(text), f"```python\n{code}\n```", *verdicts(cell)]
    return "\n\n".join(parts) + "\n"


def task(text: str) -> str:
    """The part of a text that states the exercise below it: from the last heading."""
    text = text.replace(MARK, "")
    starts = [found.start() for found in HEADING.finditer(text)]
    return text[starts[-1] if starts else 0 :].strip()


def verdicts(cell: dict) -> list[str]:
    """What the check says about a solution."""
    kept = (text_of(o.get("data", {}).get("text/plain", "")) for o in cell["outputs"])
    return [text for text in kept if text[:1] in ("✓", "✗")]


# Each kind: where it goes unless told otherwise, the files' suffix, how it is made.
KINDS: dict[str, tuple[str, str, Callable[[str, dict], str]]] = {
    "student": ("build/student", ".ipynb", student),
    "answers": ("build/answers", ".md", answers),
}


def hand_out(kind: str, folder: Path, root: Path = ROOT) -> list[Path]:
    """Writes one file for each chapter into a folder, which is made where need be.

    Raises FileExistsError, before anything is written, where a file is there already,
    and NotADirectoryError where the folder is a file.
    """
    _, suffix, make = KINDS[kind]
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file: name a folder")
    made = {}
    for path in chapters(root):
        book = json.loads(path.read_text(encoding="utf-8"))
        made[folder / f"{path.stem}{suffix}"] = make(path.name, book)
    there = [path.name for path in made if path.exists()]
    if there:
        raise FileExistsError(
            f"{folder} holds {', '.join(there)} already, perhaps somebody's work: "
            "nothing was written. Name another folder, or move them away."
        )
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in made.items():
        replace(path, text)
    return list(made)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="course.py")
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("folder", nargs="?", type=Path)
    options = parser.parse_args(arguments)
    folder = options.folder or ROOT / KINDS[options.kind][0]
    try:
        made = hand_out(options.kind, folder)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{len(made)} chapters written to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
