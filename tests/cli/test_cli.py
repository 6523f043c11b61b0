"""The commands, as a user types them."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from small import RESNET, small_config

from detr_steps import zoo
from detr_steps.cli import doctor, main
from detr_steps.data.scenes import Scenes
from detr_steps.describable import to_json
from detr_steps.ops import backend
from detr_steps.ops.building import NotCompiled


def small_recipe(folder, **changes):
    recipe = zoo.recipe("detr-tiny")
    recipe["model"] = to_json(small_config(classes=6))
    recipe["start"] = {}
    recipe["data"]["size"] = recipe["validation"]["size"] = 32
    recipe["recipe"] |= {"steps": 2, "batch": 2, "evaluate_images": 4, **changes}
    file = folder / "small.json"
    file.write_text(json.dumps(recipe))
    return str(file)


@pytest.fixture
def photo(tmp_path):
    rgb = Scenes("val").draw([3]).rgb[0].permute(1, 2, 0).numpy()
    path = tmp_path / "photo.png"
    Image.fromarray((rgb * 255).round().astype(np.uint8)).resize((200, 150)).save(path)
    return path


def test_train_resume_evaluate_predict(tmp_path, photo, capsys):
    recipe, run = small_recipe(tmp_path), tmp_path / "run"
    assert main(["train", recipe, "--out", str(run), "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 2
    assert main(["train", recipe, "--out", str(run)]) == 2
    assert "--resume" in capsys.readouterr().err
    assert main(["train", recipe, "--out", str(run), "--resume"]) == 0
    capsys.readouterr()
    assert main(["evaluate", str(run), "--limit", "4"]) == 0
    assert "AP_S" in capsys.readouterr().out
    out = tmp_path / "found"
    done = main(
        ["predict", str(photo), "--model", str(run), "--out", str(out)]
        + ["--threshold", "0"]
    )
    assert done == 0
    found = json.loads((out / "photo.json").read_text())["detections"]
    assert (
        len(found) == small_config().queries
        and found[0]["name"] in Scenes().class_names
    )
    assert Image.open(out / "photo.png").size == (200, 150)


def test_a_shorter_run_drops_its_learning_rate_too(tmp_path):
    run = tmp_path / "run"
    recipe = small_recipe(tmp_path, steps=30, drops=[20, 25])
    assert main(["train", recipe, "--steps", "3", "--out", str(run)]) == 0
    trained = zoo.recipe(run)["recipe"]
    assert (trained["steps"], trained["drops"]) == (3, [2, 2])


def test_predict_names_broken_files_and_goes_on(tmp_path, photo, capsys):
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    out = tmp_path / "found"
    code = main(["predict", str(broken), str(photo), "--out", str(out)])
    assert code == 1
    assert "broken.jpg" in capsys.readouterr().out
    assert (out / "photo.png").exists() and not (out / "broken.png").exists()


def test_predict_finds_what_is_there(tmp_path, capsys):
    """The shipped weights find most large objects of a few scenes."""
    scenes = Scenes("val").draw(range(12))
    hits = total = 0
    for index, target in enumerate(scenes.targets):
        path = tmp_path / f"{index}.png"
        rgb = scenes.rgb[index].permute(1, 2, 0).mul(255).round().byte().numpy()
        Image.fromarray(rgb).save(path)
        main(["predict", str(path), "--out", str(tmp_path / "out")])
        found = json.loads((tmp_path / "out" / f"{index}.json").read_text())
        labels = [each["label"] for each in found["detections"]]
        large = target["labels"][target["area"] > 32**2].tolist()
        total += len(large)
        hits += sum(label in labels for label in large)
    assert hits > 0.7 * total > 0


@pytest.mark.parametrize("size", [(1, 1), (3, 700)])
def test_predict_takes_odd_sizes(tmp_path, size):
    path = tmp_path / "odd.png"
    Image.new("RGB", size).save(path)
    assert main(["predict", str(path), "--out", str(tmp_path / "out")]) == 0


def test_predict_refuses_a_gigantic_image(tmp_path, capsys):
    path = tmp_path / "giant.png"
    Image.new("1", (12_000, 12_000)).save(path)
    assert main(["predict", str(path), "--out", str(tmp_path / "out")]) == 1
    assert "giant.png" in capsys.readouterr().out


def test_export_then_check_then_train_on_it(tmp_path, capsys):
    folder = tmp_path / "scenes"
    assert main(["data", "export", str(folder), "--count", "4", "--size", "64"]) == 0
    assert main(["data", "check", str(folder)]) == 0
    assert main(["data", "export", str(folder)]) == 2
    capsys.readouterr()
    pictures = [str(folder / "images"), str(folder / "annotations" / "instances.json")]
    recipe = small_recipe(tmp_path)
    run = tmp_path / "own"
    code = main(
        ["train", recipe, "--out", str(run), "--size", "64"]
        + ["--train", *pictures, "--val", *pictures]
    )
    assert code == 0, capsys.readouterr().err
    description = zoo.recipe(run)
    assert description["class_names"] == [*Scenes().class_names]
    assert main(["evaluate", str(run), "--data", *pictures]) == 0
    image = str(
        folder / "images" / sorted(p.name for p in (folder / "images").iterdir())[0]
    )
    assert (
        main(["predict", image, "--model", str(run), "--out", str(tmp_path / "o")]) == 0
    )


def test_check_reports_faults_with_a_status(tmp_path, capsys):
    assert main(["data", "check", str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_a_recipe_that_needs_pictures_says_so(tmp_path, capsys):
    assert main(["train", "detr-coco-r50", "--out", str(tmp_path / "run")]) == 2
    assert "--train IMAGES JSON" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_start_from_imagenet_weights(tmp_path):
    """A file with torchvision's names starts the backbone, without its classifier."""
    from detr_steps import experiment

    state = RESNET.build().state_dict()
    state = {key: torch.full_like(value, 0.5) for key, value in state.items()}
    state["bn1.num_batches_tracked"] = torch.tensor(3)
    state |= {"fc.weight": torch.zeros(10, 2048), "fc.bias": torch.zeros(10)}
    torch.save(state, tmp_path / "resnet.pth")
    recipe = zoo.recipe("detr-tiny")
    recipe["model"]["backbone"] = to_json(RESNET)
    recipe["start"] = {"backbone": str(tmp_path / "resnet.pth")}
    model = experiment.build(recipe)
    assert (model.backbone.layer4[0].conv1.weight == 0.5).all()


