"""Finds a Chromium on this machine: for the browser tests and the book's PDFs."""

import os
import shutil
from pathlib import Path

NAMES = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    *("chrome", "msedge", "microsoft-edge", "microsoft-edge-stable"),
)
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    os.path.expandvars(r"%ProgramFiles%\Google\Chrome\Application\chrome.exe"),
    os.path.expandvars(r"%ProgramFiles(x86)%\Microsoft\Edge\Application\msedge.exe"),
)
NO_CHROMIUM = (
    "no Chromium: install it (Debian, Ubuntu: apt install chromium; macOS, Windows: "
    "Google Chrome), or set CHROMIUM to its path"
)


def find_chromium() -> str | None:
    """Path of a Chromium of this machine: $CHROMIUM, the PATH, the usual places."""
    found = [os.environ.get("CHROMIUM"), *map(shutil.which, NAMES), *PLACES]
    return next((path for path in found if path and Path(path).exists()), None)
