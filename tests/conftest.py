"""What all tests share: no windows, and no browser tests without a browser."""

import os
import shutil
from pathlib import Path

import matplotlib
import pytest

# Not through MPLBACKEND: the notebooks' kernels would inherit it and draw nothing.
matplotlib.use("Agg")

NAMES = "chromium", "chromium-browser", "google-chrome", "chrome", "msedge"
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    os.path.expandvars(r"%ProgramFiles%\Google\Chrome\Application\chrome.exe"),
    os.path.expandvars(r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe"),
)


def find_chromium() -> str | None:
    """Path of a Chromium of this machine: $CHROMIUM, the PATH, the usual places."""
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), *PLACES]
    return next((path for path in found if path and Path(path).exists()), None)


@pytest.fixture(scope="session")
def chromium() -> str:
    """For playwright: `p.chromium.launch(executable_path=chromium, ...)`."""
    return find_chromium()


def pytest_collection_modifyitems(items):
    """Tests marked `browser` are skipped, with the reason, where there is none."""
    if find_chromium():
        return
    skip = pytest.mark.skip(reason="no Chromium: install it, or set CHROMIUM to it")
    for item in items:
        if "browser" in item.keywords:
            item.add_marker(skip)
