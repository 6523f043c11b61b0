"""`--weights`, `predict`, `evaluate` take the same checkpoints, whosever they are."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from small import RESNET, small_config
from test_interop import hf_names as detr_hf_names
from test_interop_deformable import SMALL, official_names
from test_interop_opening import Twice

from detr_steps import DETR, DeformableDETR, interop, zoo
from detr_steps.cli import main
from detr_steps.data.export import export
from detr_steps.data.scenes import Scenes
from detr_steps.describable import to_json
from detr_steps.files import read_json, read_tensors

CONFIG = small_config(classes=6, queries=8, backbone=RESNET, heads=8, dropout=0.1)
NAMES = Scenes("train").class_names


@pytest.fixture(scope="module")
def detr():
    torch.manual_seed(5)
    return DETR(CONFIG)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Folder and annotation file of three pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    export(Scenes("val", 64), folder, range(3))
    return [str(folder / "images"), str(folder / "annotations" / "instances.json")]


@pytest.fixture
def recipe(tmp_path):
    """One step, on scenes of 32 pixels, of a model as large as the checkpoints."""
    description = zoo.recipe("detr-tiny") | {"model": to_json(CONFIG), "start": {}}
    description["data"]["size"] = description["validation"]["size"] = 32
    settings = {"steps": 1, "batch": 2, "evaluate_images": 2, "warmup": 0, "keep": []}
    description["recipe"] |= settings
    description.pop("sha256")
    (tmp_path / "small.json").write_text(json.dumps(description))
    return str(tmp_path / "small.json")


def official(path, model, wrap=dict):
    torch.save({"model": wrap(interop.to_official(model.state_dict()))}, path)
    return str(path)


def wrapped(state):
    return {f"module.{name}": value for name, value in state.items()}


def hub(folder, model, names):
    folder.mkdir()
    state = detr_hf_names(model.state_dict(), old=True)
    save_file({n: v.clone() for n, v in state.items()}, folder / "model.safetensors")
    config = {"id2label": dict(enumerate(names))}
    (folder / "config.json").write_text(json.dumps(config))
    return str(folder)


def one_line(capsys):
    error = capsys.readouterr().err
    lines = [line for line in error.splitlines() if line.startswith("detr-steps")]
    assert len(lines) == 1 and "Traceback" not in error, error
    return lines[0]


def heads_line(capsys):
    """The only line that training printed about its class head."""
    lines = capsys.readouterr().err.splitlines()
    (line,) = [line for line in lines if "class head" in line]
    return line


@pytest.mark.parametrize("kind", ["official", "wrapped", "hub", "hub of others", "run"])
def test_a_run_starts_from_any_checkpoint(
    tmp_path, detr, recipe, monkeypatch, capsys, kind
):
    """A rate of almost nothing leaves the weights that the run began with."""
    monkeypatch.chdir(tmp_path)
    if kind in ("official", "wrapped"):
        wrap = (
            dict if kind == "official" else lambda s: {f"module.{k}": s[k] for k in s}
        )
        source, words = official(tmp_path / "a.pth", detr, wrap), "both have 6 classes"
    elif kind == "run":
        hub(tmp_path / "first", detr, NAMES)
        begun = [recipe, "--weights", "first", "--lr", "1e-12", "--out", "run"]
        assert main(["train", *begun, "--device", "cpu"]) == 0
        capsys.readouterr()
        source, words = "run", "the same 6 classes, by number and name"
    else:
        names = NAMES if kind == "hub" else ["x", *NAMES[1:]]
        source = hub(tmp_path / "hub", detr, names)
        words = "the same 6 classes" if kind == "hub" else "1 of 6 classes are others"
    command = ["train", recipe, "--weights", source, "--lr", "1e-12", "--device", "cpu"]
    assert main([*command, "--out", "out"]) == 0
    line = heads_line(capsys)
    assert words in line and source in line
    begun = read_json(tmp_path / "out" / "recipe.json", "")["start"]["weights"]
    assert begun == os.path.abspath(tmp_path / source)
    now, before = (
        read_tensors(tmp_path / "out" / "model.safetensors")[0],
        detr.state_dict(),
    )
    for name, value in now.items():
        kept = torch.allclose(value, before[name], atol=1e-6)
        assert kept or kind == "hub of others" and name.startswith("class_head"), name
    if kind == "hub of others":
        assert not torch.allclose(now["class_head.weight"], before["class_head.weight"])


def test_a_run_starts_from_a_name_in_the_zoo(tmp_path, recipe, capsys):
    description = zoo.recipe("detr-tiny")
    small = read_json(tmp_path / "small.json", "")
    description |= {"recipe": small["recipe"], "data": small["data"], "start": {}}
    description.pop("sha256")
    (tmp_path / "tiny.json").write_text(json.dumps(description))
    command = ["train", str(tmp_path / "tiny.json"), "--weights", "detr-tiny"]
    command += ["--lr", "1e-12", "--device", "cpu", "--limit", "1"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 0
    assert "the same 6 classes, by number and name" in heads_line(capsys)
    begun = read_json(tmp_path / "out" / "recipe.json", "")["start"]
    assert begun == {"weights": "detr-tiny"}
    now = read_tensors(tmp_path / "out" / "model.safetensors")[0]
    for name, value in zoo.weights("detr-tiny").items():
        assert torch.allclose(now[name], value, atol=1e-6), name


def test_predict_and_evaluate_take_what_train_takes(tmp_path, detr, pictures, capsys):
    image = min(Path(pictures[0]).iterdir())
    torch.manual_seed(1)
    deformable = {"model": official_names(DeformableDETR(replace(SMALL, classes=6)))}
    torch.save(deformable, tmp_path / "r50_deformable_detr-checkpoint.pth")
    size = {"size": {"shortest_edge": 128, "longest_edge": 128}}
    folder = hub(tmp_path / "hub", detr, NAMES)
    (tmp_path / "hub" / "preprocessor_config.json").write_text(json.dumps(size))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(size))
    for number, source in enumerate(
        (
            official(
                tmp_path / "a.pth", detr, lambda s: {f"model.{k}": s[k] for k in s}
            ),
            str(tmp_path / "r50_deformable_detr-checkpoint.pth"),
            folder,
        )
    ):
        out = ["--out", str(tmp_path / f"out{number}"), "--threshold", "0"]
        assert main(["predict", str(image), "--model", source, *out]) == 0
        said = capsys.readouterr()
        assert "recognised as a " in said.err and "objects" in said.out
        assert main(["evaluate", source, "--data", *pictures, "--limit", "1"]) == 0
        assert capsys.readouterr().out.startswith("AP ")
    found = json.loads(next((tmp_path / "out2").glob("*.json")).read_text())
    assert {row["name"] for row in found["detections"]} <= set(NAMES)


def test_official_is_another_word_for_model(tmp_path, detr, pictures, capsys):
    path = official(tmp_path / "a.pth", detr)
    (tmp_path / "preprocessor_config.json").write_text('{"size": 64, "max_size": 64}')
    image = pictures[0] + "/absent.png"
    command = ["predict", image, "--official", path, "--preset", "detr-coco-r50-dc5"]
    assert main([*command, "--out", str(tmp_path / "out")]) == 1
    assert "recognised as a DETR" in capsys.readouterr().err


def test_what_cannot_be_used_ends_in_one_line(tmp_path, detr, recipe, capsys):
    script, path = tmp_path / "script.pt", official(tmp_path / "a.pth", detr)
    torch.jit.script(Twice()).save(script)
    out = ["--out", str(tmp_path / "out")]
    for words, said in (
        (["predict", "a.png", "--model", str(script)], "is a TorchScript file"),
        (["evaluate", str(script)], "is a TorchScript file"),
        (["train", recipe, "--weights", str(script), *out], "is a TorchScript file"),
        (["evaluate", path], "says nothing about pictures: add --data IMAGES JSON"),
        (["evaluate", "detr-huge"], "no such name in the zoo: it has"),
        (["predict", "a.png", "--model", "detr-coco-r50"], "a recipe and no weights"),
        (
            ["train", "deformable-tiny", "--weights", path, *out],
            "the checkpoint is of a DETR, the model is a DeformableDETR",
        ),
    ):
        assert main(words) == 2
        assert said in one_line(capsys)
    assert not (tmp_path / "out").exists()


def test_the_authors_files_are_exported_as_well(tmp_path, detr, capsys):
    source = official(tmp_path / "a.pth", detr, wrapped)
    out = tmp_path / "a.torchscript"
    command = ["export", source, "--to", "torchscript", "--size", "32", "48"]
    assert main([*command, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "largest differences" in said.out and "module." in said.err
    boxes, scores, _ = torch.jit.load(str(out))(
        torch.zeros(1, 3, 32, 48), torch.zeros(1, 32, 48, dtype=torch.bool)
    )
    assert boxes.shape == (1, 8, 4) and scores.shape == (1, 8)
