"""The code of a chapter teaches, and a chapter is no longer than its reader's hour."""

import json

import pytest

from tools.notebooks import chapters, setup_cell
from tools.teaching import count, prose_words

SHARE, WORDS, CELLS, LINES = 0.60, 1800, 35, 400


def counted(path):
    return count(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_the_code_of_a_chapter_teaches(path):
    found = counted(path)
    assert found.share >= SHARE, f"{found.teaching} of {found.lines} lines teach"


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_a_chapter_is_no_longer_than_its_limits(path):
    found = counted(path)
    assert found.words <= WORDS, "cut prose, or fold it"
    assert found.lines <= LINES, "cut code, or move it to the library"
    assert found.cells <= CELLS


# --- what teaches ---------------------------------------------------------------


def notebook(*sources: str, **metadata) -> dict:
    """A notebook of code cells, each with the same metadata."""
    return {
        "cells": [
            {"cell_type": "code", "metadata": metadata, "source": source}
            for source in sources
        ]
    }


def taught(*sources: str) -> tuple[int, int]:
    """(lines that teach, lines) of a notebook of these cells."""
    found = count(notebook(*sources))
    return found.teaching, found.lines


@pytest.mark.parametrize(
    ("source", "lines"),
    [
        ("import torch\nfrom torch import nn", (0, 2)),
        ("# why\n\nx = torch.rand(3)  # [3]", (1, 1)),
        ("def f(x):\n    '''What.'''\n    return x + 1", (3, 3)),
        ("@torch.no_grad()\ndef f(x):\n    return x", (3, 3)),
        ("assert x > 1", (0, 1)),
        ("predict('q', None)\nreveal('q', f(x))", (0, 2)),
        ("print(f'{x:.2f}', len(x))", (0, 1)),
        ("print(iou(a, b))", (1, 1)),
        ("viz.table(('a', 'b'), [(k, *v) for k, v in scores.items()])", (0, 1)),
        ("same(mine, library)", (1, 1)),
        ("figure, ax = plt.subplots()\nax.plot(x)\nfigure.tight_layout()", (0, 3)),
        ("axes = plt.subplots(2)[1]\nfor one, x in zip(axes, xs):\n    one.plot(x)",
         (0, 3)),
        ("axes = plt.subplots(2)[1]\nfor ax, x in zip(axes, xs):\n    y = f(x)\n"
         "    z = x.square()\n    ax.plot(y, z)", (3, 5)),
        ("for x in xs:\n    print(x)", (0, 2)),
        ("with torch.no_grad():\n    y = f(x)\n    print(y)", (2, 3)),
        ("if on:\n    print(x)\nelse:\n    x = f(x)", (3, 4)),
        ("def draw(x):\n    y = f(x)\n    return viz.bars(y)\n\n\ndraw(3)", (0, 4)),
    ],
)  # fmt: skip
def test_each_kind_of_line(source, lines):
    assert taught(source) == lines


def test_rows_of_a_table_do_not_teach_unless_something_reads_them():
    rows = "rows = [(k, round(v, 2)) for k, v in scores.items()]"
    more = "rows.append(('all', sum(v)))"
    table = "viz.table(('a', 'b'), rows)"
    assert taught(rows, more, table) == (0, 3)
    assert taught(rows, more, table, "best = pick(rows)") == (2, 4)
    chain = "names = list(scores)\nwide = [len(name) for name in names]"
    assert taught(chain, "print(wide)") == (0, 3)


def test_a_name_that_draws_in_one_cell_is_free_in_the_next():
    first = "order = plt.axes()\norder.plot(x)"
    assert taught(first, "order = f(x)\ny = order.argsort()") == (2, 4)


def test_folded_cells_count_on_neither_side():
    assert count(notebook("x = f(y)", tags=["solution"])).lines == 0
    assert count(notebook("x = f(y)", tags=["folded"])).lines == 0
    setup = count(notebook(setup_cell(3)))
    assert (setup.lines, setup.cells, setup.share) == (0, 1, 1.0)


def test_words_are_those_a_reader_reads():
    text = "# Two words\n<!-- not this -->[a link](nor.this) $x y$ *it's* `code` 3"
    text += (
        "\n<!-- colab --><a>Open in Colab</a><!-- /colab -->\n← 00 Start <!-- path -->"
    )
    fold = "<details><summary>No</summary>not this</details>\n```\nnor this\n```"
    cells = [{"cell_type": "markdown", "source": each} for each in (text, fold)]
    assert prose_words({"cells": cells}) == 6
