"""Rows of COCO's results format."""

import json
from types import SimpleNamespace

import pytest
import torch

from detr_steps.evaluation import result_rows, results_of, write_results


def found(*rows):
    """Detections from rows (x0, y0, x1, y1, score, label)."""
    table = torch.tensor(rows).reshape(-1, 6)
    return SimpleNamespace(
        boxes=table[:, :4], scores=table[:, 4], labels=table[:, 5].long()
    )


def test_corners_become_corner_and_size():
    (row,) = result_rows(found((10.5, 20, 40, 60, 0.25, 1)), 139, [1, 90])
    assert row == {
        "image_id": 139,
        "category_id": 90,
        "bbox": [10.5, 20, 29.5, 40],
        "score": 0.25,
    }


def test_the_best_hundred_count_best_first():
    many = found(*((0, 0, 1, 1, score / 200, 0) for score in range(150)))
    scores = [row["score"] for row in result_rows(many, 1, [1])]
    assert scores == [score / 200 for score in range(149, 49, -1)]


def test_a_label_without_category_is_left_out():
    rows = result_rows(found((0, 0, 1, 1, 0.5, 0), (0, 0, 1, 1, 0.4, 1)), 1, [None, 7])
    assert [row["category_id"] for row in rows] == [7]


def test_ids_are_those_that_the_file_writes():
    data = SimpleNamespace(
        class_names=["a", "b"], category_ids=["x", 9], image_ids={3: "three"}
    )
    pairs = [(found((0, 0, 1, 1, 0.5, 0)), {"image_id": 3})]
    (row,) = results_of(pairs, data)
    assert (row["image_id"], row["category_id"]) == ("three", "x")
    (row,) = results_of(pairs, SimpleNamespace(class_names=["a", "b"]))
    assert (row["image_id"], row["category_id"]) == (3, 1)


@pytest.mark.parametrize("rows", [[], [{"score": 0.5}], [{"score": 0.5}, {"x": "é"}]])
def test_the_file_is_one_list(tmp_path, rows):
    file = tmp_path / "new" / "results.json"
    write_results(file, rows)
    assert json.loads(file.read_text("utf-8")) == rows
    with pytest.raises(FileExistsError, match="is there already"):
        write_results(file, [])
    assert json.loads(file.read_text("utf-8")) == rows
