"""The two commands: what is checked, what is said, what is written."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import course
from tools import environment, notebooks
from tools.environment import Trouble

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty repository: its own pins, no .venv."""
    (tmp_path / "pins.txt").write_text("pip==26.3\ntorch==2.13.0\n")
    (tmp_path / "pyproject.toml").write_text("[project]\n")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    return tmp_path


# --- which Python ---------------------------------------------------------------


@pytest.mark.parametrize(("version", "word"), [((3, 10), "old"), ((3, 14), "new")])
def test_wrong_python_is_told_what_to_install(monkeypatch, version, word):
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    with pytest.raises(Trouble, match=f"too {word}: .*3.11 to 3.13") as trouble:
        environment.pick_python()
    assert "Install Python 3.13" in str(trouble.value)


def test_wrong_python_takes_a_right_one_from_the_path(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 9, 0))
    monkeypatch.setattr(environment.shutil, "which", lambda name: name)
    found = {"python3.12": (3, 12), "python3.13": None}  # 3.13 is there, but broken
    monkeypatch.setattr(environment, "version_of", lambda c: found.get(c[0]))
    assert environment.pick_python() == ["python3.12"]


def test_version_of_reads_an_interpreter_and_survives_none():
    assert environment.version_of([sys.executable]) == sys.version_info[:2]
    assert environment.version_of(["no-such-python"]) is None


# --- the environment ------------------------------------------------------------


def test_stamp_follows_pins_project_and_place(folder, monkeypatch):
    before = environment.wanted()
    assert environment.wanted() == before
    (folder / "pins.txt").write_text("torch==2.14.0\n")
    assert environment.wanted() != before
    moved = folder / "moved"
    moved.mkdir()
    for name in ("pins.txt", "pyproject.toml"):
        (moved / name).write_text((folder / name).read_text())
    after = environment.wanted()
    monkeypatch.setattr(environment, "ROOT", moved)
    assert environment.wanted() != after


def test_not_ready_without_stamp_when_interrupted_or_when_emptied(folder):
    assert not environment.is_ready()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment.VENV])
    environment.stamp_path().write_text(environment.wanted())
    assert not environment.is_ready()  # stamped, but torch is gone
    packages = next(environment.VENV.glob("[Ll]ib/**/site-packages"))
    for name in environment.PROOF:
        (packages / f"{name}.py").touch()
    assert environment.is_ready()
    environment.unfinished_path().touch()
    assert not environment.is_ready()


def test_a_folder_of_somebody_elses_is_left_alone(folder):
    (folder / ".venv").mkdir()
    (folder / ".venv" / "thesis.txt").write_text("mine")
    with pytest.raises(Trouble, match="not a virtual environment. Delete or rename"):
        environment.make_venv()
    (folder / ".venv" / "pyvenv.cfg").touch()
    with pytest.raises(Trouble, match="is broken and was not made by course.py"):
        environment.make_venv()
    assert (folder / ".venv" / "thesis.txt").read_text() == "mine"


def test_a_broken_one_of_ours_is_made_anew(folder, capsys):
    environment.VENV.mkdir()
    environment.stamp_path().write_text("old")
    (environment.VENV / "leftover").touch()
    environment.make_venv()
    assert environment.version_of([environment.python()]) == sys.version_info[:2]
    assert not (environment.VENV / "leftover").exists()
    assert "anew" in capsys.readouterr().out


def test_too_little_room_is_said_before_anything_is_written(folder, monkeypatch):
    full = environment.shutil.disk_usage(folder)._replace(free=10**9)
    monkeypatch.setattr(environment.shutil, "disk_usage", lambda path: full)
    with pytest.raises(Trouble, match="1.0 GB are free, 3 GB are needed"):
        environment.make_venv()
    assert not environment.VENV.exists()


@pytest.mark.parametrize(
    ("output", "advice"),
    [
        ("NewConnectionError(...) retry\nNo matching distribution found", "network"),
        ("OSError: [Errno 28] No space left on device", "full"),
        ("CERTIFICATE_VERIFY_FAILED, Max retries exceeded", "PIP_CERT"),
        ("ERROR: No matching distribution found for torch==2.13.0", "64-bit"),
        ("PermissionError: [WinError 5] Access is denied", "Close JupyterLab"),
        ("ensurepip is not available", "apt install python3-venv"),
        ("something new", "delete .*venv"),
    ],
)
def test_failures_are_named(output, advice):
    text = environment.diagnose(output)
    assert re.search(advice, text)
    assert output.splitlines()[0] in text


