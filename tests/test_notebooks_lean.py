"""Every chapter is small, in order, and holds nothing of the machine that ran it."""

import base64
import json
import re
from pathlib import Path

import pytest
from small import small_figure

from tools.notebooks import STAMP, chapters, is_run, setup_cell, stamp_text, text_of

MACHINE = re.compile(r"/(work|farm|root|home|Users)/[\w.-]+|[A-Z]:\\+Users\\+")
MINUS_ZERO = re.compile(r"(?<![\w.])[-−]0(?:\.0+)?(?![\w.])")
FORBIDDEN_KEYS = {"widgets", "colab"}


def outputs_of(book: dict, kind: str) -> list[str]:
    """What the outputs hold of one MIME type."""
    outputs = [output for cell in book["cells"] for output in cell.get("outputs", [])]
    data = [output.get("data", {}).get(kind) for output in outputs]
    return [text_of(each) for each in data if each]


def pictures(book: dict) -> list[int]:
    """Bytes of each picture among the outputs, also of those inside HTML."""
    coded = outputs_of(book, "image/png") + outputs_of(book, "image/jpeg")
    for html in outputs_of(book, "text/html"):
        coded += re.findall(r"data:image/\w+;base64,([\w+/=]+)", html)
    return [len(base64.b64decode(each)) for each in coded]


def bad_frames(book: dict) -> list[str]:
    """What is wrong with the interactive figures among the outputs."""
    found = []
    for html in outputs_of(book, "text/html"):
        for frame in re.findall(r"<iframe[^>]*>", html):
            if 'sandbox="allow-scripts"' not in frame or " src=" in frame:
                found.append("a frame that is not srcdoc and sandboxed")
            if not re.search(r"<img [^>]*alt=\"[^\"]{20}", html.split("<iframe")[0]):
                found.append("a frame without a poster that says what it shows")
            if len(html.encode()) > 300_000:  # the anchor bench carries two models'
                found.append("an interactive figure over 300 KB")  # matrices
    return found


def is_stamped(book: dict) -> bool:
    """True where every badge leads to the repository that the set-up cell names."""
    text = "\n".join(text_of(cell["source"]) for cell in book["cells"])
    name = re.search(STAMP.pattern.replace(".*?", "(.*?)"), text)
    links = re.findall(
        r'href="https://colab\.research\.google\.com/github/([^"]+)', text
    )
    return bool(name and links) and all(
        link.startswith("{}/blob/{}/chapters/".format(*name.groups())) for link in links
    )


def faults(text: str, chapter: int) -> list[str]:
    """All that is wrong with a notebook's file, in words."""
    book = json.loads(text)
    code = [cell for cell in book["cells"] if is_run(cell)]
    outputs = [output for cell in code for output in cell["outputs"]]
    first = text_of(code[0]["source"]) if code else ""
    checks = {
        f"{len(text) // 1000} KB, over 1000": len(text.encode()) > 1_000_000,
        f"{len(code)} code cells, over 35": len(code) > 35,
        "a picture over 120 KB": any(size > 120_000 for size in pictures(book)),
        ", ".join(bad_frames(book)): bool(bad_frames(book)),
        "execution counts are not 1..N": [c["execution_count"] for c in code]
        != list(range(1, len(code) + 1)),
        "outputs are stripped, so nothing is compared": not outputs,
        "an error among the outputs": any(
            output["output_type"] == "error" for output in outputs
        ),
        "widget or Colab metadata": bool(FORBIDDEN_KEYS & set(book["metadata"])),
        "a widget view, which is blank without its kernel": "widget-view" in text,
        f"a path of one machine: {MACHINE.search(text)}": bool(MACHINE.search(text)),
        "set-up cell differs from tools/setup_cell.py": first != setup_cell(chapter),
        "an address among the outputs": bool(
            re.search(r"0x[0-9a-f]{8,}", json.dumps(outputs))
        ),
        "a code cell ends in ';', which strict nbval trips over": any(
            text_of(cell["source"]).rstrip().endswith(";") for cell in code
        ),
        "the badge is not marked: <!-- colab --><!-- /colab -->": "<!-- colab -->"
        not in text,
        "badge and set-up cell differ: run `course.py publish`": not is_stamped(book),
    }
    return [fault for fault, is_there in checks.items() if is_there]


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_chapter_is_lean(path: Path):
    assert faults(path.read_text("utf-8"), int(path.stem[:2])) == []


