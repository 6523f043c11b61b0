"""The graph of sets: its nodes are the scheme's sets; it follows the pointer."""

import pytest
from pages import live_figures, read

from detr_steps import viz
from detr_steps.systems.sqr import Recollect
from detr_steps.viz.engine.sets import sets_of_queries


def nodes(figure) -> list[list[int]]:
    return figure.arrays["sets"].tolist()


@pytest.mark.parametrize(
    "scheme", [Recollect(), Recollect(dense=True), Recollect(start=3)]
)
@pytest.mark.parametrize("layers", [4, 6])
def test_nodes_are_the_sets_that_the_scheme_counts(scheme, layers):
    found = [layer for layer, _ in nodes(viz.recollection(scheme, layers))]
    assert [found.count(y) for y in range(layers + 1)] == [1, *scheme.sets(layers)]


def test_parents_are_sets_that_the_layer_recollects():
    scheme = Recollect()
    graph = nodes(viz.recollection(scheme))
    for layer, parent in graph[1:]:
        assert graph[parent][0] in scheme.sources(layer - 1)
    children = [parent for layer, parent in graph if layer == 6]
    assert len(set(children)) == 13  # every set is refined once by a layer, not twice
    assert {graph[parent][0] for parent in children} == {4, 5}


def test_summary_tells_the_path_of_the_start():
    figure = viz.recollection(Recollect())
    assert "1, 2, 3, 5, 8, 13 sets, 32 in all" in figure.summary
    assert "layer 6 was made by layers 2, 4, 6, past layers 1, 3, 5" in figure.summary
    plain = viz.recollection(Recollect(), start=2)
    assert "layer 2 was made by layers 1, 2, none is skipped" in plain.summary
    assert "at the start" in viz.recollection(Recollect(), start=0).summary


@pytest.mark.parametrize("paths", [[[(1,)], [(1, 3)]], [[(1,)], [(3, 2)]], [[()]]])
def test_a_path_from_nowhere_is_refused(paths):
    with pytest.raises(ValueError, match="begin as a set of an earlier one"):
        sets_of_queries(paths)


def test_one_layer_is_refused():
    with pytest.raises(ValueError, match="nothing to recollect"):
        viz.recollection(Recollect(), 1)


def test_keys_walk_along_the_path(page, tmp_path):
    file = tmp_path / "sets.html"
    viz.recollection(Recollect()).save_html(file)
    page.goto(file.as_uri())
    (frame,) = live_figures(page)
    frame.locator(".card").focus()
    lines = read(frame).split("\n\n")
    assert lines[0] == "layer 6, set 13 of 13"
    assert lines[1] == "made by layers 2, 4, 6, past layers 1, 3, 5"
    page.keyboard.press("ArrowLeft")
    assert read(frame, ".words p") == "layer 4, set 5 of 5"
    page.keyboard.press("ArrowRight")
    assert "refined further by layer 6" in read(frame)
