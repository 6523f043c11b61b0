"""What strict nbval compares of an output, and what it lets differ."""

import re
from pathlib import Path

import numpy as np
from nbval.plugin import get_sanitize_patterns
from small import small_figure

CONFIG = Path(__file__).with_name("nbval_sanitize.cfg")


def compared(text: str) -> str:
    """What is left of an output's text for comparing."""
    for pattern, instead in get_sanitize_patterns(CONFIG.read_text("utf-8")):
        text = re.sub(pattern, instead, text)
    return text


def test_of_an_interactive_figure_the_words_are_compared():
    here, there, other = small_figure(), small_figure(), small_figure()
    there.arrays["maps"] = np.roll(there.arrays["maps"], 1, -1)  # another CPU's
    other.summary = "Five boxes."
    assert here.html() != there.html()
    assert compared(here.html()) == compared(there.html())
    assert compared(here.html()) != compared(other.html())
    assert len(compared(here.html())) < 1000


def test_times_and_places_differ_and_results_do_not():
    first = "AP 0.41 in 1.2 s on cuda:0, /tmp/run-a, 12.3 it/s"
    assert compared(first) == compared("AP 0.41 in 88 s on cpu, /tmp/x/y, 9 it/s")
    assert compared(first) != compared(first.replace("0.41", "0.42"))
