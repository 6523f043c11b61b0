"""Maps of one image: the model's own numbers, without the padding."""

import pytest
import torch
from small import small_detr

from detr_steps import ImageBatch
from detr_steps.analysis import attention as seeing
from detr_steps.data.scenes import Scenes
from detr_steps.nn.trace import AttentionMaps, SamplingPoints, stack_maps
from detr_steps.systems.output import Trace


@pytest.fixture(scope="module")
def model():
    return small_detr(dropout=0.5).eval()


@pytest.fixture(scope="module")
def batch():
    """Two images; the second is padded to the first's size."""
    chance = torch.Generator().manual_seed(0)
    sizes = (64, 72), (33, 50)
    return ImageBatch.from_list([torch.randn(3, *s, generator=chance) for s in sizes])


def test_a_model_and_its_output_show_the_same(model, batch):
    with torch.no_grad():
        output = model(batch, trace=True)
    for image in range(2):
        asked, given = (seeing.run_with_trace(s, batch, image) for s in (model, output))
        assert torch.allclose(asked.logits, given.logits, atol=1e-5)
        for name in ("encoder", "decoder_self", "decoder_cross"):
            pair = (stack_maps(getattr(x.trace, name)) for x in (asked, given))
            assert torch.allclose(*pair, atol=1e-6), name
        assert torch.equal(given.boxes[:, 0], output.boxes[:, image])


def test_a_model_in_training_is_asked_without_dropout_and_left_in_training(batch):
    model = small_detr(dropout=0.5)
    model.train()
    model.backbone.eval()  # frozen by hand
    first, again = (seeing.run_with_trace(model, batch, 1) for _ in range(2))
    assert torch.equal(first.logits, again.logits)
    assert not first.logits.requires_grad
    assert model.training and model.decoder[0].training and not model.backbone.training
    with pytest.raises(RuntimeError), seeing.eval_no_grad(model):
        raise RuntimeError("in the middle")
    assert model.training and not model.backbone.training


def test_half_precision_comes_back_as_float32(batch):
    model = small_detr().to(torch.bfloat16)
    seen = seeing.run_with_trace(model, batch, 0)
    maps = stack_maps(seen.trace.decoder_cross)
    assert seen.logits.dtype == maps.dtype == torch.float32
    sums = maps.sum(-1)
    assert torch.allclose(sums, torch.ones_like(sums), atol=0.02)


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda m, b: (m, b, 2), "image 2 of a batch of 2"),
        (lambda m, b: (m, b, -1), "image -1"),
        (lambda m, b: (m(b), b, 0), "no trace: call model.batch, trace=True"),
        (lambda m, b: (m(b, trace=True), _first(b), 0), "of 2 images, the batch has 1"),
    ],
)
def test_faults_are_named(model, batch, spoil, fault):
    with pytest.raises(ValueError, match=fault):
        seeing.run_with_trace(*spoil(model, batch))


def _first(batch):
    return ImageBatch(batch.pixels[:1], batch.padding[:1], batch.padded)


def test_only_models_and_outputs_can_be_asked(batch):
    with pytest.raises(TypeError, match="got Tensor"):
        seeing.run_with_trace(torch.zeros(3), batch)


def test_padding_is_cut_from_maps_and_nothing_else(model, batch):
    seen = seeing.run_with_trace(model, batch, 1)
    assert seen.trace.sizes[0] == (8, 9)  # 64 x 72 pixels at stride 8
    real = seeing.extent(batch, 1, seen.trace.sizes[0])
    assert (real.height, real.width, real.rows, real.columns) == (33, 50, 5, 7)
    assert real.cover == (56 / 50, 40 / 33)  # the last cells stick out
    maps = seeing.decoder_maps(seen, real)
    assert maps.shape == (3, 5, 4, 5, 7)
    sums = maps.sum((-2, -1))  # whatever was cut weighed nothing
    assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)
    cross = stack_maps(seen.trace.decoder_cross)  # [Y, 1, M, Q, S]
    assert maps[2, 4, 3, 1, 6] == cross[2, 0, 3, 4, 1 * 9 + 6]


def test_a_cell_asks_for_itself(model, batch):
    seen = seeing.run_with_trace(model, batch, 1)
    real = seeing.extent(batch, 1, seen.trace.sizes[0])
    maps = seeing.encoder_maps(seen, real)  # [Ye, S, M, h, w]
    assert maps.shape == (2, 35, 4, 5, 7)
    asking, read = (2, 3), (4, 1)
    cells = [row * 9 + column for row, column in (asking, read)]
    wanted = seen.trace.encoder[1].weights[0, 2, cells[0], cells[1]]
    assert maps[1, 2 * 7 + 3, 2, 4, 1] == wanted


