"""Objects for GPUs: which are compiled again after an edit, and what is kept."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from detr_steps.ops import building, compiled, compiled_cuda, compiled_objects
from detr_steps.ops.building import UNUSED, NotCompiled
from detr_steps.ops.compiled import PARTS
from detr_steps.ops.compiled_objects import Unit, files_of, make_objects

NVCC = """#!{python}
import sys, pathlib
given = sys.argv[1:]
if given == ["--version"]:
    sys.exit(print("release 13.0"))
target = pathlib.Path(given[given.index("-o") + 1])
target.write_text(" ".join(given))
if "-c" in given:
    source = pathlib.Path(given[given.index("-c") + 1])
    if "no such thing" in source.read_text():
        sys.exit(f"{{source.name}}(1): error: no such thing")
with open({log!r}, "a") as log:
    print(target.name, file=log)
"""


class Bench:
    """A copy of the kernels, an nvcc that only writes down its calls, a shelf."""

    def __init__(self, root: Path):
        self.root, self.log, self.builds = root, root / "log", 0
        self.kernels = Path(shutil.copytree(compiled.sources(), root / "kernels"))
        self.shelf = root / "detr_steps"
        self.shelf.mkdir()
        self.nvcc = root / "nvcc"
        self.nvcc.write_text(NVCC.format(python=sys.executable, log=str(self.log)))
        self.nvcc.chmod(0o755)

    def build(self, part: str = "cuda", gpus=((9, 0),)) -> set[str]:
        """Names of what was compiled or linked."""
        self.builds += 1
        work = self.root / f"work-{self.builds}"
        work.mkdir()
        self.log.write_text("")
        compiled_cuda.build_library(PARTS[part], self.kernels, work, gpus)
        return set(self.log.read_text().split())

    def kept(self) -> list[Path]:
        """Folders of the objects that are kept."""
        return sorted(self.shelf.glob("object-*"))

    def edit(self, name: str, text: str = "// more\n") -> None:
        path = self.kernels / name
        path.write_text(path.read_text("utf-8") + text, "utf-8")


@pytest.fixture
def bench(tmp_path, monkeypatch) -> Bench:
    made = Bench(tmp_path)
    monkeypatch.setattr(compiled_cuda, "nvcc", lambda: str(made.nvcc))
    monkeypatch.setenv("CXX", "c++")
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    return made


LIBRARY = {"detr_steps_cuda.so"}
BINDING = {"ms_deform_attn_cuda-all.o"}
NAIVE = {"naive-all.o"}


def each(*stems: str) -> set[str]:
    return {f"{stem}-{size}.o" for stem in stems for size in (2, 4)}


FAST = each("forward_tiles", "backward_sorted", "backward_vectors")
EDITS = {
    "cuda/backward_sorted.cuh": each("backward_sorted"),
    "cuda/backward_vectors.cuh": each("backward_vectors"),
    "cuda/forward_tiles.cuh": each("forward_tiles"),
    "cuda/forward_vectors.cuh": each("forward_tiles"),  # which is made of it
    "cuda/backward_sorted.cu": each("backward_sorted"),
    "cuda/forward_naive.cuh": NAIVE,
    "cuda/points.cuh": FAST | NAIVE,
    "cuda/launch.h": FAST | NAIVE | BINDING,
    "ms_deform_attn_cuda.h": BINDING,
    "cuda/forward_points.cuh": set(),  # only the steps have it
}


def test_an_edit_compiles_what_holds_it_and_no_more(bench):
    assert bench.build() == FAST | NAIVE | BINDING | LIBRARY
    assert bench.build() == LIBRARY
    for name, again in EDITS.items():
        bench.edit(name)
        assert bench.build() == again | LIBRARY, name


def test_the_steps_share_what_computes(bench):
    bench.build()
    assert bench.build("steps") == each("forward_steps") | {
        "ms_deform_attn_steps-all.o",
        "detr_steps_steps.so",
    }


def test_each_size_and_what_is_linked(bench):
    bench.build()
    work = bench.root / "work-1"
    linked = (work / "detr_steps_cuda.so").read_text()
    for unit in compiled_cuda.units(PARTS["cuda"]):
        made = work / unit.name
        assert str(made) in linked and f"/{unit.source} " in made.read_text()
        assert (f"-DBYTES={unit.bytes} " in made.read_text()) == bool(unit.bytes)


@pytest.mark.parametrize("change", ["gpu", "flags", "compiler", "toolkit", "torch"])
def test_another_machine_compiles_all_again(bench, change, monkeypatch):
    everything = bench.build()
    if change == "flags":
        monkeypatch.setattr(compiled_cuda, "flags", lambda: ["-O2"])
    if change == "compiler":
        monkeypatch.setenv("CXX", "g++")
    if change == "toolkit":
        monkeypatch.setattr(compiled_cuda, "toolkit", lambda: "13.1")
    if change == "torch":
        monkeypatch.setattr(compiled_cuda.torch, "__version__", "2.99")
    gpus = [(7, 5)] if change == "gpu" else [(9, 0)]
    assert bench.build(gpus=gpus) == everything


def test_a_fault_is_quoted_and_what_was_good_is_kept(bench, monkeypatch):
    monkeypatch.setenv("MAX_JOBS", "1")
    bench.edit("cuda/naive.cu", "no such thing\n")
    with pytest.raises(NotCompiled, match=r"naive\.cu\(1\): error: no such thing"):
        bench.build()
    assert len(bench.kept()) == len(FAST | BINDING)
    assert {path.suffix for each in bench.kept() for path in each.iterdir()} == {".o"}
    assert bench.kept() == sorted(bench.shelf.iterdir())  # nothing half built
    path = bench.kernels / "cuda" / "naive.cu"
    path.write_text(path.read_text().replace("no such thing\n", ""))
    assert bench.build() == NAIVE | LIBRARY


def test_what_nobody_uses_is_swept(bench):
    bench.build()
    used, unused = bench.kept()[:2]
    for path in (used, unused):
        os.utime(path, (0, 0))
    building.kept(used.name, None)  # somebody takes it: nothing is built
    building.keep(bench.shelf / "another", lambda ready: None)
    assert used.exists() and not unused.exists()
    assert len(bench.build()) == 2  # the object that is gone, and the library


def test_use_keeps_an_object(bench):
    bench.build()
    kept = bench.kept()[0]
    long_ago = kept.stat().st_mtime - UNUSED / 2
    os.utime(kept, (long_ago, long_ago))
    bench.build()
    assert kept.stat().st_mtime > long_ago + UNUSED / 4


def test_an_object_swept_at_the_wrong_moment_is_compiled(bench, monkeypatch):
    bench.build()
    utime = os.utime

    def swept(path, *how):
        utime(path, *how)
        shutil.rmtree(path)

    monkeypatch.setattr(building.os, "utime", swept)
    assert bench.build() == FAST | NAIVE | BINDING | LIBRARY


def test_as_many_at_a_time_as_there_are_cores(monkeypatch):
    monkeypatch.delenv("MAX_JOBS", raising=False)
    assert compiled_objects._jobs() == os.cpu_count()
    for said, meant in (("3", 3), ("0", 1), ("many", os.cpu_count())):
        monkeypatch.setenv("MAX_JOBS", said)
        assert compiled_objects._jobs() == meant


def test_includes_are_followed_also_in_circles(tmp_path):
    texts = {
        "a.cu": '#include "x/b.h"\n#include <vector>\n// #include "no.h"\n',
        "x/b.h": '  # include "../c.h"\n#include "missing.h"\n',
        "c.h": '#include "a.cu"\n',
        "no.h": "",
    }
    (tmp_path / "x").mkdir()
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    names = [path.name for path in files_of(tmp_path / "a.cu")]
    assert sorted(names) == ["a.cu", "b.h", "c.h"]


def test_nothing_to_make(tmp_path):
    assert make_objects([], tmp_path, [], lambda unit, to: [], tmp_path) == []
    assert Unit("cuda/x.cu", 4).name == "x-4.o"
