"""Our lower bounds and syntax against what Colab ships (tests/colab_freeze.txt)."""

import ast
import json
import re
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tools.notebooks import SETUP_CELL, chapters, setup_cell, text_of

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
NEEDS = [Requirement(need) for need in PROJECT["dependencies"]]
# ipywidgets 7 has none of these.
WIDGETS_8 = re.compile(
    r"\b(TagsInput|ColorsInput|FloatsInput|IntsInput|TimePicker|DatetimePicker"
    r"|NaiveDatetimePicker|widgets\.Stack)\b"
)


def frozen() -> dict[str, str]:
    lines = (ROOT / "tests" / "colab_freeze.txt").read_text("utf-8").splitlines()
    return dict(line.split("==") for line in lines if line and line[0] != "#")


def sources() -> list[Path]:
    folders = "detr_steps", "tests", "tools", "benchmarks"
    found = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return [*found, ROOT / "course.py"]


def code_cells(path: Path) -> list[str]:
    """The notebook's code, with lines for IPython (% and !) blanked."""
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = [text_of(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return [re.sub(r"(?m)^\s*[%!].*$", "", source) for source in code]


def installed_by_cell() -> list[str]:
    return re.findall(r'light = \["(.*)"\]', SETUP_CELL.read_text("utf-8"))[0].split(
        '", "'
    )


@pytest.mark.parametrize("need", NEEDS, ids=lambda need: need.name)
def test_colab_version_is_enough(need):
    version = frozen().get(need.name)
    if version is None:
        assert need.name in installed_by_cell(), f"Colab may lack {need.name}"
    else:
        assert need.specifier.contains(version), f"Colab has {need.name} {version}"


def test_colab_python_is_supported():
    assert SpecifierSet(PROJECT["requires-python"]).contains(frozen()["python"])


def test_bounds_are_lower_bounds():
    operators = {part.operator for need in NEEDS for part in need.specifier}
    assert operators == {">="}


def test_pins_satisfy_the_bounds():
    text = (ROOT / "pins.txt").read_text("utf-8")
    pins = dict(re.findall(r"(?m)^([\w.-]+)==([^\s;]+)", text))
    extras = PROJECT["optional-dependencies"]
    needs = [need for extra in extras.values() for need in extra]
    for need in [*NEEDS, *map(Requirement, needs)]:
        assert need.specifier.contains(pins[need.name]), need


def test_pins_install_on_every_supported_python():
    """Patch releases too: a pin that asks for 3.11.5 fails on Debian's 3.11.2."""
    text = (ROOT / "pins.txt").read_text("utf-8")
    for name in re.findall(r"(?m)^([\w.-]+)==[^;]*$", text):
        python = SpecifierSet(metadata.metadata(name)["Requires-Python"] or "")
        assert all(python.contains(f"3.{minor}.0") for minor in (11, 12, 13)), name


@pytest.mark.parametrize("path", sources(), ids=lambda p: str(p.relative_to(ROOT)))
def test_source_compiles_for_python_3_11(path):
    ast.parse(path.read_text("utf-8"), str(path), feature_version=(3, 11))


@pytest.mark.parametrize(
    "name", ["course.py", "tools/environment.py", "tools/installing.py"]
)
def test_starter_parses_in_an_old_python(name):
    text = (ROOT / name).read_text("utf-8")
    ast.parse(text, name, feature_version=(3, 8))
    assert "from __future__ import annotations" in text


def test_notebooks_compile_and_need_no_new_widgets():
    for path in chapters():
        for source in code_cells(path):
            ast.parse(source, path.name, feature_version=(3, 11))
            found = WIDGETS_8.search(source)
            assert not found, f"{path.name}: {found[0]} is not in ipywidgets 7"


def test_setup_cell_never_replaces_colabs_packages():
    cell = setup_cell(2)
    assert "--no-deps" in cell and "check(chapter=2)" in cell
    assert '"-e"' not in cell and "!pip" not in cell
    assert not {"torch", "numpy", "scipy", "matplotlib"} & set(installed_by_cell())
    assert len(cell.splitlines()) <= 25
