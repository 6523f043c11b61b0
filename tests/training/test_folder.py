"""A run's folder: what a kill leaves, what is damaged, what a stopped run is worth."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import Dying, Killed, fit, recipe, weights

from detr_steps import DETRConfig
from detr_steps.describable import to_json
from detr_steps.files import process_alive, read_json, read_notes, read_tensors
from detr_steps.training.folder import (
    RunFolder,
    at_work,
    differences,
    latest_weights,
    read_description,
    read_record,
)


def kill_at_step_3(out, **changes):
    """A run whose last checkpoint is that of step 2."""
    with pytest.raises(Killed):
        fit(out, data=Dying("train", size=32), **changes)


def write_record(path, *lines):
    path.write_text("".join(line + "\n" for line in lines))
    return path


@pytest.fixture
def dead():
    """The number of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_failing_start_leaves_no_lock(tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError

    for name in ("_begin", "restore"):
        with monkeypatch.context() as change, pytest.raises(ZeroDivisionError):
            change.setattr(RunFolder, name, broken)
            fit(tmp_path)
        assert not (tmp_path / "run.lock").exists(), name
    with monkeypatch.context() as change, pytest.raises(ZeroDivisionError):
        change.setattr(type(recipe()), "optimiser", broken)
        fit(tmp_path)
    assert not (tmp_path / "run.lock").exists()


def test_a_lock_that_a_kill_has_torn_does_not_keep_a_run_from_going_on(tmp_path):
    kill_at_step_3(tmp_path)
    (tmp_path / "run.lock").write_text('{"pid": 1')
    _, record = fit(tmp_path, resume=True)
    assert [line["step"] for line in record] == [2, 4, 6]
    assert not (tmp_path / "run.lock").exists()


def test_a_used_folder_is_not_overwritten(tmp_path):
    fit(tmp_path)
    for used in ("record.jsonl", "checkpoint.safetensors", "model.safetensors"):
        with pytest.raises(FileExistsError, match="--resume"):
            fit(tmp_path)
        assert (tmp_path / used).exists()
        (tmp_path / used).unlink()
    fit(tmp_path)


def test_what_killed_writers_left_is_removed_at_the_next_start(tmp_path, dead):
    kill_at_step_3(tmp_path)
    (tmp_path / "kept").mkdir()
    ours = [
        tmp_path / f"checkpoint.safetensors.part{dead}",
        tmp_path / f"checkpoint.safetensors.part{os.getpid()}",  # a container's 7, say
        tmp_path / f"recipe.json.part{dead}",
        tmp_path / f"record.jsonl.part{dead}",
        tmp_path / f"model.safetensors.part{dead}",
        tmp_path / f"best.safetensors.part{dead}",
        tmp_path / "kept" / f"000100.safetensors.part{dead}",
    ]
    others = [
        tmp_path / f"checkpoint.safetensors.part{os.getppid()}",  # alive
        tmp_path / f"notes.txt.part{dead}",
        tmp_path / "checkpoint.safetensors.part",
        tmp_path / "checkpoint.safetensors.part-mine",
        tmp_path / "checkpoint.safetensors.party",
    ]
    for file in ours + others:
        file.write_text("half")
    fit(tmp_path, resume=True)
    assert [file.name for file in ours if file.exists()] == []
    assert [file.name for file in others if not file.exists()] == []


def test_folders_with_odd_names_are_tidied_as_well(tmp_path, dead):
    run = tmp_path / "run [1]*"
    kill_at_step_3(run)
    left = run / f"checkpoint.safetensors.part{dead}"
    left.write_text("half")
    fit(run, resume=True)
    assert not left.exists()


def test_processes_that_are_alive(dead):
    assert process_alive(os.getpid()) and process_alive(os.getppid())
    assert not process_alive(dead) and not process_alive(10**30)


@pytest.mark.parametrize("ema", [0.0, 0.5])
def test_means_after_a_resume_are_those_of_a_run_that_was_not_stopped(tmp_path, ema):
    """The record has a line every four steps, the checkpoint is of step 2."""
    same = dict(log_every=4, save_every=2, steps=8, ema=ema)
    _, straight = fit(tmp_path / "straight", **same)
    kill_at_step_3(tmp_path / "killed", **same)
    _, resumed = fit(tmp_path / "killed", resume=True, **same)
    for line in straight + resumed:
        line.pop("seconds")
    assert [line["step"] for line in straight] == [4, 8]
    assert [list(line.items()) for line in resumed] == [
        list(line.items()) for line in straight
    ]


def test_settings_that_differ_are_named_in_one_line(tmp_path):
    fit(tmp_path)
    with pytest.raises(ValueError) as caught:
        fit(tmp_path, resume=True, lr=0.5, batch=3)
    said = str(caught.value)
    assert "recipe.lr: was 0.0001, now 0.5" in said and "\n" not in said
    assert "recipe.batch: was 2, now 3" in said
    assert "steps" not in said


def test_a_folder_of_an_older_version_goes_on(tmp_path):
    """Settings that did not exist when it was begun have their defaults."""
    kill_at_step_3(tmp_path)
    file = tmp_path / "recipe.json"
    description = json.loads(file.read_text())
    del description["recipe"]["patience"]
    file.write_text(json.dumps(description))
    fit(tmp_path, resume=True)


def test_a_config_of_an_older_version_has_the_defaults_of_new_fields(tmp_path):
    """Of the model as of the recipe: else no run could be resumed after an update."""
    now = {"recipe": {"steps": 1}, "model": to_json(DETRConfig.tiny())}
    before = json.loads(json.dumps(now))
    del before["model"]["layer_weights"]
    assert differences(before, now) == {}
    now["model"]["layer_weights"]["schedule"] = "none"
    assert list(differences(before, now)) == ["model.layer_weights.schedule"]


def test_data_that_have_moved_are_no_other_data(tmp_path):
    here = {"recipe": {"steps": 1}, "data": {"images": str(tmp_path), "sum": 1}}
    gone = {"recipe": {"steps": 1}, "data": {"images": str(tmp_path / "x"), "sum": 1}}
    assert list(differences(here, gone)) == ["data.images"]
    assert differences(gone, here) == {}
    here["data"]["sum"] = 2
    assert list(differences(gone, here)) == ["data.sum"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "recipe.json, line 1: not JSON"),
        (b'{\n "recipe": {\n  "steps": }', "recipe.json, line 3: not JSON"),
        (b'{\n "name": "\xff"}', "recipe.json, line 2: not JSON .not UTF-8"),
        (b"[1]", "recipe.json holds no JSON object"),
        (b"[" * 100_000, "recipe.json, line 1: not JSON"),
        (b"{}", "recipe.json: its recipe has no steps"),
        (b'{"recipe": {"steps": 6, "bach": 2}}', "recipe.json: unknown setting bach"),
    ],
)
def test_garbage_in_the_recipe_names_file_and_line(tmp_path, content, said):
    kill_at_step_3(tmp_path)
    (tmp_path / "recipe.json").write_bytes(content)
    with pytest.raises(ValueError, match=said):
        fit(tmp_path, resume=True)
    with pytest.raises(ValueError, match=str(tmp_path)):
        read_description(tmp_path)
    assert (tmp_path / "recipe.json").read_bytes() == content


