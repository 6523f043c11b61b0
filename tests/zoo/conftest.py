"""A zoo that a test may spoil."""

import shutil

import pytest

from detr_steps import zoo


@pytest.fixture
def own_zoo(tmp_path, monkeypatch):
    """Holds a copy of `shapes-backbone`; commands that a test starts use it as well."""
    place = tmp_path / "own-zoo"
    shutil.copytree(zoo.folder() / "shapes-backbone", place / "shapes-backbone")
    monkeypatch.setenv(zoo.VARIABLE, str(place))
    return place
