"""`detr-steps train`: a run folder knows its options, and what cannot be is said."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from types import SimpleNamespace

import pytest
import torch
from runs import pressing
from small import RESNET, small_config

from detr_steps import experiment, interop, zoo
from detr_steps.cli import main
from detr_steps.data.coco import CocoFolder
from detr_steps.data.export import export
from detr_steps.data.scenes import Scenes
from detr_steps.data.transforms import Augment
from detr_steps.describable import to_json
from detr_steps.files import read_notes, read_tensors
from detr_steps.systems.detr import DETR
from detr_steps.training import device as devices
from detr_steps.training.folder import read_record

PARTS = "recipe.json", "record.jsonl", "checkpoint.safetensors"


@pytest.fixture
def recipe(tmp_path):
    """A recipe of four steps whose pictures have 32 pixels."""
    return write_recipe(tmp_path / "small.json")


def write_recipe(file, queries=8):
    """Eight queries: as many as a scene may have objects."""
    description = zoo.recipe("detr-tiny")
    description["model"] = to_json(small_config(classes=6, queries=queries))
    description["start"] = {}
    description["data"]["size"] = description["validation"]["size"] = 32
    settings = {"steps": 4, "batch": 2, "evaluate_images": 4, "warmup": 0, "keep": []}
    description["recipe"] |= settings
    description.pop("sha256")
    file.write_text(json.dumps(description))
    return str(file)


@pytest.fixture
def folders(tmp_path):
    """Pictures to train on and to validate on, as a user types them."""
    for name, split in (("train", "train"), ("val", "val")):
        export(Scenes(split, 64), tmp_path / "own" / name, range(6))
    return {name: pair(tmp_path / "own" / name) for name in ("train", "val")}


def pair(folder):
    return [str(folder / "images"), str(folder / "annotations" / "instances.json")]


def own(recipe, folders, *more):
    pictures = ["--train", *folders["train"], "--val", *folders["val"]]
    return ["train", recipe, *pictures, "--workers", "0", "--device", "cpu", *more]


def stop_at(monkeypatch, data, step):
    """Press Ctrl-C in the first run that follows."""
    context = monkeypatch.context()
    change = context.__enter__()
    change.setattr(data, "batches", pressing(data.batches, step))
    return context


def stopped(monkeypatch, data, command):
    context = stop_at(monkeypatch, data, 2)
    assert main(command) == 0
    context.__exit__(None, None, None)


def hint(errors):
    """The command that a stopped run prints, as its words behind `detr-steps`."""
    (line,) = [line for line in errors.splitlines() if "go on with: " in line]
    name, *words = shlex.split(line.partition("go on with: ")[2])
    assert name == "detr-steps"
    return words


def state(out):
    return {name: (out / name).read_bytes() for name in PARTS}


def weights(out):
    return read_tensors(out / "model.safetensors")[0]


def assert_same_weights(one, other):
    one, other = weights(one), weights(other)
    assert one.keys() == other.keys()
    assert all(one[name].equal(other[name]) for name in one)


def one_line(capsys):
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("detr-steps")]
    assert len(lines) == 1 and "Traceback" not in error, error
    return lines[0]


def official(file, **changes):
    """A checkpoint of DETR's authors with the size of these tests' models."""
    config = small_config(classes=91, backbone=RESNET, **changes)
    torch.manual_seed(5)
    torch.save({"model": interop.to_official(DETR(config).state_dict())}, file)
    return file


def test_the_printed_command_goes_on_with_own_pictures(
    tmp_path, recipe, folders, monkeypatch, capsys
):
    """Recipe, folders, size, weights and settings come from the folder of the run."""
    description = json.loads((tmp_path / "small.json").read_text())
    description["model"]["backbone"] = to_json(RESNET)
    (tmp_path / "small.json").write_text(json.dumps(description))
    file = official(tmp_path / "detr.pth", queries=8)
    options = ["--size", "48", "--weights", str(file), "--batch", "3", "--lr", "0.001"]
    options += ["--seed", "7", "--steps", "3", "--evaluate-every", "2", "--limit", "2"]
    command = own(recipe, folders, *options)
    assert main([*command, "--out", str(tmp_path / "straight")]) == 0
    capsys.readouterr()

    out = tmp_path / "a run"
    stopped(monkeypatch, CocoFolder, [*command, "--out", str(out)])
    words = hint(capsys.readouterr().err)
    plain = ["train", "--resume", "--out", str(out)]
    assert words == [*plain, "--device", "cpu", "--workers", "0"]
    file.unlink()  # what it started from is in the checkpoint
    (tmp_path / "small.json").unlink()
    monkeypatch.chdir(tmp_path / "own")
    assert main(words) == 0
    assert_same_weights(tmp_path / "straight", out)


def test_a_run_on_scenes_needs_no_other_option(tmp_path, recipe, monkeypatch, capsys):
    out = tmp_path / "run"
    stopped(monkeypatch, Scenes, ["train", recipe, "--out", str(out)])
    assert hint(capsys.readouterr().err) == ["train", "--resume", "--out", str(out)]
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 4


@pytest.mark.skipif(os.name == "nt", reason="a terminal's Ctrl-C is sent")
def test_ctrl_c_in_a_terminal_reaches_the_readers_too(tmp_path, recipe, folders):
    """It goes to all processes of the command: none may die of it."""
    out = tmp_path / "run"
    words = own(recipe, folders, "--steps", "5000", "--out", str(out))
    words[words.index("--workers") + 1] = "2"
    python = [sys.executable, "-m", "detr_steps.cli"]
    process = subprocess.Popen(
        [*python, *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not read_record(out / "record.jsonl") and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0 and "Traceback" not in errors, errors
    assert hint(errors)[:2] == ["train", "--resume"]
    step = read_notes(out / "checkpoint.safetensors")["step"]
    assert 50 <= step < 5000


def test_a_run_that_will_be_published_keeps_the_name_of_its_recipe(
    tmp_path, recipe, monkeypatch, capsys
):
    published = []
    monkeypatch.setattr(zoo, "publish_record", lambda *what: published.append(what))
    out = tmp_path / "run"
    command = ["train", recipe, "--out", str(out), "--seed", "3", "--publish-record"]
    stopped(monkeypatch, Scenes, command)
    assert main(hint(capsys.readouterr().err)) == 0
    assert published == [(out, "small")]
    command = ["train", "--resume", "--out", str(out), "--publish"]
    assert main(command) == 2
    assert "needs the recipe's name" in capsys.readouterr().err


@pytest.fixture
def run(tmp_path, recipe, folders, monkeypatch, capsys):
    """A stopped run on own pictures."""
    out = tmp_path / "run"
    stopped(monkeypatch, CocoFolder, own(recipe, folders, "--out", str(out)))
    capsys.readouterr()
    return out


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--batch", "3"], "--batch was 2, now 3"),
        (["--lr", "0.5"], "--lr was 0.0004, now 0.5"),
        (["--steps", "9"], "--steps was "),
        (["--seed", "5"], "--seed was 0, now 5"),
        (["--limit", "1"], "--limit was 4, now 1"),
        (["--evaluate-every", "7"], "--evaluate-every was 500, now 7"),
        (["--patience", "3"], "--patience was 0, now 3"),
        (["--size", "96"], "--size was "),
        (["--weights", "x.pth"], "--weights was None, now "),
        (["--backbone", "y.pth"], "--backbone was None, now "),
        (["--batch", "3", "--seed", "5"], "--batch was 2, now 3; --seed was 0, now 5"),
    ],
)
def test_options_that_disagree_with_the_run_are_named(run, capsys, options, said):
    before = state(run)
    assert main(["train", "--resume", "--out", str(run), *options]) == 2
    line = one_line(capsys)
    assert said in line and f"detr-steps train --resume --out {run} goes on" in line
    assert line.count(" was ") == said.count(" was ") + 1  # "was begun"
    assert state(run) == before and not (run / "run.lock").exists()


def test_other_pictures_are_named_as_well(tmp_path, run, folders, capsys):
    for option, other in (("--train", "val"), ("--val", "train")):
        command = ["train", "--resume", "--out", str(run), option, *folders[other]]
        assert main(command) == 2
        assert f"{option} was " in one_line(capsys)


def test_options_that_agree_are_no_fault(run, folders):
    options = ["--batch", "2", "--size", "32", "--steps", "4", "--limit", "4"]
    options += ["--train", *folders["train"], "--workers", "0"]
    assert main(["train", "--resume", "--out", str(run), *options]) == 0


def test_a_recipe_that_was_changed_is_not_the_runs_own(run, recipe, folders, capsys):
    command = own(recipe, folders, "--out", str(run), "--resume")
    description = json.loads(open(recipe).read())
    description["model"]["queries"] = 9
    description["recipe"]["clip"] = 7.0
    open(recipe, "w").write(json.dumps(description))
    assert main(command) == 2
    line = one_line(capsys)
    assert "model.queries was 8, now 9" in line and "recipe.clip was 0.1" in line


def test_the_whole_command_and_resume_goes_on_too(run, recipe, folders):
    assert main(own(recipe, folders, "--out", str(run), "--resume")) == 0


def test_pictures_that_have_moved_are_found_again(tmp_path, run, folders, capsys):
    shutil.move(tmp_path / "own", tmp_path / "elsewhere")
    plain = ["train", "--resume", "--out", str(run), "--workers", "0"]
    assert main(plain) == 2
    line = one_line(capsys)
    assert "own/train/images" in line and "--train IMAGES JSON" in line
    moved = {name: pair(tmp_path / "elsewhere" / name) for name in folders}
    assert main([*plain, "--train", *moved["train"], "--val", *moved["val"]]) == 0
    assert zoo.recipe(run)["data"]["images"] == moved["train"][0]


def test_annotations_that_have_changed_are_not_trained_on(run, folders, capsys):
    file = folders["train"][1]
    raw = json.loads(open(file).read())
    raw["annotations"].pop()
    open(file, "w").write(json.dumps(raw))
    assert main(["train", "--resume", "--out", str(run)]) == 2
    assert f"{file} has changed since the run was begun" in one_line(capsys)


def test_there_must_be_a_run_to_go_on_with(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for words, said in (
        (["--resume"], "--resume --out RUN"),
        ([], "detr-tiny"),
        (["--out", str(tmp_path / "empty")], "--resume --out RUN"),
        (["--resume", "--out", str(tmp_path / "empty")], "holds no run to go on with"),
    ):
        assert main(["train", *words]) == 2
        assert said in one_line(capsys)
    assert list((tmp_path / "empty").iterdir()) == []


def test_resume_begins_a_run_that_has_not_begun(tmp_path, recipe):
    out = tmp_path / "new"
    assert main(["train", recipe, "--resume", "--out", str(out)]) == 0
    assert (out / "model.safetensors").exists()


def test_options_reach_the_recipe_and_the_readers(
    tmp_path, recipe, folders, monkeypatch
):
    seen = []
    init = CocoFolder.__init__

    def noting(self, *args, **kwargs):
        seen.append(kwargs["workers"])
        init(self, *args, **kwargs)

    monkeypatch.setattr(CocoFolder, "__init__", noting)
    options = ["--lr", "2e-5", "--evaluate-every", "3", "--limit", "1"]
    options += ["--patience", "2", "--steps", "2", "--out", str(tmp_path / "run")]
    assert main(own(recipe, folders, *options)) == 0
    settings = zoo.recipe(tmp_path / "run")["recipe"]
    assert settings["lr"] == 2e-5 and settings["evaluate_every"] == 3
    assert settings["evaluate_images"] == 1 and settings["patience"] == 2
    assert seen == [0, 0]


@pytest.mark.parametrize(
    "words",
    [
        "train detr-tiny --size 0",
        "train detr-tiny --size 31",
        "train detr-tiny --steps 0",
        "train detr-tiny --batch -2",
        "train detr-tiny --limit 0",
        "train detr-tiny --limit -1",
        "train detr-tiny --evaluate-every 0",
        "train detr-tiny --workers -1",
        "train detr-tiny --patience 0",
        "train detr-tiny --seed -1",
        "train detr-tiny --lr 0",
        "train detr-tiny --lr -0.1",
        "train detr-tiny --lr nan",
        "train detr-tiny --lr inf",
        "train detr-tiny --lr fast",
        "train detr-tiny --steps 1.5",
        "train detr-tiny --steps many",
        "evaluate detr-tiny --limit 0",
        "evaluate detr-tiny --limit -3",
    ],
)
def test_impossible_numbers_end_in_one_line(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words.split())
    assert ended.value.code == 2
    error = capsys.readouterr().err
    option, value = words.split()[2:]
    assert error.count("\n") == 1 and option in error and value in error


def test_size_and_val_are_for_own_pictures(recipe, folders, capsys):
    for words in (["--size", "64"], ["--val", *folders["val"]]):
        assert main(["train", recipe, *words]) == 2
        assert "add --train IMAGES JSON" in one_line(capsys)


class Noting(Scenes):
    """Scenes that note how validation asks for them."""

    asked: list[tuple]

    def evaluation_batches(self, batch, limit=None, *, device="cpu", **kwargs):
        self.asked.append((batch, limit, torch.device(device)))
        yield from super().evaluation_batches(batch, limit, device="cpu", **kwargs)


def test_validation_is_in_batches_of_training(tmp_path, recipe, monkeypatch):
    """Else validating would need more memory than training."""
    monkeypatch.setattr(Noting, "asked", [], raising=False)
    experiment.run(
        json.loads(open(recipe).read()),
        tmp_path / "run",
        validation=Noting("val", 32),
        device="cpu",
    )
    assert Noting.asked == [(2, 4, torch.device("cpu"))]


class OnMeta(torch.nn.Module):
    """A model on a device that every machine has, and that finds nothing."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1, device="meta"))

    def detect(self, batch, sizes):
        none = torch.zeros(0)
        found = SimpleNamespace(boxes=torch.zeros(0, 4), scores=none, labels=none.int())
        return [found for _ in sizes]


