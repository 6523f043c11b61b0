"""Time of a training step (forward, loss, backward) against transformers' DETR.

    python -m benchmarks.step_time [tiny] [coco_r50] [--rounds 5] [--threads 2]

One 640 x 640 image with ten objects, both models in one process, taking turns; the
medians and their ratio go to the screen and to benchmarks/results/step_time.json.

The work is made equal: auxiliary losses on, dropout in all the places where the paper's
code has it, and the ResNet's stages 2 to 4 train (transformers freezes all of it,
unless it is timm's). Scenes' small backbone does not exist in transformers: there both
sides use ours, and the difference is in the transformer and the loss.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from torch import nn
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

from detr_steps import DETR, DETRConfig, ImageBatch

from .measuring import RESULTS, machine, save, take_turns

SIDE, OBJECTS = 640, 10


class OurBackbone(nn.Module):
    """A backbone of ours in the place of transformers' own."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: torch.Tensor, mask: torch.Tensor) -> list[tuple]:
        """Return the last map with its mask, True where it is real."""
        grid = self.backbone(pixels)[-1]
        small = nn.functional.interpolate(mask[None].float(), size=grid.shape[-2:])
        return [(grid, small[0].bool())]


def build_theirs(config: DETRConfig) -> DetrForObjectDetection:
    """Build transformers' model of the same size, ready to train."""
    model = DetrForObjectDetection(
        DetrConfig(
            use_timm_backbone=False,
            use_pretrained_backbone=False,
            backbone=None,
            backbone_config=ResNetConfig(out_features=["stage4"]),
            num_labels=config.classes,
            num_queries=config.queries,
            d_model=config.channels,
            encoder_layers=config.encoder_layers,
            decoder_layers=config.decoder_layers,
            encoder_ffn_dim=config.ffn_channels,
            decoder_ffn_dim=config.ffn_channels,
            encoder_attention_heads=config.heads,
            decoder_attention_heads=config.heads,
            dropout=config.dropout,
            attention_dropout=config.dropout,
            activation_dropout=config.dropout,
            auxiliary_loss=True,
        )
    )
    if config == DETRConfig.coco_r50():
        for name, parameter in model.model.backbone.named_parameters():
            stem = "embedder" in name or "stages.0" in name
            parameter.requires_grad_(not stem)
    else:
        backbone = config.backbone.build()
        model.model.backbone = OurBackbone(backbone)
        model.model.input_projection = nn.Conv2d(
            backbone.channels[-1], config.channels, 1
        )
    return model.train()


def steps(config: DETRConfig) -> dict[str, Callable[[], None]]:
    """Give a training step of ours and one of theirs, on the same data."""
    torch.manual_seed(0)
    ours, theirs = DETR(config).train(), build_theirs(config)
    counts = [
        sum(p.numel() for p in model.parameters() if p.requires_grad)
        for model in (ours, theirs)
    ]
    assert counts[0] == counts[1], f"not the same model: {counts} trained weights"
    batch = ImageBatch.from_list([torch.randn(3, SIDE, SIDE)])
    boxes = torch.rand(OBJECTS, 4) * 0.3 + 0.2
    labels = torch.randint(config.classes, (OBJECTS,))

    def our_step() -> None:
        ours.zero_grad()
        targets = [{"boxes": boxes, "labels": labels}]
        ours.loss(ours(batch), targets)["total"].backward()

    def their_step() -> None:
        theirs.zero_grad()
        targets = [{"boxes": boxes, "class_labels": labels}]
        mask = (~batch.padding).long()
        theirs(batch.pixels, pixel_mask=mask, labels=targets).loss.backward()

    return {"ours": our_step, "theirs": their_step}


def measure(config: DETRConfig, rounds: int) -> dict[str, float]:
    """Let both take turns."""
    medians = take_turns(steps(config), rounds)
    return medians | {"ratio": medians["ours"] / medians["theirs"]}


def main() -> None:
    """Measure what was asked for, print a table, write the numbers."""
    presets = {"tiny": DETRConfig.tiny, "coco_r50": DETRConfig.coco_r50}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", default=list(presets), metavar="MODEL")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, default=RESULTS / "step_time.json")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    results = {}
    print(f"{'model':10} {'ours, s':>9} {'theirs, s':>9} {'ratio':>6}")
    for name in chosen.models:
        found = results[name] = measure(presets[name](), chosen.rounds)
        print(
            f"{name:10} {found['ours']:9.3f} {found['theirs']:9.3f} "
            f"{found['ratio']:6.2f}"
        )
    about = {
        "what": f"forward + loss + backward, one {SIDE} x {SIDE} image, median seconds",
        "peer": f"transformers {transformers.__version__}",
        "threads": chosen.threads,
        "rounds": chosen.rounds,
        "machine": machine(),
    }
    save(chosen.out, about | {"models": results})


if __name__ == "__main__":
    main()
