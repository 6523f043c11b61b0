"""`detr-steps report`: the right numbers on one page, whatever a run has left."""

import json
import os
import re
import shlex
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from PIL import Image
from runs import Dying, Killed, fit
from small import small_config

from detr_steps import experiment, report, zoo
from detr_steps.cli import main
from detr_steps.data.export import export
from detr_steps.data.scenes import Scenes
from detr_steps.describable import to_json
from detr_steps.files import read_json, read_tensors
from detr_steps.report import curves, page, pictures, story, writing
from detr_steps.report.figures import INK, svg
from detr_steps.training.folder import LOCK, read_record
from detr_steps.training.lock import RunLock

ODD = "moon <b>&"  # a name that HTML would swallow


def prepare(folder, split):
    """A folder of six pictures of 64 pixels; a class has an odd name."""
    export(Scenes(split, 64), folder, range(6))
    file = folder / "annotations" / "instances.json"
    content = json.loads(file.read_text())
    for category in content["categories"]:
        if category["name"] == "moon":
            category["name"] = ODD
    if split == "train":
        content["annotations"][0]["bbox"] = [0, 0, 0, 0]
    file.write_text(json.dumps(content))
    return [str(folder / "images"), str(file)]


def describe(file, **changes):
    """A recipe of six steps with weights kept at four of them."""
    description = zoo.recipe("detr-tiny")
    description["model"] = to_json(small_config(classes=6, queries=8))
    description["start"] = {}
    description.pop("sha256")
    settings = {"steps": 6, "batch": 2, "evaluate_images": 4, "warmup": 2}
    settings |= {"evaluate_every": 2, "log_every": 1, "save_every": 2, "drops": [4]}
    description["recipe"] |= settings | {"keep": [0, 1, 2, 3, 4, 5, 6]} | changes
    file.write_text(json.dumps(description))
    return str(file)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run on one's own pictures, and its page."""
    home = tmp_path_factory.mktemp("report")
    folders = {name: prepare(home / name, name) for name in ("train", "val")}
    recipe = describe(home / "small.json")
    command = ["train", recipe, "--train", *folders["train"], "--val", *folders["val"]]
    run = home / "a run"
    more = ["--workers", "0", "--device", "cpu", "--out", str(run)]
    assert main([*command, *more]) == 0
    files = report.write(run, pictures=2, threshold=0.0)
    return SimpleNamespace(home=home, run=run, files=files, page=soup(files[0]))


def soup(file):
    return BeautifulSoup(file.read_text(encoding="utf-8"), "html.parser")


def copy(made, tmp_path, *left_behind):
    """The run's folder once more, without its page and some of its files."""
    place = tmp_path / "copy"
    names = shutil.ignore_patterns("report.*", *left_behind)
    shutil.copytree(made.run, place, ignore=names)
    return place


def words(place, count=4, threshold=0.5):
    """What a page says, without its files."""
    told = story.read_story(place)
    shown = writing.shown(told, count, threshold, "cpu")
    text = page.html(told, shown, writing.left_out(told))
    return " ".join(BeautifulSoup(text, "html.parser").body.get_text(" ").split())


def lines(*values, **more):
    return [{"step": s, "class": v, "total": v} | more for s, v in values]


# --- the page of a whole run ---------------------------------------------------------


def test_the_page_and_the_picture_lie_in_the_run(made):
    assert made.files == [made.run / "report.html", made.run / "report.png"]
    with Image.open(made.files[1]) as image:
        assert image.size[0] == 1320 and image.size[1] > 900
        assert np.asarray(image.convert("L")).std() > 10  # something is drawn


def test_it_says_the_numbers_of_the_record(made):
    record = read_record(made.run / "record.jsonl")
    facts = {dt.text: dt.find_next("dd").text for dt in made.page.find_all("dt")}
    assert facts["State"] == "ended" and facts["Step"] == "6 of 6"
    best = max((line for line in record if "AP" in line), key=lambda line: line["AP"])
    assert facts["Best AP"] == f"{best['AP']:.3f} at step {best['step']}"
    each = record[-1]["seconds"] / 6
    assert facts["Time a step"] == f"{each:.3g} s"
    table = {row.th.text: row.td.text for row in made.page.find_all("tr")}
    assert table["AP50"] == f"{record[-1]['AP50']:.3f}"
    assert set(record[-1]["per_class"]) <= set(table)
    assert ODD in table  # with its brackets


def test_every_curve_is_there(made):
    titles = [f["aria-label"] for f in made.page.find_all("figure", class_=None)
              if f.has_attr("aria-label")]  # fmt: skip
    assert titles == [
        "Loss terms, last layer",
        "Loss terms, sum of layers",
        "Average precision",
        "AP by size",
        "AP by class",
        "Learning rate",
        "Gradient norm",
        "Minutes since the start",
    ]


