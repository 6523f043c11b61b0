"""Any checkpoint by name or path: recognised, loaded, its class head judged."""

import argparse
import copy
import json
import zipfile
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from small import RESNET, scattered, small_config, small_detr
from test_interop import hf_names as detr_hf_names
from test_interop_deformable import KINDS
from test_interop_deformable import hf_names as deformable_hf_names
from test_interop_deformable import official_names as deformable_official_names

from detr_steps import DETR, DeformableDETR, interop, zoo
from detr_steps.data.coco_names import COCO_NAMES
from detr_steps.describable import to_json
from detr_steps.files import write_tensors
from detr_steps.interop import CheckpointError
from detr_steps.nn.resnet import ResNetConfig
from detr_steps.objective.classification import Focal

DETR_SMALL = small_config(classes=4, backbone=RESNET, heads=8, dropout=0.1)


def filled(model):
    """With weights unlike fresh ones."""
    torch.manual_seed(3)
    return scattered(model)


@pytest.fixture(scope="module")
def detr() -> DETR:
    return filled(DETR(DETR_SMALL))


@pytest.fixture(scope="module")
def deformables() -> dict[str, DeformableDETR]:
    configs = {kind: replace(config, channels=64) for kind, config in KINDS.items()}
    return {kind: filled(DeformableDETR(c)) for kind, c in configs.items()}


def same(model, source, but: str = "-") -> None:
    wanted = source.state_dict()
    assert wanted.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert name.startswith(but) or torch.equal(value, wanted[name]), name


def official_file(path, model, **more):
    torch.save({"model": interop.to_official(model.state_dict()), **more}, path)
    return path


