"""How the book's pages are made: terms, claims, uses, docstrings, diffs, links."""

import base64
import colorsys
import io
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from PIL import Image

from detr_steps.viz.engine.inline import small_png
from tools.book import changes, dark, docstrings, fonts, landing, ledger, markdown, pdf
from tools.book.__main__ import main
from tools.book.api import in_chapter
from tools.book.chapters import Chapter, Fault
from tools.book.convert import Converter
from tools.book.diffs import diff
from tools.book.glossary import Glossary, entries_of
from tools.book.library import Library, first_sentence
from tools.book.uses import uses_of
from tools.notebooks import ROOT


def chapter(*cells: tuple[str, str], stem: str = "02_detr") -> Chapter:
    """A chapter from (kind, source) pairs, its title put before them."""
    made = [("markdown", "# 02 · DETR: can it?\n"), *cells]
    cells = [
        {"cell_type": kind, "id": f"c{i}", "metadata": {}, "source": source}
        | ({"outputs": [], "execution_count": i} if kind == "code" else {})
        for i, (kind, source) in enumerate(made)
    ]
    return Chapter(
        Path(__file__).resolve().parents[1] / f"chapters/{stem}.ipynb", cells
    )


WORDS = """<details><summary>Terms</summary>

*slot*: a place · *query* (object query): who asks; *key, value* found by, said

**Further reading.** *Not a term* in a book.

</details>"""


# --- terms ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("*a* one · *b, c* two.", [(["a"], "one"), (["b", "c"], "two")]),
        ("- *a* one\n- *b*: two\n", [(["a"], "one"), (["b"], "two")]),
        ("*AP* mean; *AP50* one IoU", [(["AP"], "mean"), (["AP50"], "one IoU")]),
        ("*m* (bipartite): each once", [(["m"], "(bipartite) each once")]),
        ("*a* not *b* but c", [(["a"], "not *b* but c")]),
        ("*a* one\n\n**Read on.** *b* two", [(["a"], "one")]),
    ],
)
def test_terms_are_read_in_every_manner_of_the_chapters(text, found):
    assert entries_of(text) == found


def test_the_first_use_gets_an_anchor_and_later_ones_only_the_link():
    made = chapter(
        ("markdown", "A *slot*. Two *Slots*, `*slot*`."), ("markdown", WORDS)
    )
    glossary = Glossary([made])
    text = glossary.link(made.cells[1]["source"], made.stem, set())
    anchor = '<span id="use-slot"></span>'
    assert (
        text
        == f"A {anchor}{{term}}`slot <slot>`. Two {{term}}`Slots <slot>`, `*slot*`."
    )


def test_a_word_leads_only_to_the_chapter_that_explains_it():
    first = chapter(("markdown", WORDS), stem="01_attention")
    other = chapter(("markdown", "The *slot* of a card."))
    glossary = Glossary([first, other])
    source = other.cells[1]["source"]
    assert glossary.link(source, other.stem, set()) == source
    assert "use-slot" not in glossary.page([first, other])  # never used, only explained
    assert "01_attention.html#words" in glossary.page([first, other])


# --- claims ---------------------------------------------------------------------


def test_a_table_of_claims_without_output_is_a_fault():
    made = chapter(("code", "viz.claims([])"))
    with pytest.raises(Fault, match="02_detr.ipynb, cell c1: no table of claims"):
        _ = made.claims


def test_claims_are_read_from_the_kept_output():
    made = chapter(("code", "viz.claims([('<a>', 'b', True)])"))
    table = "| the paper says | we measured | verdict |\n| :-- | :-- | :-- |\n"
    rows = ["| <a> | b | holds |\n", "| c | d | not here: slower |"]
    made.cells[1]["outputs"] = [{"data": {"text/markdown": [table, *rows]}}]
    assert [(c.said, c.verdict) for c in made.claims] == [
        ("<a>", "holds"),
        ("c", "not here: slower"),
    ]
    page = ledger.page([made])
    assert "&lt;a&gt;" in page and "<a>" not in page
    assert "2 claims. Held: 1." in page and "not hold here: 1" in " ".join(page.split())
    assert 'href="chapters/02_detr.html#claims-c1"' in page


# --- the library ----------------------------------------------------------------


@pytest.fixture(scope="module")
def library() -> Library:
    return Library()


USES = """\
from detr_steps import DETR, DETRConfig, boxes as b, viz, zoo
from detr_steps.check import same
from detr_steps.objective import matching

tiny = DETRConfig.tiny().build()
mine = tiny(batch)
viz.table(("a",), [])
same(lambda a: a, lambda a: b.iou(a, a), (1,))
"""
PROOFS = """\
theirs = matching.box_cost(mine, packed, matching.CostWeights())
same(mine, theirs[0])
same(mine, tiny.loss(mine, targets)["total"])
def hidden(b):
    return b.giou
"""


