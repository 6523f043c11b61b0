"""Models as files: what they compute, what travels in them, what is refused."""

import json

import pytest
import torch
from every_system import EVERY, SIZES, deformable, detr, padded
from small import (
    small_config,
    small_deformable_config,
    small_encoder_only_config,
    small_tsp_config,
)

from detr_steps.cli import main
from detr_steps.describable import to_json
from detr_steps.files import write_json, write_tensors
from detr_steps.images import ImageBatch
from detr_steps.interop import export as exporting
from detr_steps.interop.export import ExportError, ExportOptions, compare, export
from detr_steps.nn.resnet import ResNetConfig
from detr_steps.ops import backend
from detr_steps.systems.classifier import ClassifierConfig
from detr_steps.systems.query_sources import Proposals

ALL = EVERY | {
    "encoder only": lambda: small_encoder_only_config(classes=6).build(),
    "tsp-fcos": lambda: small_tsp_config(classes=6).build(),
}
SHALLOW = dict(encoder_layers=1, decoder_layers=1)
TWO_STAGES = dict(refine=True, query_source=Proposals())
SIZE = (64, 48)


def other_shape() -> tuple[torch.Tensor, torch.Tensor]:
    """Three pictures of another size, two of them padded."""
    pixels = torch.randn(3, 3, 57, 70, generator=torch.Generator().manual_seed(0))
    padding = torch.zeros(3, 57, 70, dtype=torch.bool)
    padding[1, 40:] = padding[2, :, 33:] = True
    return pixels.masked_fill(padding[:, None], 0.0), padding


def assert_same(ours, theirs, limit: float = 1e-5) -> None:
    found = compare(ours, theirs)
    assert found.boxes < limit and found.scores < limit, found


@pytest.mark.parametrize("name", ALL)
def test_tensors_are_what_detect_finds(name):
    model, (batch, _) = ALL[name]().train(), padded()
    whole = model.for_export()
    with torch.no_grad():
        boxes, scores, labels = whole(batch.pixels, batch.padding)
    for i, ((h, w), found) in enumerate(zip(SIZES, model.detect(batch, SIZES))):
        torch.testing.assert_close(boxes[i] * torch.tensor([w, h, w, h]), found.boxes)
        torch.testing.assert_close(scores[i], found.scores)
        assert torch.equal(labels[i], found.labels)


def test_without_padding_too():
    model, (pixels, _) = deformable().eval(), other_shape()
    batch = ImageBatch.from_pixels(pixels)
    with torch.no_grad():
        found = model.for_export()(pixels, batch.padding)
    each = model.detect(batch, [(1, 1)] * 3)
    assert_same(found, [torch.stack(x) for x in zip(*each)])


@pytest.mark.parametrize("name", ALL)
def test_a_trace_takes_other_batches_and_sizes(name):
    whole, (batch, _) = ALL[name]().eval().for_export(), padded()
    with torch.no_grad(), exporting._quiet():
        graph = torch.jit.trace(whole, (batch.pixels, batch.padding), check_trace=False)
        with torch.jit.optimized_execution(False):
            # AdaMixer's mixing multiplies: rounding grows from layer to layer
            limit = 1e-4 if name == "adamixer" else 1e-5
            assert_same(whole(*other_shape()), graph(*other_shape()), limit)
    assert "detr_steps::" not in str(graph.inlined_graph)  # no operator of our own


def test_torchscript_with_a_resnet(tmp_path):
    model = detr(backbone=ResNetConfig(depths=(1, 1, 1, 1)), **SHALLOW).eval()
    file = tmp_path / "m.torchscript"
    options = ExportOptions("torchscript", SIZE, dynamic=True)
    export(model, file, options, ["circle", "ring"])
    extra = {"detr_steps.json": ""}
    graph = torch.jit.load(str(file), _extra_files=extra)
    notes = json.loads(extra["detr_steps.json"])
    assert notes["class_names"] == ["circle", "ring"] and notes["size"] == list(SIZE)
    with torch.no_grad():
        assert_same(model.for_export()(*other_shape()), graph(*other_shape()))