def test_pictures_are_shown_at_kept_best_and_last_steps(made):
    first = made.page.find("div", class_="moments")
    captions = [caption.text for caption in first.find_all("figcaption")]
    best = story.read_story(made.run).best()["step"]
    kept = {0: "kept", 2: "kept", 4: "kept", 6: "kept and last"}
    if best in kept:
        kept[best] = kept[best].replace("kept", "kept and best")
    else:
        kept[best] = "best"
    assert captions[0].startswith("ground truth: ")
    said = [caption.partition(":")[0] for caption in captions[1:]]
    assert said == [f"step {step} ({kept[step]})" for step in sorted(kept)]
    assert len(made.page.find_all("div", class_="moments")) == 2


def test_boxes_lie_where_truth_and_detections_are(made):
    """Against the annotations, and against what the model says of the same picture."""
    content = json.loads((made.home / "val/annotations/instances.json").read_text())
    image = min(entry["id"] for entry in content["images"])
    names = {c["id"]: c["name"] for c in content["categories"]}
    truth = [a for a in content["annotations"] if a["image_id"] == image]
    cells = made.page.find("div", class_="moments").find_all("figure")
    wide = float(cells[0].svg["viewbox"].split()[2])
    shown = {
        (text.text, *corners(rect))
        for rect, text in zip(rects(cells[0]), cells[0].find_all("text"))
    }
    scale = wide / 64
    assert shown == {
        (names[a["category_id"]], *(round(v * scale, 1) for v in a["bbox"]))
        for a in truth
    }
    model = zoo.load(made.run)
    data = experiment.open_data(zoo.recipe(made.run), 0)[1]
    batch, _ = next(iter(data.evaluation_batches(1, 1)))
    with torch.no_grad():
        found = model.detect(batch, [tuple(batch.pixels.shape[-2:])])[0]
    x0, y0, x1, y1 = found.boxes[0].tolist()
    wanted = [x0, y0, x1 - x0, y1 - y0]
    assert np.allclose(corners(rects(cells[-1])[0]), wanted, atol=0.06)
    assert cells[-1].text.count("0.") == len(found.scores)  # threshold 0: all


def rects(cell):
    return cell.find_all("rect")[1::2]  # every other one is the rim


def corners(rect):
    return tuple(float(rect[key]) for key in ("x", "y", "width", "height"))


def test_a_threshold_hides_and_says_the_surest(made):
    text = words(made.run, 1, 1.0)
    assert re.search(r"step 6 \(kept and .*?\): none; the surest has 0\.\d\d", text)


def test_it_says_what_was_left_out(made):
    pre = [pre.text for pre in made.page.find_all("pre")]
    (said,) = [text for text in pre if "not all of it is used" in text]
    assert "empty box, 1x" in said and "instances.json" in said


def test_the_command_makes_the_same_run_again(made, monkeypatch, capsys):
    (command,) = [p.text for p in made.page.find_all("pre") if " train " in p.text]
    name, *arguments = shlex.split(command)
    assert name == "detr-steps"
    again = made.home / "a run-again"
    assert main([*arguments, "--device", "cpu", "--workers", "0"]) == 0
    one, other = (read_tensors(run / "model.safetensors")[0]
                  for run in (made.run, again))  # fmt: skip
    assert all(one[key].equal(other[key]) for key in one)
    shutil.rmtree(again)


def test_the_page_is_alone_and_well_formed(made):
    text = made.files[0].read_text(encoding="utf-8")
    reached = set(re.findall(r"https?://[\w./-]+", text))
    assert all(address.startswith("http://www.w3.org/") for address in reached)
    assert "<script" not in text and "@import" not in text
    ids = [tag["id"] for tag in made.page.find_all(id=True)]
    for tag in made.page.find_all(["use", "image"]):
        target = tag.get("href") or tag.get("xlink:href")
        assert target.startswith("data:image/") or target[1:] in ids
    clips = re.findall(r"url\(#([^)]+)\)", text)
    assert clips and set(clips) <= set(ids)
    assert not {"xtick_1", "axes_1", "figure_1"} & set(ids)
    assert all(ids.count(name) == 1 for name in set(clips))


def test_plots_take_their_colours_from_the_page():
    record = lines((1, 3.0), (2, 2.0))
    told = story.Story("x", None, {}, {0: record})
    for number, panel in enumerate(curves.panels(told)):
        drawn = svg(panel, number)
        assert INK not in drawn and "#0072b2" not in drawn.lower()
        assert "currentColor" in drawn and "var(--c0)" in drawn


