"""The queue: real processes that train tiny recipes, are stopped, killed, and go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_zoo import add, trained

from detr_steps import zoo
from detr_steps.cli import main
from detr_steps.training.lock import RunLock
from detr_steps.zoo import queue, runs
from detr_steps.zoo.runs import Run

ROOT = Path(__file__).parents[2]


@pytest.fixture
def root(tmp_path, own_zoo, monkeypatch):
    """Where runs lie; the only recipes are those that a test adds."""
    for file in (own_zoo / "shapes-backbone").iterdir():
        file.unlink()
    (own_zoo / "shapes-backbone").rmdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs" / "zoo"


def steps_of(name, seed=0):
    return [line["step"] for line in zoo.records(name)[seed]]


def test_two_workers_train_all_that_is_missing(own_zoo, root, capsys):
    """One recipe fails, which stops no other; one ships weights, one its record."""
    add(own_zoo, "shipped", ship="weights")
    add(own_zoo, "broken", lr=1e30, warmup=0)  # the loss is soon not finite
    add(own_zoo, "kept")
    zoo.publish_record(trained(root.parent / "kept"), "kept")
    before = zoo.record("kept")
    assert main(["zoo", "train", "--missing", "--seeds", "1", "--workers", "2"]) == 1
    out = capsys.readouterr().out
    assert "2 runs, 2 at a time" in out and "1 done, 1 failed" in out
    log = root / "broken-seed0" / "log.txt"
    failure = next(line for line in out.splitlines() if "FAILED" in line)
    assert "broken seed 0: FAILED" in failure and "not finite" in failure
    assert f"runs/zoo/broken-seed0/{log.name}" in failure and log.is_file()
    assert "shipped seed 0: done, accuracy 0." in out
    assert zoo.names() == ["shipped"] and zoo.result("shipped")["images"] == 2000
    assert steps_of("shipped") == [1, 2, 3, 4]
    assert zoo.record("kept") == before and zoo.records("broken") == []
    assert main(["zoo", "status", "--seeds", "1"]) == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert table[1] == ["broken", "-", "-", "0:", "0/4", table[1][5], "0"]
    assert table[2] == ["kept", "-", "0", "-", "0", "-"]
    assert table[3] == ["shipped", "yes", "0", "-", "0", "-"]


def start(*words):
    command = [sys.executable, "-m", "detr_steps.cli", "zoo", "train", *words]
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for(what, seconds=120):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def test_a_queue_killed_in_the_middle_goes_on_where_it_was(own_zoo, root, capsys):
    """Its run notices, saves and ends; the same command goes on from there."""
    add(own_zoo, "long", steps=200, save_every=1000, evaluate_every=200)
    run = Run.of("long", 0, root)
    process = start("long", "--seeds", "1")
    wait_for(lambda: run.record)
    process.kill()
    process.communicate()
    wait_for(lambda: run.process is None)
    saved = run.step
    assert 0 < saved < 200 and not run.finished
    assert main(["zoo", "status", "--seeds", "1"]) == 0
    assert f"0: {saved}/200" in capsys.readouterr().out
    assert main(["zoo", "train", "long", "--seeds", "1"]) == 0
    assert f"goes on at step {saved} of 200" in capsys.readouterr().out
    assert steps_of("long") == list(range(1, 201))
    assert main(["zoo", "train", "long", "--seeds", "1"]) == 0
    assert "nothing is missing" in capsys.readouterr().out


def test_ctrl_c_lets_the_runs_save_and_end(own_zoo, root):
    add(own_zoo, "long", steps=100_000, save_every=100_000, evaluate_every=100_000)
    run = Run.of("long", 0, root)
    process = start("long", "--seeds", "2", "--workers", "1")
    wait_for(lambda: run.record)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the runs save their checkpoints" in out and errors == ""
    assert f"stopped at step {run.step} of 100000" in out
    assert "0 done, 2 left: the same command goes on" in out
    assert run.step >= 1 and run.process is None


def program(path, line, monkeypatch):
    """Let the queue start this shell command in place of Python."""
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)
    monkeypatch.setattr(queue.sys, "executable", str(path))


def test_the_second_ctrl_c_kills(own_zoo, root, monkeypatch, tmp_path):
    """Also a run that does not care about the end of its pipe."""
    program(tmp_path / "deaf.sh", "exec sleep 1000", monkeypatch)
    add(own_zoo, "mine")
    work = queue.Queue([Run.of("mine", 0, root)], queue.Plan(workers=1))
    work._turn()
    (process,) = work.working.values()
    work.presses = 1
    work._turn()
    assert work.stopping and process.poll() is None
    work.presses = 2
    outcome = work.run()
    assert process.returncode == -signal.SIGKILL
    assert outcome.interrupted and len(outcome.left) == 1 and not outcome.failed


def test_time_is_up_and_the_runs_have_saved(own_zoo, root, capsys):
    add(own_zoo, "long", steps=100_000, save_every=100_000, evaluate_every=100_000)
    run, said = Run.of("long", 0, root), []
    plan = queue.Plan(workers=1, minutes=1)
    work = queue.Queue([run, Run.of("long", 1, root)], plan, said.append)
    work._turn()
    wait_for(lambda: run.record)
    work.soon = 0.0  # as if the time was over
    outcome = work.run()
    assert "time is up" in said[1] and not outcome.interrupted
    assert outcome.left == [Run.of("long", 1, root), run] and outcome.failed == []
    assert run.step > 0 and run.process is None


def test_a_run_that_is_killed_is_reported_and_others_go_on(own_zoo, root):
    add(own_zoo, "long", steps=100_000, save_every=10, evaluate_every=100_000)
    run, said = Run.of("long", 0, root), []
    work = queue.Queue([run], queue.Plan(workers=1), said.append)
    work._turn()
    wait_for(lambda: run.step)
    work.working[run].kill()
    outcome = work.run()
    assert outcome.failed == [run] and "FAILED: killed by signal 9" in said[-1]
    assert run.step >= 10  # the checkpoint before


def test_a_run_at_work_elsewhere_is_waited_for(own_zoo, root):
    """Two queues share the work; and what another has finished is only published."""
    add(own_zoo, "mine")
    run, said = Run.of("mine", 0, root), []
    trained(run.folder)
    lock = RunLock(run.folder / "run.lock")
    work = queue.Queue([run], queue.Plan(workers=1), said.append)
    work._turn()
    work._turn()
    (line,) = said  # once
    assert f"{run}: waits for process {os.getpid()}" in line
    lock.release()
    work.run()
    assert "finished before, to be published" in said[1]
    assert steps_of("mine") == [1, 2, 3, 4]


@pytest.mark.parametrize("part", ["backbone", "weights"])
def test_a_run_waits_for_the_weights_it_starts_from(
    own_zoo, root, monkeypatch, tmp_path, part
):
    add(own_zoo, "source", ship="weights")
    description = add(own_zoo, "heir")
    description["start"] = {part: "source"}
    zoo.publishing.write_json(own_zoo / "heir" / "recipe.json", description)
    said = []
    source, heir = Run.of("source", 0, root), Run.of("heir", 0, root)
    program(tmp_path / "idle.sh", "exit 0", monkeypatch)  # the weights never come
    work = queue.Queue([heir, source], queue.Plan(workers=2), said.append)
    work._turn()
    assert list(work.working) == [source]
    outcome = work.run()
    assert outcome.done == [source] and outcome.failed == [heir]
    assert "no weights of source" in said[-1]


def test_the_longest_go_first_and_the_unknown_before_them(own_zoo, root):
    for name, steps in (("a", 4), ("b", 8), ("c", 8)):
        add(own_zoo, name, steps=steps)
    for name in "ab":
        trained(root.parent / name, steps=len(name) * {"a": 4, "b": 8}[name])
        file = root.parent / name / "record.jsonl"
        last = {"a": 4, "b": 8}[name]
        file.write_text(f'{{"step": {last}, "seconds": {60 * last}, "accuracy": 0}}\n')
        zoo.publish_record(root.parent / name, name)
    wanted = [run for name in "abc" for run in runs.missing(name, 2, root)]
    assert list(map(str, queue.longest_first(wanted, root))) == [
        "c seed 0", "c seed 1", "b seed 1", "a seed 1"
    ]  # fmt: skip
    assert runs.minutes("b", root) == 8 and runs.minutes("c", root) is None


def test_what_is_missing(own_zoo, root, tmp_path):
    def seeds(count, **more):
        return [run.seed for run in runs.missing("mine", count, root, **more)]

    add(own_zoo, "mine", seed=1)
    assert seeds(1) == [1] and seeds(3) == [1, 0, 2]
    zoo.publish_record(trained(tmp_path / "2", seed=2), "mine")
    assert seeds(1) == [] and seeds(2) == [1] and seeds(3) == [1, 0]
    run = trained(tmp_path / "1", seed=1)
    zoo.publish_record(run, "mine")
    assert seeds(2) == [] and seeds(2, publish_weights=True) == [1]
    record = own_zoo / "mine" / "record.jsonl"
    record.write_text(record.read_text().rpartition('{"step": 4')[0])  # cut short
    assert seeds(2) == [1]
    zoo.publish(run, "mine")
    assert seeds(2) == [] and seeds(2, publish_weights=True) == [1]  # not of that run
    trained(Run.of("mine", 1, root).folder, seed=1)
    zoo.publish(Run.of("mine", 1, root).folder, "mine")
    assert seeds(2, publish_weights=True) == []


def test_weights_that_are_to_come_are_missing(own_zoo, root, tmp_path):
    add(own_zoo, "mine", ship="weights")
    zoo.publish_record(trained(tmp_path / "0"), "mine")
    zoo.publish_record(trained(tmp_path / "1", seed=1), "mine")
    assert [run.seed for run in runs.missing("mine", 2, root)] == [0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name the recipes to train, or give --missing"),
        (["mine", "--missing"], "name the recipes to train, or give --missing"),
        (["nowhere"], "no 'nowhere' in the zoo: it has far, mine"),
        (["far"], "far needs data that is not here: detr-steps train far --train"),
        (["mine", "--minutes", "0"], "--minutes 0: more than 0"),
        (["--missing", "--publish-weights"], "name their recipes"),
    ],
)
def test_wrong_words_end_in_one_line(own_zoo, root, capsys, words, said):
    add(own_zoo, "mine")
    description = zoo.recipe("mine") | {"data": {"kind": "folder"}}
    zoo.publishing.write_json(own_zoo / "far" / "recipe.json", description)
    assert main(["zoo", "train", *words]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not root.exists()


def test_status_lists_what_cannot_be_trained_here(capsys):
    assert main(["zoo", "status"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (coco,) = [line for line in lines if line.startswith("detr-coco-r50")]
    assert coco.endswith("needs data that is not here")
    assert lines[0].split() == list(zoo.status.HEADER)
    assert {line.split()[0] for line in lines[1:-2]} == set(zoo.recipes())
