"""Categories are matched by name, whatever their ids and however many share one."""

import pytest

from detr_steps.data.coco_names import COCO_NAMES
from detr_steps.evaluation.names import distinct, match_names

YES = [True] * 100


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (["a", "b"], ["a", "b"]),
        (["bolt", "nut", "bolt"], ["bolt (1)", "nut", "bolt (2)"]),
        (["a", "a (1)", "a"], ["a (2)", "a (1)", "a (3)"]),
        ([], []),
    ],
)
def test_names_that_are_shared_are_numbered(names, shown):
    assert distinct(names) == shown


def test_order_does_not_matter():
    assert match_names(["c", "a", "b"], ["a", "b", "c"], YES) == [2, 0, 1]


def test_two_of_one_name_are_taken_in_order():
    assert match_names(["a", "b", "a"], ["b", "a", "a"], YES) == [1, 0, 2]


def test_one_name_in_two_ways_of_unicode():
    assert match_names(["caf\u00e9", " tea"], ["tea", "cafe\u0301"], YES) == [1, 0]


def test_an_unknown_category_without_objects_does_no_harm():
    used = [False, True]
    assert match_names(["things", "a"], ["a"], used) == [None, 0]


def test_the_gaps_of_coco_are_no_classes():
    real = [name for name in COCO_NAMES if name != "–"]
    labels = match_names(real, COCO_NAMES, YES)
    assert len(real) == 80 and [COCO_NAMES[label] for label in labels] == real


@pytest.mark.parametrize(
    ("categories", "classes", "said"),
    [
        (["a", "x"], ["a"], "the model does not know 'x'"),
        (["a"], ["a", "y"], "the data have no category 'y'"),
        (["Car"], ["car"], "does not know 'Car'; the data have no category 'car'"),
        (["a", "a"], ["a"], "not as many categories as classes are called 'a'"),
        (["a"], ["a", "a"], "not as many categories as classes are called 'a'"),
        (["–", "a"], ["a"], "does not know '–'"),
        (["–", "a"], ["–", "–", "a"], "not as many categories as classes are called"),
        ([*"abcdefghijklm"], ["a"], "'k' and 2 more"),
    ],
)
def test_what_cannot_be_matched_is_named(categories, classes, said):
    with pytest.raises(ValueError, match="matched by name") as caught:
        match_names(categories, classes, YES)
    assert said in str(caught.value)
