"""The loop: exact resume, one loss for any number of processes, nothing lost."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from runs import (
    IMPORTS,
    Dying,
    Killed,
    fit,
    pressing,
    recipe,
    small_model,
    two_processes,
    weights,
)
from torch import nn

from detr_steps.data.scenes import Scenes
from detr_steps.files import read_notes, read_tensors
from detr_steps.training import Recipe, train, trainer
from detr_steps.training import device as devices
from detr_steps.training.device import OutOfMemory
from detr_steps.training.folder import kept_file, read_record
from detr_steps.training.trainer import Diverged

NAMES = "one", "two"  # of processes, as folders


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
        fit(tmp_path / "killed", data=Dying("train", size=32), ema=ema)
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


def test_two_processes_learn_the_same_as_one_even_when_resumed(tmp_path):
    """Same global batch, so the same loss and the same weights, but for rounding."""
    same = dict(batch=4, steps=4, log_every=1, save_every=2)
    fit(tmp_path / "one", dropout=0.0, **same)
    two_processes(
        f"""
try:
    fit(out, dropout=0.0, data=Dying("train", size=32), **{same})
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


class Told(nn.Module):
    """A model whose losses are given, one for each step; None kills the run."""

    def __init__(self, *losses):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.losses = iter(losses)

    def forward(self, batch):
        return self.weight.sum()

    def loss(self, output, targets):
        value = next(self.losses)
        if value is None:
            raise Killed
        return {"class": output * 0 + 2 * value, "total": output * 0 + value}


def told(out, losses, **options):
    settings = dict(steps=len(losses), clip=0)
    settings |= {
        k: options.pop(k) for k in list(options) if k in Recipe.__dataclass_fields__
    }
    data = options.pop("data", Scenes("train", size=32))
    model = Told(*losses)
    options = {"progress": False, "device": "cpu"} | options
    return train(model, data, recipe(**settings), out, **options)


def test_recorded_losses_are_means_over_the_steps_since_the_last_line(tmp_path):
    record = told(
        tmp_path,
        [1, 3, 5, 4, 8, 0, 2],
        log_every=4,
        evaluate_every=3,
        validate=lambda model: {"AP": 0.5},
    )
    means = {line["step"]: line["total"] for line in record}
    assert means == {3: 3.0, 4: 4.0, 6: 4.0, 7: 2.0}
    assert all(line["class"] == 2 * line["total"] for line in record)


class Asked(Scenes):
    """Data that say how they were asked for batches."""

    def batches(self, *args, **kwargs):
        raise Killed(args, kwargs)


@pytest.mark.filterwarnings("ignore:.*no-op")  # weights on a device that has none
def test_data_are_asked_for_the_runs_device_step_and_seed(tmp_path):
    with pytest.raises(Killed):
        told(tmp_path, [1, 1, 1, None], save_every=2, seed=9)
    with pytest.raises(Killed) as caught:
        told(
            tmp_path,
            [1, 1, 1, 1],
            data=Asked("train", size=32),
            device=torch.device("meta"),
            save_every=2,
            seed=9,
            resume=True,
        )
    asked = dict(device=torch.device("meta"), rank=0, world=1, seed=9)
    assert caught.value.args == ((2, 2), asked)


class Clock:
    """Time that passes only when something takes its time."""

    now = 1000.0

    def monotonic(self):
        return self.now


class Slow(Scenes):
    """Every batch takes two seconds."""

    clock: Clock

    def batches(self, *args, **kwargs):
        for item in super().batches(*args, **kwargs):
            self.clock.now += 2
            yield item


def test_seconds_are_those_of_steps_and_evaluations_also_before_a_stop(
    tmp_path, monkeypatch
):
    clock = Clock()
    monkeypatch.setattr(trainer, "time", clock)
    monkeypatch.setattr(Slow, "clock", clock, raising=False)

    def validate(model):
        clock.now += 10
        return {"AP": 0.5}

    def seconds(losses, **options):
        record = told(
            tmp_path,
            losses,
            data=Slow("train", size=32),
            validate=validate,
            evaluate_every=2,
            log_every=1,
            **options,
        )
        return [line["seconds"] for line in record]

    with pytest.raises(Killed):
        seconds([1, 1, None, 1, 1])
    clock.now += 1000  # nobody works on it
    assert seconds([1, 1, 1], steps=5, resume=True) == [2, 4, 16, 18, 30]


def test_no_bar_where_none_is_wanted(tmp_path, capfd):
    told(tmp_path / "quiet", [1, 1])
    assert capfd.readouterr().err == ""
    told(tmp_path / "loud", [1, 1], progress=True)
    assert "2/2" in capfd.readouterr().err