@pytest.mark.parametrize("path", chapters(), ids=lambda path: path.stem)
def test_no_number_is_minus_zero(path: Path):
    book = json.loads(path.read_text("utf-8"))
    written = outputs_of(book, "text/plain") + outputs_of(book, "text/markdown")
    for cell in book["cells"]:
        written += [text_of(o["text"]) for o in cell.get("outputs", ()) if "text" in o]
    assert not [text for text in written if MINUS_ZERO.search(text)]
    code = "\n".join(text_of(cell["source"]) for cell in book["cells"])
    assert ".bar_label(" not in code, "viz.bar_values leaves the sign of zero away"


@pytest.mark.parametrize("text", ["-0.0", "a −0.00, b", "| -0 |", "+3 -0.0 AP"])
def test_a_minus_zero_is_found(text):
    assert MINUS_ZERO.search(text)
    assert not MINUS_ZERO.search("-0.01, 3-0.0, 10-0, -0.0e-5")


def lean_notebook() -> dict:
    """The smallest notebook without a fault."""
    cell = {"cell_type": "code", "id": "a", "metadata": {}, "execution_count": 1}
    stream = {"output_type": "stream", "name": "stdout", "text": ["ready\n"]}
    cell |= {"source": setup_cell(2), "outputs": [stream]}
    title = {"cell_type": "markdown", "id": "b", "metadata": {}}
    badge = "<!-- colab --><!-- /colab -->"
    repo, tag = re.search(r'REPO, TAG = "(.*)", "(.*)"', setup_cell(2)).groups()
    title["source"] = "# Two words\n" + stamp_text(
        badge, repo, tag, own="02_detr.ipynb"
    )
    return {"cells": [title, cell], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def test_a_lean_notebook_passes():
    assert faults(json.dumps(lean_notebook()), 2) == []


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"execution_count": 2}, "counts"),
        ({"outputs": []}, "stripped"),
        ({"outputs": [{"output_type": "error"}]}, "error"),
        ({"source": "import detr_steps"}, "set-up cell"),
        ({"source": "plot();"}, "';'"),
        ({"metadata": {"note": "/home/ada/course"}}, "path of one machine"),
        ({"metadata": {"note": "x" * 1_000_001}}, "KB"),
    ],
)
def test_each_fault_is_found(change, fault):
    book = lean_notebook()
    book["cells"][1].update(change)
    assert any(fault in found for found in faults(json.dumps(book), 2))


def found_in(data: dict, **metadata) -> str:
    """The faults of a notebook with one output, in one line."""
    book = lean_notebook()
    book["cells"][1]["outputs"] = [{"output_type": "display_data", "data": data}]
    book["metadata"] |= metadata
    return " ".join(faults(json.dumps(book), 2))


PNG = base64.b64encode(bytes(120_001)).decode()


def test_large_pictures_and_widgets_are_found():
    found = found_in({"image/png": PNG}, widgets={})
    assert "picture" in found and "widget" in found


def test_an_interactive_figure_is_lean():
    assert found_in({"text/html": small_figure().html()}) == ""


@pytest.mark.parametrize(
    ("part", "instead", "fault"),
    [
        (' sandbox="allow-scripts"', "", "sandboxed"),
        ("<iframe srcdoc", "<iframe src", "sandboxed"),
        (' alt="', ' title="', "poster"),
        ("&lt;/script&gt;", "x" * 300_000, "over 300 KB"),
        ("base64,", "base64," + PNG, "picture"),
    ],
)
def test_a_figure_that_is_not_lean_is_found(part, instead, fault):
    html = small_figure().html()
    assert part in html
    assert fault in found_in({"text/html": html.replace(part, instead, 1)})