# --- runs that have not come far -----------------------------------------------------


def test_a_stopped_run_shows_its_last_checkpoint(made, tmp_path):
    place = copy(made, tmp_path, "model.safetensors", "kept", "best.safetensors")
    text = words(place, 1)
    assert "State stopped" in text and "step 6 (last)" in text
    go_on = shlex.join(["detr-steps", "train", "--resume", "--out", str(place)])
    assert f"Go on with it {go_on}" in text


def test_a_run_being_trained_is_not_called_stopped(made, tmp_path):
    place = copy(made, tmp_path, "model.safetensors")
    lock = RunLock(place / LOCK)
    try:
        assert "State being trained while" in words(place, 0)
    finally:
        lock.release()


def test_a_run_without_an_evaluation_says_when_it_comes(tmp_path):
    """And one of `training.train` alone, which knows neither model nor data."""
    with pytest.raises(Killed):
        fit(tmp_path / "run", data=Dying("train", size=32))
    text = words(tmp_path / "run")
    assert "No evaluation yet: the first comes at step 6." in text
    assert "Loss terms, last layer" in text and "Average precision" not in text
    assert "its recipe.json does not describe model and data" in text
    assert "Step 2 of 6" in text and "Go on" not in text


def test_a_run_without_a_line_is_a_page_too(made, tmp_path):
    place = copy(made, tmp_path, "record.jsonl", "*.safetensors", "kept")
    text = words(place)
    assert "There is no line in the record yet." in text
    assert "there are no weights to look through" in text
    assert "Learning rate" in text  # that is known beforehand


def test_pictures_that_have_gone_are_said(made, tmp_path):
    place = copy(made, tmp_path)
    description = read_json(place / "recipe.json", "")
    for part in ("data", "validation"):
        description[part]["images"] = str(tmp_path / "gone")
    (place / "recipe.json").write_text(json.dumps(description))
    text = words(place)
    assert "There are none:" in text and f"{tmp_path}/gone" in text
    assert "That cannot be said any more:" in text
    assert "Average precision" in text


def test_a_damaged_weight_file_costs_the_pictures_only(made, tmp_path):
    place = copy(made, tmp_path)
    (place / "kept" / "000000.safetensors").write_bytes(b"torn")
    text = words(place)
    assert "There are none:" in text and "000000.safetensors" in text
    assert "Average precision" in text


# --- records -------------------------------------------------------------------------


def test_seeds_of_the_zoo_are_overlaid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = "deformable-single-k1"
    files = report.write(name)
    names = [file.name for file in files]
    assert names == [f"{name}-report.html", f"{name}-report.png"]
    text = " ".join(soup(files[0]).body.get_text(" ").split())
    assert "Curves are means of 2 seeds" in text and "Seeds 0, 1" in text
    assert f"Train seed 1 detr-steps train {name} --seed 1" in text
    assert "there are no weights to look through" in text


def test_a_record_alone_is_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lonely.jsonl").write_text(
        "".join(json.dumps(line) + "\n" for line in lines((1, 3.0), (2, 2.0)))
    )
    (tmp_path / "lonely.jsonl").rename(tmp_path / "lonely run.jsonl")
    assert main(["report", "lonely run.jsonl"]) == 0
    made = soup(tmp_path / "lonely run-report.html")
    assert made.h1.text == "lonely run"
    assert [f["aria-label"] for f in made.find_all("figure")] == [
        "Loss terms, last layer",
        "Total loss",
    ]


def test_spread_is_mean_least_and_largest_at_each_step():
    records = [lines((1, 2.0), (2, 4.0), (3, 5.0)), lines((1, 6.0), (2, 4.0))]
    records[1].append({"step": 3, "class": None, "total": 1.0})
    found = curves.spread(records, lambda line: line["class"])
    assert found.steps.tolist() == [1, 2, 3]
    assert found.mean.tolist() == [4, 4, 5]
    assert found.low.tolist() == [2, 4, 5] and found.high.tolist() == [6, 4, 5]


def test_losses_are_told_from_all_other_numbers():
    """Terms, their layers, further sets; not the total, nor what is validated."""
    keys = ("class", "class_0", "class_1", "box", "box_0", "box_1", "class_proposals")
    line = {"step": 1, **dict.fromkeys(keys, 1.0), "total": 9.0, "gradient_norm": 2.0}
    found = curves.terms([line | {"seconds": 1.0, "AP": 0.1, "AP_S": 0.2, "rank": 3}])
    assert found.layers == {
        "class": ["class", "class_0", "class_1"],
        "box": ["box", "box_0", "box_1"],
    }
    assert found.sets == ["class_proposals"]


