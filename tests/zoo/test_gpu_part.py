"""`benchmarks/gpu.sh --part zoo`, run without a GPU."""

import json
import zipfile

from benchmarks.gpu import __main__ as script
from detr_steps import zoo
from detr_steps.cli import main
from detr_steps.files import write_json


def test_a_dry_run_trains_and_packs(tmp_path, capsys, monkeypatch):
    before = zoo.recipes()
    words = ["--dry", "--part", "zoo", "--out", str(tmp_path)]
    script.main([*words, "--minutes", "5"])
    out = capsys.readouterr().out
    assert "dry seed 0: done" in out and "zoo-records.zip: 1 runs" in out
    with zipfile.ZipFile(tmp_path / "zoo-records.zip") as packed:
        description = json.loads(packed.read("dry-seed0/recipe.json"))
        record = packed.read("dry-seed0/record.jsonl").decode()
    assert [json.loads(line)["step"] for line in record.splitlines()] == [1, 2]
    assert zoo.recipes() == before  # its zoo was another
    write_json(tmp_path / "zoo" / "dry" / "recipe.json", description)
    monkeypatch.setenv(zoo.VARIABLE, str(tmp_path / "zoo"))
    archive = str(tmp_path / "zoo-runs.zip")
    assert main(["zoo", "import", archive, "--runs", str(tmp_path / "runs")]) == 0
    assert zoo.record("dry")[-1]["step"] == 2


def test_without_minutes_it_leaves_all_as_it_is(tmp_path, capsys):
    words = ["--dry", "--part", "zoo", "--out", str(tmp_path), "--minutes", "0"]
    script.main(words)
    assert "no minutes are left" in capsys.readouterr().out
    assert not list(tmp_path.glob("*.zip"))


def test_it_is_run_only_when_named():
    assert "zoo" not in script.parse([]).part
    assert script.parse(["--part", "check", "zoo"]).part == ["check", "zoo"]
