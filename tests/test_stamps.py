"""Every chapter leads to its neighbours, and hides its solutions until asked for."""

import json
import re

import pytest

from detr_steps.check import Verdict, ch00
from tools import stamps
from tools.notebooks import (
    ROOT,
    SETUP,
    chapters,
    is_folded,
    is_solution,
    normalise,
    text_of,
)

RUN = "run `python tools/stamps.py`"


def read(path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_a_chapter_is_stamped(path):
    paths = chapters()
    names = [each.name for each in paths]
    titles = [stamps.title(each.name, read(each)) for each in paths]
    line = stamps.path_line(names.index(path.name), names, titles)
    text = text_of(read(path)["cells"][-1]["source"])
    assert text.endswith(line) and text.count(stamps.MARK) == 1, RUN
    book = read(path)
    stamps.hide(book)
    stamps.with_badge(path.name, book)
    assert book == read(path), RUN


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_no_text_shows_a_picture_of_the_web(path):
    """Without a network it would be broken."""
    text = "\n".join(text_of(cell["source"]) for cell in read(path)["cells"])
    assert "Open in Colab</a>" in text
    assert not re.search(r"<img [^>]*src=.?http|!\[[^]]*\]\(http", text)


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_what_stands_under_a_solution_is_folded_everywhere(path):
    cells = read(path)["cells"]
    solutions = [cell for cell in cells if is_solution(cell)]
    assert len(solutions) >= 3
    for cell in solutions:
        metadata = cell["metadata"]
        assert metadata["jupyter"] == {"source_hidden": True, "outputs_hidden": True}
        assert metadata["cellView"] == "form" and metadata["collapsed"]  # Colab's way
        assert metadata["transient"] == {"remove_source": True}  # nbconvert's
        first = text_of(cell["source"]).splitlines()[0]
        assert re.fullmatch(r"# @title Solution( \d+)?: unfold after trying", first)
        # what is printed no export folds: a verdict that is displayed folds itself
        kinds = {output["output_type"] for output in cell["outputs"]}
        assert "stream" not in kinds, f"{cell['id']} prints: use display, or assert"


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_what_is_folded_has_a_title_and_shows_its_outputs(path):
    folded = [cell for cell in read(path)["cells"] if is_folded(cell)]
    assert text_of(folded[0]["source"]).startswith(SETUP)
    for cell in folded:
        assert cell["metadata"]["jupyter"] == {"source_hidden": True}
        assert cell["metadata"]["cellView"] == "form"
        assert re.match("# @title [A-Z]", text_of(cell["source"]))


def test_a_plain_export_shows_no_solution():
    """nbconvert without any option, as `jupyter nbconvert --to html` runs it."""
    import nbformat
    from nbconvert import HTMLExporter

    path = chapters()[0]
    book = nbformat.read(path, as_version=4)
    page, _ = HTMLExporter().from_notebook_node(book)
    seen = re.sub(r"<details>.*?</details>|<[^>]+>", " ", page)
    text = " ".join(re.sub(r"&#39;|&quot;", "'", seen).split())
    solution = next(cell for cell in book.cells if is_solution(cell))
    said = next(o["data"]["text/plain"] for o in solution.outputs)
    assert "def to_pixels" in text and "def iou" in text  # the exercise, the chapter
    assert "Solution 1: unfold" not in text
    assert "return None # your lines here" in text
    assert said[2:] not in text and said[2:] in page


def test_a_run_keeps_what_is_stamped():
    book = read(chapters()[0])
    before = [cell["metadata"] for cell in book["cells"]]
    after = [cell["metadata"] for cell in normalise(book)["cells"]]
    assert after == before


def test_a_solutions_verdict_is_folded_as_its_cell_would_fold_it(tmp_path):
    file = tmp_path / "cell.py"
    code = "verdict = check.to_pixels(lambda box, size: box)"
    shown = {}
    for first in ("# @title Solution 1: unfold after trying", "# mine"):
        file = tmp_path / f"{len(shown)}.py"
        file.write_text(f"{first}\n{code}\n")
        names = {"check": ch00}
        exec(compile(file.read_text(), str(file), "exec"), names)
        shown[first] = names["verdict"]
    folded, plain = shown.values()
    assert repr(folded) == repr(plain) and plain._repr_html_() is None
    data = {"text/plain": repr(folded)}
    stamps.fold(data)
    assert text_of(data["text/html"]) == folded._repr_html_()
    assert text_of(data["text/html"]).startswith("<details><summary>")


def test_a_verdict_is_text_not_html():
    assert "a &lt; b" in Verdict(True, "a < b", folded=True)._repr_html_()


# --- stamping -------------------------------------------------------------------


@pytest.fixture
def course(tmp_path):
    """Three chapters, 01 missing between them; 02 with a solution."""
    (tmp_path / "chapters").mkdir()
    for name, heading in {
        "00_start": "# 00 · Start",
        "02_detr": "# 02 · DETR: can it?",
        "05_conv": "# 05 · Deformable convolution: what if?",
    }.items():
        cells = [markdown(heading), markdown("The end.\n")]
        if name == "02_detr":
            cells.insert(1, solution("# solution, to unfold after trying: it is 3\n3"))
        book = {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
        (tmp_path / "chapters" / f"{name}.ipynb").write_text(json.dumps(book))
    return tmp_path


def markdown(text: str) -> dict:
    return {"cell_type": "markdown", "id": "m", "metadata": {}, "source": text}


def solution(text: str) -> dict:
    output = {"output_type": "execute_result", "data": {"text/plain": "✓ three"}}
    return {"cell_type": "code", "id": "s", "metadata": {"tags": ["solution"]},
            "source": text, "outputs": [output], "execution_count": 1}  # fmt: skip


def endings(root) -> list[str]:
    """The last line of each chapter."""
    books = map(read, chapters(root))
    return [text_of(b["cells"][-1]["source"]).splitlines()[-1] for b in books]


def test_links_pass_over_a_chapter_that_is_not_there_and_find_one_that_came(course):
    assert len(stamps.stamp(course)) == 3
    assert endings(course) == [
        "[02 DETR](02_detr.ipynb) → <!-- path -->",
        "← [00 Start](00_start.ipynb) · [05 Deformable convolution](05_conv.ipynb) → "
        "<!-- path -->",
        "← [02 DETR](02_detr.ipynb) <!-- path -->",
    ]
    assert stamps.stamp(course) == []
    book = {"cells": [markdown("# 01 · Attention"), markdown("So far.")]}
    book |= {"metadata": {}, "nbformat": 4, "nbformat_minor": 5}
    (course / "chapters" / "01_attention.ipynb").write_text(json.dumps(book))
    assert [p.stem for p in stamps.stamp(course)] == [
        "00_start", "01_attention", "02_detr"
    ]  # fmt: skip
    assert "[01 Attention](01_attention.ipynb) →" in endings(course)[0]
    assert all(len(re.findall("<!--", line)) == 1 for line in endings(course))


def test_a_hint_in_a_solutions_first_line_moves_below_it(course):
    stamps.stamp(course)
    cell = read(course / "chapters" / "02_detr.ipynb")["cells"][1]
    assert text_of(cell["source"]).splitlines() == [
        "# @title Solution: unfold after trying", "# it is 3", "3"
    ]  # fmt: skip
    assert "three" in text_of(cell["outputs"][0]["data"]["text/html"])


@pytest.mark.parametrize(
    ("first", "becomes"),
    [
        ("# solution, to unfold after trying", ["# @title Solution: {}"]),
        ("# @title Solution 2: unfold after trying", ["# @title Solution 2: {}"]),
        (
            "# solution, to unfold after trying; a, b",
            ["# @title Solution: {}", "# a, b"],
        ),
        ("x = 3  # no title", ["# @title Solution: {}", "x = 3  # no title"]),
    ],
)
def test_titles_of_solutions(first, becomes):
    wanted = [line.format("unfold after trying") for line in becomes]
    assert stamps.titled(f"{first}\ny").splitlines() == [*wanted, "y"]


def test_nothing_is_written_where_one_chapter_cannot_be_stamped(course):
    path = course / "chapters" / "05_conv.ipynb"
    path.write_text(path.read_text().replace("# 05 ", "# "))
    with pytest.raises(ValueError, match="05_conv.ipynb: the first cell must begin"):
        stamps.stamp(course)
    assert "path" not in (course / "chapters" / "00_start.ipynb").read_text()


def test_the_tool_runs_as_a_file():
    import subprocess
    import sys

    done = subprocess.run([sys.executable, ROOT / "tools" / "stamps.py"],
                          capture_output=True, text=True, cwd=ROOT)  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "nothing to stamp\n"), done.stderr
