# @title Setup (Colab or local): safe to re-run
import importlib.util
import os
import subprocess
import sys

REPO, TAG = "OWNER/detr_steps", "main"  # stamped by: course.py publish
if importlib.util.find_spec("detr_steps") is None:
    if "google.colab" not in sys.modules:
        raise ImportError("Run `python3 course.py lab` in the repository's folder.")
    folder, url = "/content/course", f"https://github.com/{REPO}"
    if not os.path.isdir(folder):
        clone = ["git", "clone", "-q", "--depth", "1", "--branch", TAG, url, folder]
        subprocess.run(clone, check=True)
    light = ["ninja", "pycocotools", "safetensors"]  # torch and numpy stay Colab's own
    light = [name for name in light if importlib.util.find_spec(name) is None]
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps"]
    subprocess.run([*pip, *light, folder], check=True)
    importlib.invalidate_caches()

from detr_steps import notebook

env = notebook.check(chapter=0)