@pytest.mark.parametrize(
    ("device", "given"), [(None, "meta"), ("cpu", "cpu"), ("meta", "meta")]
)
def test_evaluation_asks_for_pictures_on_the_models_device(device, given, monkeypatch):
    from detr_steps.evaluation import evaluate

    monkeypatch.setattr(Noting, "asked", [], raising=False)
    evaluate(OnMeta(), Noting("val", 32), batch=3, limit=4, device=device)
    assert Noting.asked == [(3, 4, torch.device(given))]


def test_more_objects_than_queries_are_said_once_with_numbers(
    tmp_path, folders, capsys
):
    recipe = write_recipe(tmp_path / "few.json", queries=2)
    raw = json.loads(open(folders["train"][1]).read())
    counts = {image["id"]: 0 for image in raw["images"]}
    for annotation in raw["annotations"]:
        counts[annotation["image_id"]] += 1
    more = sum(count > 2 for count in counts.values())
    most = max(counts, key=counts.get)
    (file,) = [i["file_name"] for i in raw["images"] if i["id"] == most]
    assert 0 < more < 6
    command = own(recipe, folders, "--out", str(tmp_path / "run"))
    assert main(command) == 0
    line = one_line(capsys)
    assert f"{more} of 6 pictures" in line and "queries (2)" in line
    assert f"up to {counts[most]} in {file}" in line


