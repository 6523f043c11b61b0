"""The loop: exact resume, one loss for any number of processes, nothing lost."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small import small_detr

from detr_steps import DETR
from detr_steps.data.scenes import Scenes
from detr_steps.files import read_tensors
from detr_steps.training import Recipe, train
from detr_steps.training.folder import kept_file, read_record
from detr_steps.training.trainer import Diverged

# for other processes, which import this module: what pytest's pythonpath gives here
PATHS = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
IMPORTS = f"import sys; sys.path[:0] = {PATHS}\nfrom test_trainer import *\n"


def small_model(dropout: float = 0.1) -> DETR:
    return small_detr(seed=1, classes=6, dropout=dropout)


def recipe(**changes: object) -> Recipe:
    settings = dict(
        steps=6, batch=2, evaluate_every=100, save_every=2, log_every=2, warmup=2
    )
    return Recipe(**(settings | changes))


def fit(out: Path, *, dropout: float = 0.1, resume: bool = False, **changes: object):
    data = Scenes("train", size=32)
    model = small_model(dropout)
    run = recipe(**changes)
    record = train(model, data, run, out, device="cpu", resume=resume, progress=False)
    return model, record


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_tensors(folder / "model.safetensors")[0]


def assert_equal_bits(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_training_lowers_the_loss(tmp_path):
    _, record = fit(tmp_path, steps=40, lr=1e-3, clip=1.0, log_every=20)
    assert [line["step"] for line in record] == [20, 40]
    assert record[1]["total"] < record[0]["total"]
    assert {"class", "box", "giou", "class_0", "seconds"} <= record[0].keys()


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_killed_run_resumes_to_the_same_bits(tmp_path, ema):
    fit(tmp_path / "straight", ema=ema)

    with pytest.raises(Killed):
        train(
            small_model(),
            Dying("train", size=32),
            recipe(ema=ema),
            tmp_path / "killed",
            device="cpu",
            progress=False,
        )
    _, record = fit(tmp_path / "killed", resume=True, ema=ema)
    assert_equal_bits(weights(tmp_path / "straight"), weights(tmp_path / "killed"))
    assert [line["step"] for line in record] == [2, 4, 6]


def test_another_seed_gives_other_weights(tmp_path):
    fit(tmp_path / "a")
    fit(tmp_path / "b", seed=1)
    a, b = weights(tmp_path / "a"), weights(tmp_path / "b")
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_the_weights_of_chosen_steps_are_kept(tmp_path):
    model, _ = fit(tmp_path, keep=(0, 3, 6))
    fresh = small_model().state_dict()
    kept = {s: read_tensors(kept_file(tmp_path, s))[0] for s in (0, 3, 6)}
    assert len(list((tmp_path / "kept").iterdir())) == 3
    for name, last in model.state_dict().items():
        assert kept[0][name].equal(fresh[name].half())  # the untrained ones
        assert kept[6][name].equal(last.half())
    assert not kept[3]["queries.weight"].equal(kept[6]["queries.weight"])


def test_ema_differs_from_the_last_weights(tmp_path):
    fit(tmp_path / "last")
    fit(tmp_path / "mean", ema=0.9)
    a, b = weights(tmp_path / "last"), weights(tmp_path / "mean")
    assert any(not torch.equal(a[name], b[name]) for name in a)


def test_ctrl_c_saves_and_the_run_goes_on(tmp_path):
    code = f"""
{IMPORTS}
fit(Path({str(tmp_path / "run")!r}), steps=2000, log_every=1, save_every=1000)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE)
    record = tmp_path / "run" / "record.jsonl"
    deadline = time.time() + 120
    while not read_record(record) and process.poll() is None and time.time() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors.decode()
    step = read_tensors(tmp_path / "run" / "checkpoint.safetensors")[1]["step"]
    assert 0 < step < 2000
    assert not (tmp_path / "run" / "run.lock").exists()


class Killed(BaseException):
    """Stands for a run that dies between two checkpoints."""


class Dying(Scenes):
    """Data that kills its reader when it asks for one batch too many."""

    def batches(self, *args, **kwargs):
        for count, item in enumerate(super().batches(*args, **kwargs)):
            if count == 3:  # one step after the checkpoint of step 2
                raise Killed
            yield item


