"""What a session solved is counted, told, and written down only when asked."""

import json

import nbformat
import pytest
from nbclient import NotebookClient

from detr_steps import check
from detr_steps.check import ch01, progress
from detr_steps.check.trying import exercise


@pytest.fixture
def session(monkeypatch):
    """A session that has met nothing, and a chapter 77 with two exercises."""
    monkeypatch.setattr(progress, "_counted", {})
    monkeypatch.setattr(progress, "_met", set())
    make = lambda name: exercise(  # noqa: E731
        f"detr_steps.check.ch{77}", name, "Check.", cases=[(2,), (3,)],
        answer=lambda x: x * x, convert=float, praise="squared",
    )  # fmt: skip
    return make("square"), make("again")


def test_tries_are_counted_until_solved_and_after(session, capsys):
    square, _ = session
    assert not square(lambda x: None)  # not written yet: no try
    assert not square(lambda x: x + 1)
    assert square(lambda x: x * x)
    assert not square(lambda x: 2 * x)  # broken again: solved stays
    check.summary()
    told = capsys.readouterr().out.splitlines()
    assert told == [
        "77  square               solved, 3 tries",
        "77  again                not tried",
        "1 of 2 exercises solved in this session",
    ]


def test_a_wrong_answer_is_open(session, capsys):
    _, again = session
    again(lambda x: x + 1)
    check.summary()
    assert "77  again                open, 1 try\n" in capsys.readouterr().out


def test_a_chapter_that_the_session_did_not_meet_is_not_listed(session, capsys):
    check.summary()
    assert capsys.readouterr().out == "0 of 0 exercises solved in this session\n"


@pytest.mark.parametrize(
    "first", ["# @title Solution 1: unfold after trying", "# solution, to unfold"]
)
def test_the_courses_own_solution_is_not_counted(session, tmp_path, first):
    square, _ = session
    file = tmp_path / "cell.py"
    file.write_text(f"{first}\nverdict = square(lambda x: x * x)\n")
    names = {"square": square}
    exec(compile(file.read_text(), str(file), "exec"), names)
    assert names["verdict"] and names["verdict"].folded
    (entry, _) = progress.progress()
    assert (entry.exercise, entry.solved, entry.tries) == ("square", False, 0)


@pytest.mark.parametrize("cell", ["<module>", "<cell line: 0>"])  # Jupyter, Colab
def test_a_solution_that_calls_an_exercises_function_is_not_counted(
    session, tmp_path, cell
):
    names = {"square": session[0]}
    for name, code in {
        "exercise": "def judge(mine):\n    return square(mine)",
        "solution": "# @title Solution: unfold\nverdict = judge(lambda x: x * x)",
    }.items():
        file = tmp_path / f"{name}.py"
        file.write_text(code)
        exec(compile(code, str(file), "exec").replace(co_name=cell), names)
    assert names["verdict"].folded
    assert progress.progress()[0].tries == 0
    assert not names["judge"](lambda x: x * x).folded  # a reader's own cell


def test_a_notebook_tells_a_solution_from_an_exercise():
    sources = [
        "from detr_steps import check\nfrom detr_steps.check import ch05",
        "ch05.reading(20)",
        "# @title Solution: unfold after trying\nch05.reading(0.75 * 21 + 0.25 * 22)",
        "check.summary()",
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    book = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(book, timeout=300).execute()
    tried, solved, told = (cell.outputs[0] for cell in cells[1:])
    assert list(tried.data) == ["text/plain"]
    assert solved.data["text/plain"].startswith("✓")
    assert solved.data["text/html"].startswith("<details>")
    assert "05  reading              open, 1 try\n" in told.text


def test_it_is_written_only_when_asked_and_never_over_a_file(
    session, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    square, _ = session
    square(lambda x: x * x)
    check.summary()
    assert list(tmp_path.iterdir()) == []
    check.summary("ada.json")
    assert "written to ada.json" in capsys.readouterr().out
    assert json.loads((tmp_path / "ada.json").read_text()) == [
        {"chapter": "77", "exercise": "square", "solved": True, "tries": 1},
        {"chapter": "77", "exercise": "again", "solved": False, "tries": 0},
    ]
    before = (tmp_path / "ada.json").read_text()
    square(lambda x: x + 1)
    with pytest.raises(FileExistsError, match="ada.json is there already: give"):
        check.summary("ada.json")
    assert (tmp_path / "ada.json").read_text() == before


def test_the_exercises_of_the_chapters_are_counted():
    before = progress._counted["01", "count_weights"].tries
    assert ch01.count_weights(lambda *arguments: -1).folded is False
    after = progress._counted["01", "count_weights"]
    assert (after.tries, after.exercise) == (before + 1, "count_weights")