def test_no_word_about_queries_where_they_are_enough(tmp_path, folders, capsys):
    """Crowds need none."""
    raw = json.loads(open(folders["train"][1]).read())
    for number, annotation in enumerate(raw["annotations"]):
        annotation["iscrowd"] = int(number > 0)
    open(folders["train"][1], "w").write(json.dumps(raw))
    recipe = write_recipe(tmp_path / "few.json", queries=1)
    assert main(own(recipe, folders, "--out", str(tmp_path / "run"))) == 0
    assert "more objects" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "short", "longest"),
    [
        ("deformable-tiny", 128, 213),
        ("detr-tiny", 128, 213),
        ("detr-coco-r50", 800, 1333),
    ],
)
def test_own_pictures_have_the_size_that_the_recipe_is_made_for(
    folders, name, short, longest
):
    described = experiment.with_folders(
        zoo.recipe(name), folders["train"], folders["val"], None
    )
    assert described["resize"] == [short, longest]
    assert max(described["augment"]["short_sides"]) == short
    if short == 800:
        assert described["augment"] == asdict(Augment.paper())
    other = experiment.with_folders(zoo.recipe(name), folders["train"], None, 96)
    assert other["resize"] == [96, 160] and other["validation"] == other["data"]


def test_the_size_is_said_and_used(tmp_path, recipe, folders, monkeypatch, capsys):
    sides = []
    forward = DETR.forward

    def noting(self, batch, *args, **kwargs):
        sides.append(min(batch.pixels.shape[-2:]))
        return forward(self, batch, *args, **kwargs)

    monkeypatch.setattr(DETR, "forward", noting)
    assert main(own(recipe, folders, "--out", str(tmp_path / "a"))) == 0
    errors = capsys.readouterr().err
    assert "a short side of 32 pixels" in errors and "--size N" in errors
    assert errors.count("short side") == 1 and max(sides) == 32
    sides.clear()
    command = own(recipe, folders, "--out", str(tmp_path / "b"), "--size", "48")
    assert main(command) == 0
    assert "short side" not in capsys.readouterr().err and max(sides) == 48


