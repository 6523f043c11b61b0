"""Group DETR and H-DETR from elsewhere: more rows of queries than inference has."""

import argparse
import copy
from dataclasses import replace

import pytest
import torch
from small import RESNET, scattered, small_conditional_config
from test_interop_conditional import official_names as conditional_names
from test_interop_deformable import SMALL as DEFORMABLE
from test_interop_deformable import official_names as deformable_names

from detr_steps import Groups, Hybrid, Repeated, interop, zoo
from detr_steps.cli import main
from detr_steps.data.scenes import Scenes
from detr_steps.describable import to_json
from detr_steps.files import write_json, write_tensors
from detr_steps.interop import CheckpointError
from detr_steps.interop.export import ExportError
from detr_steps.interop.keeping import keep_for_inference
from detr_steps.systems import detector
from detr_steps.systems.query_sources import Proposals
from detr_steps.systems.scheme import Plain

# the sizes that a checkpoint shows, and heads as its options say
CONDITIONAL = small_conditional_config(backbone=RESNET, dropout=0.1)
TWO_STAGE = replace(DEFORMABLE, refine=True, query_source=Proposals())
MIXED = replace(TWO_STAGE, query_source=Proposals(mixed=True))
GROUP_OPTIONS = dict(nheads=4, num_queries=5, group_detr=3)
HYBRID_OPTIONS = dict(
    nheads=4,
    num_queries_one2one=5,
    num_queries_one2many=12,
    k_one2many=3,
    lambda_one2many=0.5,
)
HYBRID = Hybrid(12, 3, 0.5)
KINDS = {
    "groups": (CONDITIONAL, Groups(3), GROUP_OPTIONS),
    "hybrid": (DEFORMABLE, HYBRID, HYBRID_OPTIONS),
    "hybrid refine": (replace(DEFORMABLE, refine=True), HYBRID, HYBRID_OPTIONS),
    "hybrid two stages": (TWO_STAGE, HYBRID, HYBRID_OPTIONS),
    "hybrid mixed": (MIXED, HYBRID, HYBRID_OPTIONS),
}


def official(config) -> tuple[torch.nn.Module, dict]:
    """A model whose weights are all unlike, and its state under the authors' names."""
    torch.manual_seed(1)
    model = scattered(config.build()).eval()
    names = conditional_names if config.backbone and not hasattr(config, "levels") \
        else deformable_names  # fmt: skip
    state = names(model)
    if config == replace(MIXED, scheme=config.scheme):
        state["query_embed.weight"] = state.pop("tgt_embed.weight")
    return model, state


def official_file(folder, config, options) -> tuple[torch.nn.Module, str]:
    model, state = official(config)
    path = folder / "r50.pth"
    torch.save({"model": state, "args": argparse.Namespace(**options)}, path)
    return model, str(path)


def same(one, other) -> None:
    state = other.state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize("kind", KINDS)
def test_official_keys_have_rows_for_all_queries_of_training(kind, tmp_path):
    config, scheme, options = KINDS[kind]
    config = replace(config, scheme=scheme)
    source, path = official_file(tmp_path, config, options)
    rows = {"groups": (15, 32), "hybrid": (17, 64), "hybrid refine": (17, 64),
            "hybrid two stages": None, "hybrid mixed": (17, 32)}[kind]  # fmt: skip
    state = torch.load(path, weights_only=False)["model"]
    assert rows is None or state["query_embed.weight"].shape == rows
    model = config.build()
    report = interop.load_official(model, path)
    assert report.complete
    same(model, source)


@pytest.mark.parametrize("kind", KINDS)
def test_the_options_beside_the_weights_say_which_scheme(kind, tmp_path):
    config, scheme, options = KINDS[kind]
    config = replace(config, scheme=scheme)
    source, path = official_file(tmp_path, config, options)
    opened = interop.open_checkpoint(path)
    assert opened.model.config == config
    assert f"trained with {scheme}" in opened.report.notes[0]
    same(opened.model, source)


def test_a_preset_says_nothing_of_the_scheme(tmp_path):
    config = replace(CONDITIONAL, heads=8, scheme=Groups(3))
    _, path = official_file(tmp_path, config, GROUP_OPTIONS | {"nheads": 8})
    found = interop.open_checkpoint(path, "conditional-coco-r50").model.config
    assert found == config


