"""The classes of cells: shares by plain counting, and that they are learned."""

import torch
from torch.nn import functional

from detr_steps.data.panoptic_scenes import PanopticScenes
from detr_steps.describable import from_json, to_json
from detr_steps.nn.backbone import SmallConfig
from detr_steps.systems.parser import ParserConfig

DATA = PanopticScenes("val", size=64, objects=(1, 3))


def made():
    torch.manual_seed(0)
    return ParserConfig(10, SmallConfig(channels=(8, 8, 16), blocks=1)).build()


def test_shares_are_pixels_of_each_class():
    model, scenes = made(), DATA.draw(range(3))
    output = model(scenes.images)
    h, w = output.shape[-2:]
    shares = model.shares(scenes.targets, output)
    assert torch.allclose(shares.sum(1), torch.ones(3, h, w), atol=1e-5)
    high, wide = 64 // h, 64 // w
    for image, target in enumerate(scenes.targets):
        for row, column in ((0, 0), (1, 2), (h - 1, w - 1)):
            cell = target["masks"][:, row * high : (row + 1) * high]
            cell = cell[:, :, column * wide : (column + 1) * wide]
            mine = torch.zeros(10)
            for label, mask in zip(target["labels"].tolist(), cell):
                mine[label] += mask.sum() / (high * wide)
            assert torch.allclose(shares[image, :, row, column], mine, atol=1e-5)
    log_p = output.log_softmax(1)
    mine = -(shares * log_p).sum(1).mean()
    assert torch.allclose(model.loss(output, scenes.targets)["total"], mine, atol=1e-5)


def test_it_learns_what_is_there():
    model, scenes = made(), DATA.draw(range(8))
    before = model.accuracy(DATA, 8)["accuracy"]
    optimiser = torch.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimiser.zero_grad()
        model.loss(model(scenes.images), scenes.targets)["total"].backward()
        optimiser.step()
    after = model.accuracy(DATA, 8)["accuracy"]
    assert after > max(0.6, before + 0.2), (before, after)


def test_accuracy_counts_cells():
    model = made()
    batch, targets = next(DATA.evaluation_batches(4, 4))
    with torch.no_grad():
        named = model(batch).argmax(1)
    cells = named.shape[-2:]
    wanted = []
    for target in targets:
        own = torch.zeros(10, *cells)
        masks = functional.adaptive_avg_pool2d(target["masks"].float()[:, None], cells)
        for label, mask in zip(target["labels"].tolist(), masks[:, 0]):
            own[label] += mask
        wanted.append(own.argmax(0))
    right = (named == torch.stack(wanted)).float().mean().item()
    assert abs(model.accuracy(DATA, 4)["accuracy"] - right) < 1e-6


def test_its_config_comes_back_from_json():
    config = ParserConfig(10)
    assert from_json(to_json(config)) == config
