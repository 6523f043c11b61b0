"""The script for a machine with a GPU, run without one: kernels in the emulator."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as script
from benchmarks.gpu import cases, checks, engines, official, record, report, table
from benchmarks.gpu.watched import by_kernel, found_errors
from detr_steps import cuda_lab

ROOT = Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(
    cuda_lab.trouble() is not None, reason=str(cuda_lab.trouble())
)


@pytest.fixture
def fewer(monkeypatch):
    """One type, two kinds of points, the last step of each direction, two shapes."""
    steps = {"forward": ("tiles",), "backward": ("sorted",)}
    for module in (cases, checks, table):
        monkeypatch.setattr(module, "DTYPES", {"fp32": torch.float32}, raising=False)
    monkeypatch.setattr(table, "SPREADS", ("trained", "uniform"))
    monkeypatch.setattr(table, "STEPS", steps)
    monkeypatch.setattr(checks, "STEPS", steps)
    odd = {name: cases.ODD[name] for name in ("other K on each level", "nobody asks")}
    monkeypatch.setattr(checks, "ODD", odd)


@needs_compiler
def test_a_dry_run_fills_record_and_page(fewer, tmp_path, capsys):
    script.main(["--dry", "--out", str(tmp_path)])
    found = json.loads((tmp_path / "kernel_times.json").read_text("utf-8"))
    rows = found
    assert found["about"]["dry"] and found["about"]["card"] is None
    assert all(check["ok"] for check in rows["check"].values())
    assert len(rows["check"]) == 2 * 2 + 2 * 2 + 1
    assert all(row["us"] > 0 for row in rows["table"]) and rows["failed"] == {}
    # 2 cases, 2 kinds of points; forward our step, torch, unfused; backward the first 2
    assert len(rows["table"]) == 2 * 2 * (3 + 2)
    assert len(rows["ceilings"]) == 7 and set(rows["training"]) == {"torch", "auto"}
    assert {goal["met"] for goal in found["goals"]} == {None}
    page = (tmp_path / "gpu.md").read_text("utf-8")
    assert "the times mean nothing" in page and "| tiles |" in page
    _goes_on(tmp_path, capsys)


def _goes_on(folder, capsys):
    """A second call finds everything there."""
    capsys.readouterr()
    script.main(["--dry", "--out", str(folder), "--minutes", "0"])
    said = capsys.readouterr().out
    assert "table " not in said and "time is up" in said


def test_another_state_of_the_kernels_is_another_record(tmp_path, monkeypatch):
    path = tmp_path / "kernel_times.json"
    record.Record(path, 1, False, True).put("check", "one", {"ok": True})
    assert record.Record(path, 1, False, True).has("check", "one")
    monkeypatch.setattr(record, "fingerprint", lambda: "changed")
    with pytest.raises(SystemExit, match="--again"):
        record.Record(path, 1, False, True)
    assert not record.Record(path, 1, True, True).has("check", "one")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a card")
def test_without_a_card_it_says_so():
    command = [sys.executable, "-m", "benchmarks.gpu"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "no CUDA card here: --dry" in done.stderr


def test_a_wrong_result_and_one_that_raises_are_found(tmp_path):
    class Wrong(engines.Emulated):
        def forward(self, step, given):
            return cases.exact(given)[0] + 1

        def backward(self, step, given):
            raise RuntimeError("misaligned address")

    kept = record.Record(tmp_path / "r.json", 1, False, True)
    checks.run(kept, Wrong(), dry=True)
    found = kept.rows["check"]
    assert not any(check["ok"] for key, check in found.items() if "forward" in key
                   and "nobody" not in key)  # fmt: skip
    raised = [check["raised"] for check in found.values() if "raised" in check]
    assert "RuntimeError: misaligned address" in raised


def test_exact_agrees_with_torch():
    given = cases.make(cases.DRY["decoder"], "trained", role="decoder")
    mine, _ = cases.exact(given)
    torch.testing.assert_close(
        engines.torch_forward(given).double(), mine, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize("role", ["encoder", "decoder"])
def test_trained_points_are_as_far_away_as_those_of_the_model(role):
    shape = cases.Shape(1, 4000, 8, 4, cases.PHOTO, (4, 4, 4, 4))
    given = cases.make(shape, "trained", role=role)
    mean, deviation = cases.trained_offsets(role)
    seen = given.offsets.unflatten(3, (4, 4))[0]  # [Q, M, L, K, 2]
    torch.testing.assert_close(seen.mean(0)[:, :3], mean, rtol=0, atol=0.05)
    torch.testing.assert_close(seen.std(0)[:, 3], deviation[:, 2], rtol=0.1, atol=0.01)
    assert 0.5 < mean.norm(dim=-1).mean() < 6  # pixels


def test_fused_and_plain_inputs_belong_together():
    given = cases.off_the_grid(cases.make(cases.DRY["encoder"], "gaussian"))
    extent, level = given.shape.by_point()
    at = given.references[:, :, level][:, :, None] + given.offsets / extent
    torch.testing.assert_close(at, given.locations)
    x = given.locations * extent - 0.5
    assert ((x - x.floor()) > 0.04).all() and ((x - x.floor()) < 0.96).all()


def test_goals_are_judged_by_the_table():
    rows = {
        "encoder forward trained fp32 tiles": {"us": 100.0},
        "encoder forward trained fp32 official": {"us": 450.0},
        "encoder backward trained fp32 sorted": {"us": 600.0},
    }
    found = {
        goal["goal"]: goal for goal in report.judge({"dry": False}, {"table": rows})
    }
    assert found["encoder forward, trained points: µs"]["met"] is True
    ratio = found["encoder forward, trained points: times the official kernel"]
    assert ratio["found"] == 4.5 and ratio["met"] is False
    assert found["encoder backward, trained points: µs"]["met"] is False
    assert found["decoder forward: µs"]["met"] is None


def test_every_goal_is_a_row_of_the_table():
    keys = {row.key for row in table.rows(official=True)}
    for goal in report.GOALS:
        assert goal.row in keys
        assert goal.row.rsplit(" ", 1)[0] + " official" in keys


def test_what_the_sanitizer_says_is_read():
    good = found_errors(
        "========= COMPUTE-SANITIZER\n========= ERROR SUMMARY: 0 errors"
    )
    assert good == {"ok": True, "errors": 0, "first": []}
    bad = found_errors("========= Invalid __global__ read of size 16 bytes\n"
                       "========= ERROR SUMMARY: 3 errors\n")  # fmt: skip
    assert not bad["ok"] and bad["errors"] == 3 and "Invalid" in bad["first"][0]
    race = "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)"
    assert found_errors(race)["errors"] == 1
    assert found_errors("no such file")["raised"] == "no such file"


def test_what_the_profiler_says_is_read():
    head = '"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"\n'
    line = '"0","detr_steps::cuda::f<float>","dram__bytes.sum","Mbyte","1,234.5"\n'
    found = by_kernel(f"==PROF== 1\n{head}{line}")
    metrics = {"dram__bytes.sum (Mbyte)": 1234.5}
    assert found == {"detr_steps::cuda::f<float>": metrics}
    assert "skipped" in by_kernel("==ERROR== no permission")


def test_the_official_sources_are_changed_in_a_copy(tmp_path):
    cuda = tmp_path / "theirs" / "models" / "ops" / "src" / "cuda"
    cuda.mkdir(parents=True)
    for name, (old, _) in official.CHANGES.items():
        (cuda / name).write_text(f"before {old} after")
    copied = official.patched(tmp_path / "theirs", tmp_path)
    for name, (old, new) in official.CHANGES.items():
        assert (copied / "cuda" / name).read_text() == f"before {new} after"
        assert old in (cuda / name).read_text()
    with pytest.raises(FileNotFoundError, match="checkout"):
        official.patched(tmp_path / "nowhere", tmp_path)