def test_rows_that_nothing_explains_are_queries(tmp_path):
    config = replace(CONDITIONAL, scheme=Groups(3))
    _, path = official_file(tmp_path, config, dict(nheads=4))
    assert interop.open_checkpoint(path).model.config.queries == 15


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (
            "groups",
            r"15 queries, the model 5: .*=15; or with scheme=Groups\(3\) if "
            r"it is a Group DETR, scheme=Hybrid\(queries=10",
        ),
        ("hybrid", r"17 queries, the model 5: .*; or with scheme=Hybrid\(queries=12"),
    ],
)
def test_the_host_is_told_which_scheme_the_rows_may_be_of(kind, says, tmp_path):
    config, scheme, options = KINDS[kind]
    _, path = official_file(tmp_path, replace(config, scheme=scheme), options)
    model = config.build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=says):
        interop.load_official(model, path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_more_queries_here_than_there_is_no_scheme(tmp_path):
    _, path = official_file(tmp_path, CONDITIONAL, dict(nheads=4))
    with pytest.raises(CheckpointError, match=r"the model 9: .*queries=5\. Nothing"):
        interop.load_official(replace(CONDITIONAL, queries=9).build(), path)


# --- weights without what only training needs ---------------------------------------


@pytest.fixture
def run(tmp_path):
    """The folder of a run of three groups, as training leaves it."""
    config = small_conditional_config(scheme=Groups(3))
    torch.manual_seed(0)
    model = config.build()
    folder = tmp_path / "grouped"
    folder.mkdir()
    description = zoo.recipe("conditional-small") | {"model": to_json(config)}
    description.pop("sha256", None)
    write_json(folder / "recipe.json", description)
    write_tensors(folder / "model.safetensors", model.state_dict(), {"step": 1})
    return folder


def test_the_command_writes_the_hosts_weights(run, tmp_path, capsys):
    out = tmp_path / "small"
    assert main(["export", str(run), "--to", "weights", "--out", str(out)]) == 0
    dropped = 10 * 32  # two groups of five queries
    assert f"{dropped} numbers that only training needs" in capsys.readouterr().out
    opened, whole = (interop.open_checkpoint(each) for each in (out, run))
    assert opened.model.config == replace(whole.model.config, scheme=Plain())
    assert opened.class_names == whole.class_names == list(Scenes().class_names)
    assert opened.resize == whole.resize
    assert opened.model.queries.weight.shape == (5, 32)
    wanted = whole.model.state_dict()["queries.weight"][:5]
    assert torch.equal(opened.model.queries.weight, wanted)
    batch, sizes = Scenes("val", size=64).draw([1, 2]).images, [(64, 64)] * 2
    for one, other in zip(*(o.model.detect(batch, sizes) for o in (opened, whole))):
        assert torch.equal(one.scores, other.scores)
        assert torch.equal(one.boxes, other.boxes)
    files = {path.name for path in out.iterdir()}
    assert files == {"recipe.json", "model.safetensors"}


@pytest.mark.parametrize("scheme", [Plain(), Repeated(2)], ids=str)
def test_without_queries_of_training_everything_is_kept(run, tmp_path, scheme):
    opened = interop.open_checkpoint(run)
    model = small_conditional_config(scheme=scheme).build()
    out = tmp_path / "small"
    assert keep_for_inference(opened._replace(model=model), out) == 0
    same(interop.open_checkpoint(out).model, model)


def test_nothing_is_overwritten_and_nothing_half_written(run, tmp_path, monkeypatch):
    opened = interop.open_checkpoint(run)
    with pytest.raises(FileExistsError, match="exists: remove it"):
        keep_for_inference(opened, run)
    before = sorted(tmp_path.iterdir())

    def other_rows(model):
        small = detector.for_inference(model)
        torch.nn.init.normal_(small.queries.weight)
        return small

    monkeypatch.setattr(interop.keeping, "for_inference", other_rows)
    with pytest.raises(ExportError, match="answers otherwise than the model; nothing"):
        keep_for_inference(opened, tmp_path / "new")
    assert sorted(tmp_path.iterdir()) == before


def test_somebody_elses_weights_are_for_python(tmp_path, capsys):
    config = replace(CONDITIONAL, scheme=Groups(3))
    _, path = official_file(tmp_path, config, GROUP_OPTIONS)
    out = str(tmp_path / "small")
    assert main(["export", path, "--to", "weights", "--out", out]) == 2
    assert "somebody else's weights" in capsys.readouterr().err
    assert not (tmp_path / "small").exists()


def test_options_of_graphs_are_refused(run, capsys):
    for more in (["--dynamic"], ["--size", "64", "64"]):
        assert main(["export", str(run), "--to", "weights", *more]) == 2
        assert "weights take pictures of any size" in capsys.readouterr().err
