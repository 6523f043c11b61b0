"""Settings of a run: what cannot be is refused, with name, value and what can."""

import pytest

from detr_steps.training import Recipe


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"steps": 0}, "steps 0: at least 1"),
        ({"steps": 2.5}, "steps 2.5: give a whole number"),
        ({"steps": "10"}, "steps '10': give a whole number"),
        ({"steps": True}, "steps True: give a whole number"),
        ({"batch": -4}, "batch -4: at least 1"),
        ({"lr": 0}, "lr 0: nothing would be learned"),
        ({"lr": -1e-4}, "lr -0.0001: at least 0"),
        ({"lr": float("nan")}, "lr nan"),
        ({"lr": float("inf")}, "lr inf"),
        ({"evaluate_every": 0}, "evaluate_every 0: at least 1"),
        ({"evaluate_images": 0}, "evaluate_images 0: at least 1"),
        ({"patience": -1}, "patience -1: at least 0"),
        ({"save_every": 0}, "save_every 0"),
        ({"log_every": 0}, "log_every 0"),
        ({"warmup": -1}, "warmup -1"),
        ({"clip": -0.1}, "clip -0.1"),
        ({"ema": 1.0}, "ema 1.0: a decay below 1"),
        ({"drops": [10, -1]}, "drops -1"),
        ({"keep": ["last"]}, "keep 'last'"),
        ({"precision": "fp8"}, "auto, float32 or bfloat16"),
    ],
)
def test_impossible_settings_are_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        Recipe(**({"steps": 10} | changes))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": 5, "stepz": 5}, "a.json: unknown setting stepz .* steps, batch"),
        ({"batch": 5}, "a.json: its recipe has no steps"),
        ({"steps": 0}, "a.json: steps 0: at least 1"),
        ({"steps": 5, "drops": 3}, "a.json: "),
    ],
)
def test_the_file_of_a_bad_recipe_is_named(settings, said):
    with pytest.raises(ValueError, match=said):
        Recipe.from_dict(settings, "a.json")