def hub_folder(folder, state, **config):
    folder.mkdir(exist_ok=True)
    state = {name: value.clone() for name, value in state.items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def fits_into(model, source, names=None):
    """Load into a fresh copy; the copy and the report."""
    fresh = type(model)(model.config)
    return fresh, interop.load(fresh, source, names)


# --- 18: what is taken -------------------------------------------------------------


def test_the_official_detr_is_recognised_by_its_weights(detr, tmp_path):
    opened = interop.open_checkpoint(official_file(tmp_path / "r101-dab.pth", detr))
    same(opened.model, detr)
    assert opened.model.config == DETR_SMALL and not opened.model.training
    assert opened.class_names == [f"class {i}" for i in range(4)]
    assert opened.resize == (800, 1333) and opened.description is None
    assert not opened.named
    assert opened.report.notes == ("recognised as a DETR of its own size",)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("style", ["official", "hf"])
def test_deformable_detr_is_recognised_by_its_weights(
    deformables, tmp_path, kind, style
):
    source = deformables[kind]
    options = argparse.Namespace(nheads=4, num_queries=5)
    if style == "official":
        path = tmp_path / "r50.pth"
        state = deformable_official_names(source)
        torch.save({"model": state, "args": options}, path)
    else:
        state = deformable_hf_names(source)
        stated = {"decoder_attention_heads": 4, "encoder_attention_heads": 4}
        stated |= {"num_queries": 5}
        path = hub_folder(tmp_path / "hub", state, **stated)
    opened = interop.open_checkpoint(path)
    same(opened.model, source)
    assert opened.model.config == source.config


def test_presets_are_recognised_and_called_by_name(monkeypatch):
    """The paper's sizes, without their weights: shapes are enough."""
    for name, make in interop.presets().items():
        config = make()
        known = name.startswith(("detr-", "deformable-"))
        if not known or not isinstance(config.backbone, ResNetConfig):
            continue
        with torch.device("meta"):
            model = config.build()
        if isinstance(model, DETR):
            state = interop.to_official(model.state_dict())
        else:
            state = deformable_official_names(model)
            monkeypatch.setattr(torch, "equal", lambda a, b: a is b)
        dilated = config.backbone.dilate_last
        found = interop.recognising.recognise(state, dilate_last=dilated)
        assert found.config() == config, name
        assert interop.opening._called(config).startswith(f"{name}, 91 classes")
        monkeypatch.undo()


def test_a_dilated_last_stage_shows_in_no_weight(detr, tmp_path):
    """The name of the file, the options beside the weights or a preset says it."""
    plain = official_file(tmp_path / "a.pth", detr)
    assert not interop.open_checkpoint(plain).model.config.backbone.dilate_last
    options = argparse.Namespace(dilation=True)
    for path in (
        official_file(tmp_path / "detr-r50-dc5-x.pth", detr),
        official_file(tmp_path / "b.pth", detr, args=options),
    ):
        assert interop.open_checkpoint(path).model.config.backbone.dilate_last
    opened = interop.open_checkpoint(plain, preset="detr-coco-r50-dc5")
    assert opened.model.config.backbone.dilate_last
    same(opened.model, detr)


@pytest.mark.parametrize(
    ("preset", "words"),
    [("detr-huge", "there are detr-tiny, "), ("deformable-tiny", "another system")],
)
def test_presets_that_are_none(detr, tmp_path, preset, words):
    path = official_file(tmp_path / "a.pth", detr)
    with pytest.raises(CheckpointError, match=words):
        interop.open_checkpoint(path, preset=preset)


@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_shards(detr, tmp_path, file):
    state = detr_hf_names(detr.state_dict(), old=True)
    names = sorted(state)
    stem, suffix = file.rsplit(".", 1)
    places = {}
    for number, part in enumerate((names[:60], names[60:90], names[90:]), start=1):
        shard = f"{stem}-0000{number}-of-00003.{suffix}"
        save = save_file if suffix == "safetensors" else torch.save
        save({name: state[name] for name in part}, tmp_path / shard)
        places |= dict.fromkeys(part, shard)
    index = tmp_path / f"{file}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    for source in (tmp_path, index):
        opened = interop.open_checkpoint(source)
        same(opened.model, detr)
        assert "read from 3 files" in opened.report.notes
    (tmp_path / f"{stem}-0000{2}-of-00003.{suffix}").unlink()
    with pytest.raises(CheckpointError, match="00002-of-00003.*download all 3"):
        interop.open_checkpoint(tmp_path)
    index.write_text(json.dumps({"weight_map": {"a": "../a.bin"}}))
    with pytest.raises(CheckpointError, match=r"not beside it: \.\./a.bin"):
        interop.open_checkpoint(tmp_path)


def test_hub_folders_bring_names_size_and_settings(detr, tmp_path):
    names = {"3": "pear", "0": "N/A", "1": "cat", "2": "dog"}
    state = detr_hf_names(detr.state_dict(), old=False)
    folder = hub_folder(tmp_path / "hub", state, id2label=names, dilation=True)
    size = {"size": {"shortest_edge": 480, "longest_edge": 640}}
    (folder / "preprocessor_config.json").write_text(json.dumps(size))
    for source in (folder, folder / "model.safetensors"):
        opened = interop.open_checkpoint(source)
        assert opened.class_names == ["–", "cat", "dog", "pear"]
        assert opened.resize == (480, 640)
        assert opened.model.config.backbone.dilate_last
        same(opened.model, detr)


def test_links_of_the_hub_s_cache(detr, tmp_path):
    """There the file itself has no name, and config.json lies beside the link."""
    state = detr_hf_names(detr.state_dict(), old=False)
    folder = hub_folder(tmp_path / "hub", state, id2label=dict(enumerate("abcd")))
    blob = (folder / "model.safetensors").rename(tmp_path / "0e5c")
    (folder / "model.safetensors").symlink_to(blob)
    for source in (folder, folder / "model.safetensors"):
        opened = interop.open_checkpoint(source)
        same(opened.model, detr)
        assert opened.class_names == list("abcd")
    same(interop.open_checkpoint(blob).model, detr)


def test_coco_s_names_where_91_classes_say_nothing(tmp_path):
    model = DETR(replace(DETR_SMALL, classes=91))
    opened = interop.open_checkpoint(official_file(tmp_path / "a.pth", model))
    assert opened.class_names == list(COCO_NAMES) and opened.named


def run_folder(path, config, names, **tensors):
    recipe = zoo.recipe("detr-tiny") | {"model": to_json(config)}
    recipe |= {"class_names": names, "resize": [96, 160], "sha256": ""}
    path.mkdir(exist_ok=True)
    (path / "recipe.json").write_text(json.dumps(recipe))
    return path


def test_run_folders_and_each_of_their_files(detr, tmp_path):
    names = ["a", "b", "c", "d"]
    run = run_folder(tmp_path / "run", DETR_SMALL, names)
    state = detr.state_dict()
    write_tensors(run / "best.safetensors", state, {"step": 1, "score": 0.5})
    write_tensors(run / "kept" / "000001.safetensors", state, {"step": 1})
    fresh = DETR(DETR_SMALL).state_dict()
    parts = {f"model.{k}": v for k, v in fresh.items()}
    parts |= {f"average.{k}": v for k, v in state.items()}
    parts |= {"optimiser.step.x": torch.ones(1), "sums.loss": torch.ones(1)}
    write_tensors(run / "checkpoint.safetensors", parts, {"step": 1})
    with pytest.warns(UserWarning, match="has not ended"):
        opened = [interop.open_checkpoint(run)]
    for file in ("best", "kept/000001", "checkpoint"):
        opened.append(interop.open_checkpoint(run / f"{file}.safetensors"))
    for each in opened:
        same(each.model, detr)
        assert each.class_names == names and each.resize == (96, 160)
        assert each.description["class_names"] == names
    assert "'average.'" in opened[-1].report.notes[0]


def test_names_of_the_zoo():
    opened = interop.open_checkpoint("detr-tiny")
    same(opened.model, zoo.load("detr-tiny"))
    assert opened.class_names == zoo.class_names(zoo.recipe("detr-tiny"))


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("detr-coco-r50", "a recipe and no weights: train it"),
        ("shapes-backbone", "Classifier and finds no boxes: name"),
        ("detr-huge", "no such name in the zoo: it has .*detr-tiny"),
        ("facebook/detr-resnet-50", "hf download facebook/detr-resnet-50"),
    ],
)
def test_names_that_lead_to_no_detector(source, words):
    with pytest.raises(CheckpointError, match=words):
        interop.open_checkpoint(source)