def test_only_the_telling_lines_are_shown():
    noise = "Requirement already satisfied: six\n" * 20
    text = environment.diagnose(noise + "ERROR: " + "x" * 500 + "\n" + noise)
    assert "six" not in text and "ERROR: x" in text
    assert max(map(len, text.splitlines()[1:])) < 170


def test_no_network_ends_with_advice_not_a_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "python", lambda: Path(sys.executable))
    nowhere = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "1"}
    nowhere |= {"PIP_EXTRA_INDEX_URL": "", "PIP_CONFIG_FILE": "/dev/null"}
    for name, value in nowhere.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Trouble, match="index cannot be reached"):
        environment.pip("--target", str(tmp_path), "no-such-package-of-ours==1")


def test_half_installed_packages_are_taken_out(folder):
    packages = environment.VENV / "lib" / "python3.13" / "site-packages"
    for name, files in {"whole": ["whole.py"], "half": ["half.py", "lost.py"]}.items():
        info = packages / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        rows = [f"{file},," for file in [*files, f"{name}/x.pyc"]]
        (info / "RECORD").write_text("\n".join(rows))
        (packages / files[0]).touch()
    (packages / "norecord-1.dist-info").mkdir()
    (packages / "~orch").mkdir()
    environment.mend()
    assert sorted(path.name for path in packages.iterdir()) == [
        "half.py",
        "whole-1.dist-info",
        "whole.py",
    ]


def test_cuda_is_seen_in_a_builds_needs():
    assert environment.needs_cuda({"requires_dist": ["nvidia-cublas==13; x"]})
    assert not environment.needs_cuda({"requires_dist": ["numpy", "sympy>=1.13"]})
    assert not environment.needs_cuda({})


def test_pip_stays_inside_the_environment(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("PIP_USER", "1")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy")
    kept = environment.pip_environment()
    assert "PYTHONPATH" not in kept and "PIP_USER" not in kept
    assert kept["HTTPS_PROXY"] == "http://proxy"


def test_pins_are_read_by_name():
    assert environment.pinned("torch").startswith("torch==")
    assert environment.pinned("pip").startswith("pip==")


# --- commands -------------------------------------------------------------------


def test_options_of_others_pass_through():
    options, rest = course.parse(["lab", "--no-browser", "--port", "9000"])
    assert (options.command, rest) == ("lab", ["--no-browser", "--port", "9000"])
    options, rest = course.parse(["test", "tests/test_boxes.py", "-k", "giou", "-x"])
    assert rest == ["tests/test_boxes.py", "-k", "giou", "-x"]
    with pytest.raises(SystemExit):
        course.parse(["setup", "--port", "1"])


def test_the_book_is_built_inside_the_environment(monkeypatch):
    called = []
    monkeypatch.setattr(course, "ready", lambda: None)
    monkeypatch.setattr(course, "call", lambda *command: called.append(command) or 3)
    assert course.main(["book", "--open", "--out", "site"]) == 3
    assert called == [("-m", "tools.book", "--open", "--out", "site")]
    assert course.main(["book", "--pdf", "02", "05"]) == 3
    assert called[1:] == [("-m", "tools.book", "--pdf", "02", "05")]
    with pytest.raises(SystemExit):
        course.main(["book", "--port", "1"])


def test_everything_is_tested_unless_a_path_is_named():
    command, threads = course.test_command(["-k", "giou"], cores=8)
    assert "tests" in command and command[command.index("-n") + 1] == "2"
    assert threads == 4
    command, threads = course.test_command(["tests/test_course.py::test_x"], cores=8)
    assert "tests" not in command and "-n" not in command and threads == 8
    command, threads = course.test_command(["-n0"], cores=1)
    assert "--dist" not in command and threads == 1


def test_trouble_is_printed_and_fails(monkeypatch, capsys):
    def fail():
        raise Trouble("the disk is full")

    monkeypatch.setattr(course, "ready", fail)
    assert course.main(["test"]) == 1
    assert "the disk is full" in capsys.readouterr().err


# --- chapters -------------------------------------------------------------------


def notebook(*sources: str) -> dict:
    cells = [
        {"cell_type": "code", "id": f"c{i}", "metadata": {}, "source": source,
         "outputs": [], "execution_count": None}
        for i, source in enumerate(sources)
    ]  # fmt: skip
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def save(path: Path, book: dict) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(book))
    return path


def test_chapters_are_found_by_number_and_name(tmp_path):
    path = save(tmp_path / "chapters" / "02_detr.ipynb", notebook())
    for name in ("2", "02", "02_detr", "chapters/02_detr.ipynb"):
        assert notebooks.find(name, tmp_path) == path
    with pytest.raises(FileNotFoundError, match="No chapter '07'.*02_detr"):
        notebooks.find("07", tmp_path)


