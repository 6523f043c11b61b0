"""The checks of chapter 00 pass what is right and name what is wrong."""

import pytest
import torch

from detr_steps import boxes
from detr_steps.check import ch00


def to_pixels(cxcywh, size):
    height, width = size
    scale = torch.tensor([width, height, width, height])
    return boxes.cxcywh_to_xyxy(cxcywh) * scale


def mask_iou(a, b):
    shared = (a[:, None] & b).sum((-1, -2))
    union = a.sum((-1, -2))[:, None] + b.sum((-1, -2)) - shared
    return shared / union.clamp(min=1)


def nms(xyxy, scores, threshold):
    kept = []
    for index in scores.argsort(descending=True).tolist():
        if not kept or boxes.iou(xyxy[[index]], xyxy[kept]).max() <= threshold:
            kept.append(index)
    return torch.tensor(kept)


def test_right_answers_pass():
    assert ch00.to_pixels(to_pixels)
    assert ch00.mask_iou(mask_iou)
    assert ch00.nms(nms)
    assert ch00.nms(lambda *arguments: nms(*arguments).tolist())


@pytest.mark.parametrize("check", [ch00.to_pixels, ch00.mask_iou, ch00.nms])
def test_what_is_not_written_yet_is_no_error(check):
    verdict = check(lambda *arguments: None)
    assert not verdict and "not yet" in verdict.message


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [
        (lambda b, size: boxes.cxcywh_to_xyxy(b), "still in [0, 1]"),
        (lambda b, size: to_pixels(b, size[::-1]), "swapped"),
        (lambda b, size: b * torch.tensor([*size[::-1]] * 2), "corners too"),
        (
            lambda b, size: (
                torch.cat((b[:, :2], b[:, :2] + b[:, 2:]), 1)
                * torch.tensor([*size[::-1]] * 2)
            ),
            "the centre, not the corner",
        ),
        (
            lambda b, size: to_pixels(b * torch.tensor([1, 1, 2, 2]), size),
            "twice too large",
        ),
        (lambda b, size: to_pixels(b, size)[0], "the shape is [4]"),
        (lambda b, size: to_pixels(b, size) + 3, "expected [63.58"),
        (lambda b, size: to_pixels(b, size).round(), "keep the fractions"),
        (lambda b, size: to_pixels(b, size).int(), "keep the fractions"),
        (lambda b, size: boxes.cxcywh_to_xyxy(b) * size, "cannot be multiplied"),
        (lambda b, size: b * torch.tensor(size), "(W, H, W, H)"),
        (lambda b, size: 1 / 0, "it stops with ZeroDivisionError"),
        (lambda b, size: [1.0], "returns a list"),
    ],
)
def test_slips_with_pixels_are_named(answer, diagnosis):
    verdict = ch00.to_pixels(answer)
    assert not verdict and diagnosis in verdict.message


def shared_and_sum(a, b):
    shared = (a[:, None] & b).sum((-1, -2))
    return shared, a.sum((-1, -2))[:, None] + b.sum((-1, -2))


def sides(a, b, join, weight=1):
    return join(a.sum((-1, -2))[:, None], weight * b.sum((-1, -2))[None])


def around(masks):
    found = [mask.nonzero() for mask in masks]
    corners = [torch.cat((f.amin(0).flip(0), f.amax(0).flip(0) + 1)) for f in found]
    return torch.stack(corners).float()


def only_with_pixels(a, b):
    around(a)
    return mask_iou(a, b)


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [
        (lambda a, b: (a & b).sum((-1, -2)), "a[:, None]"),
        (lambda a, b: torch.divide(*shared_and_sum(a, b)), "count twice"),
        (lambda a, b: 2 * torch.divide(*shared_and_sum(a, b)), "Dice"),
        (lambda a, b: shared_and_sum(a, b)[0], "divide by the union"),
        (lambda a, b: mask_iou(b, a), "swapped"),
        (lambda a, b: mask_iou(a, b).long(), "whole-number"),
        (lambda a, b: mask_iou(a, b).diagonal(), "expected [3, 4]"),
        (lambda a, b: mask_iou(a, b) + 0.1, "for the first pair"),
        (
            lambda a, b: (
                shared_and_sum(a, b)[0]
                / (shared_and_sum(a, b)[1] - shared_and_sum(a, b)[0])
            ),
            "0 / 0",
        ),
        (lambda a, b: a.view(7), "it stops with"),
        (lambda a, b: (a[:, None] & b).any(-1).any(-1), "True or False"),
        (lambda a, b: shared_and_sum(a, b)[0] / sides(a, b, torch.minimum), "smaller"),
        (lambda a, b: shared_and_sum(a, b)[0] / sides(a, b, torch.maximum), "larger"),
        (lambda a, b: shared_and_sum(a, b)[0] / sides(a, b, torch.add, 0), "a's"),
        (lambda a, b: shared_and_sum(a, b)[0] / sides(b, a, torch.add, 0).T, "b's"),
        (lambda a, b: boxes.iou(around(a), around(b)), "boxes around the masks"),
        (only_with_pixels, "with two empty masks it stops"),
    ],
)
def test_slips_with_masks_are_named(answer, diagnosis):
    verdict = ch00.mask_iou(answer)
    assert not verdict and diagnosis in verdict.message


def nms_by_all(xyxy, scores, threshold):
    order = scores.argsort(descending=True)
    overlap = boxes.iou(xyxy, xyxy)[order][:, order].triu(1)
    return order[(overlap <= threshold).all(0)]


def nms_by_last(xyxy, scores, threshold):
    kept = []
    for index in scores.argsort(descending=True).tolist():
        if not kept or boxes.iou(xyxy[[index]], xyxy[kept[-1:]]).max() <= threshold:
            kept.append(index)
    return kept


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [
        (lambda b, s, t: torch.arange(0), "itself"),
        (lambda b, s, t: s.argsort(descending=True), "all are kept"),
        (lambda b, s, t: nms(b, -s, t), "worst score"),
        (lambda b, s, t: nms(b, -torch.arange(len(s)).float(), t), "as they come"),
        (nms_by_all, "that is gone"),
        (lambda b, s, t: nms(b, s, t).sort().values, "another order"),
        (
            lambda b, s, t: s.argsort(descending=True).argsort()[nms(b, s, t)],
            "places in the sorted list",
        ),
        (lambda b, s, t: nms(b, s, t / 2), "should be kept"),
        (lambda b, s, t: nms(b, s, t * 1.5), "should go"),
        (lambda b, s, t: nms(b, s, t).repeat(2), "expected"),
        (lambda b, s, t: nms(b, s, t - 1e-6), "exactly at the threshold"),
        (nms_by_last, "every"),
        (lambda b, s, t: s > t, "that is a mask"),
        (lambda b, s, t: b[nms(b, s, t)], "those are boxes"),
        (lambda b, s, t: s[nms(b, s, t)], "not scores"),
        (lambda b, s, t: nms(b, s, t) + 1, "outside"),
        (lambda b, s, t: nms(b, s, t)[None, :1], "the shape is [1, 1]"),
        (lambda b, s, t: "best", "returns a str"),
        (lambda b, s, t: b[99], "it stops with IndexError"),
        (lambda b, s, t: nms(b, s, t) if s.max() else [], "without any box it stops"),
        (lambda b, s, t: nms(b, s, t) if len(b) else torch.arange(1), "no boxes in"),
    ],
)
def test_slips_with_suppression_are_named(answer, diagnosis):
    verdict = ch00.nms(answer)
    assert not verdict and diagnosis in verdict.message