def test_the_sum_of_layers_adds_the_last_one_too(made):
    record = read_record(made.run / "record.jsonl")
    panels = {p.title: p for p in curves.panels(story.read_story(made.run))}

    def drawn(title):
        ax = Figure().subplots()
        panels[title].draw(ax)
        return {line.get_label(): line.get_ydata() for line in ax.lines}

    last, whole = drawn(curves.LAST_LAYER), drawn(curves.ALL_LAYERS)
    assert np.allclose(last["box"], [line["box"] for line in record])
    boxes = ("box", "box_0", "box_1")
    assert np.allclose(whole["box"], [sum(line[k] for k in boxes) for line in record])
    assert np.allclose(whole["total, weighted"], [line["total"] for line in record])
    rates = drawn("Learning rate")
    recipe = story.read_story(made.run).recipe
    steps = range(recipe.steps)
    wanted = [recipe.lr * recipe.lr_at(step) for step in steps]
    assert np.allclose(rates["all other parts"], wanted)
    assert np.allclose(rates["backbone"], [0.5 * rate for rate in wanted])


def test_many_classes_become_rows_of_cells():
    scores = {f"class {n}": n / 100 for n in range(40)}
    record = [{"step": s, "AP": 0.2, "per_class": scores} for s in (10, 20)]
    (panel,) = [p for p in curves.panels(story.Story("x", None, {}, {0: record}))
                if p.title == "AP by class"]  # fmt: skip
    assert panel.rows == 3
    ax = Figure().subplots()
    panel.draw(ax)
    cells = ax.images[0].get_array()
    assert cells.shape == (40, 2) and cells[7, 1] == 0.07


def test_kept_weights_are_chosen_evenly_with_first_and_last():
    assert story.evenly(list(range(27)), 4) == [0, 9, 17, 26]
    assert story.evenly([1, 2], 4) == [1, 2]


# --- files and faults ----------------------------------------------------------------


@pytest.mark.parametrize("ending", ["html", "png"])
def test_what_is_no_report_is_never_replaced(made, tmp_path, ending, capsys):
    file = tmp_path / f"mine.{ending}"
    file.write_text("a text of my own")
    out = str(tmp_path / "mine.html")
    assert main(["report", str(made.run), "--out", out, "--pictures", "0"]) == 2
    assert f"{file} is there already and no report" in capsys.readouterr().err
    assert file.read_text() == "a text of my own"
    assert os.listdir(tmp_path) == [file.name]


def test_a_report_replaces_an_older_one(tmp_path):
    """From a record alone: that is quickest."""
    told, out = tmp_path / "record.jsonl", tmp_path / "one.html"
    told.write_text(json.dumps(lines((1, 3.0))[0]) + "\n")
    for _ in range(2):
        assert report.write(told, out, pictures=0)[0] == out
    assert sorted(os.listdir(tmp_path)) == ["one.html", "one.png", "record.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["no-such-run"], "no 'no-such-run' in the zoo"),
        (["detr-tiny", "--out", "page.pdf"], "name it page.html"),
        (["detr-tiny", "--pictures", "-1"], "at least 0"),
    ],
)
def test_faults_are_one_line(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        status = main(["report", *arguments])
    except SystemExit as end:
        status = end.code
    error = capsys.readouterr().err
    assert status == 2 and said in error and error.count("\n") == 1
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("progress", [True, False])
def test_the_progress_bar_names_the_command_once(tmp_path, progress, capsys):
    fit(tmp_path / "a run", progress=progress)
    command = shlex.join(["detr-steps", "report", str(tmp_path / "a run")])
    assert capsys.readouterr().err.count(command) == progress


def test_a_model_without_detections_has_no_pictures(made):
    told = story.read_story("shapes-backbone")
    with pytest.raises(ValueError, match="finds no objects"):
        pictures.gallery(told, 1, 0.5)


@pytest.mark.browser
def test_it_is_legible_on_a_phone_in_both_themes(made, browser):
    ground = {}
    for scheme in ("light", "dark"):
        size = {"width": 390, "height": 844}
        context = browser.new_context(viewport=size, color_scheme=scheme)
        tab = context.new_page()
        tab.goto(made.files[0].as_uri())
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        heights = tab.evaluate(
            "[...document.querySelectorAll('.plots text')].map("
            "t => parseFloat(getComputedStyle(t).fontSize) * t.getCTM().a)"
        )
        assert heights and min(heights) > 8.5
        ground[scheme] = tab.evaluate(
            "[getComputedStyle(document.body).backgroundColor,"
            " getComputedStyle(document.querySelector('.plots text')).fill]"
        )
        context.close()
    assert ground["light"][0] != ground["dark"][0]
    assert ground["light"][1] != ground["dark"][1]
