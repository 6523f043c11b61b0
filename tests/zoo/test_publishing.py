"""A run becomes an entry: whole, of its own recipe, and never by half."""

import json
import shutil

import pytest
import torch
from small import small_config
from small_zoo import add, tiny, trained

from detr_steps import zoo
from detr_steps.data import scenes
from detr_steps.describable import to_json
from detr_steps.files import read_tensors
from detr_steps.zoo import publishing


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    """As many as a film needs: a result is measured on all there are."""
    monkeypatch.setitem(scenes.SPLITS, "val", max(zoo.FILMED) + 1)


def test_publishing_a_run_keeps_weights_record_and_result(own_zoo, tmp_path):
    run = trained(tmp_path / "run")
    assert zoo.publish(run, "again") == own_zoo / "again"
    assert zoo.record("again") == zoo.record(run)
    assert zoo.result("again")["images"] == 334
    assert 0 < zoo.result("again")["accuracy"] <= 1
    full, _ = read_tensors(run / "model.safetensors")
    for key, value in zoo.load("again").state_dict().items():
        assert torch.equal(value, full[key].half().float())
    assert not (own_zoo / "again" / "film.safetensors").exists()


def test_other_seeds_lie_beside_the_record(own_zoo, tmp_path):
    """Three runs of one recipe: one name, three records, the recipe untouched."""
    zoo.publish_record(trained(tmp_path / "0"), "mine")
    text = (own_zoo / "mine" / "recipe.json").read_text()
    for seed in (2, 1):
        zoo.publish_record(trained(tmp_path / str(seed), seed=seed), "mine")
    assert zoo.records("mine") == [zoo.record(tmp_path / seed) for seed in "012"]
    assert (own_zoo / "mine" / "recipe.json").read_text() == text
    with pytest.raises(ValueError, match="of seed 1, and the weights .*seed 0"):
        zoo.publish(tmp_path / "1", "mine")
    assert zoo.names() == ["shapes-backbone"]


def test_a_run_of_another_recipe_is_refused(own_zoo, tmp_path):
    """What differs is named; defaults that are written out are no difference."""
    add(own_zoo, "mine", weight_decay=1e-4)
    zoo.publish_record(trained(tmp_path / "same"), "mine")
    run = trained(tmp_path / "other", lr=0.5, log_every=2)
    for publish in (zoo.publish, zoo.publish_record):
        with pytest.raises(
            ValueError, match=r"recipe.log_every: 2, not 1; recipe.lr: 0.5, not 0.0001"
        ):
            publish(run, "mine")
    assert zoo.records("mine") == [zoo.record(tmp_path / "same")]
    with pytest.raises(FileNotFoundError, match="no run in .*nowhere"):
        zoo.publish(tmp_path / "nowhere", "mine")


def test_a_run_that_has_not_ended_has_no_weights_to_publish(own_zoo, tmp_path):
    run = trained(tmp_path / "run")
    (run / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors"):
        zoo.publish(run, "mine")
    assert not (own_zoo / "mine").exists()


def test_what_cannot_be_scored_again_is_refused_before_anything(own_zoo, tmp_path):
    run = trained(tmp_path / "run")
    description = zoo.recipe(run) | {"validation": {"kind": "folder"}}
    (run / "recipe.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="pictures that the zoo has not: publish_rec"):
        zoo.publish(run, "mine")
    assert not (own_zoo / "mine").exists()


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.fixture
def killed_at(monkeypatch):
    """Let publishing die at its n-th write; returns how many there were before."""
    writes = []

    def dying(name, at):
        real = getattr(publishing, name)

        def write(*args):
            writes.append(name)
            if len(writes) == at:
                raise Killed
            return real(*args)

        return write

    def arm(at):
        for name in ("write_json", "write_tensors", "write_whole"):
            monkeypatch.setattr(publishing, name, dying(name, at))

    yield arm
    monkeypatch.undo()


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5])
def test_whenever_it_dies_the_entry_can_be_loaded(own_zoo, tmp_path, killed_at, at):
    """The old weights or the new ones, and the checksum only where all is whole."""
    zoo.publish(trained(tmp_path / "old"), "mine")
    before = zoo.load("mine").state_dict()
    run = trained(tmp_path / "new")
    tensors, notes = read_tensors(run / "model.safetensors")
    publishing.write_tensors(
        run / "model.safetensors", {k: v + 1 for k, v in tensors.items()}, notes
    )
    killed_at(at)
    with pytest.raises(Killed):
        zoo.publish(run, "mine")
    key = next(iter(before))
    is_new = not torch.equal(zoo.load("mine").state_dict()[key], before[key])
    assert is_new == (at > 2)
    assert ("sha256" in zoo.recipe("mine")) == (at == 1)
    assert zoo.result("mine") and zoo.record("mine")
    killed_at(0)
    zoo.publish(run, "mine")
    assert "sha256" in zoo.recipe("mine")


def test_what_is_shipped_stays_said(own_zoo, tmp_path):
    add(own_zoo, "mine", ship="record")
    run = trained(tmp_path / "run")
    zoo.publish_record(run, "mine")
    assert zoo.recipe("mine")["ship"] == "record" and not zoo.ships_weights("mine")
    zoo.publish(run, "mine")
    assert zoo.recipe("mine")["ship"] == "weights" and zoo.ships_weights("mine")


@pytest.fixture
def filmed(tmp_path):
    """A run of a detector that kept its weights twice."""
    description = tiny(keep=[0, 4]) | {"model": to_json(small_config(classes=6))}
    return trained(tmp_path / "filmed", description)


def test_a_film_that_cannot_be_made_loses_nothing(own_zoo, filmed, monkeypatch, capsys):
    zoo.publish(filmed, "mine")
    assert zoo.films() == ["mine"] and zoo.film("mine").steps == [0, 4]

    def record(*args):
        raise AttributeError("no decoder\nmore lines")

    monkeypatch.setattr(publishing.filming, "record", record)
    shutil.rmtree(own_zoo / "mine")
    zoo.publish(filmed, "mine")
    said = capsys.readouterr().err
    assert said == "no film of mine: AttributeError: no decoder\n"
    assert json.loads((own_zoo / "mine" / "result.json").read_text())["AP"] is not None
    zoo.load("mine")
    assert zoo.films() == []


def test_a_film_of_other_weights_goes(own_zoo, filmed, monkeypatch):
    zoo.publish(filmed, "mine")
    (filmed / "kept" / "000004.safetensors").write_bytes(b"damaged")
    zoo.publish(filmed, "mine")
    assert zoo.films() == []
