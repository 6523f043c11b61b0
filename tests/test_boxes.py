"""Boxes: formats, IoU and GIoU on boxes whose overlap can be counted by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detr_steps import boxes as box_ops

numbers = st.floats(0, 1, width=32)
sides = st.floats(0.0009765625, 1, width=32)
calm = settings(deadline=None, derandomize=True)  # a busy machine is no failure
corner_boxes = st.tuples(numbers, numbers, sides, sides).map(
    lambda b: torch.tensor([b[0], b[1], b[0] + b[2], b[1] + b[3]])
)


def test_formats_by_hand():
    xyxy = torch.tensor([[1.0, 2.0, 5.0, 10.0]])
    assert box_ops.xyxy_to_cxcywh(xyxy).tolist() == [[3.0, 6.0, 4.0, 8.0]]
    assert box_ops.cxcywh_to_xyxy(torch.tensor([3.0, 6.0, 4.0, 8.0])).tolist() == [
        1.0,
        2.0,
        5.0,
        10.0,
    ]


@calm
@given(corner_boxes)
def test_formats_there_and_back(xyxy):
    there = box_ops.xyxy_to_cxcywh(xyxy)
    assert torch.allclose(box_ops.cxcywh_to_xyxy(there), xyxy, atol=1e-6)


def test_iou_counted_in_cells():
    a = torch.tensor([[0.0, 0.0, 4.0, 4.0]])
    b = torch.tensor(
        [
            [0.0, 0.0, 4.0, 4.0],  # the same
            [2.0, 2.0, 6.0, 6.0],  # 4 cells of 28
            [1.0, 1.0, 3.0, 3.0],  # inside: 4 of 16
            [4.0, 0.0, 8.0, 4.0],  # touches
            [10.0, 10.0, 11.0, 11.0],  # far away
        ]
    )
    iou = box_ops.iou(a, b)
    assert iou.shape == (1, 5)
    assert torch.allclose(iou[0], torch.tensor([1, 4 / 28, 4 / 16, 0, 0]))
    hulls = torch.tensor([16.0, 36.0, 16.0, 32.0, 121.0])
    unions = torch.tensor([16.0, 28.0, 16.0, 32.0, 17.0])
    expected = iou[0] - (hulls - unions) / hulls
    assert torch.allclose(box_ops.giou(a, b)[0], expected)


def test_pairwise_is_paired_for_every_pair():
    generator = torch.Generator().manual_seed(0)
    a, b = (
        box_ops.cxcywh_to_xyxy(torch.rand(n, 4, generator=generator)) for n in (3, 5)
    )
    for pairwise, paired in (
        (box_ops.iou, box_ops.paired_iou),
        (box_ops.giou, box_ops.paired_giou),
    ):
        table = pairwise(a, b)
        for i in range(3):
            assert torch.equal(table[i], paired(a[i].expand(5, 4), b))


@calm
@given(corner_boxes, corner_boxes)
def test_giou_is_symmetric_and_between_minus_one_and_iou(a, b):
    giou, iou = box_ops.paired_giou(a, b), box_ops.paired_iou(a, b)
    assert torch.allclose(giou, box_ops.paired_giou(b, a), atol=1e-6)
    assert -1 <= giou <= iou + 1e-6 <= 1 + 2e-6


def test_giou_has_a_slope_where_boxes_do_not_touch():
    far = torch.tensor([0.8, 0.8, 0.9, 0.9], requires_grad=True)
    target = torch.tensor([0.1, 0.1, 0.2, 0.2])
    box_ops.paired_iou(far, target).backward()
    assert (far.grad == 0).all()  # IoU alone would not move the box
    far.grad = None
    box_ops.paired_giou(far, target).backward()
    assert (far.grad[:2] < 0).all()  # growing towards the target helps


def test_empty_and_swapped_boxes_give_numbers():
    point = torch.tensor([0.5, 0.5, 0.5, 0.5])
    swapped = torch.tensor([0.9, 0.9, 0.1, 0.1])
    box = torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert box_ops.area(swapped) == 0
    for a in (point, swapped, box):
        for b in (point, swapped, box):
            assert box_ops.paired_iou(a, b).isfinite()
            assert box_ops.paired_giou(a, b).isfinite()


def test_no_boxes_at_all():
    none = torch.zeros(0, 4)
    assert box_ops.iou(none, torch.rand(3, 4)).shape == (0, 3)
    assert box_ops.giou(torch.rand(3, 4), none).shape == (3, 0)