def test_ctrl_c_in_one_of_two_processes_stops_both_at_the_same_step(tmp_path):
    """What they had summed since the last line is not lost; one of them has a bar."""
    same = dict(batch=4, steps=4, log_every=4, save_every=100)
    fit(tmp_path / "one", dropout=0.0, **same)
    two_processes(
        f"""
class Interrupting(Scenes):
    def batches(self, *args, **kwargs):
        for count, item in enumerate(super().batches(*args, **kwargs)):
            if count == 2 and kwargs["rank"] == 1:
                os.kill(os.getpid(), signal.SIGINT)
            yield item

fit(out, dropout=0.0, data=Interrupting("train", size=32), **{same})
torch.distributed.barrier()
assert read_notes(out / "checkpoint.safetensors")["step"] == 3
sys.stderr = open(out.with_name(f"bar{{torch.distributed.get_rank()}}"), "w")
fit(out, dropout=0.0, resume=True, progress=True, **{same})
sys.stderr.flush()
""",
        tmp_path,
    )
    assert "4/4" in (tmp_path / "bar0").read_text()
    assert (tmp_path / "bar1").read_text() == ""
    (one,), (two,) = (read_record(tmp_path / n / "record.jsonl") for n in NAMES)
    for name in one.keys() - {"seconds"}:
        assert one[name] == pytest.approx(two[name], rel=2e-4, abs=1e-5), name


def press_ctrl_c_at(step):
    """Scenes that press it as they give the batch of a step."""

    class Pressing(Scenes):
        batches = pressing(Scenes.batches, step)

    return Pressing("train", size=32)


@pytest.mark.skipif(os.name == "nt", reason="os.kill ends a process there")
def test_ctrl_c_in_the_last_step_is_too_late(tmp_path, capfd):
    told(tmp_path / "a", [1, 1, 1], data=press_ctrl_c_at(2), progress=True)
    assert "stopped after step 2 of 3" in capfd.readouterr().err
    assert not (tmp_path / "a" / "model.safetensors").exists()
    told(tmp_path / "b", [1, 1, 1], data=press_ctrl_c_at(3), progress=True)
    assert "stopped" not in capfd.readouterr().err
    assert (tmp_path / "b" / "model.safetensors").exists()


def test_a_run_that_has_diverged_does_not_replace_its_checkpoint(tmp_path):
    with pytest.raises(Diverged, match="near step 4"):
        told(tmp_path, [1, 1, float("nan"), 1], save_every=2, log_every=100)
    assert read_notes(tmp_path / "checkpoint.safetensors")["step"] == 2


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"),
        MemoryError(),
    ],
)
def test_out_of_memory_names_batch_and_size(tmp_path, monkeypatch, error):
    def full(*_):
        raise error

    monkeypatch.setattr(Told, "loss", full)
    with pytest.raises(OutOfMemory) as caught:
        told(tmp_path, [1, 1], batch=3)
    said = str(caught.value)
    assert "on cpu with a batch of 3 images of 32 x 32 pixels" in said
    assert "--batch" in said and "\n" not in said
    assert not (tmp_path / "run.lock").exists()


def test_other_errors_are_not_taken_for_it(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Told, "loss", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        told(tmp_path, [1, 1])


GPUS = {"cuda": 2, "xpu": 0, "mps": 0}


@pytest.mark.parametrize(
    ("name", "device"),
    [
        (None, "cuda:0"),
        ("gpu", "cuda:0"),
        ("GPU", "cuda:0"),
        ("0", "cuda:0"),
        (1, "cuda:1"),
        ("cuda", "cuda:0"),
        ("cuda:1", "cuda:1"),
        ("cpu", "cpu"),
        (torch.device("meta"), "meta"),
    ],
)
def test_devices_by_name(monkeypatch, name, device):
    monkeypatch.setattr(devices, "_count", GPUS.get)
    assert devices.pick_device(name) == torch.device(device)


def test_every_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(devices, "_count", GPUS.get)
    monkeypatch.setattr(devices, "world", lambda: (3, 4))
    for name in (None, "cuda", "gpu"):
        assert devices.pick_device(name) == torch.device("cuda:1")
    assert devices.pick_device("cuda:0") == torch.device("cuda:0")


@pytest.mark.parametrize("name", ["cuda", "cuda:2", "xpu", "mps", "2", "-1", "tpu", ""])
def test_a_device_that_is_not_there_is_answered_with_those_that_are(monkeypatch, name):
    counts = {"cuda": 0 if name == "cuda" else 2, "xpu": 0, "mps": 0}
    monkeypatch.setattr(devices, "_count", counts.get)
    there = "there is cpu$" if name == "cuda" else "there is cpu, cuda:0, cuda:1$"
    with pytest.raises(ValueError, match=there):
        devices.pick_device(name)


def test_without_a_gpu_there_is_the_cpu(monkeypatch):
    monkeypatch.setattr(devices, "_count", lambda kind: 0)
    assert devices.pick_device() == torch.device("cpu")
    for name in ("gpu", "0"):
        with pytest.raises(ValueError, match=f"no device '{name}' here: there is cpu"):
            devices.pick_device(name)


def test_an_apple_gpu_is_taken_where_it_is_asked_for(monkeypatch):
    counts = {"cuda": 0, "xpu": 0, "mps": 1}
    monkeypatch.setattr(devices, "_count", counts.get)
    assert devices.pick_device() == torch.device("cpu")
    for name in ("mps", "gpu", "0", "mps:0"):
        assert devices.pick_device(name).type == "mps"


def test_the_lock_is_gone_after_a_device_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="no device 'tpu'"):
        told(tmp_path / "run", [1], device="tpu")
    assert not (tmp_path / "run").exists()
