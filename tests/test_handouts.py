"""What a lecturer hands out: copies that give nothing away, and a key with it all."""

import ast
import json
import re

import pytest

import course
from tools import handouts
from tools.notebooks import ROOT, chapters, is_solution, text_of

CHAPTERS = chapters()


def read(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def copies(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handouts") / "student"
    handouts.hand_out("student", folder)
    return folder


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_copy_holds_the_exercises_and_no_answers(copies, path):
    book, copied = read(path), read(copies / path.name)
    code = [cell for cell in copied["cells"] if cell["cell_type"] == "code"]
    assert all(c["outputs"] == [] and c["execution_count"] is None for c in code)
    ids = [cell["id"] for cell in copied["cells"]]
    kept = [cell["id"] for cell in book["cells"] if not is_solution(cell)]
    assert ids == [*kept, "summary-text", "summary"]
    text = (copies / path.name).read_text(encoding="utf-8")
    assert "instructors</summary>" not in text and "✓" not in text
    assert "check.summary()" in text_of(copied["cells"][-1]["source"])
    import nbformat

    nbformat.validate(nbformat.reads(text, as_version=4))


def names_in(cell: dict, kind: type) -> set[str]:
    tree = ast.parse(text_of(cell["source"]))
    found = {n.id for n in ast.walk(tree)
             if isinstance(n, ast.Name) and isinstance(n.ctx, kind)}  # fmt: skip
    if kind is ast.Store:
        defs = (ast.FunctionDef, ast.ClassDef)
        found |= {n.name for n in ast.walk(tree) if isinstance(n, defs)}
    return found


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_later_cell_needs_a_name_that_only_a_solution_gives(path):
    code = [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]
    given, solved, lost = set(), set(), {}
    for cell in code:
        stored = names_in(cell, ast.Store)
        if is_solution(cell):
            solved |= stored - given
            continue
        lacking = (names_in(cell, ast.Load) - stored - given) & solved
        lost |= {cell["id"]: lacking} if lacking else {}
        given |= stored
    assert lost == {}


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_the_key_holds_each_exercise_and_its_solution(path):
    book = read(path)
    key = handouts.answers(path.name, book)
    solutions = [cell for cell in book["cells"] if is_solution(cell)]
    assert key.count("```python\n") == len(solutions)
    assert "unfold after trying" not in key and "<!--" not in key
    for cell in solutions:
        code = text_of(cell["source"]).partition("\n")[2]
        assert f"```python\n{code}\n```" in key
    assert re.match(r"# \d\d .+: the key\n", key)


def test_the_key_states_the_exercise_before_its_solution():
    key = handouts.answers("00_start_here.ipynb", read(CHAPTERS[0]))
    first = key.index("**1 · Recall.**")
    assert first < key.index("def to_pixels") < key.index("✓ corners in pixels")
    assert "Padding is 0" not in key  # what came before the heading of the exercises


def test_nothing_that_is_there_is_overwritten(copies, tmp_path, capsys):
    mine = tmp_path / "work" / CHAPTERS[-1].name
    mine.parent.mkdir()
    mine.write_text("my work")
    assert handouts.main(["student", str(mine.parent)]) == 2
    said = capsys.readouterr().err
    assert "perhaps somebody's work: nothing was written" in said and mine.name in said
    assert [path.name for path in mine.parent.iterdir()] == [mine.name]
    assert mine.read_text() == "my work"
    assert handouts.main(["answers", str(mine)]) == 2
    assert "is a file: name a folder" in capsys.readouterr().err


def test_other_files_in_the_folder_do_not_matter(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert handouts.main(["answers", str(tmp_path)]) == 0
    assert f"{len(CHAPTERS)} chapters written" in capsys.readouterr().out
    made = sorted(path.stem for path in tmp_path.glob("*.md"))
    assert made == [path.stem for path in CHAPTERS]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_course_hands_the_folder_on_as_the_caller_means_it(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(course, "ready", lambda: None)
    monkeypatch.setattr(course, "call", lambda *command: called.append(command) or 0)
    monkeypatch.chdir(tmp_path)
    assert course.main(["student", "class"]) == 0
    assert course.main(["answers"]) == 0
    tool = ROOT / "tools" / "handouts.py"
    assert called == [(tool, "student", str(tmp_path / "class")), (tool, "answers")]
