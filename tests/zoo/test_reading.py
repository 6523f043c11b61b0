"""Weights, records and recipes by name: found, checked, made again."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from detr_steps import zoo
from detr_steps.cli import main
from detr_steps.data.scenes import Scenes
from detr_steps.describable import from_json, to_json
from detr_steps.files import write_json

WITH_WEIGHTS = zoo.names()
ROOT = Path(__file__).parents[2]


def test_the_promised_checkpoints_are_there():
    assert {"detr-tiny", "shapes-backbone"} <= set(WITH_WEIGHTS)


@pytest.mark.parametrize("name", WITH_WEIGHTS)
def test_every_checkpoint_loads_and_says_how_it_was_made(name):
    model = zoo.load(name)
    assert not model.training
    assert all(value.dtype == torch.float32 for value in model.state_dict().values())
    record, recipe = zoo.record(name), zoo.recipe(name)["recipe"]
    assert record[-1]["step"] == recipe["steps"]
    assert zoo.result(name)["images"] == 2000


def test_the_zoo_explains_each_run():
    text = (zoo.folder() / "README.md").read_text(encoding="utf-8")
    for name in zoo.recipes():
        assert f"`{name}`" in text or f"`{name.removeprefix('detr-tiny')}`" in text


@pytest.mark.parametrize("name", zoo.recipes())
def test_every_recipe_can_be_read(name):
    recipe = zoo.recipe(name)
    config = from_json(recipe["model"])
    assert to_json(config) == recipe["model"]
    steps = recipe["recipe"]["steps"]
    assert all(line["step"] <= steps for line in zoo.record(name))


def test_what_the_record_says_is_what_the_weights_do():
    """The first 100 validation scenes score about what the whole set does."""
    from detr_steps.evaluation import evaluate

    again = evaluate(zoo.load("detr-tiny"), Scenes("val"), limit=100)
    assert again["AP"] == pytest.approx(zoo.result("detr-tiny")["AP"], abs=0.06)


def test_an_unknown_name_lists_what_there_is():
    with pytest.raises(KeyError, match="shapes-backbone"):
        zoo.load("detr-huge")


def test_damaged_weights_are_noticed(own_zoo):
    file = own_zoo / "shapes-backbone" / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match="checksum differs.*git checkout"):
        zoo.load("shapes-backbone")


def test_the_zoo_travels_in_a_wheel(tmp_path):
    """zoo.load works from an installed package, without the repository (Colab)."""
    pytest.importorskip("hatchling", reason="building a wheel needs hatchling")
    build = "from hatchling.build import build_wheel; print(build_wheel(%r))"
    done = subprocess.run(
        [sys.executable, "-c", build % str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    wheel = next(tmp_path.glob("*.whl"))
    site = tmp_path / "site"
    shutil.unpack_archive(wheel, site, "zip")
    code = (
        "import detr_steps, detr_steps.zoo as z; print(detr_steps.__file__); "
        "print(z.folder()); z.load('shapes-backbone'); "
        "from detr_steps.ops import compiled; print(compiled.sources())"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={"PYTHONPATH": str(site), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    found = run.stdout.split()  # the package, its data, the compiled op's sources
    assert all(Path(each).is_relative_to(site) for each in found) and len(found) == 3


def test_records_come_in_the_order_of_their_seeds(own_zoo):
    """The recipe's own first, then by number; a missing one is left out."""
    entry = own_zoo / "shapes-backbone"
    for seed in (10, 2):
        (entry / f"record-seed{seed}.jsonl").write_text(f'{{"step": 9, "AP": {seed}}}')
    (entry / "record.jsonl").write_text('{"step": 9, "AP": 0.3}\n{"step": 10}\n')
    assert zoo.scores("shapes-backbone") == [0.3, 2, 10]
    (entry / "record.jsonl").unlink()
    assert zoo.scores("shapes-backbone") == [2, 10]


def test_a_recipe_may_say_what_is_shipped(own_zoo):
    entry = own_zoo / "shapes-backbone"
    assert zoo.ships_weights("shapes-backbone")
    recipe = zoo.recipe("shapes-backbone")
    for ship, ships in (("record", False), ("weights", True)):
        write_json(entry / "recipe.json", recipe | {"ship": ship})
        assert zoo.ships_weights("shapes-backbone") is ships
    (entry / "model.safetensors").unlink()
    assert zoo.ships_weights("shapes-backbone")  # they are to come
    write_json(entry / "recipe.json", recipe)
    assert not zoo.ships_weights("shapes-backbone")
    write_json(entry / "recipe.json", recipe | {"ship": "all"})
    with pytest.raises(ValueError, match="'all': weights or record"):
        zoo.ships_weights("shapes-backbone")


def test_another_zoo_must_be_there(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv(zoo.VARIABLE, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="DETR_STEPS_ZOO=.*is no folder"):
        zoo.names()
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err.startswith("detr-steps: DETR_STEPS_ZOO=")
