"""Padded batches: where the padding is, and what is refused."""

import pytest
import torch

from detr_steps import ImageBatch
from detr_steps.images import denormalise, normalise


def test_padding_is_at_the_bottom_and_the_right():
    wide, tall = torch.rand(3, 4, 6), torch.rand(3, 5, 2)
    batch = ImageBatch.from_list([wide, tall])
    assert batch.pixels.shape == (2, 3, 5, 6) and len(batch) == 2
    assert torch.equal(batch.pixels[0, :, :4, :6], wide)
    assert torch.equal(batch.pixels[1, :, :5, :2], tall)
    real = torch.zeros(2, 5, 6, dtype=torch.bool)
    real[0, :4, :6] = True
    real[1, :5, :2] = True
    assert torch.equal(batch.padding, ~real)
    assert (batch.pixels * batch.padding[:, None] == 0).all()


@pytest.mark.parametrize(
    ("sizes", "padded"),
    [([(4, 6), (5, 2)], True), ([(4, 6), (4, 6)], False), ([(3, 3)], False)],
)
def test_padded_is_known_without_asking_the_device(sizes, padded):
    batch = ImageBatch.from_list([torch.rand(3, *size) for size in sizes])
    assert batch.padded is padded is bool(batch.padding.any())
    assert batch.to("cpu").padded is padded


def test_from_pixels_is_from_list_without_padding():
    pixels = torch.rand(2, 3, 4, 6)
    one, other = ImageBatch.from_pixels(pixels), ImageBatch.from_list(list(pixels))
    assert torch.equal(one.pixels, other.pixels)
    assert torch.equal(one.padding, other.padding)
    assert one.padded is other.padded is False


def test_precision_is_kept():
    batch = ImageBatch.from_list([torch.rand(3, 2, 2, dtype=torch.float64)])
    assert batch.pixels.dtype == torch.float64


def test_normalise_and_back():
    rgb = torch.rand(3, 5, 7)
    assert torch.allclose(denormalise(normalise(rgb)), rgb, atol=1e-6)
    gray = normalise(torch.tensor([0.485, 0.456, 0.406])[:, None, None])
    assert torch.allclose(gray, torch.zeros(3, 1, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        ([], ValueError, "empty list"),
        ([[[1.0]]], TypeError, "from_numpy"),
        ([torch.zeros(3, 4, 4, dtype=torch.uint8)], TypeError, "divide by 255"),
        ([torch.zeros(4, 4)], ValueError, r"\[4, 4\], expected \[3, H, W\]"),
        ([torch.zeros(3, 0, 4)], ValueError, r"image 0 has an empty side"),
        ([torch.zeros(3, 4, 4), torch.zeros(1, 4, 4)], ValueError, r"\[1, 3\].*RGB"),
    ],
)
def test_what_is_no_image_is_refused_with_the_cure(images, error, words):
    with pytest.raises(error, match=words):
        ImageBatch.from_list(images)


def test_from_pixels_refuses_as_well():
    with pytest.raises(TypeError, match="divide by 255"):
        ImageBatch.from_pixels(torch.zeros(1, 3, 4, 4, dtype=torch.uint8))
    with pytest.raises(ValueError, match="empty list"):
        ImageBatch.from_pixels(torch.zeros(0, 3, 4, 4))