def test_uses_and_proofs_are_told_apart(library):
    found = uses_of(chapter(("code", USES), ("code", PROOFS)), library)
    proofs = {use.name.called: use.proofs for use in found.values()}
    assert proofs == {
        "DETRConfig": [],
        "viz.table": [],
        "check.same": [],
        "boxes.iou": ["c1"],
        "objective.matching.box_cost": ["c2"],
        "objective.matching.CostWeights": [],  # settings prove nothing
        "DETR": ["c2"],
    }


def test_every_module_has_a_floor_and_public_names_have_one_home(library):
    homes = [public.full for public in library.public]
    assert len(homes) == len(set(homes)) > 60
    assert {public.called for public in library.public} >= {"DETR", "viz.table"}


@dataclass
class Settings:
    """One."""

    width: int = 3  # C of tokens, in `pixels`
    parts: list = None


def test_docstrings_become_links_code_and_plain_text():
    made = docstrings.Docstrings(
        {"02_detr": "02 · DETR"}, {"iou": "detr_steps.boxes.iou"}
    )
    lines = ["Take `iou` of `x [n, *]`, a_b * c.", "", "Source: A 2020. Raises: it."]
    made.process(None, "method", "m", lambda: 0, None, lines)
    text = "\n".join(lines)
    assert r":py:obj:`iou <detr_steps.boxes.iou>`" in text
    assert "``x [n, *]``" in text and r"a\_b \* c." in text
    assert "**Source** A 2020." in text and "**Raises** it." in text
    lines = ["Do. Built in", "chapters/02_detr.ipynb."]
    made.process(None, "module", "m", None, None, lines)
    assert ":doc:`02 · DETR </chapters/02_detr>`" in lines[0]
    lines = ["Do. Built in chapters/02_detr.ipynb. Built in chapters/09_x.ipynb."]
    made.process(None, "function", "f", lambda: 0, None, lines)
    assert lines[0] == "Do. Built in chapter 09."  # 02 is among the links below it


def test_fields_are_shown_with_their_comments():
    assert docstrings.fields_of(Settings) == [
        ("width", "int", "3", "C of tokens, in `pixels`"),
        ("parts", "list", "None", ""),
    ]
    assert docstrings.fields_of(Path) == []


def test_first_sentences_end_where_they_end():
    assert first_sentence("IoU of `a [n, 4]`, e.g. boxes. More.") == (
        "IoU of `a [n, 4]`, e.g. boxes."
    )
    assert first_sentence("Two\nlines\n\nNext.") == "Two lines"


# --- diffs ----------------------------------------------------------------------


def test_a_diff_shows_what_is_new_gone_and_the_same():
    old = ["def f(x):", "    y = x + 1", "    return y"]
    new = ["def f(x):", "    y = x + 2", "    return y"]
    html = diff(old, new)
    assert html.count('class="line same"') == 2
    assert html.count('class="line new"') == html.count('class="line gone"') == 1
    assert "\n\n" not in diff(["a", "", "", "b"], ["a", "", "", "c"])


def test_long_unchanged_runs_are_folded():
    run = [f"name_{i} = {i}" for i in range(30)]
    html = diff(["x = 1", *run], ["x = 2", *run])
    assert "24 unchanged lines" in html and "details" not in diff(run[:9], run[:9])


def test_the_systems_own_class_is_paired_by_its_role():
    old = changes.System(
        "a", "class AConfig:\n    x = 1\n\nclass A:\n    def f(self): ..."
    )
    new = changes.System(
        "b", "class BConfig:\n    x = 2\n\nclass B:\n    def f(self): ..."
    )
    kinds = changes.sorted_pieces(old, new)
    assert kinds["changed"] == ["·Config", "·"] and kinds["unchanged"] == ["·.f()"]
    assert kinds["new"] == kinds["gone"] == kinds["inherited"] == []


def test_a_system_may_be_there_before_its_chapter():
    pages = changes.pages([])
    assert set(pages) >= {"changes/index.md", "changes/classifier-detr.md"}
    assert not any("../chapters/" in page for page in pages.values())


def test_what_only_says_what_systems_have_in_common_is_none():
    text = "class AConfig({}): ...\nclass A: ..."
    assert changes.System("a", text.format("Protocol")).main is None
    assert changes.System("a", text.format("Base")).main == "A"


