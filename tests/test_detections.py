"""The best answers of all queries and classes."""

import torch

from detr_steps.detections import top_scoring_pairs

BOXES = torch.tensor([[[0.5, 0.5, 0.2, 0.4], [0.25, 0.5, 0.5, 1.0]]])


def test_queries_and_classes_compete():
    logits = torch.tensor([[[2.0, 1.0, -9.0], [-1.0, 3.0, 0.0]]])
    (found,) = top_scoring_pairs(logits.sigmoid(), BOXES, [(100, 200)], keep=4)
    assert found.labels.tolist() == [1, 0, 1, 2]  # 3, 2, 1 (again query 0), 0
    assert torch.allclose(found.scores, torch.tensor([3.0, 2.0, 1.0, 0.0]).sigmoid())
    wide, small = [0, 0, 100, 100], [80, 30, 120, 70]
    wanted = torch.tensor([wide, small, small, wide]).float()
    assert torch.allclose(found.boxes, wanted, atol=1e-4)


def test_at_most_so_many_and_at_most_all():
    logits = torch.randn(2, 2, 3)
    boxes = BOXES.expand(2, -1, -1)
    assert [
        len(f.scores) for f in top_scoring_pairs(logits.sigmoid(), boxes, [(9, 9)] * 2)
    ] == [
        6,
        6,
    ]
    few = top_scoring_pairs(logits.sigmoid(), boxes, [(9, 9)] * 2, keep=2)
    assert [len(f.boxes) for f in few] == [2, 2]


def test_each_image_has_its_own_pixels_and_order():
    logits = torch.tensor([[[0.0], [1.0]], [[1.0], [0.0]]])
    one, other = top_scoring_pairs(
        logits.sigmoid(), BOXES.expand(2, -1, -1), [(10, 10), (20, 30)]
    )
    assert one.boxes[0].tolist() == [0, 0, 5, 10]
    assert torch.allclose(other.boxes[0], torch.tensor([12.0, 6, 18, 14]))
