"""The set-up cell's last line: `env = notebook.check(chapter)`."""

import sys
import types

import pytest
import torch

from detr_steps import notebook, zoo


@pytest.fixture(autouse=True)
def with_data(tmp_path, monkeypatch):
    monkeypatch.setattr(zoo, "folder", lambda: tmp_path / "zoo")


def test_prints_only_what_is_the_same_everywhere(capsys):
    env = notebook.check(chapter=2)
    out, err = capsys.readouterr()
    assert out.split() == ["chapter", "02", "detr_steps", "ready", "data", "found"]
    assert err == ""
    assert env.device not in out and env.torch not in out


def test_running_it_again_gives_the_same(capsys):
    first, numbers = notebook.check(4), torch.rand(3)
    assert notebook.check(4) == first
    assert torch.equal(torch.rand(3), numbers)


def test_finds_a_device_that_works():
    env = notebook.look(0)
    assert torch.ones(2, device=env.device).sum() == 2
    assert env.cores >= 1


def test_colab_without_gpu_is_told_where_to_get_one(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("colab"))
    monkeypatch.setattr(notebook, "best_device", lambda: "cpu")
    assert notebook.check(1).on_colab
    assert "Change runtime type" in capsys.readouterr().err


def test_missing_data_is_named_with_its_cure(monkeypatch, tmp_path):
    monkeypatch.undo()
    module = tmp_path / "detr_steps" / "zoo" / "reading.py"
    monkeypatch.setattr(zoo.reading, "__file__", str(module))
    with pytest.raises(FileNotFoundError, match="install detr_steps again"):
        notebook.check(0)
    (tmp_path / "detr_steps" / "_data" / "zoo").mkdir(parents=True)  # as in a wheel
    assert notebook.check(0).data == tmp_path / "detr_steps" / "_data"
