"""Building the compiled op: quietly, side by side, and what is said when it fails."""

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detr_steps.ops import backend, building, compiled
from detr_steps.ops.compiled_cpu import LOOPS

ROOT = Path(__file__).resolve().parents[2]
READ = """
import torch
from detr_steps.ops.read_points import read_points
value = torch.arange(6.0).view(1, 6, 1, 1)
at = torch.tensor([0.5, 0.5]).view(1, 1, 1, 1, 1, 2)
for _ in range(2):
    print(read_points(value, ((2, 3),), at, torch.ones(1, 1, 1, 1, 1)).item())
"""
can_build = pytest.mark.skipif(
    backend.trouble() is not None, reason=f"no compiled op: {backend.trouble()}"
)


@pytest.fixture
def shelf(tmp_path, monkeypatch) -> Path:
    """An empty place for built libraries."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "shelf"))
    return tmp_path / "shelf" / "detr_steps"


def start(code: str, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", code],
        # whatever the tests' own process keeps quiet is heard here
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": ""} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process: subprocess.Popen) -> tuple[str, str]:
    out, error = process.communicate(timeout=300)
    assert process.returncode == 0, error
    return out, error


@can_build
def test_two_processes_build_at_once_and_say_nothing(shelf):
    """Also beside what a stopped build left: torch's own lock, which holds up others.

    A third process needs no compiler any more.
    """
    left = shelf / "building-stopped"
    left.mkdir(parents=True)
    (left / "lock").touch()
    os.utime(left, (0, 0))  # long ago
    env = {backend.VARIABLE: "cpp"}
    for process in [start(READ, **env) for _ in range(2)]:
        assert said(process) == ("2.5\n2.5\n", "")
    names = [path.name for path in shelf.iterdir()]
    assert names == [compiled.key(LOOPS, compiled.sources())]
    found = start(READ, PATH="", **env)
    assert said(found) == ("2.5\n2.5\n", "")


@can_build
def test_a_change_of_the_sources_or_the_compiler_builds_anew(tmp_path, monkeypatch):
    folder = tmp_path / "kernels"
    shutil.copytree(compiled.sources(), folder)
    before = compiled.key(LOOPS, folder)
    assert before == compiled.key(LOOPS, compiled.sources())
    header = folder / LOOPS.headers[0]
    header.write_text(header.read_text() + "// more\n")
    changed = compiled.key(LOOPS, folder)
    monkeypatch.setenv("CXX", "another")
    assert len({before, changed, compiled.key(LOOPS, folder)}) == 3


# --- what stands in the way ----------------------------------------------------------


def build(shelf: Path) -> None:
    part = compiled.PARTS["cpu"]
    compiled.build_and_load(part, compiled.sources(), shelf / "name")


def no_compiler(monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler -pipe")


def old_torch(monkeypatch, tmp_path):
    monkeypatch.setattr(torch, "__version__", "2.9.1+cpu")


def windows(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "platform", "win32")


def change(monkeypatch, **how):
    part = dataclasses.replace(LOOPS, **how)
    monkeypatch.setitem(compiled.PARTS, "cpu", part)


def no_sources(monkeypatch, tmp_path):
    change(monkeypatch, headers=("missing.h",))


def no_place(monkeypatch, tmp_path):
    """A file where a folder should be: refused to root too, unlike a mere mode."""
    change(monkeypatch, check=lambda: None)
    (tmp_path / "shelf").touch()


WORDS = {
    no_compiler: r"no C\+\+ compiler \(no-such-compiler -pipe\): install one",
    old_torch: "torch 2.9.1.cpu is too old for it: install torch 2.10 or newer",
    windows: r"GCC and Clang: on Windows use WSL \(wsl --install\)",
    no_sources: "sources are missing: clone or install",
    no_place: r"cannot be kept in .*shelf.* \(Not a directory\): set TORCH_EXT",
}


@pytest.mark.parametrize("simulate", WORDS, ids=lambda simulate: simulate.__name__)
def test_each_trouble_has_its_words(simulate, shelf, tmp_path, monkeypatch):
    simulate(monkeypatch, tmp_path)
    with pytest.raises(building.NotCompiled, match=WORDS[simulate]):
        build(shelf)


@can_build
def test_a_fault_in_the_sources_is_quoted(shelf, tmp_path, monkeypatch):
    (tmp_path / "broken.cpp").write_text("int answer() { return forty_two; }\n")
    part = dataclasses.replace(LOOPS, sources=("broken.cpp",))
    words = r"does not build: .*broken\.cpp:1.*error.*forty_two"
    with pytest.raises(building.NotCompiled, match=words):
        compiled.build_and_load(part, tmp_path, shelf / "name")
    assert list(shelf.iterdir()) == []  # nothing half built


def test_a_library_that_is_broken_is_named(shelf):
    file = shelf / compiled.key(LOOPS, compiled.sources()) / LOOPS.file
    file.parent.mkdir(parents=True)
    file.write_bytes(b"no library")
    words = re.escape(str(file)) + " does not load .*: delete that file"
    with pytest.raises(building.NotCompiled, match=words):
        compiled.load_library()


# --- what a program without compiler sees -------------------------------------------


def test_auto_warns_once_and_computes(shelf):
    """A whole program; importing alone neither builds nor warns."""
    code = "import detr_steps.nn.deform_attention, detr_steps.ops.backend\nprint('in')"
    out, error = said(start(code + READ, CXX="no-such-compiler"))
    assert out == "in\n2.5\n2.5\n"
    assert error.count("RuntimeWarning: no compiled op: no C++ compiler") == 1
    assert error.count("DETR_STEPS_BACKEND=torch") == 1
    assert not shelf.exists()


@pytest.fixture
def value(monkeypatch) -> torch.Tensor:
    """Any tensor on the CPU, where there is no compiler."""
    trouble = building.NotCompiled("no C++ compiler (c++): install one")
    monkeypatch.setattr(backend, "trouble", lambda device="cpu": trouble)
    backend._warn.cache_clear()
    yield torch.zeros(1)
    backend._warn.cache_clear()


def test_torch_says_nothing(value, recwarn):
    with backend.use("torch"):
        assert not backend.compiles(value)
    assert not recwarn.list


def test_a_compiled_backend_raises(value):
    words = r"backend cpp: no C\+\+ compiler \(c\+\+\): install one"
    with backend.use("cpp"), pytest.raises(building.NotCompiled, match=words):
        backend.compiles(value)


def test_the_variable_is_checked():
    with pytest.raises(ValueError, match="DETR_STEPS_BACKEND 'gpu': expected one of"):
        backend._known("gpu", backend.VARIABLE)


def test_course_test_keeps_the_warning_out_of_notebooks(value):
    """Their outputs are compared strictly, also where there is no compiler."""
    from course import QUIET

    with backend.use("auto"), pytest.warns(RuntimeWarning) as seen:
        backend.compiles(value)
    warn = f"import warnings; warnings.warn({str(seen[0].message)!r}, RuntimeWarning)"
    for quiet, lines in ((QUIET, 0), ("", 1)):
        command = [sys.executable, "-c", warn]
        env = os.environ | {"PYTHONWARNINGS": quiet}
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        assert done.stderr.count("RuntimeWarning") == lines
