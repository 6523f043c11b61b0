"""Losses of masks: by hand, padded, in portions, and for nothing at all."""

import math

import pytest
import torch

from detr_steps.objective import masks as module
from detr_steps.objective.masks import (
    check_masks,
    dice_loss,
    focal_loss,
    gather_masks,
    mask_losses,
    matched_pairs,
    upsample,
)


def test_focal_by_hand():
    logits = torch.tensor([[0.0, math.log(3), math.log(3), 0.0]])
    true = torch.tensor([[True, True, False, False]])
    positives = 0.25 * (0.25 * math.log(2) + 0.0625 * math.log(4 / 3))
    negatives = 0.75 * (0.5625 * math.log(4) + 0.25 * math.log(2))
    found = focal_loss(logits, true)
    assert found.item() == pytest.approx((positives + negatives) / 4)


def test_focal_stays_finite_where_probabilities_round_to_one():
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    found = focal_loss(logits, torch.tensor([[False, True]]))
    assert found.item() == pytest.approx((0.75 * 200 + 0.25 * 200) / 2)
    found.sum().backward()
    assert logits.grad.isfinite().all() and (logits.grad != 0).all()


def test_dice_by_hand():
    logits = torch.tensor([[0.0, math.log(3)], [-50.0, -50.0]])
    true = torch.tensor([[True, False], [False, False]])
    found = dice_loss(logits, true)
    assert found[0].item() == pytest.approx(1 - (2 * 0.5 + 1) / (0.5 + 0.75 + 1 + 1))
    assert found[1].item() == pytest.approx(0)  # nothing there, nothing said


def test_pairs_are_those_of_the_matching():
    pairs = matched_pairs(torch.tensor([[4, -1, 2], [-1, -1, -1], [0, 3, -1]]))
    assert [part.tolist() for part in pairs] == [
        [0, 0, 2, 2],
        [4, 2, 0, 3],
        [0, 2, 0, 1],
    ]


def targets() -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    sizes = (3, 8, 12), (0, 8, 8), (2, 6, 10)
    drawn = [torch.rand(*size, generator=generator) > 0.5 for size in sizes]
    return [{"masks": m, "labels": torch.zeros(len(m)).long()} for m in drawn]


def test_masks_are_padded_below_and_at_the_right():
    pairs = matched_pairs(torch.tensor([[1, 0, -1], [-1, -1, -1], [2, -1, -1]]))
    found = gather_masks(targets(), pairs, (8, 12))
    assert found.shape == (3, 8, 12) and found.dtype == torch.bool
    assert torch.equal(found[1], targets()[0]["masks"][1])
    assert torch.equal(found[2, :6, :10], targets()[2]["masks"][0])
    assert not found[2, 6:].any() and not found[2, :, 10:].any()


def both(dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(5, 3, 4, generator=generator, dtype=dtype, requires_grad=True)
    return logits, torch.rand(5, 12, 16, generator=generator) > 0.7


def test_sums_over_masks_divided_by_all_objects():
    logits, true = both()
    focal, dice = mask_losses(logits, true, torch.tensor(7.0))
    large = upsample(logits, (12, 16)).flatten(1)
    assert torch.allclose(focal, focal_loss(large, true.flatten(1)).sum() / 7)
    assert torch.allclose(dice, dice_loss(large, true.flatten(1)).sum() / 7)


def test_portions_change_neither_value_nor_gradient(monkeypatch):
    found, largest = [], []
    whole = module._focal_and_dice

    def watched(some, true):
        largest.append(true.numel())
        return whole(some, true)

    monkeypatch.setattr(module, "_focal_and_dice", watched)
    for pixels in (1, 400, 1 << 22):
        monkeypatch.setattr(module, "PIXELS_AT_ONCE", pixels)
        logits, true = both()
        largest.clear()
        terms = mask_losses(logits, true, torch.tensor(1.0))
        sum(terms).backward()
        found.append((*terms, logits.grad))
        assert max(largest) <= max(pixels, 12 * 16)
    for other in found[1:]:
        assert all(map(torch.allclose, found[0], other))


def test_no_pair_gives_zeros_with_a_gradient():
    logits = torch.zeros(0, 3, 4, requires_grad=True)
    terms = mask_losses(logits, torch.zeros(0, 12, 16, dtype=bool), torch.tensor(1.0))
    assert [term.item() for term in terms] == [0, 0]
    sum(terms).backward()
    assert logits.grad is not None


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda t: t.pop("masks"), "image 1 has no masks"),
        (lambda t: t.update(masks=t["masks"][0]), "expected .n, H, W."),
        (lambda t: t.update(masks=t["masks"][:1]), "for 2 objects"),
        (lambda t: t.update(masks=t["masks"].float()), "float32, not bool"),
        (lambda t: t.update(masks=torch.zeros(2, 9, 4).bool()), "9 x 4 .*has 8 x 12"),
        (lambda t: t.update(masks=torch.zeros(2, 4, 13).bool()), "4 x 13 pixels"),
    ],
)
def test_bad_masks_are_named(change, fault):
    good, bad = targets()[0], targets()[2]
    check_masks([good, bad], (8, 12))
    change(bad)
    with pytest.raises(ValueError, match=fault):
        check_masks([good, bad], (8, 12))