def two_processes(code: str, folder: Path) -> None:
    """Run a few lines of this module in two processes that form one run."""
    script = folder / "two.py"
    script.write_text(
        f"{IMPORTS}"
        'torch.distributed.init_process_group("gloo")\n'
        f"out = Path({str(folder / 'two')!r})\n"
        f"{code}\n"
        "torch.distributed.destroy_process_group()\n"
    )
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    result = subprocess.run(
        [*launch, "--nproc-per-node=2", str(script)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]


def test_two_processes_learn_the_same_as_one_even_when_resumed(tmp_path):
    """Same global batch, so the same loss and the same weights, but for rounding."""
    same = dict(batch=4, steps=4, log_every=1, save_every=2)
    fit(tmp_path / "one", dropout=0.0, **same)
    two_processes(
        f"""
try:
    data, run = Dying("train", size=32), recipe(**{same})
    train(small_model(0.0), data, run, out, device="cpu", progress=False)
except Killed:
    pass
torch.distributed.barrier()
fit(out, dropout=0.0, resume=True, **{same})
""",
        tmp_path,
    )
    one, two = (read_record(tmp_path / n / "record.jsonl") for n in ("one", "two"))
    for a, b in zip(one, two, strict=True):
        for name in a.keys() - {"seconds"}:
            assert a[name] == pytest.approx(b[name], rel=2e-4, abs=1e-5), name
    a, b = weights(tmp_path / "one"), weights(tmp_path / "two")
    torch.testing.assert_close(a, b, rtol=1e-3, atol=2e-5)


def test_one_transfer_to_the_host_for_matching(monkeypatch):
    model = small_model()
    batch, targets = next(Scenes("train", size=32).batches(2))
    output = model(batch)
    calls = []
    original = torch.Tensor.cpu

    def counting(self, *args):
        calls.append(tuple(self.shape))
        return original(self, *args)

    packed_targets = targets  # their checks stay on the host, where targets live
    monkeypatch.setattr(torch.Tensor, "cpu", counting)
    model.loss(output, packed_targets)
    assert sum(len(shape) == 4 for shape in calls) == 1  # one cost tensor [Y, B, Q, N]


def test_a_used_folder_is_not_overwritten(tmp_path):
    fit(tmp_path)
    before = (tmp_path / "record.jsonl").read_bytes()
    with pytest.raises(FileExistsError, match="--resume"):
        fit(tmp_path)
    assert (tmp_path / "record.jsonl").read_bytes() == before


def test_resuming_with_other_settings_is_refused(tmp_path):
    fit(tmp_path)
    with pytest.raises(ValueError, match=r"recipe\.lr: was 0\.0001, now 0\.5"):
        fit(tmp_path, resume=True, lr=0.5)


def test_two_runs_in_one_folder_are_refused(tmp_path):
    lock = tmp_path / "run.lock"
    other = {"pid": os.getppid(), "host": __import__("socket").gethostname()}
    lock.write_text(json.dumps(other))
    with pytest.raises(FileExistsError, match="another run"):
        fit(tmp_path)
    assert lock.exists()


def test_the_lock_of_a_dead_run_is_taken_over(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    other = {"pid": dead.pid, "host": __import__("socket").gethostname()}
    (tmp_path / "run.lock").write_text(json.dumps(other))
    _, record = fit(tmp_path)
    assert record[-1]["step"] == 6


def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    fit(tmp_path, steps=2)
    before = (tmp_path / "checkpoint.safetensors").read_bytes()
    original = Path.write_bytes

    def full(self, content):
        original(self, content[:100])
        raise OSError(errno.ENOSPC, "No space left on device", str(self))

    monkeypatch.setattr(Path, "write_bytes", full)
    (tmp_path / "recipe.json").unlink()
    with pytest.raises(OSError, match="previous file is untouched.*Free some space"):
        fit(tmp_path, resume=True, steps=6)
    assert (tmp_path / "checkpoint.safetensors").read_bytes() == before
    assert not list(tmp_path.glob("*.part*"))


def test_a_truncated_checkpoint_is_named(tmp_path):
    fit(tmp_path, steps=2)
    file = tmp_path / "checkpoint.safetensors"
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(ValueError, match="no complete safetensors file"):
        fit(tmp_path, resume=True, steps=2)


def test_divergence_stops_the_run_and_keeps_the_checkpoint(tmp_path):
    from detr_steps.objective.matching import NonFiniteCost

    with pytest.raises((Diverged, NonFiniteCost), match="learning rate"):
        fit(tmp_path, steps=200, lr=1e30, warmup=0, clip=0)


def test_bfloat16_runs_where_asked(tmp_path):
    _, record = fit(tmp_path, precision="bfloat16")
    assert record[-1]["total"] < 200


def test_lr_warms_up_and_drops():
    run = recipe(steps=100, warmup=10, drops=(50, 80))
    assert run.lr_at(0) == pytest.approx(0.1)
    assert run.lr_at(9) == run.lr_at(49) == 1
    assert run.lr_at(50) == pytest.approx(0.1) and run.lr_at(99) == pytest.approx(0.01)


def test_the_backbone_learns_slower_and_frozen_parts_not_at_all():
    model = small_model()
    model.backbone.stem.requires_grad_(False)
    groups = recipe().optimiser(model).param_groups
    rates = {group["factor"]: len(group["params"]) for group in groups}
    assert set(rates) == {0.1, 1.0}
    count = sum(p.requires_grad for p in model.parameters())
    assert sum(rates.values()) == count


@pytest.mark.parametrize("changes", [{"steps": 0}, {"batch": 0}, {"precision": "fp8"}])
def test_impossible_recipes_are_refused(changes):
    with pytest.raises(ValueError):
        recipe(**changes)