def test_doctor_says_what_works(capsys):
    with backend.use("auto"):
        assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert "weights detr-tiny" in out and "torch" in out and "NO " not in out
    assert ("ok  compiled op" in out) == (backend.trouble() is None)


def test_doctor_says_why_there_is_no_compiled_op(capsys, monkeypatch):
    trouble = NotCompiled("no ninja, which builds it: pip install ninja")
    monkeypatch.setattr(backend, "trouble", lambda device="cpu": trouble)
    with backend.use("auto"):
        assert main(["doctor"]) == 0  # it is no must
    out = capsys.readouterr().out
    assert "--  no compiled op: no ninja, which builds it: pip install ninja; " in out
    assert "the CPU" in out and "the GPU" not in out
    monkeypatch.setattr(doctor, "gpu_present", lambda: True)
    with backend.use("auto"):
        main(["doctor"])
    assert "; on the GPU deformable attention works without" in capsys.readouterr().out
    with backend.use("torch"):
        main(["doctor"])
    assert "--  DETR_STEPS_BACKEND=torch: unset it" in capsys.readouterr().out


def test_unknown_names_end_in_one_line(capsys):
    assert main(["train", "detr-huge"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "detr-tiny" in error


def test_fine_tuning_takes_all_but_the_class_head(tmp_path):
    """Official weights for 91 classes start a model for somebody's own six."""
    from detr_steps import experiment, interop

    recipe = zoo.recipe("detr-tiny")
    recipe["model"]["backbone"] = to_json(RESNET)
    recipe["start"] = {}
    official = {**recipe, "model": recipe["model"] | {"classes": 91}}
    taught = experiment.build(official)
    with torch.no_grad():
        for parameter in taught.parameters():
            parameter.fill_(0.25)
    state = interop.to_official(taught.state_dict())
    torch.save({"model": state}, tmp_path / "detr.pth")
    recipe["start"] = {"weights": str(tmp_path / "detr.pth")}
    model = experiment.build(recipe)
    assert (model.box_head.layers[0].weight == 0.25).all()
    assert (model.decoder[0].cross_attention.value.weight == 0.25).all()
    assert model.class_head.out_features == 7
    assert not (model.class_head.weight == 0.25).any()


def test_a_backbone_file_that_does_not_fit_ends_in_words(tmp_path, capsys):
    torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "other.pth")
    recipe = small_recipe(tmp_path)
    command = ["train", recipe, "--backbone", str(tmp_path / "other.pth")]
    assert main([*command, "--out", str(tmp_path / "run")]) == 2
    assert "does not fit the backbone" in capsys.readouterr().err
