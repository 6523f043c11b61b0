"""Mutated COCO folders: `data check` and training agree on every one of them.

Each folder is a few scenes of data/sample-coco with one to three things wrong. Whatever
they are, nothing may be raised but one line of ours, and what check says of the folder
is what training does.
"""

import random
import warnings
from pathlib import Path

import pytest
import torch
from mutated_coco import Folder, mutated

from detr_steps.data.check import check_folder, check_path
from detr_steps.data.coco import CocoFolder
from detr_steps.data.problems import CHANGED, LOST
from detr_steps.data.transforms import Augment

pytestmark = pytest.mark.filterwarnings("ignore:left out", "ignore::UserWarning")

FOLDERS_A_TEST, TESTS = 30, 10


def trained(images: Path, file: Path) -> tuple[CocoFolder, list[dict]] | None:
    """Two epochs of batches and all of evaluation; None where training refuses."""
    try:
        augment = Augment.small(48)
        data = CocoFolder(images, file, augment=augment, masks=True, workers=0)
        batches = data.batches(2, seed=-1)
        steps = [next(batches) for _ in range(len(data))]
        scored = [target for _, ts in data.evaluation_batches(3) for target in ts]
    except (ValueError, OSError) as error:
        assert type(error) in (ValueError, FileNotFoundError), repr(error)
        assert len(str(error).splitlines()) == 1 and "Traceback" not in str(error)
        return None
    ids = {target["image_id"] for target in scored}
    assert ids == {target["image_id"] for _, targets in steps for target in targets}
    for pixels, targets in steps:
        for picture, target in zip(pixels.pixels, targets, strict=True):
            sane(data, picture, target)
    return data, scored


def sane(data: CocoFolder, picture: torch.Tensor, target: dict) -> None:
    boxes, labels = target["boxes"], target["labels"]
    assert torch.isfinite(picture).all() and torch.isfinite(boxes).all()
    assert (boxes >= 0).all() and (boxes <= 1).all() and (boxes[:, 2:] > 0).all()
    assert len(boxes) == len(labels) == len(target["masks"])
    assert ((labels >= 0) & (labels < data.classes)).all()
    assert target["masks"].shape[1:] <= picture.shape[1:]


def named(problems: list) -> list:
    """What of them costs something and is known before the pictures are decoded."""
    costs = [
        p for p in problems if p.cost in (LOST, CHANGED) and p.kind != "other size"
    ]
    return sorted((p.kind, p.file, str(p.annotation)) for p in costs)


def agree(images: Path, file: Path) -> None:
    """One verdict: what check says of a folder is what training does with it."""
    report = check_folder(images, file)
    report.text(None).encode("utf-8")
    assert all(len(str(problem).splitlines()) == 1 for problem in report.problems)
    result = trained(images, file)
    assert (result is None) == (report.exit_status == 2), report
    if result is None:
        return
    data, scored = result
    boxes = sum(int((~target["iscrowd"]).sum()) for target in scored)
    assert (report.usable, report.objects) == (len(scored), boxes)
    assert report.class_names == data.class_names
    found = [(bad.kind, Path(path)) for path, bad in data.skipped.items()]
    before = [(p.kind, p.file, str(p.annotation)) for p in data.problems]
    late = [p for p in named(report.problems) if p not in before]
    assert sorted((kind, images / name) for kind, name, _ in late) == sorted(found)
    assert set(named(data.problems)) <= set(named(report.problems))
    said = data.left_out()
    said.encode("utf-8")
    assert all(f"  {kind}, " in said for kind, _, _ in named(report.problems))


@pytest.mark.parametrize("part", range(TESTS))
def test_check_and_training_agree_on_mutated_folders(tmp_path, part):
    for seed in range(part * FOLDERS_A_TEST, (part + 1) * FOLDERS_A_TEST):
        images, file = mutated(tmp_path / str(seed), seed)
        try:
            agree(images, file)
        except Exception as error:
            error.add_note(f"mutated folder {seed}: {images} {file}")
            raise


@pytest.mark.parametrize("part", range(TESTS))
def test_what_is_found_by_itself_is_what_was_given(tmp_path, part):
    """`data check FOLDER` and `data check JSON --images DIR` say the same."""
    for seed in range(part, FOLDERS_A_TEST, TESTS):
        images, file = mutated(tmp_path / str(seed), seed)
        given = check_path(file, images, decode=False)
        try:
            (found,) = check_path(tmp_path / str(seed), decode=False)
        except FileNotFoundError:
            assert given[0].exit_status == 2, f"mutated folder {seed}"
            continue
        assert found.exit_status == given[0].exit_status, f"mutated folder {seed}"
        if given[0].exit_status < 2:
            assert found.usable == given[0].usable, f"mutated folder {seed}"


def test_the_folder_without_a_mutation_is_fine(tmp_path):
    folder = Folder(tmp_path, random.Random(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images, file = folder.write()
        assert check_folder(images, file).exit_status == 0
        agree(images, file)