def test_our_weights_without_their_recipe(detr, tmp_path):
    save_file(detr.state_dict(), tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="no recipe.json beside it"):
        interop.open_checkpoint(tmp_path / "a.safetensors")
    model, report = fits_into(detr, tmp_path / "a.safetensors")
    same(model, detr)
    assert report.class_head.startswith("class head kept: both have 4 classes")


# --- 19: the class head ------------------------------------------------------------

ANIMALS = ["ant", "bee", "cat", "dog"]


@pytest.mark.parametrize(
    ("theirs", "ours", "kept", "words"),
    [
        (ANIMALS, ANIMALS, True, "the same 4 classes, by number and name"),
        (ANIMALS, ["Ant", "bee ", "CAT", "dog"], True, "the same 4 classes"),
        (ANIMALS, None, True, "both have 4 classes (the model's names are not known)"),
        (None, ANIMALS, True, "(the checkpoint's names are not known)"),
        (["LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3"], ANIMALS, True, "are not known"),
        (ANIMALS, ["ant", "bee", "cow", "dog"], False, "1 of 4 classes are others"),
        (ANIMALS, ANIMALS[::-1], False, "in another order ('ant' for 'dog', "),
        (ANIMALS, ANIMALS[:3], False, "has 4 classes, the model 3"),
    ],
)
def test_the_class_head_is_kept_exactly_when_it_fits(
    detr, tmp_path, theirs, ours, kept, words
):
    config = {"id2label": dict(enumerate(theirs))} if theirs else {}
    state = detr_hf_names(detr.state_dict(), old=False)
    folder = hub_folder(tmp_path / "hub", state, **config)
    model = DETR(replace(DETR_SMALL, classes=len(ours or ANIMALS)))
    before = model.class_head.weight.clone()
    report = interop.load(model, folder, ours)
    assert words in report.class_head and "\n" not in report.class_head
    assert report.class_head.startswith(f"class head {'kept' if kept else 'started'}")
    same(model, detr, but="class_head.")
    assert torch.equal(model.class_head.weight, before) != kept
    assert torch.equal(model.class_head.weight, detr.class_head.weight) == kept
    assert report.class_head in str(report)


