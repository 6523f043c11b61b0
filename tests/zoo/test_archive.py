"""Archives: runs that travel, and what somebody may have done to them."""

import hashlib
import json
import re
import shutil
import stat
import zipfile
from dataclasses import asdict

import pytest
import torch
from small_zoo import add, tiny, trained

from detr_steps import zoo
from detr_steps.cli import main
from detr_steps.data import scenes
from detr_steps.data.scenes import Scenes
from detr_steps.files import read_tensors, write_tensors
from detr_steps.training import Recipe
from detr_steps.training.lock import RunLock
from detr_steps.zoo import archive, inspecting, taking
from detr_steps.zoo.runs import Run


@pytest.fixture(autouse=True)
def few_scenes(monkeypatch):
    monkeypatch.setitem(scenes.SPLITS, "val", 20)


class Stopped(BaseException):
    """Stands for a run that dies."""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The runs of another machine: two finished, one with weights; one only begun."""
    root = tmp_path_factory.mktemp("made")
    trained(Run.of("mine", 0, root).folder, keep=[0, 4])
    trained(Run.of("other", 1, root).folder, seed=1)
    real = Scenes.batches

    def dying(*args, **kwargs):
        for count, item in enumerate(real(*args, **kwargs)):
            if count == 3:
                raise Stopped
            yield item

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Scenes, "batches", dying)
        trained(Run.of("other", 0, root).folder)
    with open(root / "other-seed0" / "record.jsonl", "a") as file:
        file.write('{"step": 4, "cla')
    return root


@pytest.fixture
def there(made, own_zoo, tmp_path):
    """A copy of those runs; our zoo has the recipes and none of the runs."""
    add(own_zoo, "mine", ship="weights", keep=[0, 4])
    add(own_zoo, "other")
    shutil.copytree(made, tmp_path / "there")
    return tmp_path / "there"


@pytest.fixture
def packed(there, tmp_path):
    file = tmp_path / "runs.zip"
    said = archive.pack(file, there)
    assert [line.partition(":")[0] for line in said] == [
        "mine seed 0", "other seed 0", "other seed 1"
    ]  # fmt: skip
    return file


def members(file):
    with zipfile.ZipFile(file) as opened:
        return {name: opened.read(name) for name in opened.namelist()}


def repack(file, contents, sealed=True):
    """Write an archive of these members; `sealed` with checksums that fit."""
    if sealed:
        about = json.loads(contents.pop(archive.LIST))
        sums = {n: hashlib.sha256(c).hexdigest() for n, c in contents.items()}
        about["files"] = {name: {"sha256": sha} for name, sha in sums.items()}
        contents[archive.LIST] = json.dumps(about).encode()
    with zipfile.ZipFile(file, "w") as opened:
        for name, content in contents.items():
            opened.writestr(name, content)


def taken(file, root):
    said = []
    return taking.take(file, root, said.append), said


def test_an_archive_holds_what_is_needed_and_no_more(packed):
    assert set(members(packed)) == {
        "archive.json",
        "mine-seed0/kept/000000.safetensors",
        "mine-seed0/kept/000004.safetensors",
        "mine-seed0/model.safetensors",
        "mine-seed0/recipe.json",
        "mine-seed0/record.jsonl",
        "other-seed0/checkpoint.safetensors",
        "other-seed0/recipe.json",
        "other-seed0/record.jsonl",
        "other-seed1/recipe.json",
        "other-seed1/record.jsonl",
    }


def test_records_alone_are_small_and_weights_may_follow(packed, there, tmp_path):
    small = tmp_path / "small.zip"
    archive.pack(small, there, records_only=True)
    parts = [n for n in members(small) if "record" not in n and "recipe" not in n]
    assert parts == [archive.LIST]
    fine, said = taken(small, tmp_path / "here")
    assert fine and said[0] == "mine seed 0: its record is in the zoo"
    assert not (zoo.folder() / "mine" / "model.safetensors").exists()
    fine, said = taken(packed, tmp_path / "here")
    assert fine and said[0].endswith("weights, record and result are in the zoo")


def test_taken_in_they_are_what_they_were(packed, there, tmp_path, own_zoo):
    root = tmp_path / "here"
    fine, said = taken(packed, root)
    assert fine and said == [
        "mine seed 0: weights, record and result are in the zoo",
        "other seed 0: the queue can go on with it at step 2 of 4",
        "other seed 1: its record is in the zoo",
    ]
    assert zoo.record("mine") == zoo.record(there / "mine-seed0")
    ours = zoo.load("mine").state_dict()
    theirs, _ = read_tensors(there / "mine-seed0" / "model.safetensors")
    assert all(torch.equal(ours[key], theirs[key].half().float()) for key in ours)
    assert zoo.records("other") == [zoo.record(there / "other-seed1")]
    trained(root / "other-seed0", resume=True)  # the same as if it had never stopped
    straight = trained(tmp_path / "straight")
    a, b = (
        read_tensors(run / "model.safetensors")[0]
        for run in (root / "other-seed0", straight)
    )
    assert all(torch.equal(a[key], b[key]) for key in b)
    assert not list(root.glob(".import*"))


def test_taken_in_twice_nothing_changes(packed, tmp_path, own_zoo):
    root = tmp_path / "here"
    taken(packed, root)
    before = {p: p.read_bytes() for p in [*_files(own_zoo), *_files(root)]}
    fine, said = taken(packed, root)
    assert fine and [line.partition(": ")[2] for line in said] == [
        "the zoo has it already, the same",
        "it is here already, the same",
        "the zoo has it already, the same",
    ]
    assert {p: p.read_bytes() for p in [*_files(own_zoo), *_files(root)]} == before


def _files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def test_other_results_that_are_here_stay(packed, there, tmp_path, own_zoo):
    """What differs is said, and all else is taken."""
    root = tmp_path / "here"
    other = there / "other-seed1"  # packed already
    lines = zoo.record(other)
    lines[1]["total"] += 1
    (other / "record.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    zoo.publish_record(other, "other")
    trained(root / "other-seed0")
    before = {p: p.read_bytes() for p in _files(root)}
    fine, (mine, begun, finished) = taken(packed, root)
    assert not fine and mine.endswith("in the zoo")
    assert "REFUSED" in begun and "at step 4 and not 2: move that away" in begun
    assert "REFUSED: the zoo has another record of it: total at step 2" in finished
    assert f"{lines[1]['total']} here" in finished and "at the end accuracy" in finished
    assert zoo.records("other") == [lines]
    assert {p: p.read_bytes() for p in _files(root)} == before


def test_shipped_weights_are_not_overwritten(packed, there, tmp_path, own_zoo):
    run = there / "mine-seed0"  # packed already
    record = (run / "record.jsonl").read_text()
    seconds = json.loads(record.splitlines()[-1])["seconds"]
    changed = record.replace(f'"seconds": {seconds}', f'"seconds": {seconds + 9}')
    (run / "record.jsonl").write_text(changed)
    zoo.publish(run, "mine")
    before = {p: p.read_bytes() for p in _files(own_zoo / "mine")}
    fine, said = taken(packed, tmp_path / "here")
    assert not fine and "REFUSED: the zoo has another record of it: seconds" in said[0]
    assert {p: p.read_bytes() for p in _files(own_zoo / "mine")} == before


def test_the_commands(there, tmp_path, own_zoo, capsys):
    file = tmp_path / "a.zip"
    assert main(["zoo", "export", str(file), "--runs", str(there)]) == 0
    assert "mine seed 0: step 4 of 4, 5 files" in capsys.readouterr().out
    assert main(["zoo", "export", str(file), "--runs", str(there)]) == 2
    assert "exists: name another file" in capsys.readouterr().err
    empty = ["--runs", str(tmp_path / "empty")]
    assert main(["zoo", "export", str(tmp_path / "b.zip"), *empty]) == 2
    assert "no runs to pack" in capsys.readouterr().err
    assert main(["zoo", "import", str(file), *empty]) == 0
    assert "its record is in the zoo" in capsys.readouterr().out
    (own_zoo / "other" / "recipe.json").write_text(json.dumps(tiny(lr=0.5)))
    assert main(["zoo", "import", str(file), *empty]) == 1
    out = capsys.readouterr().out
    assert "its recipe is another than ours: recipe.lr: 0.0001, not 0.5" in out
    assert main(["zoo", "import", str(tmp_path / "no.zip")]) == 2
    assert "no file" in capsys.readouterr().err


def test_a_run_at_work_stays_out(there, tmp_path):
    lock = RunLock(there / "mine-seed0" / "run.lock")
    said = archive.pack(tmp_path / "a.zip", there)
    lock.release()
    assert "left out, process" in said[0] and "mine" in said[0]
    assert not any("mine" in name for name in members(tmp_path / "a.zip"))


MINE, OTHER = "mine-seed0/", "other-seed1/"


def _write(name, content=b"x"):
    return lambda contents: contents.update({name: content})


def _list(change):
    def edit(contents):
        about = json.loads(contents[archive.LIST])
        change(about)
        contents[archive.LIST] = json.dumps(about).encode()

    return edit


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_write("../mine-seed0/recipe.json"), "it holds '../mine-seed0/recipe.json'"),
        (_write("/etc/passwd"), "it holds '/etc/passwd'"),
        (_write(MINE + "../../x.json"), "it holds 'mine-seed0/../../x.json'"),
        (_write(MINE + "kept/../record.jsonl"), "it holds 'mine-seed0/kept/.."),
        (_write(MINE + "weights.pkl"), "it holds 'mine-seed0/weights.pkl'"),
        (_write("mine-seed01/recipe.json"), "it holds 'mine-seed01"),
        (_write("mine-seed0\n/recipe.json"), r"it holds 'mine-seed0\\n"),
        (_write("other-seed2/recipe.json", b" " * (2 << 20)), "bytes: 1048576 at most"),
        (_write(MINE + "model.safetensors", b" " * (8 << 20)), "bytes: .* at most"),
        (_list(lambda a: a.update(format=7)), "its format is 7, not 1"),
        (_list(lambda a: a.pop("files")), r"archive.json cannot be read \(KeyError"),
        (_write(archive.LIST, b"[" * 100_000), "archive.json cannot be read .Recurs"),
    ],
)
def test_what_does_not_belong_in_it_spoils_all_of_it(
    packed, tmp_path, own_zoo, spoil, said
):
    contents = members(packed)
    spoil(contents)
    repack(packed, contents, sealed="be read" not in said)
    _nothing_is_taken(packed, tmp_path, own_zoo, said)


def _nothing_is_taken(file, tmp_path, own_zoo, said):
    before = {p: p.read_bytes() for p in _files(own_zoo)}
    with pytest.raises(ValueError, match=said) as error:
        taken(file, tmp_path / "here")
    assert "nothing is taken" in str(error.value) and "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in _files(own_zoo)} == before
    assert _files(tmp_path / "here") == []


def test_a_changed_file_does_not_fit_its_checksum(packed, tmp_path, own_zoo):
    contents = members(packed)
    text = contents[OTHER + "record.jsonl"]
    contents[OTHER + "record.jsonl"] = text.replace(b'"accuracy": 0', b'"accuracy": 1')
    repack(packed, contents, sealed=False)
    _nothing_is_taken(packed, tmp_path, own_zoo, "the checksum of other-seed1/record")


def test_members_that_are_not_listed_or_not_there(packed, tmp_path, own_zoo):
    contents = members(packed)
    removed = contents.pop(OTHER + "record.jsonl")
    repack(packed, contents, sealed=False)
    _nothing_is_taken(packed, tmp_path, own_zoo, "in only one of list and file")
    contents["mine-seed1/record.jsonl"] = contents[OTHER + "record.jsonl"] = removed
    repack(packed, contents, sealed=False)
    _nothing_is_taken(packed, tmp_path, own_zoo, "'mine-seed1/record.jsonl' is in")


def test_links_twins_and_noise(packed, tmp_path, own_zoo):
    contents = members(packed)
    link = zipfile.ZipInfo(MINE + "record.jsonl")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(packed, "w") as opened:
        opened.writestr(link, "/etc/passwd")
        opened.writestr(archive.LIST, contents[archive.LIST])
    _nothing_is_taken(packed, tmp_path, own_zoo, "'mine-seed0/record.jsonl' is a link")
    repack(packed, contents)
    with pytest.warns(UserWarning, match="Duplicate"):
        with zipfile.ZipFile(packed, "a") as opened:
            opened.writestr(OTHER + "record.jsonl", "x")
    _nothing_is_taken(packed, tmp_path, own_zoo, "it holds 'other.*' twice")
    packed.write_bytes(b"no zip at all")
    _nothing_is_taken(packed, tmp_path, own_zoo, "is no archive of runs")
    repack(packed, contents)
    content = bytearray(packed.read_bytes())
    content[len(content) // 3] ^= 255
    packed.write_bytes(content)
    _nothing_is_taken(packed, tmp_path, own_zoo, "is damaged")


def _edit_lines(change):
    def edit(contents):
        key = OTHER + "record.jsonl"
        lines = [json.loads(line) for line in contents[key].splitlines()]
        change(lines)
        contents[key] = "".join(json.dumps(line) + "\n" for line in lines).encode()

    return edit


def _edit_recipe(change):
    def edit(contents):
        description = json.loads(contents[OTHER + "recipe.json"])
        change(description)
        contents[OTHER + "recipe.json"] = json.dumps(description).encode()

    return edit


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_edit_lines(lambda x: x.pop()), "ends at step 3"),
        (_edit_lines(lambda x: x.pop(1)), "goes wrong at step 3"),
        (_edit_lines(lambda x: x.reverse()), "goes wrong at step 4"),
        (_edit_lines(lambda x: x.append(x[-1] | {"step": 5})), "goes wrong at step 5"),
        (_edit_lines(lambda x: x[3].update(seconds=-1)), "seconds of its record fall"),
        (_edit_lines(lambda x: x[0].update(seconds=None)), "no finite numbers"),
        (_edit_lines(lambda x: x[0].update(total=float("nan"))), "NaN is no number"),
        (_edit_lines(lambda x: x[0].update(total=10**400)), "no finite numbers"),
        (_edit_lines(lambda x: x[0].update(total="1")), "no finite numbers"),
        (_edit_lines(lambda x: x[0].update({"\x1b[2J": 1})), "no finite numbers"),
        (_edit_lines(lambda x: x[0].update(step=True)), "no finite numbers"),
        (_edit_lines(lambda x: x[3].update(accuracy=1.5)), r"no score in \[0, 1\]"),
        (_edit_lines(lambda x: x[1].pop("accuracy")), r"no score in .* at step 2"),
        (_write(OTHER + "record.jsonl", b"[1]\n"), "record cannot be read"),
        (_write(OTHER + "record.jsonl", b"\xff\n"), "record cannot be read"),
        (_edit_recipe(lambda x: x["recipe"].update(lr=1)), "recipe.lr: 1, not 0.0001"),
        (_edit_recipe(lambda x: x["recipe"].update(seed=7)), "its recipe has seed 7"),
        (_edit_recipe(lambda x: x.update(code="os")), "code: os, not None"),
        (_edit_recipe(lambda x: x["model"].update(kind="os")), "model.kind: os"),
        (_edit_recipe(lambda x: x.pop("recipe")), "its recipe cannot be read"),
        (_write(OTHER + "recipe.json", b"[" * 100_000), "its recipe cannot be read"),
        (_write(OTHER + "recipe.json", b"[]"), "its recipe cannot be read"),
        (lambda x: x.pop(OTHER + "recipe.json"), "it lacks a recipe"),
    ],
)
def test_a_run_that_is_not_sound_is_refused_alone(
    packed, tmp_path, own_zoo, spoil, said
):
    contents = members(packed)
    spoil(contents)
    repack(packed, contents)
    fine, lines = taken(packed, tmp_path / "here")
    (refused,) = [line for line in lines if "REFUSED" in line]
    assert not fine and refused.startswith("other seed 1: REFUSED")
    assert re.search(said, refused), refused
    assert refused.isprintable()
    assert zoo.records("other") == [] and zoo.names() == ["mine", "shapes-backbone"]


def test_a_recipe_that_is_not_ours_is_refused(packed, tmp_path, own_zoo):
    contents = members(packed)
    contents["theirs-seed0/record.jsonl"] = b"x"
    contents["far-seed0/record.jsonl"] = b"x"
    description = tiny() | {"data": {"kind": "folder"}}
    (own_zoo / "far").mkdir()
    (own_zoo / "far" / "recipe.json").write_text(json.dumps(description))
    repack(packed, contents)
    fine, said = taken(packed, tmp_path / "here")
    assert not fine
    assert "theirs seed 0: REFUSED: the zoo has no such recipe" in said
    assert any("far seed 0: REFUSED: this recipe cannot be trained" in x for x in said)
    assert zoo.records("mine") and zoo.records("other")


def _tensors(file, change):
    """Change the tensors of a member; the notes as well."""

    def edit(contents, tmp_path):
        path = tmp_path / "edited.safetensors"
        path.write_bytes(contents[file])
        tensors, notes = read_tensors(path)
        change(tensors, notes)
        write_tensors(path, tensors, notes)
        contents[file] = path.read_bytes()

    return edit


MODEL = MINE + "model.safetensors"
BEGUN = "other-seed0/checkpoint.safetensors"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_tensors(MODEL, lambda t, n: t.pop("head.bias")), "both have head.bias"),
        (_tensors(MODEL, lambda t, n: t["head.bias"].fill_(torch.inf)), "not finite"),
        (
            _tensors(MODEL, lambda t, n: t.update({"head.bias": torch.zeros(5)})),
            "head.bias has another shape",
        ),
        (_tensors(MODEL, lambda t, n: n.update(step=3)), "is not of step 4"),
        (_tensors(MODEL, lambda t, n: n.update(more=3)), "is not of step 4"),
        (
            _tensors(MINE + "kept/000004.safetensors", lambda t, n: t.clear()),
            "do not both have",
        ),
        (_tensors(BEGUN, lambda t, n: n.update(step=9)), "of step 9 of 4"),
        (_tensors(BEGUN, lambda t, n: n.clear()), "does not say of which step"),
        (_tensors(BEGUN, lambda t, n: t.update(x=torch.zeros(1))), "holds x"),
        (
            _tensors(BEGUN, lambda t, n: t.update({"average.x": torch.zeros(1)})),
            "do not both have x",
        ),
        (
            _tensors(
                BEGUN, lambda t, n: t["optimiser.exp_avg.head.bias"].fill_(torch.nan)
            ),
            "head.bias is not finite",
        ),
        (
            lambda contents, tmp_path: contents.update({MODEL: b"\x80\x04pickle"}),
            "model.safetensors cannot be read",
        ),
        (
            lambda contents, tmp_path: contents.update(
                {MINE + "kept/000003.safetensors": contents[MODEL]}
            ),
            "step 3 is not one that the recipe keeps",
        ),
    ],
)
def test_tensors_that_are_not_of_our_model_are_refused(
    packed, tmp_path, own_zoo, spoil, said
):
    contents = members(packed)
    spoil(contents, tmp_path)
    repack(packed, contents)
    fine, lines = taken(packed, tmp_path / "here")
    (refused,) = [line for line in lines if "REFUSED" in line]
    assert not fine and said in refused
    assert len(lines) == 3


def test_a_model_beside_a_checkpoint_is_refused(packed, tmp_path, own_zoo):
    contents = members(packed)
    contents["other-seed0/model.safetensors"] = contents[MODEL]
    repack(packed, contents)
    assert "both finished and not" in taken(packed, tmp_path / "here")[1][1]


@pytest.mark.parametrize("name", zoo.recipes())
def test_all_records_of_the_zoo_would_be_taken(name):
    settings = Recipe(**zoo.recipe(name)["recipe"])
    for file in zoo.reading.record_files(name).values():
        found = inspecting.read_whole_record(file, settings, finished=True)
        assert found[-1]["step"] == settings.steps


def test_our_description_is_what_the_trainer_writes(own_zoo, tmp_path):
    """Else a run that was taken in could not be resumed."""
    description = add(own_zoo, "mine", ship="record")
    run = trained(tmp_path / "run", tiny(seed=3))
    assert inspecting.description_of("mine", 3) == zoo.recipe(run)
    assert asdict(Recipe(**description["recipe"])) | {"seed": 3} == {
        **zoo.recipe(run)["recipe"],
        "drops": (),
        "keep": (),
        "freeze": (),
    }
