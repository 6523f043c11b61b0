"""The book's page "Your own pictures": each command and the loop run as they stand."""

import re
import shlex

import pytest

from detr_steps import zoo
from detr_steps.cli import main
from tools.book import own_pictures
from tools.notebooks import ROOT

PAGE = ROOT / "book" / "pages" / "own_pictures.md"
TEXT = PAGE.read_text(encoding="utf-8")
# what is shorter here than on the page
SHORTER = {
    "--count 60": "--count 4",
    "--count 24": "--count 2",
    "--steps 150": "--steps 2",
    "--batch 4": "--batch 2",
    "--evaluate-every 50": "--evaluate-every 1",
    "range(150)": "range(2)",
}


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def shorter(text):
    for long, short in SHORTER.items():
        text = text.replace(long, short)
    return text


def test_everything_that_is_shorter_here_is_on_the_page():
    assert [long for long in SHORTER if long not in TEXT] == []


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("own pictures")


def test_every_command_runs(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) >= 9
    for command in commands:
        name, *arguments = shlex.split(shorter(command))
        assert name == "detr-steps"
        if arguments[0] == "train":
            arguments += ["--device", "cpu", "--workers", "0"]
        assert main(arguments) == 0, (command, capsys.readouterr().err)
    assert (place / "runs/mine/report.html").is_file()
    assert (place / "found/000000000000.json").is_file()
    assert (place / "mine.pt").stat().st_size > 1_000_000
    assert zoo.load("runs/mine").config.classes == 6


def test_the_loop_runs_and_starts_from_what_fits(place, monkeypatch):
    """After two steps all weights have moved, and only a little."""
    monkeypatch.chdir(place)
    (loop,) = blocks("python")
    names = {}
    exec(compile(shorter(loop), "own_pictures.md", "exec"), names)
    shipped, model = names["shipped"], names["model"].state_dict()
    assert set(names["fits"]) == set(shipped)  # six classes here: everything fits
    moved = [(model[k] - w).abs().max().item() for k, w in shipped.items()]
    assert 0 < max(moved) < 0.01 and names["loss"].isfinite()


def test_fine_tuning_is_ahead_in_the_record_and_on_the_page():
    curves = zoo.measured("own_pictures")["curves"]
    tuned, alone = curves["fine-tuned"], curves["backbone alone"]
    assert [p["step"] for p in tuned] == [p["step"] for p in alone]
    assert all(a["AP"] > b["AP"] for a, b in zip(tuned, alone))
    made = own_pictures.page(PAGE)
    assert "{{" not in made and "<svg" in made
    assert f"fine-tuned model has {tuned[-1]['AP']:.2f} AP" in made
    assert f"the other {alone[-1]['AP']:.2f}" in made
