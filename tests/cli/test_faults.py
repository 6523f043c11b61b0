"""Any fault ends in one line on stderr: what the user can mend in 2, others in 1."""

import warnings

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from detr_steps.cli import data, doctor, main
from detr_steps.cli.faults import explain
from detr_steps.training.trainer import Diverged


class Failing(Dataset):
    """Raises in a worker process."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


def from_worker(error):
    with pytest.raises(Exception) as caught:
        next(iter(DataLoader(Failing(error), num_workers=1)))
    return caught.value


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RuntimeError("no picture can be read; the first: a.png"), "no picture can"),
        (FileNotFoundError("a.png: it has gone"), "a.png: it has gone"),
        (ValueError("bad mask in a.json"), "bad mask in a.json"),
    ],
)
def test_faults_in_workers_lose_their_traceback(error, line):
    said, status = explain(from_worker(error))
    assert said.startswith(line) and status == 2 and "\n" not in said


def test_a_bug_in_a_worker_is_one():
    said, status = explain(from_worker(KeyError("boxes")))
    assert said.startswith("unexpected KeyError: 'boxes' (") and status == 1


@pytest.mark.parametrize(
    ("error", "line", "status"),
    [
        (ValueError("two:\n  lines\n\nmore"), "two: lines; more", 2),
        (ValueError(), "ValueError", 2),
        (KeyError("no 'x' in the zoo: it has y"), "no 'x' in the zoo: it has y", 2),
        (KeyError("boxes"), "unexpected KeyError: boxes (DETR_STEPS_DEBUG=1", 1),
        (TypeError("f() takes 1"), "unexpected TypeError: f() takes 1 (", 1),
        (ZeroDivisionError(), "unexpected ZeroDivisionError", 1),
        (Diverged("the loss"), "the loss", 2),
        (MemoryError(), "out of memory: take a smaller batch", 2),
        (torch.OutOfMemoryError("CUDA out of memory"), "out of memory: take a ", 2),
        (
            RuntimeError("DataLoader worker (pid(s) 12) exited unexpectedly"),
            "a process that reads pictures died (DataLoader worker (pid(s) 12) exited "
            "unexpectedly): try --workers 0",
            2,
        ),
    ],
)
def test_what_is_said(error, line, status):
    said, code = explain(error)
    assert said.startswith(line) and code == status and "\n" not in said


@pytest.fixture
def bug(monkeypatch):
    def broken(options):
        raise AttributeError("'NoneType' object has no attribute 'boxes'")

    monkeypatch.setattr(doctor, "run", broken)


def test_no_traceback_unless_it_is_asked_for(bug, monkeypatch, capsys):
    monkeypatch.delenv("DETR_STEPS_DEBUG", raising=False)
    assert main(["doctor"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "unexpected AttributeError" in error
    monkeypatch.setenv("DETR_STEPS_DEBUG", "1")
    assert main(["doctor"]) == 1
    error = capsys.readouterr().err
    assert "Traceback" in error and "in broken" in error
    assert error.splitlines()[-1].startswith("detr-steps: unexpected")


def test_warnings_are_plain_lines(monkeypatch, capsys, tmp_path):
    def warn(options):
        warnings.warn("left out a.png", stacklevel=1)
        warnings.warn("old", DeprecationWarning, stacklevel=1)
        return 0

    monkeypatch.setattr(data, "run_check", warn)
    with pytest.warns(DeprecationWarning, match="old"):  # not for users: as it was
        assert main(["data", "check", str(tmp_path)]) == 0
    assert capsys.readouterr().err == "detr-steps: left out a.png\n"


def test_a_command_that_is_none_ends_in_one_line(capsys):
    for words in ([], ["trian"], ["train", "detr-tiny", "--batchsize", "3"]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        assert ended.value.code == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "--help" in error