def test_run_saves_lean_outputs_in_order(tmp_path, capfd):
    book = notebook(
        "import time\nprint('a')\ntime.sleep(0.01)\nprint('b')", "", "1 + 1"
    )
    book["cells"][0]["metadata"] = {"tags": ["x"], "collapsed": False}
    path = save(tmp_path / "02_detr.ipynb", book)
    assert notebooks.run(path, save=True)
    saved = json.loads(path.read_text())
    cells = saved["cells"]
    assert [cell["execution_count"] for cell in cells] == [1, None, 2]
    assert "".join(cells[0]["outputs"][0]["text"]) == "a\nb\n"
    assert cells[2]["outputs"][0]["execution_count"] == 2
    assert cells[0]["metadata"] == {"tags": ["x"]} and cells[0]["id"] == "c0"
    assert saved["metadata"] == notebooks.METADATA
    assert "[ 2/2] 1 + 1" in capfd.readouterr().out


def test_a_failing_cell_leaves_the_chapter_as_it_was(tmp_path, capfd):
    path = save(tmp_path / "02_detr.ipynb", notebook("1 / 0"))
    before = path.read_text()
    assert not notebooks.run(path, save=True)
    assert path.read_text() == before
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_normalise_drops_what_varies():
    book = notebook("show()", "slow()")
    view = {"application/vnd.jupyter.widget-view+json": {"model_id": "1"}}
    book["cells"][0]["outputs"] = [
        {"output_type": "display_data", "data": {"text/plain": "still"} | view}
    ]
    book["cells"][1]["metadata"] = {"tags": ["strip-output"], "execution": {"at": 1}}
    book["cells"][1]["outputs"] = [{"output_type": "stream", "text": "1.2 s"}]
    book["metadata"]["widgets"] = {"state": {}}
    lean = notebooks.normalise(book)
    assert lean["cells"][0]["outputs"][0]["data"] == {"text/plain": "still"}
    assert lean["cells"][1]["outputs"] == []
    assert lean["cells"][1]["metadata"] == {"tags": ["strip-output"]}
    assert lean["metadata"] == notebooks.METADATA


@pytest.fixture
def fork(tmp_path):
    """A repository with one chapter, a README and the set-up cell."""
    book = notebook(notebooks.setup_cell(2), 'REPO, TAG = "mine", "kept"')
    title = {"cell_type": "markdown", "id": "t", "metadata": {}}
    title["source"] = "# DETR\n<!-- colab --><!-- /colab -->\n[a](colab)"
    book["cells"].insert(0, title)
    save(tmp_path / "chapters" / "02_detr.ipynb", book)
    (tmp_path / "README.md").write_text(
        "x <!-- colab 02_detr.ipynb -->old<!-- /colab -->\n"
        "<!-- colab -->?<!-- /colab -->"
    )
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "setup_cell.py").write_text(notebooks.setup_cell(0))
    return tmp_path


def test_publish_stamps_marked_places_once(fork):
    changed = notebooks.publish("ada/detr", "v1.0", fork)
    assert len(changed) == 3
    assert notebooks.publish("ada/detr", "v1.0", fork) == []
    cells = json.loads((fork / "chapters/02_detr.ipynb").read_text())["cells"]
    texts = [notebooks.text_of(cell["source"]) for cell in cells]
    page = "https://colab.research.google.com/github/ada/detr/blob/v1.0/chapters/"
    assert page + "02_detr.ipynb" in texts[0] and texts[0].endswith("[a](colab)")
    assert 'REPO, TAG = "ada/detr", "v1.0"  # stamped' in texts[1]
    assert texts[2] == 'REPO, TAG = "mine", "kept"'
    readme = (fork / "README.md").read_text()
    assert page + "02_detr.ipynb" in readme and "old" not in readme
    assert readme.endswith("<!-- colab -->?<!-- /colab -->")  # names no chapter
    assert "ada/detr" in (fork / "tools/setup_cell.py").read_text()
    notebooks.publish("bob/course", "main", fork)
    assert "ada/detr" not in (fork / "chapters/02_detr.ipynb").read_text()


@pytest.mark.parametrize(
    ("repo", "tag"), [("ada", "v1"), ("a/b/c", "v1"), ("ada/detr", "-x"), ('a"/b', "v")]
)
def test_publish_refuses_what_github_would_not_take(fork, repo, tag):
    with pytest.raises(ValueError, match="--repo is|--tag is"):
        notebooks.publish(repo, tag, fork)