def test_validation_on_the_training_pictures_is_said(tmp_path, recipe, folders, capsys):
    command = ["train", recipe, "--train", *folders["train"], "--workers", "0"]
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    assert "measured on the training pictures" in capsys.readouterr().err


def test_a_stopped_run_can_be_scored_and_predicted_with(tmp_path, run, folders, capsys):
    """Its last checkpoint is used, which is said; and it knows its pictures."""
    step = read_notes(run / "checkpoint.safetensors")["step"]
    said = f"has not ended: its last checkpoint is used, of step {step}"
    assert main(["evaluate", str(run)]) == 0
    scores = capsys.readouterr()
    assert said in scores.err and "AP_S" in scores.out
    assert main(["evaluate", str(run), "--data", *folders["val"]]) == 0
    assert capsys.readouterr().out == scores.out
    picture = next((tmp_path / "own" / "val" / "images").iterdir())
    out = str(tmp_path / "found")
    assert main(["predict", str(picture), "--model", str(run), "--out", out]) == 0
    assert said in capsys.readouterr().err
    assert main(["train", "--resume", "--out", str(run)]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run)]) == 0
    assert capsys.readouterr().err == ""


def test_the_best_checkpoint_can_be_named_as_the_model(
    tmp_path, recipe, monkeypatch, capsys
):
    scores = iter([0.1, 0.6, 0.3, 0.2])
    monkeypatch.setattr(
        experiment, "evaluate", lambda *_, **__: {"AP": next(scores), "per_class": {}}
    )
    out = tmp_path / "run"
    command = ["train", recipe, "--out", str(out), "--evaluate-every", "1"]
    assert main([*command, "--patience", "2"]) == 0
    best = out / "best.safetensors"
    said = capsys.readouterr()
    assert f"best score was 0.6000, of step 2: name {best} " in said.err
    assert "go on with" not in said.err
    model = zoo.load(best)
    tensors, notes = read_tensors(best)
    assert notes["step"] == 2
    assert all(tensors[k].equal(v) for k, v in model.state_dict().items())
    assert not tensors["queries.weight"].equal(weights(out)["queries.weight"])
    assert main(["evaluate", str(best), "--limit", "2"]) == 0