def test_a_byte_order_mark_is_no_garbage(tmp_path):
    file = tmp_path / "a.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(file, "") == {"a": 1}


@pytest.mark.parametrize(
    "garbage", ["{", "5", "[]", "{}", '{"step": "2"}', "\0\0\0", '{"AP": 1}']
)
def test_garbage_in_the_record_names_file_and_line(tmp_path, garbage):
    kill_at_step_3(tmp_path)
    record = tmp_path / "record.jsonl"
    write_record(record, '{"step": 1}', garbage, '{"step": 2}')
    before = record.read_bytes()
    with pytest.raises(ValueError, match=r"record\.jsonl, line 2: .*delete it"):
        fit(tmp_path, resume=True)
    assert record.read_bytes() == before
    write_record(record, '{"step": 1}', garbage)  # a whole line, so no kill did that
    with pytest.raises(ValueError, match=r"record\.jsonl, line 2"):
        read_record(record)


def test_a_last_line_that_was_cut_short_is_left_out(tmp_path):
    file = tmp_path / "record.jsonl"
    for cut in (b'{"step": 2, "tot', b'{"step": 2, "name": "\xc3', b"\0"):
        file.write_bytes(b'{"step": 1}\n\n' + cut)
        assert read_record(file) == [{"step": 1}]
    file.write_bytes(b'{"step": 1}\r\n{"step": 2}')
    assert read_record(file) == [{"step": 1}, {"step": 2}]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a disk that is full")
def test_a_full_disk_names_the_record(tmp_path):
    folder = RunFolder(tmp_path, recipe(), {}, resume=False)
    folder.record_file = Path("/dev/full")
    try:
        with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
            folder.append({"step": 1})
    finally:
        folder.unlock()


def test_the_process_at_work_can_be_asked_for(tmp_path):
    assert at_work(tmp_path) is None and at_work(tmp_path / "none") is None
    folder = RunFolder(tmp_path, recipe(), {}, resume=False)
    assert at_work(tmp_path) == os.getpid()
    folder.unlock()
    assert at_work(tmp_path) is None
    (tmp_path / "run.lock").write_text("{")  # torn by a kill
    assert at_work(tmp_path) is None