def test_what_a_system_does_not_change_it_inherits():
    old = changes.System("a", "class AConfig: ...\nclass A:\n    def f(self): ...")
    text = "class BConfig: ...\nclass B(A):\n    def g(self): ..."
    kinds = changes.sorted_pieces(old, changes.System("b", text))
    assert (kinds["gone"], kinds["inherited"]) == (["·.f()"], [])
    kinds = changes.sorted_pieces(old, changes.System("b", f"from .a import A\n{text}"))
    assert "·.f()" in kinds["inherited"] and not kinds["gone"]


def test_a_system_that_the_course_does_not_name_is_a_fault(monkeypatch):
    monkeypatch.setattr(changes, "SYSTEMS", {"detr": "nothing"})
    with pytest.raises(Fault, match="add to SYSTEMS .*: adamixer, classifier"):
        changes.pairs()


# --- building -------------------------------------------------------------------


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("mine")
    assert main(["--out", str(tmp_path)]) == 1
    assert "holds something else" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_fault_leaves_the_book_that_was_there(tmp_path, monkeypatch, capsys):
    def fail():
        raise Fault("a link to nothing")

    monkeypatch.setattr("tools.book.__main__.Site", fail)
    (tmp_path / "searchindex.js").write_text("old")
    assert main(["--out", str(tmp_path)]) == 1
    assert "a link to nothing" in capsys.readouterr().err
    assert (tmp_path / "searchindex.js").read_text() == "old"


# --- PDFs -----------------------------------------------------------------------


@pytest.fixture
def nothing_is_built(monkeypatch, tmp_path):
    def fail():
        raise AssertionError("it began to build")

    monkeypatch.setattr("tools.book.__main__.Site", fail)
    yield tmp_path / "book"
    assert list(tmp_path.iterdir()) == []


def test_without_a_browser_there_is_one_line_and_no_book(
    nothing_is_built, monkeypatch, capsys
):
    monkeypatch.setattr(pdf, "find_chromium", lambda: None)
    assert main(["--out", str(nothing_is_built), "--pdf"]) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith(
        "PDFs need Chromium: install it (Debian, Ubuntu: apt install"
    )


def test_a_chapter_that_is_not_there_cannot_be_printed(nothing_is_built, capsys):
    assert main(["--out", str(nothing_is_built), "--pdf", "02", "77"]) == 1
    assert "--pdf 77: no such chapter. There are 00, 01" in capsys.readouterr().err


def test_chapters_to_print_are_all_or_those_named():
    there = [chapter(stem=stem) for stem in ("00_start_here", "02_detr")]
    assert pdf.chosen(there, []) == there
    assert pdf.chosen(there, ["02"]) == there[1:]