def test_onnx_of_any_batch_and_size(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    model = deformable(**TWO_STAGES, **SHALLOW).eval()
    file = tmp_path / "m.onnx"
    found = export(model, file, ExportOptions("onnx", SIZE, dynamic=True), ["Ω", "b"])
    assert 0 < found.boxes < 1e-4 and found.scores < 1e-4
    session = onnxruntime.InferenceSession(str(file))
    assert {node.domain for node in _nodes(file)} <= {"", "ai.onnx"}
    notes = json.loads(session.get_modelmeta().custom_metadata_map["detr_steps"])
    assert notes["class_names"] == ["Ω", "b"] and notes["dynamic"] is True
    pixels, padding = other_shape()
    given = {"pixels": pixels.numpy(), "padding": padding.numpy()}
    theirs = session.run(["boxes", "scores", "labels"], given)
    with torch.no_grad():
        assert_same(model.for_export()(pixels, padding), map(torch.from_numpy, theirs))


def _nodes(file):
    import onnx

    return onnx.load(str(file)).graph.node


def test_pt2_of_any_batch_and_size(tmp_path):
    model = deformable(refine=True, **SHALLOW).eval()
    file = tmp_path / "m.pt2"
    with backend.use("auto"):  # a compiled op would need the library to load
        export(model, file, ExportOptions("pt2", SIZE, dynamic=True), ["a"])
    extra = {"detr_steps.json": ""}
    program = torch.export.load(file, extra_files=extra)
    assert json.loads(extra["detr_steps.json"])["class_names"] == ["a"]
    assert not any("detr_steps" in str(node.target) for node in program.graph.nodes)
    with torch.no_grad():
        ours = model.for_export()(*other_shape())
        assert_same(ours, program.module()(*other_shape()))


def small_run(folder, config) -> None:
    """What a finished run leaves, as far as `zoo.load` reads it."""
    torch.manual_seed(0)
    write_json(
        folder / "recipe.json",
        {
            "model": to_json(config),
            "data": {"kind": "Scenes", "split": "train", "size": 32},
            "validation": {"kind": "Scenes", "split": "val", "size": 32},
            "start": {},
            "recipe": {"steps": 1, "batch": 1},
        },
    )
    write_tensors(folder / "model.safetensors", config.build().state_dict(), {})


def test_command(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    small_run(tmp_path / "run", small_config(classes=6))
    command = ["export", str(tmp_path / "run"), "--to", "torchscript"]
    assert main(command) == 0
    line, limit = capsys.readouterr().out.splitlines()
    assert line.startswith("run.torchscript: ") and "largest differences" in line
    assert "one picture of 32 x 32 pixels" in limit and "--dynamic" in limit
    extra = {"detr_steps.json": ""}
    torch.jit.load("run.torchscript", _extra_files=extra)
    assert len(json.loads(extra["detr_steps.json"])["class_names"]) == 6
    content = (tmp_path / "run.torchscript").read_bytes()
    assert main(command) == 2
    assert "run.torchscript exists" in capsys.readouterr().err
    assert (tmp_path / "run.torchscript").read_bytes() == content


def test_two_stages_say_how_small_a_picture_may_be():
    model = deformable(**TWO_STAGES)
    options = ExportOptions("torchscript", SIZE, dynamic=True)
    assert "at least 9 tokens" in exporting.limits(model, options)
    assert exporting.limits(deformable(), options) == ""


@pytest.mark.parametrize("fault", ["boxes", "scores", "labels", "nan", "fewer"])
def test_a_file_that_differs_is_not_kept(tmp_path, monkeypatch, fault):
    def wrong(part):
        graph = torch.jit.load(str(part))

        def run(*given):
            boxes, scores, labels = graph(*given)
            if fault == "boxes":  # half a pixel of a map of stride 16, in one corner
                boxes[..., 0, 2] += 8 / 64
            if fault == "scores":
                scores[..., 0] += 2e-3
            if fault == "labels":
                labels[..., 0] += 1
            if fault == "nan":
                boxes[:, 1] = torch.nan
            found = boxes, scores, labels
            return [x[:, :-1] for x in found] if fault == "fewer" else found

        return run

    monkeypatch.setitem(exporting.READERS, "torchscript", wrong)
    file = tmp_path / "m.torchscript"
    model = detr(**SHALLOW).eval()
    with pytest.raises(ExportError, match="something else than the model"):
        export(model, file, ExportOptions("torchscript", SIZE))
    assert list(tmp_path.iterdir()) == []


def test_what_an_exporter_raises_is_one_line(tmp_path, monkeypatch):
    def fail(*given):
        given[1].write_bytes(b"half")
        raise RuntimeError("no such operator\nand a page more")

    monkeypatch.setitem(exporting.WRITERS, "pt2", fail)
    with pytest.raises(ExportError, match="as pt2: RuntimeError: no such operator$"):
        export(detr(**SHALLOW), tmp_path / "m.pt2", ExportOptions("pt2", SIZE))
    assert list(tmp_path.iterdir()) == []


def test_equal_scores_may_change_places():
    boxes = torch.rand(1, 3, 4)
    scores, labels = torch.tensor([[0.5, 0.5, 0.1]]), torch.tensor([[0, 1, 0]])
    order = torch.tensor([1, 0, 2])
    swapped = boxes[:, order], scores, labels[:, order]
    assert compare((boxes, scores, labels), swapped).boxes == 0
    assert compare((boxes, scores, labels), (boxes, scores, labels + 2)).boxes > 1


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime"])
def test_missing_packages_are_one_line(tmp_path, monkeypatch, missing):
    find = exporting.importlib.util.find_spec
    monkeypatch.setattr(
        exporting.importlib.util,
        "find_spec",
        lambda name, *more: None if name == missing else find(name, *more),
    )
    with pytest.raises(ExportError, match=f"pip install {missing}$"):
        export(detr(), tmp_path / "m.onnx", ExportOptions("onnx", SIZE))


@pytest.mark.parametrize(
    ("model", "size", "why"),
    [
        (lambda: ClassifierConfig().build(), SIZE, "Classifier is no detector"),
        (detr, (9000, 9000), "smaller --size"),
        (lambda: small_deformable_config(**TWO_STAGES).build(), (4, 4), "larger"),
    ],
)
def test_what_cannot_be_exported(tmp_path, model, size, why):
    with pytest.raises(ExportError, match=why):
        export(model(), tmp_path / "m", ExportOptions("torchscript", size))


def test_options_are_checked():
    with pytest.raises(ExportError, match="one of onnx, torchscript, pt2"):
        ExportOptions("tflite", SIZE)
    with pytest.raises(ExportError, match="height and width"):
        ExportOptions("onnx", (0, 64))
