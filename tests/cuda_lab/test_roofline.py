"""The model against sums done by hand: 2 images, 8 heads of 32, 4 points, 4 levels."""

import dataclasses

import pytest
import torch

from detr_steps import zoo
from detr_steps.cuda_lab import roofline
from detr_steps.cuda_lab.roofline import A100, DECODER, ENCODER, H200, T4
from detr_steps.ops.sample import four_corners

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
        (DECODER, "forward", 17.2),  # 15.6 of the value's 36.5: what is read
        (DECODER, "backward", 91.1),  # and 36.5 twice: zeroed, written
    ],
)
def test_compulsory_bytes(case, direction, megabytes):
    found = sum(roofline.compulsory(case, direction).values()) / 1e6
    assert found == pytest.approx(megabytes, abs=0.2)


def test_touched_pixels_are_those_that_points_anywhere_read():
    torch.manual_seed(0)
    read = []
    for _ in range(4):
        for h, w in DECODER.sizes:
            places = torch.rand(DECODER.queries * DECODER.points, 2)
            index, share = four_corners(places, (h, w))
            read.append(len(index[share > 0].unique()))
    share = sum(read) / (4 * DECODER.tokens)
    assert DECODER.touched == pytest.approx(share, rel=0.01)
    assert ENCODER.touched == 1
    one = dataclasses.replace(DECODER, queries=1, points=1, sizes=((1, 1),))
    assert one.touched == 1


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


def test_the_smaller_l1_of_a_t4_leaves_more_to_its_l2():
    per_card = [
        roofline.step_work(ENCODER, "forward", "released", 98.0, card=card)["l2"]
        for card in (H200, T4)
    ]
    assert per_card[0] < per_card[1] == pytest.approx(1.19e9, rel=0.01)
    with pytest.raises(KeyError):
        roofline.step_work(ENCODER, "forward", "tiles", 10.0, card=T4)


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


# --- all kernels ----------------------------------------------------------------


def held(steps):
    """What each kernel's floor is."""
    return {name: max(each, key=each.get) for name, each in steps.items()}


def test_what_holds_each_kernel_of_the_encoder():
    found = roofline.step_floors(zoo.measured("kernel_instructions"))
    there, back = found["encoder, forward"], found["encoder, backward"]
    assert held(there) == {
        "released": "issue", "naive": "issue", "points": "l2", "vectors": "l2",
        "tiles": "l2",
    }  # fmt: skip
    assert there["points"]["l2"] == there["vectors"]["l2"] > there["tiles"]["l2"]
    assert there["points"]["issue"] > max(there["tiles"].values())
    assert held(back) == {
        "released": "issue", "naive": "issue", "vectors": "reductions",
        "sorted": "issue",
    }  # fmt: skip


def test_an_if_counts_as_often_as_it_is_taken():
    code = {"sm_90": {"per_sample": 100.0, "at_least": 50.0}}
    ours = {name for names in roofline.STEPS.values() for name in names} - {"released"}
    counted = {way: dict.fromkeys(ours, code) for way in roofline.STEPS}
    counted["official"] = {"forward": code, "backward": {"sm_90": {"per_sample": 100}}}
    back = roofline.step_floors(counted, "gaussian")["encoder, backward"]
    assert back["sorted"]["issue"] / back["released"]["issue"] == pytest.approx(0.72)


def test_times_of_a_card_carry_the_names_of_the_floors():
    row = {"case": "encoder", "direction": "forward", "step": "official",
           "points": "trained", "dtype": "fp32", "us": 500.0}  # fmt: skip
    others = [row | {"case": "decoder"}, row | {"points": "uniform"},
              row | {"dtype": "bf16"}]  # fmt: skip
    found = roofline.step_times([row, *others, row | {"step": "tiles", "us": 90.0}])
    wanted = {"released": 5e-4, "tiles": 9e-5}
    assert found == pytest.approx(
        {("encoder, forward", name): time for name, time in wanted.items()}
    )