def test_a_browser_that_does_not_start_is_told(tmp_path):
    code = (
        "from pathlib import Path; from tools.book import pdf\n"
        f"pdf.write(Path({str(tmp_path)!r}), [], {sys.executable!r})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("tools.book.chapters.Fault: no PDF of the browser: ")


# --- fonts ----------------------------------------------------------------------


def test_the_sheet_of_fonts_holds_each_file_and_travels_with_the_licences(tmp_path):
    folder = Path(__file__).resolve().parents[1] / "book" / "fonts"
    fonts.write(folder, tmp_path)
    sheet = (tmp_path / "fonts.css").read_text(encoding="utf-8")
    inside = re.findall(r"base64,([^\"]+)", sheet)
    files = [(folder / font.file).read_bytes() for font in fonts.FONTS]
    assert [base64.b64decode(each) for each in inside] == files
    assert {path.name for path in folder.glob("*.woff2")} == {
        font.file for font in fonts.FONTS
    }
    assert all(content[:4] == b"wOF2" for content in files)
    assert sum(map(len, files)) < 250_000  # every page loads them
    for font in fonts.FONTS:
        licence = (tmp_path / f"{font.family}-OFL.txt").read_text(encoding="utf-8")
        assert "SIL Open Font License, Version 1.1" in licence


# --- plots in the dark ----------------------------------------------------------


def drawn(draw) -> bytes:
    """A figure of one axes, as notebooks keep it."""
    figure, ax = plt.subplots(figsize=(4, 3))
    draw(ax)
    plt.close(figure)
    return small_png(figure)


def lines(ax) -> None:
    ax.plot([0, 1, 2], [2, 0, 1], color="#E69F00", lw=3, label="AP")
    ax.legend()


def with_text(ax) -> None:
    ax.bar([0, 1], [1, 2], color=["#0072B2", "#E69F00"], width=0.95)
    ax.text(0, 0.4, "words on blue", ha="center")


def values(cmap):
    return lambda ax: ax.imshow(np.linspace(0, 1, 64).reshape(8, 8), cmap=cmap)


def colour_bar(ax) -> None:
    scatter = ax.scatter(range(9), range(9), c=range(9), s=9)
    ax.figure.colorbar(scatter)


@pytest.mark.parametrize(
    ("draw", "plot"),
    [
        (lines, True),
        (with_text, False),  # two large areas: more picture than paper
        (lambda ax: ax.bar([0, 4], [1, 2], color=["#0072B2", "#E69F00"]), True),
        (values("viridis"), False),
        (values("Greys"), False),
        (values("Oranges"), False),
        (colour_bar, False),
        (lambda ax: ax.barh([0], [1], color="0.7"), False),
        (lambda ax: ax.imshow(np.random.default_rng(0).random((32, 32, 3))), False),
    ],
)
def test_only_lines_and_bars_on_white_are_made_dark(draw, plot):
    assert dark.is_plot(drawn(draw)) == plot


def counted(png: bytes) -> list[tuple[int, int, int]]:
    """A picture's colours, most pixels first."""
    with Image.open(io.BytesIO(png)) as image:
        found = image.convert("RGB").getcolors(1 << 20)
    return [colour for _, colour in sorted(found, reverse=True)]


def test_dark_plots_have_paper_ink_and_colours_that_keep_their_names():
    colours = counted(dark.dark(drawn(lines)))
    assert np.abs(np.subtract(colours[0], dark.PAPER)).max() <= 4
    brightest = max(colours, key=min)
    assert np.abs(np.subtract(brightest, dark.INK)).max() <= 8
    hues = [colorsys.rgb_to_hsv(*(c / 255 for c in each)) for each in colours[1:6]]
    orange = colorsys.rgb_to_hsv(0xE6 / 255, 0x9F / 255, 0)
    assert any(abs(h - orange[0]) < 0.02 and s > 0.6 for h, s, _ in hues)
    assert (255, 255, 255) not in colours


def test_words_on_an_area_of_colour_stay_as_they_are():
    blue, black = (0, 0x72, 0xB2), (0, 0, 0)
    light, made = drawn(with_text), dark.dark(drawn(with_text))
    near = lambda png, colour: min(  # noqa: E731
        np.abs(np.subtract(each, colour)).max() for each in counted(png)
    )
    for colour in (blue, black):
        assert near(light, colour) <= 8 and near(made, colour) <= 8


@pytest.mark.parametrize(
    ("text", "code", "named"),
    [
        ("The black line is the mean.", "", True),
        ("Darker cells are read more.", "", True),
        ("The blue line is the mean.", "ax.plot(x, color='black')", False),
        ("", 'ax.set(title="layers 1 (light) to 3")', True),
        ("Grey: never read", "%time f()", True),
        ("White: the object", "viz.family_map(here='05')", False),
        ("In the highlights", "", False),
    ],
)
def test_figures_whose_greys_are_named_keep_them(text, code, named):
    assert dark.names_neutral(text, code) == named


def test_a_plot_gets_its_twin_and_a_picture_none(tmp_path):
    for folder in ("_images", "chapters"):
        (tmp_path / folder).mkdir()
    png, page = drawn(lines), tmp_path / "chapters" / "02.html"
    (tmp_path / "_images" / "a.png").write_bytes(png)
    other = '<img alt="x" src="../_images/b.png" />'
    page.write_text(f'<img alt="x" class="plot" src="../_images/a.png" />{other}')
    dark.add_to([page])
    assert page.read_text() == (
        '<img alt="x" class="plot only-light" src="../_images/a.png" />'
        f'<img alt="x" class="plot only-dark" src="../_dark/a.png" />{other}'
    )
    assert (tmp_path / "_dark" / "a.png").read_bytes() == dark.dark(png)


def test_a_page_marks_its_plots_unless_their_greys_are_named(converter):
    made = chapter(("code", "draw()"), ("markdown", "The blue line."))
    data = base64.b64encode(drawn(lines)).decode()
    made.cells[1]["outputs"] = [
        {"output_type": "display_data", "data": {"image/png": data}, "metadata": {}}
    ]
    for text, marked in (("The blue line.", True), ("The grey line.", False)):
        made.cells[2]["source"] = text
        cells = json.loads(converter.page(made, "end"))["cells"]
        (code,) = (cell for cell in cells if cell["cell_type"] == "code")
        assert ("classes" in code["metadata"]["mystnb"]["image"]) == marked


# --- pages ----------------------------------------------------------------------


@pytest.fixture
def converter() -> Converter:
    modules = {"detr_steps.systems.detr"}
    return Converter(Glossary([]), modules, ("ada/detr", "v1"))


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("01_attention.ipynb", "01_attention.ipynb"),
        ("../detr_steps/systems/detr.py", "../api/detr_steps.systems.detr.rst"),
        ("../data/zoo", "https://github.com/ada/detr/tree/v1/data/zoo"),
        ("../README.md", "https://github.com/ada/detr/blob/v1/README.md"),
        ("https://arxiv.org/abs/1", "https://arxiv.org/abs/1"),
        ("#part", "#part"),
    ],
)
def test_links_of_a_notebook_lead_inside_the_book(converter, link, target):
    text = converter.prose(chapter(), f"See [this]({link}).", set())
    assert text == f"See [this]({target})."


