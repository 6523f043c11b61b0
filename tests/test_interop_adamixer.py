"""AdaMixer's official weights: names as in MCG-NJU/AdaMixer (a50e33d), mmcv 1.3.3."""

import re

import pytest
import torch
from small import RESNET, scattered, small_adamixer_config, small_detr

from detr_steps import interop
from detr_steps.files import write_tensors
from detr_steps.interop import CheckpointError
from detr_steps.nn.adaptive_mixing import Mixing
from detr_steps.nn.resnet import ResNetConfig

BACKBONE = ResNetConfig(depths=RESNET.depths, train_norms=True)
CONFIG = small_adamixer_config(
    classes=4, backbone=BACKBONE, maps=4, heads=8, mixing=Mixing()
)


@pytest.fixture(scope="module")
def source():
    torch.manual_seed(1)
    return scattered(CONFIG.build()).eval()


def official_names(model) -> dict[str, torch.Tensor]:
    """Our names turned into the authors' by hand, apart from the library's tables."""
    stage = r"roi_head.bbox_head.\1"
    mixing = f"{stage}.sampling_n_mixing"
    rules = [
        (r"^project\.maps\.(\d)", r"neck.lateral_convs.\1.conv"),
        (r"^project\.norm", "neck.gn_out"),
        (r"^boxes\.", "rpn_head.init_proposal_bboxes."),
        (r"^queries\.", "rpn_head.init_content_features."),
        (r"^decoder\.(\d)\.self_attention\.sharpness", f"{stage}.iof_tau"),
        (r"^decoder\.(\d)\.self_attention\.output", f"{stage}.attention.attn.out_proj"),
        (r"^decoder\.(\d)\.self_attention", f"{stage}.attention.attn"),
        (r"^decoder\.(\d)\.self_norm", f"{stage}.attention_norm"),
        (
            r"^decoder\.(\d)\.cross_attention\.offsets",
            f"{mixing}.sampling_offset_generator.0",
        ),
        (
            r"^decoder\.(\d)\.cross_attention\.kernels",
            f"{mixing}.adaptive_mixing.parameter_generator.0",
        ),
        (
            r"^decoder\.(\d)\.cross_attention\.output",
            f"{mixing}.adaptive_mixing.out_proj",
        ),
        (r"^decoder\.(\d)\.cross_norm", f"{mixing}.norm"),
        (r"^decoder\.(\d)\.feed_forward\.widen", f"{stage}.ffn.layers.0.0"),
        (r"^decoder\.(\d)\.feed_forward\.narrow", f"{stage}.ffn.layers.1"),
        (r"^decoder\.(\d)\.feed_forward_norm", f"{stage}.ffn_norm"),
        (r"^class_features\.(\d)", f"{stage}.cls_fcs"),
        (r"^box_features\.(\d)", f"{stage}.reg_fcs"),
        (r"^class_heads\.(\d)", f"{stage}.fc_cls"),
        (r"^box_heads\.(\d)", f"{stage}.fc_reg"),
    ]
    state = {}
    for name, value in model.state_dict().items():
        for pattern, new in rules:
            name = re.sub(pattern, new, name)
        state[name] = value
    for name in [n for n in state if n.endswith("attn.query.weight")]:
        for kind in ("weight", "bias"):
            start = name.removesuffix("query.weight")
            parts = [state.pop(f"{start}{part}.{kind}") for part in
                     ("query", "key", "value")]  # fmt: skip
            state[f"{start}in_proj_{kind}"] = torch.cat(parts)
    state["backbone.bn1.num_batches_tracked"] = torch.tensor(7)  # mmcv counts
    return state


def official_file(folder, model):
    path = folder / "adamixer_r50.pth"
    torch.save({"meta": {}, "state_dict": official_names(model)}, path)
    return path


def same(one, other) -> None:
    state = other.state_dict()
    for name, value in one.state_dict().items():
        assert torch.equal(value, state[name]), name


def test_official_keys_are_the_documented_ones(source):
    """What the helper above writes, against names written out from the code."""
    names = official_names(source)
    stage = "roi_head.bbox_head.2."
    for name, shape in {
        "backbone.layer4.0.conv2.weight": (512, 512, 3, 3),
        "neck.lateral_convs.3.conv.bias": (64,),
        "neck.gn_out.weight": (64,),
        "rpn_head.init_proposal_bboxes.weight": (5, 4),
        "rpn_head.init_content_features.weight": (5, 64),
        f"{stage}attention.attn.in_proj_weight": (192, 64),
        f"{stage}attention.attn.out_proj.bias": (64,),
        f"{stage}attention_norm.weight": (64,),
        f"{stage}iof_tau": (8,),
        f"{stage}sampling_n_mixing.sampling_offset_generator.0.weight": (384, 64),
        f"{stage}sampling_n_mixing.norm.bias": (64,),
        f"{stage}sampling_n_mixing.adaptive_mixing.parameter_generator.0.bias": (
            4 * (16 * 16 + 128 * 32),
        ),
        f"{stage}sampling_n_mixing.adaptive_mixing.out_proj.weight": (64, 8192),
        f"{stage}ffn.layers.0.0.weight": (48, 64),
        f"{stage}ffn.layers.1.bias": (64,),
        f"{stage}ffn_norm.weight": (64,),
        f"{stage}cls_fcs.0.weight": (64, 64),
        f"{stage}cls_fcs.1.bias": (64,),
        f"{stage}fc_cls.weight": (4, 64),
        f"{stage}reg_fcs.0.bias": (64,),
        f"{stage}fc_reg.weight": (4, 64),
    }.items():
        assert tuple(names[name].shape) == shape, name


def test_official_file(source, tmp_path):
    model = CONFIG.build()
    report = interop.load_official(model, official_file(tmp_path, source))
    assert report.complete and not model.training
    same(model, source)


def test_it_is_recognised_by_its_weights(source, tmp_path):
    opened = interop.open_checkpoint(official_file(tmp_path, source))
    assert opened.model.config == CONFIG
    same(opened.model, source)


def test_other_classes_keep_their_own_head(source, tmp_path):
    path = official_file(tmp_path, source)
    model = small_adamixer_config(
        classes=2, backbone=BACKBONE, maps=4, heads=8, mixing=Mixing()
    ).build()
    with pytest.raises(CheckpointError, match="knows 4 classes, the model 2"):
        interop.load_official(model, path)
    report = interop.load_official(model, path, class_head="keep")
    assert len(report.kept) == 6 and model.class_heads[0].weight.shape == (2, 64)


def test_what_is_not_one_is_named(source, tmp_path):
    path = official_file(tmp_path, source)
    with pytest.raises(CheckpointError, match="the official AdaMixer, for interop"):
        interop.load_official(small_detr(), path)
    with pytest.raises(CheckpointError, match="transformers has no AdaMixer: load the"):
        interop.load_hf(CONFIG.build(), official_names(source))
    model = small_adamixer_config()
    file = tmp_path / "model.safetensors"
    write_tensors(file, model.build().state_dict(), {})
    with pytest.raises(CheckpointError, match=r"no recipe\.json beside it"):
        interop.open_checkpoint(file)
