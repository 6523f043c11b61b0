"""Sliders where there is a notebook, a still figure everywhere."""

import matplotlib.pyplot as plt
import nbformat
import pytest
from nbclient import NotebookClient

from detr_steps.viz import play
from detr_steps.viz.engine.play import VIEW, start_of
from tools.notebooks import normalise

CELL = """
import matplotlib.pyplot as plt
from detr_steps import viz

def draw(width, filled, colour):
    '''A line of some width.

    More.'''
    plt.plot([0, 1], linewidth=width, color=colour)

viz.play(draw, width=(1, 5, 1, 2), filled=True, colour=["red", "blue"])
"""


@pytest.mark.parametrize(
    ("slider", "start"), [((0, 9, 1, 4), 4), (["b", "a"], "b"), (True, True)]
)
def test_each_kind_of_slider_has_a_start(slider, start):
    assert start_of(slider) == start


def test_a_plain_script_shows_the_start():
    seen = []

    def draw(x, on):
        seen.append((x, on))
        plt.figure()

    play(draw, x=(0, 1, 0.1, 0.5), on=False)
    plt.close("all")
    assert seen == [(0.5, False)]


def test_a_notebook_holds_one_still_and_one_view():
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(CELL)])
    NotebookClient(book, timeout=60, store_widget_state=False).execute()
    still, view = book.cells[0].outputs
    assert still.data["text/plain"] == "A line of some width."
    assert len(still.data["image/png"]) > 100
    assert list(view.data) == [VIEW]

    (only,) = normalise(book)["cells"][0]["outputs"]
    assert "image/png" in only["data"]  # what is left once the kernel is gone


def test_solutions_are_folded_away():
    cell = nbformat.v4.new_code_cell("1", metadata={"tags": ["solution"]})
    (cell,) = normalise(nbformat.v4.new_notebook(cells=[cell]))["cells"]
    assert cell["metadata"]["jupyter"]["source_hidden"]
    assert cell["metadata"]["cellView"] == "form"  # Colab's way