def test_own_runs_are_compared_by_name(detr, tmp_path):
    run = run_folder(tmp_path / "run", DETR_SMALL, ANIMALS)
    write_tensors(run / "model.safetensors", detr.state_dict(), {"step": 1})
    for names, kept in ((ANIMALS, True), (["x", *ANIMALS[1:]], False)):
        model, report = fits_into(detr, run, names)
        assert report.class_head.startswith("class head kept") == kept
        assert torch.equal(model.class_head.bias, detr.class_head.bias) == kept


def test_91_classes_are_coco_s_unless_somebody_says_others(tmp_path):
    source = filled(DETR(replace(DETR_SMALL, classes=91)))
    path = official_file(tmp_path / "a.pth", source)
    other = [f"thing {i}" for i in range(91)]
    for names, kept in ((list(COCO_NAMES), True), (None, True), (other, False)):
        model, report = fits_into(source, path, names)
        assert torch.equal(model.class_head.weight, source.class_head.weight) == kept
        assert ("kept" in report.class_head) == kept


def test_a_checkpoint_whose_class_head_was_cut_off(detr, tmp_path):
    state = interop.to_official(detr.state_dict())
    for name in ("class_embed.weight", "class_embed.bias"):
        del state[name]
    torch.save({"model": state}, tmp_path / "detr-no-class-head.pth")
    model, report = fits_into(detr, tmp_path / "detr-no-class-head.pth")
    same(model, detr, but="class_head.")
    assert report.class_head == "class head started anew: the checkpoint has none"
    with pytest.raises(CheckpointError, match="no class head: train one"):
        interop.open_checkpoint(tmp_path / "detr-no-class-head.pth")


def test_another_kind_of_classifier_is_another_head(detr, tmp_path):
    """92 rows of softmax are as many as those of 92 classes by themselves."""
    path = official_file(tmp_path / "a.pth", detr)
    model = DETR(replace(DETR_SMALL, classes=5, classification=Focal()))
    report = interop.load(model, path)
    assert "Softmax" in report.class_head and "Focal" in report.class_head
    same(model, detr, but="class_head.")


@pytest.mark.parametrize("classes", [4, 2])
def test_all_class_heads_of_deformable_detr(deformables, tmp_path, classes):
    source = deformables["two_stage"]
    torch.save({"model": deformable_official_names(source)}, tmp_path / "a.pth")
    model = DeformableDETR(replace(source.config, classes=classes))
    report = interop.load(model, tmp_path / "a.pth")
    kept = classes == 4
    same(model, source, but="-" if kept else "class_heads.")
    assert len(report.kept) == (0 if kept else 8)
    assert report.class_head.startswith(f"class head {'kept' if kept else 'started'}")


# --- 20: what is wrapped around ----------------------------------------------------


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


