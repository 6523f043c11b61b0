"""The model against sums done by hand: 2 images, 8 heads of 32, 4 points, 4 levels."""

import dataclasses

import pytest

from detr_steps.cuda_lab import roofline
from detr_steps.cuda_lab.roofline import A100, DECODER, ENCODER, H200, T4

HALF = dataclasses.replace(ENCODER, bytes=2)


def test_samples_and_tokens():
    assert ENCODER.tokens == 17821
    assert ENCODER.samples == 4_562_176
    assert DECODER.samples == 76_800


@pytest.mark.parametrize(
    ("case", "direction", "megabytes"),
    [
        (ENCODER, "forward", 127.7),  # 36.5 + 36.5 + 18.2 + 36.5
        (HALF, "forward", 91.2),  # 18.2 + 36.5 + 18.2 + 18.2
        (ENCODER, "backward", 255.5),  # and 36.5 twice, 36.5, 18.2, 36.5
        (DECODER, "forward", 38.0),
        (DECODER, "backward", 112.0),
    ],
)
def test_compulsory_bytes(case, direction, megabytes):
    found = sum(roofline.compulsory(case, direction).values()) / 1e6
    assert found == pytest.approx(megabytes, abs=0.2)


def test_gathered_and_added_bytes():
    assert ENCODER.gathered == pytest.approx(2.336e9, rel=1e-3)
    assert HALF.gathered == ENCODER.gathered / 2
    assert HALF.added == ENCODER.added == ENCODER.gathered


def test_operations():
    assert roofline.operations(ENCODER, "forward") == 2 * 4 * 32 * 4_562_176
    twice = 2 * roofline.operations(ENCODER, "forward")
    assert roofline.operations(ENCODER, "backward") == twice


def test_floors_of_the_encoder_on_an_h200():
    asked = roofline.work(ENCODER, "forward", per_sample=98.1, hits=0.076)
    floors = {name: 1e6 * s for name, s in roofline.floors(H200, asked).items()}
    assert floors["dram"] == pytest.approx(29.7, abs=0.1)
    assert floors["l1"] == pytest.approx(69.8, abs=0.5)  # 2.336e9 / 33.4e12
    assert floors["issue"] == pytest.approx(428, abs=1)
    assert floors["l2"] == pytest.approx(392, abs=2)
    assert max(floors, key=floors.get) == "issue"


def test_floors_of_the_backward_pass():
    asked = roofline.work(ENCODER, "backward", per_sample=28.0)
    floors = {name: 1e6 * s for name, s in roofline.floors(H200, asked).items()}
    assert floors["dram"] == pytest.approx(59.4, abs=0.2)
    assert floors["issue"] == pytest.approx(122, abs=1)
    assert 600 < floors["reductions"] < 1600  # what is assumed lies in the middle
    assert max(floors, key=floors.get) == "reductions"


def test_sums_within_a_block_save_reductions():
    alone = roofline.step_work(ENCODER, "backward", "vectors", 28.0)["reductions"]
    tiled = roofline.step_work(ENCODER, "backward", "sorted", 48.0)["reductions"]
    assert alone / tiled == pytest.approx(7.9)
    fixed = roofline.step_work(ENCODER, "backward", "fixed", 64.0)["reductions"]
    assert fixed == 2 * tiled  # 8 bytes instead of 4
    decoder = roofline.step_work(DECODER, "backward", "sorted", 48.0)
    assert decoder["reductions"] == DECODER.added


def test_forward_reduces_nothing():
    assert "reductions" not in roofline.work(ENCODER, "forward", 10.0)


@pytest.mark.parametrize("card", [H200, A100, T4], ids=lambda card: card.name)
def test_every_number_of_a_card_has_a_source(card):
    numbers = {f.name for f in dataclasses.fields(card)} - {"name", "arch", "sources"}
    assert set(card.sources) == numbers
    assert all(
        card.sources[name].startswith("assumed") for name in ("l2", "reductions")
    )
    assert set(card.rates()) == {"dram", "l2", "l1", "issue", "reductions"}