def test_a_broken_recipe_file_is_named_with_its_line(tmp_path, capsys):
    file = tmp_path / "mine.json"
    for text, said in (
        ('{\n "recipe": }', "mine.json, line 2: not JSON"),
        ('{"recipe": {"steps": 2}}', "mine.json does not say its model"),
        ('{"recipe": 5, "model": {}, "data": {}, "validation": {}}', "its recipe"),
        ("[]", "mine.json holds no JSON object"),
    ):
        file.write_text(text)
        assert main(["train", str(file), "--out", str(tmp_path / "run")]) == 2
        assert said in one_line(capsys)
    assert not (tmp_path / "run").exists()


def test_garbage_in_a_run_is_named_by_all_commands(tmp_path, run, capsys):
    (run / "recipe.json").write_text('{"recipe": {')
    for command in (
        ["train", "--resume", "--out", str(run)],
        ["evaluate", str(run)],
        ["predict", "x.png", "--model", str(run)],
    ):
        assert main(command) == 2
        assert f"{run / 'recipe.json'}, line 1: not JSON" in one_line(capsys)


@pytest.mark.parametrize("name", ["cuda", "xpu", "mps", "gpu", "0", "tpu"])
def test_a_device_that_is_not_there_is_answered_at_once(
    name, recipe, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(devices, "_count", lambda kind: 0)
    out = tmp_path / "run"
    for command in (["train", recipe, "--out", str(out)], ["evaluate", "detr-tiny"]):
        assert main([*command, "--device", name]) == 2
        assert f"no device '{name}' here: there is cpu" in one_line(capsys)
    assert not out.exists()


def test_out_of_memory_names_batch_and_size(
    tmp_path, recipe, folders, monkeypatch, capsys
):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    monkeypatch.setattr(DETR, "loss", full)
    assert main(own(recipe, folders, "--out", str(tmp_path / "run"))) == 2
    line = one_line(capsys)
    assert re.search(r"a batch of 2 images of \d+ x \d+ pixels.*--batch", line)
    monkeypatch.undo()
    monkeypatch.setattr(DETR, "detect", full)
    assert main(["train", "--resume", "--out", str(tmp_path / "run")]) == 2
    assert "validation batches of 2 images" in one_line(capsys)


@pytest.mark.parametrize("workers", ["0", "1"])
def test_pictures_that_cannot_be_read_end_in_one_line(
    tmp_path, recipe, folders, workers, capsys
):
    for picture in (tmp_path / "own" / "train" / "images").iterdir():
        picture.write_bytes(b"no picture")
    command = own(recipe, folders, "--out", str(tmp_path / "run"))
    command[command.index("--workers") + 1] = workers
    assert main(command) in (1, 2)
    assert "no picture" in one_line(capsys)
    assert not (tmp_path / "run" / "run.lock").exists()