@pytest.mark.parametrize(
    ("wrap", "words"),
    [
        (lambda s: prefixed(s, "module."), "names without 'module.'"),
        (lambda s: prefixed(s, "_orig_mod."), "names without '_orig_mod.'"),
        (lambda s: {"model": prefixed(s, "_orig_mod.module.")}, "and 'module.'"),
        (lambda s: prefixed(s, "model."), "names without 'model.'"),
        (lambda s: prefixed(s, "detr."), "names without 'detr.'"),
        (
            lambda s: {
                "state_dict": prefixed(s, "model.detr.")
                | {"criterion.empty_weight": torch.ones(5)},
                "pytorch-lightning_version": "2",
                "hyper_parameters": {"lr": 0.1},
            },
            "'state_dict' are used; names without 'model.detr.'",
        ),
        (
            lambda s: prefixed(s, "module.") | {"n_averaged": torch.tensor(3)},
            "names without 'module.'",
        ),
        (lambda s: {"ema": s, "epoch": 3}, "the weights under 'ema' are used"),
        (
            lambda s: {"model": {"a": torch.ones(1)}, "ema": {"module": s}},
            "under 'ema' > 'module' are used, not those of the last step",
        ),
        (
            lambda s: {"ema": {"decay": 0.9}, "model": {"a": 1}, "ema_model": s},
            "the weights under 'ema_model' are used",
        ),
        (lambda s: {"ema": {"decay": 0.9}, "net": s}, "under 'net' are used"),
        (lambda s: {"net": s}, "the weights under 'net' are used"),
        (lambda s: {"model_state_dict": s, "loss": torch.ones(1)}, "model_state_dict"),
        (lambda s: {"state": 1, "model": {"net": {"state_dict": s}}}, "'net' > 'st"),
        (lambda s: {"model": s}, ""),
        (
            lambda s: {
                n.replace("backbone.0", "backbone._orig_mod.0"): v for n, v in s.items()
            },
            "names without '_orig_mod.'",
        ),
    ],
)
def test_wrapped_weights_are_unwrapped_and_it_is_said(detr, tmp_path, wrap, words):
    path = tmp_path / "a.pth"
    torch.save(wrap(interop.to_official(detr.state_dict())), path)
    opened = interop.open_checkpoint(path)
    same(opened.model, detr)
    said = "; ".join(opened.report.notes)
    assert words in said
    assert all(note in str(opened.report) for note in opened.report.notes)
    model, report = fits_into(detr, path)
    same(model, detr)
    model = DETR(DETR_SMALL)
    assert interop.load_official(model, path).notes == report.notes
    same(model, detr)


@pytest.mark.parametrize("prefix", ["model.", "module.", "detector.model."])
@pytest.mark.parametrize("kind", ["plain", "two_stage"])
def test_hugging_face_s_own_prefix_is_left(deformables, tmp_path, kind, prefix):
    source = deformables[kind]
    state = prefixed(deformable_hf_names(source), prefix)
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    model = DeformableDETR(source.config)
    report = interop.load(model, tmp_path / "a.ckpt")
    same(model, source)
    assert f"names without {prefix!r}" in report.notes


class Twice(torch.nn.Module):
    def forward(self, x):
        return 2 * x


def test_other_kinds_of_files_are_named(detr, tmp_path):
    path = tmp_path / "model.pt"
    torch.jit.script(Twice()).save(path)
    with zipfile.ZipFile(path) as archive:
        assert any(n.endswith("/constants.pkl") for n in archive.namelist())
    with pytest.raises(CheckpointError, match="is a TorchScript file, code with"):
        interop.open_checkpoint(path)
    torch.export.save(torch.export.export(Twice(), (torch.ones(2),)), path)
    with pytest.raises(CheckpointError, match="is an exported program"):
        interop.load(copy.deepcopy(detr), path)
    (tmp_path / "a.onnx").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="a file of ONNX: give the PyTorch"):
        interop.open_checkpoint(tmp_path / "a.onnx")
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n")
    with pytest.raises(CheckpointError, match="pointer of Git LFS"):
        interop.open_checkpoint(path)