def test_a_checkpoint_of_another_model_is_named(tmp_path):
    kill_at_step_3(tmp_path)
    with pytest.raises(ValueError, match="checkpoint.safetensors is not of this mod"):
        from detr_steps.systems.classifier import ClassifierConfig

        model = ClassifierConfig().build()
        folder = RunFolder(tmp_path, recipe(), {}, resume=True)
        try:
            folder.restore(model, recipe().optimiser(model), {})
        finally:
            folder.unlock()


@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_stopped_run_has_the_weights_of_its_checkpoint(tmp_path, ema):
    kill_at_step_3(tmp_path / "killed", ema=ema)
    with pytest.warns(UserWarning, match="has not ended: .* of step 2"):
        stopped = latest_weights(tmp_path / "killed")
    fit(tmp_path / "two", steps=2, warmup=2, ema=ema)
    ended = weights(tmp_path / "two")
    assert stopped.keys() == ended.keys()
    assert all(stopped[name].equal(ended[name]) for name in ended)


def test_a_run_that_has_ended_has_its_last_weights(tmp_path, recwarn):
    fit(tmp_path)
    last = latest_weights(tmp_path)
    assert not recwarn
    assert all(last[name].equal(value) for name, value in weights(tmp_path).items())


def test_a_checkpoint_behind_the_end_is_newer(tmp_path):
    """Of a run that was made longer by hand."""
    fit(tmp_path, steps=2)
    (tmp_path / "recipe.json").unlink()
    with pytest.raises(Killed):
        fit(tmp_path, resume=True, data=Dying("train", size=32), steps=8)
    with pytest.warns(UserWarning, match="of step 4"):
        latest_weights(tmp_path)


def test_a_run_without_weights_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no weights yet"):
        latest_weights(tmp_path)


class Scores:
    """A validation that gives the next of some numbers, or None."""

    def __init__(self, *values, key="AP"):
        self.values, self.key, self.asked = list(values), key, 0

    def __call__(self, model):
        self.asked += 1
        return {self.key: self.values[self.asked - 1]}


@pytest.mark.parametrize("key", ["AP", "accuracy"])
def test_the_best_checkpoint_lies_beside_the_last(tmp_path, key):
    scores = Scores(0.1, None, 0.4, 0.4, 0.2, 0.3, key=key)
    fit(tmp_path, evaluate_every=1, validate=scores, keep=(3,))
    best, notes = read_tensors(tmp_path / "best.safetensors")
    assert notes == {"step": 3, "score": 0.4}  # the first of the two
    kept, _ = read_tensors(tmp_path / "kept" / "000003.safetensors")
    assert all(torch.equal(best[name].half(), kept[name].half()) for name in kept)
    assert best["queries.weight"].dtype == torch.float32
    assert not best["queries.weight"].equal(weights(tmp_path)["queries.weight"])


def test_the_best_checkpoint_is_the_moving_average_where_there_is_one(tmp_path):
    model, _ = fit(tmp_path, ema=0.9, evaluate_every=6, validate=Scores(0.5))
    best, _ = read_tensors(tmp_path / "best.safetensors")
    assert all(best[name].equal(value) for name, value in model.state_dict().items())


def test_no_score_no_best_checkpoint(tmp_path):
    fit(tmp_path, evaluate_every=2, validate=lambda model: {"loss": 1.0})
    assert not (tmp_path / "best.safetensors").exists()


def test_patience_ends_a_run_that_does_not_get_better(tmp_path):
    scores = Scores(0.1, 0.3, 0.2, 0.3, 0.9)
    _, record = fit(
        tmp_path, evaluate_every=1, patience=2, save_every=100, validate=scores
    )
    assert scores.asked == 4 and record[-1]["step"] == 4
    assert read_notes(tmp_path / "model.safetensors")["step"] == 4
    assert read_notes(tmp_path / "best.safetensors")["step"] == 2
    scores = Scores()  # asked, it would raise
    _, again = fit(
        tmp_path,
        resume=True,
        evaluate_every=1,
        patience=2,
        save_every=100,
        validate=scores,
    )
    assert again == record


def test_patience_counts_on_after_a_kill(tmp_path):
    """The best evaluation was after the checkpoint that a resume goes back to."""
    same = dict(evaluate_every=1, patience=2)
    values = 0.1, 0.2, 0.5, 0.3, 0.4, 0.6
    with pytest.raises(Killed):
        data = Dying("train", size=32)
        fit(tmp_path, data=data, validate=Scores(*values), **same)
    assert read_notes(tmp_path / "best.safetensors")["step"] == 3
    _, record = fit(tmp_path, resume=True, validate=Scores(*values[2:]), **same)
    assert record[-1]["step"] == 5
    assert read_notes(tmp_path / "best.safetensors") == {"step": 3, "score": 0.5}
