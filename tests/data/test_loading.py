"""Faults while pictures are read: one line each, and never the same picture again."""

import errno
import multiprocessing
import os
import signal
import warnings

import pytest
import torch
from PIL import Image
from torch.utils.data import get_worker_info

from detr_steps.data import loading
from detr_steps.data.coco import CocoFolder
from detr_steps.data.transforms import Augment

pytestmark = pytest.mark.filterwarnings("ignore:left out")


def folder(paths, **options):
    return CocoFolder(*paths, **{"augment": Augment.small(48), "workers": 0} | options)


def some(builder, count):
    """A folder of so many pictures, each with a box."""
    builder.category(1, "thing")
    for number in range(count):
        builder.picture(f"{number}.png", number, Image.new("RGB", (40, 30)))
        builder.box(number, 1, [5, 5, 10, 10])
    return builder.write()


@pytest.mark.parametrize("count", [2, 3, 4, 5, 8])
@pytest.mark.parametrize("workers", [0, 1])
def test_the_only_readable_picture_stands_in_for_all_others(builder, count, workers):
    """Of two pictures one broken: the stand-in was the broken one itself."""
    images, file = some(builder, count)
    for good in range(count) if workers == 0 else [0]:
        data = folder((images, file), workers=workers)
        for number in range(count):
            if number != good:
                (images / f"{number}.png").write_bytes(b"broken")
        batches = data.batches(3, seed=good)
        ids = [t["image_id"] for _ in range(count) for t in next(batches)[1]]
        assert ids == [good] * 3 * count
        assert len(data.skipped) == count - 1
        for number in range(count):
            Image.new("RGB", (40, 30)).save(images / f"{number}.png")


def test_every_other_picture_is_tried_once(builder):
    data = folder(some(builder, 7))
    images = loading.TrainingImages(data.annotations, data.labels, data.augment, seed=3)
    for position in range(20):
        tried = [int(image) for image in images._candidates(position)]
        assert sorted(tried) == [*range(7)]


def test_files_that_vanish_end_training_in_one_line(builder):
    images, file = some(builder, 3)
    for workers in (0, 1):
        batches = folder((images, file), workers=workers).batches(2)
        for path in images.iterdir():
            path.rename(path.with_suffix(".gone"))
        with pytest.raises(
            ValueError, match="no picture can be read; the first"
        ) as error:
            for _ in range(9):  # what a worker has read ahead still comes
                next(batches)
        assert len(str(error.value).splitlines()) == 1
        for path in images.iterdir():
            path.rename(path.with_suffix(".png"))


# what a test has changed reaches other processes only where they are forked
forked = pytest.mark.skipif(
    multiprocessing.get_start_method() != "fork", reason="processes start afresh here"
)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=forked)])
@pytest.mark.parametrize(
    "fault", [OSError(errno.EIO, "Input/output error"), MemoryError()]
)
def test_a_fault_of_the_machine_is_one_line(builder, monkeypatch, workers, fault):
    data = folder(some(builder, 3), workers=workers)
    batches, scored = data.batches(2), data.evaluation_batches(2)

    def failing(*_):
        raise fault

    monkeypatch.setattr(loading, "read_picture", failing)
    for asked in (batches, scored):
        with pytest.raises(OSError, match="reading pictures of") as error:
            next(asked)
        text = str(error.value)
        assert len(text.splitlines()) == 1 and "Traceback" not in text
        assert ("MemoryError" if fault.args == () else "Input/output") in text


@forked
def test_a_process_that_dies_is_one_line_with_a_way_out(builder, monkeypatch):
    data = folder(some(builder, 3), workers=1)

    def killed(*_):
        assert get_worker_info()  # never the tests themselves
        os.kill(os.getpid(), signal.SIGKILL)

    batches = data.evaluation_batches(2)
    monkeypatch.setattr(loading, "read_picture", killed)
    with pytest.raises(OSError, match="Use fewer workers, or 0") as error:
        next(batches)
    assert len(str(error.value).splitlines()) == 1


def test_numbers_that_make_no_sense_are_refused_at_once(builder):
    paths = some(builder, 3)
    with pytest.raises(ValueError, match="workers=-1"):
        folder(paths, workers=-1)
    data = folder(paths)
    for options in ({"batch": 0}, {"batch": -2}, {"batch": 2, "limit": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            data.evaluation_batches(**options)
    with pytest.raises(ValueError, match="at least 1"):
        data.evaluation_batches(2, limit=-3)
    for batch in (0, -1):
        with pytest.raises(ValueError, match="smaller than 1 process"):
            data.batches(batch)


def test_negative_seeds_are_seeds_like_all_others(builder):
    data = folder(some(builder, 8))

    def ids(seed):
        batches = data.batches(4, seed=seed)
        return [t["image_id"] for _ in range(4) for t in next(batches)[1]]

    orders = [ids(seed) for seed in (-1, -2, 0, 1, 2, 2**64 + 3)]
    assert len({tuple(order) for order in orders}) == 6
    assert ids(-1) == orders[0]
    assert all(sorted(order[:8]) == [*range(8)] for order in orders)


def test_a_share_without_a_readable_picture_is_empty(builder):
    """Other processes have pictures: an error here would leave them waiting."""
    images, file = some(builder, 4)
    (images / "1.png").write_bytes(b"broken")
    (images / "3.png").write_bytes(b"broken")
    data = folder((images, file))
    shares = [list(data.evaluation_batches(2, rank=r, world=2)) for r in (0, 1)]
    assert [len(share) for share in shares] == [1, 0]


def test_what_is_left_out_is_said_with_the_command_that_lists_it(broken_folder):
    images, file = broken_folder
    data = folder((images, file))
    text = data.left_out()
    assert text.splitlines()[0] == f"{file}: not all of it is used as it is"
    for line in (
        "  missing file, 1x: the image is left out",
        "    missing.jpg",
        "    cmyk.jpg, annotation 12: x 5 y 5 w 0 h 10 in 40x30",
        "  crowd, 1x: not trained on; in evaluation neither a hit nor a miss",
        f"  Each one: detr-steps data check {file} --images {images} --all",
    ):
        assert line in text.splitlines()
    assert "unused category" not in text and "truncated.jpg" not in text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        list(data.evaluation_batches(4))
    assert f"    {images}/truncated.jpg: image file is truncated" in data.left_out()


def test_nothing_is_said_where_nothing_is_left_out(good_folder):
    assert folder(good_folder).left_out() == ""


def test_long_lists_are_cut(good_folder):
    images, file = good_folder
    for number in range(5):
        (images / f"{number}.png").unlink()
    text = folder((images, file)).left_out()
    assert "  missing file, 5x: " in text and "    … and 2 more\n" in text
    assert text.count(".png") == 3


def test_masks_travel_from_a_process_as_they_are(builder):
    paths = some(builder, 2)
    alone = next(folder(paths, masks=True).evaluation_batches(2))
    sent = next(folder(paths, masks=True, workers=1).evaluation_batches(2))
    for target, other in zip(alone[1], sent[1], strict=True):
        assert target.keys() == other.keys() and "masks" in target
        assert torch.equal(target["masks"], other["masks"])