def test_a_link_to_nothing_is_a_fault(converter):
    with pytest.raises(Fault, match="02_detr.ipynb links to ../gone.py"):
        converter.prose(chapter(), "[this](../gone.py)", set())


def test_a_page_folds_set_up_and_solutions_and_keeps_the_notebook_as_it_is(converter):
    made = chapter(("code", "# @title Setup\n1"), ("code", "2"), ("code", "3"))
    made.cells[2]["metadata"] = {"tags": ["solution"]}
    before = json.dumps(made.cells)
    cells = json.loads(converter.page(made, "the end"))["cells"]
    folded = ["hide-cell" in c["metadata"].get("tags", ()) for c in cells]
    code = [c["cell_type"] == "code" for c in cells]
    assert [f for f, is_code in zip(folded, code) if is_code] == [True, True, False]
    assert [c["source"] for c in cells if c["source"].startswith("(cell-")] == [
        "(cell-c1)=",
        "(cell-c2)=",
        "(cell-c3)=",
    ]
    assert cells[0]["source"].startswith("# 02 · DETR\n") and "Can it?" in str(cells[0])
    assert cells[-1]["source"] == "the end"
    assert json.dumps(made.cells) == before


BADGED = """# 02 · DETR: can it?

<!-- colab --><a href="https://colab.research.google.com/github/{}/x">b</a>
<!-- /colab -->
"""


def test_a_page_offers_colab_only_once_the_course_is_published(converter):
    made = chapter()
    for owner, offered in (("OWNER/detr_steps", False), ("ada/detr", True)):
        made.cells[0]["source"] = BADGED.format(owner)
        assert ("Open in Colab" in converter.page(made, "")) == offered


def test_the_front_page_names_the_repository_only_once_it_is_published():
    assert "OWNER" not in landing.copy("OWNER/detr_steps")
    assert "git clone https://github.com/ada/detr" in landing.copy("ada/detr")
    assert "Colab" not in landing.needs("OWNER/detr_steps", 3, 14)
    assert "3 of 14" in landing.needs("ada/detr", 3, 14)
    assert "Colab" in landing.needs("ada/detr", 3, 14)


def test_a_page_shows_what_happened_but_asks_for_no_guess(converter):
    made = chapter(("code", "predict('a', None)"), ("code", "reveal('a', 1)"))
    asked = "Your guess? Write it into predict('a', …), then go on.\n"
    told = "you expected:  (no guess)\n", "what happened: 1\n"
    stream = {"output_type": "stream", "name": "stdout"}
    made.cells[1]["outputs"] = [stream | {"text": [asked]}]
    made.cells[2]["outputs"] = [stream | {"text": [asked, *told]}]
    cells = json.loads(converter.page(made, "end"))["cells"]
    outputs = [c["outputs"] for c in cells if c["cell_type"] == "code"]
    assert outputs == [[], [stream | {"text": "what happened: 1\n"}]]


def test_only_names_in_a_chapters_code_are_built_there(library):
    public = next(each for each in library.public if each.built_in == "02_detr")
    made = chapter(("code", "1"))
    text = in_chapter(made, library, {made.stem: {}})
    assert f"`{public.called} <" in text and "belongs to this chapter" in text
    assert "built&nbsp;here" not in text


def test_markdown_is_left_alone_inside_code_maths_and_links():
    text = "a *b* `*c*` $*d*$ [*e*](f*g*h) <i title='*j*'>"
    found = []
    markdown.change_prose(text, lambda s: found.append(s) or s)
    assert "".join(found) == "a *b*   [*e* "


def test_a_first_cell_without_a_title_is_a_fault(tmp_path):
    path = tmp_path / "02_x.ipynb"
    path.write_text('{"cells": [{"cell_type": "markdown", "source": ["Hello"]}]}')
    with pytest.raises(Fault, match="must begin with '# NN · Title'"):
        Chapter.read(path)