# --- what does not fit says what differs -------------------------------------------


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder_layers": 3}, "2 encoder layers, the model 3"),
        ({"decoder_layers": 1}, "3 decoder layers, the model 1"),
        ({"channels": 64}, "32 channels, the model 64"),
        ({"ffn_channels": 64}, "48 ffn channels, the model 64"),
        ({"queries": 9}, "5 queries, the model 9"),
        (
            {"backbone": ResNetConfig(depths=(1, 2, 1, 1))},
            r"\(1, 1, 1, 1\) blocks in the backbone's stages, the model \(1, 2, 1, 1\)",
        ),
        (
            {"decoder_layers": 2, "channels": 64},
            "32 channels, the model 64; 3 decoder layers, the model 2",
        ),
    ],
)
def test_other_sizes_are_named_with_both_numbers(detr, tmp_path, changes, words):
    wrapped = prefixed(interop.to_official(detr.state_dict()), "module.")
    torch.save(wrapped, tmp_path / "a.pth")
    model = DETR(replace(DETR_SMALL, **changes))
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=words):
        interop.load(model, tmp_path / "a.pth")
    assert all(torch.equal(v, before[n]) for n, v in model.state_dict().items())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"levels": 3}, "4 levels, the model 3"),
        ({"maps": 2}, "3 maps of the backbone, the model 2"),
        ({"levels": 3, "maps": 2}, "4 levels, the model 3; 3 maps .*, the model 2"),
        ({"refine": True}, "refine=False, this one has refine=True"),
    ],
)
def test_other_levels_are_named(deformables, tmp_path, changes, words):
    source = deformables["plain"]
    torch.save({"model": deformable_official_names(source)}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match=words):
        interop.load(
            DeformableDETR(replace(source.config, **changes)), tmp_path / "a.pth"
        )


def test_other_systems_and_hidden_settings_are_named(detr, deformables, tmp_path):
    path = official_file(tmp_path / "a.pth", detr, args=argparse.Namespace(nheads=8))
    with pytest.raises(CheckpointError, match="is of a DETR, the model is a Deform"):
        interop.load(copy.deepcopy(deformables["plain"]), path)
    with pytest.raises(CheckpointError, match="nheads=8, this model has 4"):
        interop.load(DETR(replace(DETR_SMALL, heads=4)), path)
    run = run_folder(tmp_path / "run", DETR_SMALL, ANIMALS)
    write_tensors(run / "model.safetensors", detr.state_dict(), {"step": 1})
    with pytest.raises(CheckpointError, match="heads=8, this one has heads=4"):
        interop.load(DETR(replace(DETR_SMALL, heads=4)), run)
    with pytest.raises(CheckpointError, match="is of a DETR, the model is a Deform"):
        interop.load(copy.deepcopy(deformables["plain"]), run)
    with pytest.raises(CheckpointError, match="is of a Classifier, the model"):
        interop.load(small_detr(), "shapes-backbone")


# --- the recipes of the zoo --------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("deformable-coco-r50", 39_847_265),
        ("deformable-coco-r50-refine", 40_627_260),
        ("deformable-coco-r50-two-stage", 40_959_129),
    ],
)
def test_recipes_of_the_paper(name, count):
    described = zoo.recipe(name)
    config = interop.presets()[name]()
    assert described["model"] == to_json(config)
    with torch.device("meta"):
        parameters = list(config.build().parameters())
    assert sum(p.numel() for p in parameters if p.requires_grad) == count
    recipe = described["recipe"]
    epoch = -(-118_287 // recipe["batch"])
    assert recipe["batch"] == 32 and recipe["lr"] == 2e-4
    assert recipe["steps"] == 50 * epoch and recipe["drops"] == [40 * epoch]
    assert recipe["lr_factors"] == dict.fromkeys(
        ("backbone", "reference", "offsets"), 0.1
    )
