"""What cpp_extension is asked for, and what is said when it cannot build.

There need not be a torch with CUDA: what it would be asked is looked at, and each unit
it would compile is compiled by nvcc elsewhere (test_compiled_objects.py).
`benchmarks/extension_build.py` builds with one that has.
"""

import os
import time

import pytest
import torch
from torch.utils import cpp_extension

from detr_steps.ops import compiled, compiled_cuda, compiled_extension
from detr_steps.ops.building import NotCompiled
from detr_steps.ops.compiled_objects import Unit

GPUS = [(7, 5), (9, 0)]


@pytest.fixture(autouse=True)
def shelf(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    monkeypatch.setattr(cpp_extension, "is_ninja_available", lambda: True)
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)


@pytest.fixture
def asked(monkeypatch):
    """What cpp_extension.load was called with, each time, and for which GPUs."""
    calls = []

    def load(name, sources, **given):
        calls.append(given | {"name": name, "sources": sources, "gpus": gpus()})

    monkeypatch.setattr(cpp_extension, "load", load)
    return calls


def gpus():
    return os.environ.get("TORCH_CUDA_ARCH_LIST")


def build():
    part = compiled.PARTS["cuda"]
    units = compiled_cuda.units(part)
    return compiled_extension.build_extension(part, units, compiled.sources(), GPUS)


def test_every_unit_is_a_source_of_its_own(asked):
    library = build()
    (call,) = asked
    units = compiled_cuda.units(compiled.PARTS["cuda"])
    assert len(set(call["sources"])) == len(units) > 6
    for unit, source in zip(units, call["sources"]):
        text = open(source, encoding="utf-8").read()
        if unit.bytes:
            first, second = text.splitlines()
            assert first == f"#define BYTES {unit.bytes}"
            assert second.startswith("#include") and unit.source in second
        elif unit.source.endswith(".cpp"):  # nvcc alone always finds CUDA's headers
            assert source.endswith(".cu") and unit.source in text
        else:
            assert source.endswith(unit.source)
    assert library.parent.is_dir() and library.name == "detr_steps_cuda.so"
    assert str(library.parent) == call["build_directory"]


def test_the_flags_are_those_that_nvcc_is_tested_with(asked):
    build()
    (call,) = asked
    own = {flag for flag in compiled_cuda.flags() if flag.startswith(("-D", "-std"))}
    assert own <= set(call["extra_cuda_cflags"]) and own <= set(call["extra_cflags"])
    assert call["gpus"] == "7.5;9.0" and gpus() is None
    assert call["with_cuda"] and call["is_python_module"] is False


def test_gpus_that_the_reader_has_named_come_back(asked, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0")
    build()
    assert asked[0]["gpus"] == "7.5;9.0" and gpus() == "8.0"


def test_a_unit_that_is_right_is_left_alone(tmp_path):
    unit = Unit("cuda/forward_tiles.cu", 2)
    file = compiled_extension.unit_source(unit, compiled.sources(), tmp_path)
    os.utime(file, (1, 1))
    again = compiled_extension.unit_source(unit, compiled.sources(), tmp_path)
    assert again == file and file.stat().st_mtime == 1  # or ninja compiled it anew
    file.write_text("something else\n")
    compiled_extension.unit_source(unit, compiled.sources(), tmp_path)
    assert "BYTES 2" in file.read_text()


@pytest.mark.parametrize("change", ["gpus", "torch", "sources", "toolkit"])
def test_other_builds_have_folders_of_their_own(change, monkeypatch, tmp_path):
    part, folder = compiled.PARTS["cuda"], compiled.sources()
    before = compiled_extension.build_folder(part, folder, GPUS)
    wanted = [(8, 0)] if change == "gpus" else GPUS
    if change == "torch":
        monkeypatch.setattr(torch, "__version__", "2.99.0")
    if change == "toolkit":
        monkeypatch.setattr(compiled_cuda, "toolkit", lambda: "99.0")
    place = tmp_path if change == "sources" else folder
    assert compiled_extension.build_folder(part, place, wanted) != before
    same = compiled_extension.build_folder(part, folder, GPUS) == before
    assert same == (change in ("gpus", "sources"))


def test_a_stale_lock_is_named(asked):
    lock = build().parent / "lock"
    lock.touch()
    build()  # another process is at work: torch waits for it
    old = time.time() - 2 * compiled_extension.STALE
    os.utime(lock, (old, old))
    with pytest.raises(NotCompiled, match="lock is there for 20 minutes: a build was"):
        build()
    lock.unlink()
    build()
    assert len(asked) == 3


def test_without_ninja_the_cure_is_said(monkeypatch):
    monkeypatch.setattr(cpp_extension, "is_ninja_available", lambda: False)
    with pytest.raises(NotCompiled, match="pip install ninja"):
        build()


def test_the_first_complaint_is_told(monkeypatch):
    def load(*args, **given):
        raise RuntimeError("Error building extension\nx.cu(3): error: no such thing\n")

    monkeypatch.setattr(cpp_extension, "load", load)
    with pytest.raises(
        NotCompiled, match=r"it does not build: x.cu\(3\): error: no such"
    ):
        build()
    assert gpus() is None