def test_without_padding_all_is_real(model):
    images = Scenes("val", size=64).draw([0, 1]).images
    real = seeing.extent(images, 1, (8, 8))
    assert real == seeing.Extent(64, 64, 8, 8, (1.0, 1.0))


def test_a_model_without_encoder_has_no_such_maps(batch):
    seen = seeing.run_with_trace(small_detr(encoder_layers=0), batch, 0)
    with pytest.raises(ValueError, match="no encoder layers"):
        seeing.encoder_maps(seen, seeing.extent(batch, 0, seen.trace.sizes[0]))


@pytest.mark.parametrize(
    ("pixels", "cells", "strides"),
    [
        ((800, 1066), (25, 34), (32, 32)),
        ((128, 128), (8, 8), (16, 16)),
        ((224, 322), (16, 23), (14, 14)),  # patches of 14 pixels: no power of two
    ],
)
def test_strides_are_found(pixels, cells, strides):
    assert seeing.strides(pixels, cells) == strides


def test_packing_loses_less_than_half_a_step():
    maps = torch.rand(3, 2, 5, 7, generator=torch.Generator().manual_seed(1)) ** 8
    packed = seeing.pack(maps)
    assert packed.maps.dtype == torch.uint8
    assert packed.maps.amax((-2, -1)).eq(255).all()
    error = (seeing.unpack(packed) - maps).abs()
    assert (error <= maps.amax((-2, -1), keepdim=True) / 509).all()
    again = seeing.pack(seeing.unpack(packed))
    assert torch.equal(again.maps, packed.maps)
    assert torch.equal(packed.spread, seeing.effective_cells(maps.mean(1)))
    assert torch.equal(packed.spread_heads, seeing.effective_cells(maps))


def test_packing_minds_what_is_no_weight():
    assert seeing.pack(torch.zeros(1, 2, 2)).maps.sum() == 0
    for wrong in (float("nan"), float("inf"), -0.1):
        with pytest.raises(ValueError, match="after the softmax"):
            seeing.pack(torch.tensor([[[0.5, wrong]]]))


def test_density_is_the_transpose_of_bilinear_sampling():
    """Reading a map at the points is the product of the map and their density."""
    chance = torch.Generator().manual_seed(2)
    locations = (
        torch.rand(1, 3, 2, 2, 4, 2, generator=chance) * 1.2 - 0.1
    )  # some outside
    weights = torch.rand(1, 3, 2, 2, 4, generator=chance)
    dropped = seeing.density(SamplingPoints(locations, weights), (5, 7))
    assert dropped.shape == (1, 3, 2, 5, 7)
    values = torch.randn(5, 7, generator=chance)
    read = torch.nn.functional.grid_sample(
        values[None, None], 2 * locations.reshape(1, 1, -1, 2) - 1, align_corners=False
    ).view(weights.shape)
    expected = (read * weights).sum((-1, -2))
    assert torch.allclose((dropped * values).sum((-1, -2)), expected, atol=1e-5)


def test_effective_cells_are_counted():
    maps = torch.zeros(4, 3, 5)
    maps[0, 1, 1] = 0.3  # one cell
    maps[1] = 1 / 15  # all of them
    maps[2, 0, :2] = 0.5  # two
    maps[3, 2, :3] = torch.tensor([0.9, 0.05, 0.05])  # little more than one
    counts = seeing.effective_cells(maps)
    assert counts[:3].tolist() == pytest.approx([1, 15, 2], rel=1e-5)
    assert 1 < counts[3] < 2


def test_matches_are_turned_round():
    matched = torch.tensor([[3, 0, -1], [1, -1, -1]])  # query of each object
    assert seeing.by_query(matched, 4).tolist() == [[1, -1, -1, 0], [-1, 0, -1, -1]]
    assert seeing.by_query(matched[:, :0], 2).tolist() == [[-1, -1], [-1, -1]]


def test_crowds_are_no_objects():
    target = {
        "boxes": torch.rand(3, 4),
        "labels": torch.arange(3),
        "iscrowd": torch.tensor([False, True, False]),
    }
    assert seeing.without_crowds(target)["labels"].tolist() == [0, 2]
    assert torch.equal(seeing.without_crowds(target)["boxes"], target["boxes"][::2])
    del target["iscrowd"]
    assert len(seeing.without_crowds(target)["boxes"]) == 3


COCO = ((100, 134), (50, 67), (25, 34), (13, 17))


def test_points_are_dropped_on_few_cells():
    trace = Trace((), (), (), (), None, COCO, None, None)
    assert seeing.map_size(trace) == (25, 34)
    assert seeing.map_size(trace._replace(sizes=((16, 16), (8, 8)))) == (16, 16)
    assert seeing.map_size(trace._replace(sizes=((90, 90),))) == (90, 90)
    dense = trace._replace(decoder_cross=(AttentionMaps(torch.rand(1, 1, 1, 13_400)),))
    assert seeing.map_size(dense) == (100, 134)
