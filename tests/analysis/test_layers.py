"""AP by layer, suppression of duplicates, slots: on predictions made by hand."""

import torch

from detr_steps.analysis import ap_by_layer, predictions, slot_boxes
from detr_steps.analysis.slots import slot_statistics
from detr_steps.boxes import nms
from detr_steps.data.scenes import Scenes
from detr_steps.objective.classification import Focal, Softmax


def perfect(scenes: Scenes, count: int, copies: int = 1):
    targets = scenes.draw(range(count)).targets
    logits = torch.full((count, 16, 7), -10.0)
    logits[..., 6] = 0
    boxes = torch.full((count, 16, 4), 0.5)
    for image, target in enumerate(targets):
        n = len(target["labels"])
        for copy in range(copies):
            slot = slice(copy * n, (copy + 1) * n)
            boxes[image, slot] = target["boxes"]
            logits[image, torch.arange(16)[slot], target["labels"]] = 10.0 - copy
    return logits, boxes, targets


def test_perfect_layers_score_one_and_empty_ones_zero():
    scenes = Scenes("val")
    logits, boxes, targets = perfect(scenes, 6)
    stacked = torch.stack((torch.zeros_like(logits), logits))
    both = torch.stack((boxes * 0 + 0.5, boxes))
    first, last = ap_by_layer(stacked, both, targets, scenes, classification=Softmax())
    assert last > 0.999 and first < 0.1


def test_the_classification_says_what_logits_mean():
    """Yes-or-no logits have no last class for "no object" that could be dropped."""
    scenes = Scenes("val")
    logits, boxes, targets = perfect(scenes, 6)
    given = (logits[None, ..., :6], boxes[None], targets, scenes)
    right, wrong = (ap_by_layer(*given, classification=c) for c in (Focal(), Softmax()))
    assert right[0] > 0.999 and wrong[0] < 0.9


def test_suppression_mends_duplicates_and_only_those():
    scenes = Scenes("val")
    logits, boxes, targets = perfect(scenes, 6, copies=2)
    given, softmax = (logits[None], boxes[None], targets, scenes), Softmax()
    plain = ap_by_layer(*given, classification=softmax)[0]
    mended = ap_by_layer(*given, threshold=0.99, classification=softmax)[0]
    assert mended > 0.999
    # the copies have lower scores here: harmless for AP only where all come last
    assert plain <= mended


def test_nms_keeps_the_best_of_each_heap_and_other_labels():
    boxes = torch.tensor(
        [[0, 0, 10, 10], [1, 0, 11, 10], [0, 0, 10, 10], [50, 50, 60, 60]]
    ).float()
    scores = torch.tensor([0.8, 0.9, 0.7, 0.1])
    labels = torch.tensor([0, 0, 1, 0])
    assert nms(boxes, scores, labels, 0.5).tolist() == [1, 2, 3]
    assert nms(boxes[:0], scores[:0], labels[:0], 0.5).tolist() == []


def test_slots_keep_only_sure_answers():
    logits = torch.tensor([[[9.0, 0, 0], [0, 0, 9.0]]])  # query 0 is sure, 1 is empty
    boxes = torch.rand(1, 2, 4)
    first, second = slot_boxes(Softmax().probabilities(logits), boxes)
    assert torch.equal(first, boxes[0, :1]) and len(second) == 0
    assert slot_statistics([first, second]).isnan().all()
    assert slot_statistics([torch.zeros(2, 4)])[0, 1].sum() == 0


def test_predictions_follow_the_order_of_the_data():
    class Echo(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.zeros(()))

        def forward(self, batch):
            mean = batch.pixels.mean((1, 2, 3))
            shaped = mean[None, :, None, None].expand(2, -1, 3, 4)
            return type("Output", (), {"logits": shaped, "boxes": shaped})

    scenes = Scenes("val")
    logits, _, targets = predictions(Echo(), scenes, limit=5, batch=2)
    assert logits.shape == (2, 5, 3, 4)
    assert [t["image_id"] for t in targets] == [0, 1, 2, 3, 4]
    whole = scenes.draw(range(5)).images.pixels.mean((1, 2, 3))
    torch.testing.assert_close(logits[0, :, 0, 0], whole, rtol=1e-4, atol=1e-5)
