import contextlib
import io
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detr_steps.boxes import cxcywh_to_xyxy, xyxy_to_cxcywh
from detr_steps.evaluation import coco_ap, evaluate

SIZE = (200, 400)  # height, width


def found(*rows):
    """Detections from rows (x0, y0, x1, y1, score, label)."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 6)
    return SimpleNamespace(
        boxes=table[:, :4], scores=table[:, 4], labels=table[:, 5].long()
    )


def target(*rows, **more):
    """A target from rows (x0, y0, x1, y1, label) in pixels."""
    table = torch.tensor(rows, dtype=torch.float64).reshape(-1, 5)
    scale = table.new_tensor((400, 200, 400, 200))
    boxes = xyxy_to_cxcywh(table[:, :4] / scale)
    return {"boxes": boxes, "labels": table[:, 4].long(), "size": SIZE} | more


def ap(detections, targets, names=("a", "b"), **options):
    return coco_ap(detections, targets, names, **options)


BIG = (0, 0, 100, 100)
OTHER = (200, 0, 300, 100)


def test_one_false_alarm_between_two_hits():
    result = ap(
        [found((*BIG, 0.9, 0), (0, 100, 100, 200, 0.8, 0), (*OTHER, 0.7, 0))],
        [target((*BIG, 0), (*OTHER, 0))],
    )
    # recall 0 … 0.5 (51 of 101 points) at precision 1, the rest at 2/3
    expected = (51 + 50 * 2 / 3) / 101
    for key in ("AP", "AP50", "AP75", "AP_L"):
        assert result[key] == pytest.approx(expected)
    assert result["AR_100"] == pytest.approx(1)
    assert result["per_class"] == {"a": pytest.approx(expected), "b": None}


def test_a_loose_box_counts_at_low_thresholds_only():
    result = ap([found((0, 0, 100, 62, 0.9, 0))], [target((*BIG, 0))])
    assert result["AP"] == pytest.approx(0.3)  # IoU 0.62: 0.50, 0.55, 0.60 of ten
    assert (result["AP50"], result["AP75"]) == (pytest.approx(1), 0)


def test_the_second_box_on_one_object_is_a_false_alarm():
    twice = [found((*BIG, 0.9, 0), (0, 0, 100, 99, 0.8, 0))]
    # the duplicate comes after full recall: it costs nothing …
    assert ap(twice, [target((*BIG, 0))])["AP"] == pytest.approx(1)
    # … and halves what comes after it when there is more to find
    twice[0] = found((*BIG, 0.9, 0), (0, 0, 100, 99, 0.8, 0), (*OTHER, 0.1, 0))
    result = ap(twice, [target((*BIG, 0), (*OTHER, 0))])
    assert result["AP"] == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_the_right_box_with_the_wrong_label_is_worth_nothing():
    result = ap([found((*BIG, 0.9, 1))], [target((*BIG, 0))])
    assert result["AP"] == 0 and result["per_class"] == {"a": 0.0, "b": None}


def test_two_classes_of_one_name_are_both_reported():
    truth = [target((*BIG, 0), (*OTHER, 2))]
    result = ap([found((*BIG, 0.9, 0))], truth, ("part", "nut", "part"))
    hit = pytest.approx(1)
    assert result["per_class"] == {"part (1)": hit, "nut": None, "part (2)": 0}


def test_crowds_are_neither_hit_nor_miss():
    crowd = torch.tensor([False, True])
    truth = [target((*BIG, 0), (200, 0, 400, 200, 0), iscrowd=crowd)]
    # three boxes in the crowd score higher than the hit and do no harm
    many = [(210, 10, 260, 60), (270, 70, 320, 120), (330, 110, 380, 160)]
    boxes = [(*box, 0.95, 0) for box in many]
    assert ap([found(*boxes, (*BIG, 0.5, 0))], truth)["AP"] == pytest.approx(1)
    assert ap([found(*boxes)], truth)["AP"] == 0
    only = [target((200, 0, 400, 200, 0), iscrowd=torch.tensor([True]))]
    assert ap([found(*boxes)], only)["AP"] is None


def test_area_limits_part_the_sizes():
    truth = [target((0, 0, 10, 10, 0), (50, 0, 74, 24, 0), (100, 0, 200, 100, 0))]
    hit = [found((0, 0, 10, 10, 0.9, 0), (50, 0, 74, 24, 0.9, 0))]
    coco = ap(hit, truth)
    assert (coco["AP_S"], coco["AP_M"], coco["AP_L"]) == (pytest.approx(1), None, 0)
    scenes = ap(hit, truth, area_limits=(16, 32))
    assert [scenes[k] for k in ("AP_S", "AP_M", "AP_L")] == pytest.approx([1, 1, 0])


def test_the_given_area_decides_not_the_box():
    thin = [target((*BIG, 0), area=torch.tensor([500.0]))]
    result = ap([found((*BIG, 0.9, 0))], thin)
    assert (result["AP_S"], result["AP_L"]) == (pytest.approx(1), None)


def test_nothing_found_is_zero_and_nothing_to_find_is_none():
    nothing = ap([found()], [target((*BIG, 0))])
    assert (nothing["AP"], nothing["AP_L"], nothing["AR_100"]) == (0, 0, 0)
    assert nothing["AP_S"] is None
    empty = ap([found((*BIG, 0.9, 0))], [target()])
    assert all(v is None for k, v in empty.items() if k != "per_class")
    assert json.loads(json.dumps(empty)) == empty  # null, never NaN
    assert ap([], [])["AP"] is None


def test_perfect_detections_give_one():
    detections, targets = random_images(20, noise=0)
    result = ap(detections, targets, ("a", "b", "c"))
    values = [v for k, v in result.items() if k != "per_class" and v is not None]
    assert values == pytest.approx([1] * len(values))


def random_images(count, noise, seed=0):
    """Objects, and as many detections jittered by `noise` pixels."""
    random = np.random.default_rng(seed)
    detections, targets = [], []
    for _ in range(count):
        n = int(random.integers(0, 7))
        corner, side = random.uniform(0, 100, (n, 2)), random.uniform(4, 180, (n, 2))
        boxes = np.concatenate((corner, corner + side), axis=1)
        labels = random.integers(0, 3, n)
        crowd = torch.from_numpy(random.random(n) < (0.15 if noise else 0))
        rows = np.column_stack((boxes, labels))
        targets.append(target(*rows.tolist(), iscrowd=crowd))
        moved = boxes + noise * random.normal(size=(n, 4))
        scores = random.random(n)
        wrong = np.where(random.random(n) < (0.2 if noise else 0), 0, labels)
        detections.append(found(*np.column_stack((moved, scores, wrong)).tolist()))
    return detections, targets


def through_files(detections, targets, folder):
    """The usual way: two JSON files, COCO.loadRes, COCOeval.summarize."""
    annotations, results = [], []
    for image, (detection, truth) in enumerate(zip(detections, targets), start=1):
        boxes = cxcywh_to_xyxy(truth["boxes"]) * torch.tensor((400, 200, 400, 200))
        for box, label, crowd in zip(boxes, truth["labels"], truth["iscrowd"]):
            x0, y0, x1, y1 = box.tolist()
            shape = {"bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": int(crowd)}
            shape["area"] = (x1 - x0) * (y1 - y0)
            shape |= {"id": len(annotations) + 1, "image_id": image}
            annotations.append(shape | {"category_id": int(label) + 1})
        columns = detection.boxes, detection.scores, detection.labels
        for box, score, label in zip(*columns):
            x0, y0, x1, y1 = box.tolist()
            # swapped corners make an empty box, as ours does
            shape = {"bbox": [x0, y0, max(x1 - x0, 0), max(y1 - y0, 0)]}
            shape |= {"image_id": image, "score": float(score)}
            results.append(shape | {"category_id": int(label) + 1})
    images = [{"id": i + 1} for i in range(len(targets))]
    raw = {"images": images, "annotations": annotations}
    raw["categories"] = [{"id": i} for i in (1, 2, 3)]
    (folder / "truth.json").write_text(json.dumps(raw))
    (folder / "results.json").write_text(json.dumps(results))
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(folder / "truth.json")
        run = COCOeval(data, data.loadRes(str(folder / "results.json")), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats


@pytest.mark.parametrize("noise", [1, 4, 10])
def test_same_numbers_as_pycocotools_on_files(tmp_path, noise):
    detections, targets = random_images(40, noise)
    ours = ap(detections, targets, ("a", "b", "c"))
    theirs = through_files(detections, targets, tmp_path)
    keys = ("AP", "AP50", "AP75", "AP_S", "AP_M", "AP_L")
    assert [ours[key] for key in keys] == pytest.approx(list(theirs[:6]), abs=1e-12)
    assert ours["AR_100"] == pytest.approx(theirs[8], abs=1e-12)
    assert 0.02 < ours["AP"] < 0.98


def test_nothing_is_printed_and_inputs_stay_as_they_were(capsys):
    detections, targets = random_images(3, noise=2)
    before = [t["boxes"].clone() for t in targets]
    ap(detections, targets, ("a", "b", "c"))
    assert capsys.readouterr().out == ""
    assert all(torch.equal(b, t["boxes"]) for b, t in zip(before, targets))
    assert set(targets[0]) == {"boxes", "labels", "size", "iscrowd"}


@pytest.mark.parametrize(
    ("detections", "targets", "message"),
    [
        ([found()], [], "1 images with detections, 0 with targets"),
        ([found((*BIG, 0.9, 2))], [target()], "detection of image 0 has label 2"),
        ([found()], [target((*BIG, -1))], "target of image 0 has label -1"),
        ([found((*BIG, float("nan"), 0))], [target()], "score that is not finite"),
        ([found((0, 0, 1e999, 5, 0.9, 0))], [target()], "box that is not finite"),
    ],
)
def test_bad_input_is_named(detections, targets, message):
    with pytest.raises(ValueError, match=message):
        ap(detections, targets)


class Oracle(torch.nn.Module):
    """Finds what it is told; remembers how it was called."""

    def __init__(self, answers):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.answers, self.modes = answers, []

    def detect(self, images, sizes):
        self.modes.append((self.training, torch.is_grad_enabled()))
        assert sizes == [SIZE] * len(images)
        return [self.answers[i] for i in images]


class Data:
    """A data source whose images are their own numbers."""

    area_limits = (10, 20)
    class_names = ["a", "b", "c"]

    def __init__(self, targets):
        self.targets = [t | {"image_id": i} for i, t in enumerate(targets)]

    def evaluation_batches(self, batch, limit=None, *, device="cpu", rank=0, world=1):
        mine = range(len(self.targets))[slice(limit)][rank::world]
        for begin in range(0, len(mine), batch):
            part = mine[begin : begin + batch]
            yield list(part), [self.targets[i] for i in part]


def test_evaluate_runs_the_model_in_evaluation_mode_and_puts_it_back():
    detections, targets = random_images(7, noise=3)
    model = Oracle(detections).train()
    result = evaluate(model, Data(targets), batch=3)
    assert model.training and model.modes == [(False, False)] * 3
    limits = Data.area_limits
    assert result == ap(detections, targets, ("a", "b", "c"), area_limits=limits)
    some = evaluate(model, Data(targets), batch=3, limit=4)
    assert some == ap(detections[:4], targets[:4], ("a", "b", "c"), area_limits=limits)


class Asked:
    """Data that remember how they were asked for batches, and have none."""

    class_names, asked = ("a", "b"), None

    def evaluation_batches(self, *args, **kwargs):
        self.asked = args, kwargs
        return iter(())


@pytest.mark.parametrize("device", [None, "cpu", torch.device("cpu")])
def test_data_are_asked_for_the_models_device_or_the_one_given(device):
    model, data = torch.nn.Linear(1, 1, device="meta"), Asked()
    evaluate(model, data, batch=5, limit=7, device=device)
    (batch, limit), asked = data.asked
    where = torch.device(asked.pop("device"))
    assert where == torch.device("meta" if device is None else "cpu")
    assert (batch, limit, asked) == (5, 7, {"rank": 0, "world": 1})


def test_a_failing_model_still_gets_its_mode_back():
    model = Oracle([]).train()
    with pytest.raises(IndexError):
        evaluate(model, Data([target()]))
    assert model.training


def process(rank, world, folder):
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    detections, targets = random_images(9, noise=3)
    result = evaluate(Oracle(detections), Data(targets), batch=2)
    bad = [found((*BIG, 0.5, 7))] * 9
    try:
        evaluate(Oracle(bad), Data(targets))
        error = ""
    except ValueError as problem:
        error = str(problem)
    (folder / f"{rank}.json").write_text(json.dumps([result, error]))
    torch.distributed.destroy_process_group()


def test_two_processes_agree_with_one(tmp_path):
    detections, targets = random_images(9, noise=3)
    alone = evaluate(Oracle(detections), Data(targets), batch=2)
    torch.multiprocessing.spawn(process, (2, tmp_path), nprocs=2)
    for rank in (0, 1):
        result, error = json.loads((tmp_path / f"{rank}.json").read_text())
        assert result == alone
        assert "label 7" in error  # both processes hear of it, none waits for ever
