"""Still plots: they show what they are given."""

import matplotlib.pyplot as plt
import pytest
import torch

from detr_steps import viz
from detr_steps.data.scenes import Scenes


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def test_a_picture_keeps_its_pixels_and_its_size():
    rgb = torch.rand(3, 20, 30)
    ax = viz.picture(rgb, title="one")
    image = ax.images[0]
    assert torch.allclose(torch.from_numpy(image.get_array()), rgb.permute(1, 2, 0))
    assert image.get_extent() == [0, 30, 20, 0]  # so that boxes are in pixels


def test_boxes_are_drawn_where_they_are():
    ax = viz.picture(torch.zeros(3, 20, 30))
    viz.boxes_on(ax, torch.tensor([[2.0, 3.0, 12.0, 9.0]]), ["disc"])
    frame = ax.patches[0]
    assert (*frame.get_xy(), frame.get_width(), frame.get_height()) == (2, 3, 10, 6)
    assert "disc" in {text.get_text() for text in ax.texts}


def test_a_gallery_hides_empty_panels():
    batch = Scenes("val").draw(range(4))
    figure = viz.gallery(batch.rgb, batch.targets, Scenes().class_names, columns=3)
    shown = [ax.get_visible() for ax in figure.axes]
    assert shown == [True] * 4 + [False] * 2
    drawn = [len(ax.patches) for ax in figure.axes[:4]]
    assert drawn == [len(target["labels"]) for target in batch.targets]


def test_attention_glows_where_the_map_is_largest():
    weights = torch.zeros(4, 4)
    weights[1, 2] = 0.3
    _, ax = plt.subplots()
    viz.attention(ax, torch.rand(3, 8, 8), weights, torch.tensor([0.0, 0, 4, 4]))
    heat = ax.images[1].get_array()
    brightness = heat[..., :3].sum(-1) * heat[..., 3]
    assert brightness.argmax() == 1 * 4 + 2
    viz.attention(ax, torch.rand(3, 8, 8), torch.zeros(4, 4))  # no division by zero


def test_values_of_bars_have_no_sign_at_zero():
    ax = plt.subplots()[1]
    texts = viz.bar_values(ax, ax.bar(range(3), (-0.0004, 0.014, -0.02)), 1, times=100)
    assert [text.get_text() for text in texts] == ["0.0", "1.4", "-2.0"]
    assert [text.get_va() for text in texts] == ["bottom", "bottom", "top"]
    assert [text.xy[0] for text in texts] == [0, 1, 2]


def test_curves_skip_lines_without_the_number():
    _, ax = plt.subplots()
    record = [{"step": 1, "AP": 0.1}, {"step": 2}, {"step": 3, "AP": None}]
    viz.curves(ax, {"run": record})
    assert ax.lines[0].get_xydata().tolist() == [[1, 0.1]]
