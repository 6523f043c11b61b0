"""Segments to hover over: they are the library's, and so are PQ and the stages."""

import base64

import numpy as np
import pytest
import sample_figures as figures
import torch
from pages import TWO_FRAMES, live_figures, read
from small import small_panoptic
from torch.nn import functional

from detr_steps import ImageBatch, viz
from detr_steps.data.panoptic_scenes import PanopticScenes
from detr_steps.evaluation.panoptic import panoptic_pair
from detr_steps.evaluation.panoptic_quality import PanopticPair, panoptic_quality
from detr_steps.images import normalise
from detr_steps.viz.chapters.segment_maps import borders, classes_of
from detr_steps.viz.engine import still
from detr_steps.viz.engine.readout import State
from detr_steps.viz.engine.segments_poster import fate_of, shares_of
from detr_steps.viz.models import segments as module

SCENES = PanopticScenes("val", size=64)


def spread_out(seed: int = 0, **changes):
    """A small model whose queries differ, in their scores too."""
    model = small_panoptic(seed, **({"classes": 10, "things": 6} | changes)).eval()
    with torch.no_grad():
        model.class_head.weight *= 12
        model.queries.weight *= 4
    return model


@pytest.fixture(scope="module")
def drawn():
    return SCENES.draw([3, 5])


@pytest.fixture(scope="module")
def model():
    return spread_out()


@pytest.fixture(scope="module")
def figure(model, drawn):
    return viz.segments(model, drawn, image=1, threshold=0.2)


def answered(model, drawn, least: float):
    """The library's answer for the second picture, seen alone: bit for bit the same."""
    single = ImageBatch.from_pixels(drawn.images.pixels[1:])
    return model.panoptic(single, [(64, 64)], threshold=least)[0]


def test_at_every_threshold_owners_are_the_librarys_segments(model, drawn, figure):
    counts = set()
    for owner, least in zip(figure.arrays["owner"], module.THRESHOLDS):
        answer = answered(model, drawn, least)
        pairs = np.unique(np.stack([owner.ravel(), answer.ids.numpy().ravel()]), axis=1)
        # one query for each segment, one segment for each query, void is void
        assert len(pairs[0]) == len(set(pairs[0])) == len(set(pairs[1]))
        known = {segment.id: segment.label for segment in answer.segments}
        for query, number in pairs.T:
            assert (query == 0) == (number == 0)
            if number:
                assert figure.arrays["labels"][0, query - 1] == known[number]
        counts.add(len(known))
    assert len(counts) > 2 and 0 in counts  # thresholds matter in this picture


def test_the_curve_is_the_pictures_quality(model, drawn, figure):
    for (x, y), least in zip(figure.arrays["curve"].T, module.THRESHOLDS):
        answer = answered(model, drawn, least)
        pair = panoptic_pair(answer, drawn.targets[1], "it")
        wanted = panoptic_quality([pair], range(6))["all"]["pq"]
        assert x == pytest.approx(least) and y == pytest.approx(wanted, abs=1e-6)


def test_its_own_answer_as_the_truth_is_perfect(model, drawn):
    answer = answered(model, drawn, 0.2)
    ids = [segment.id for segment in answer.segments]
    target = {"labels": torch.tensor([segment.label for segment in answer.segments])}
    target["masks"] = answer.ids == torch.tensor(ids)[:, None, None]
    target |= {"boxes": torch.full((len(ids), 4), 0.5)}
    single = ImageBatch.from_pixels(drawn.images.pixels[1:])
    figure = viz.segments(model, single, targets=[target], threshold=0.2)
    at = module.THRESHOLDS.index(0.2)
    assert figure.arrays["curve"][1, at] == 1 and figure.arrays["curve"][1].min() < 0.9
    owner, overlap = (figure.arrays[name][at] for name in ("owner", "overlap"))
    assert (overlap[np.unique(owner[owner > 0]) - 1] == 1).all()
    assert "PQ of this picture is 1.00" in figure.summary


def test_overlap_is_with_the_best_true_segment_of_the_class():
    owner = np.array([[1, 1, 1, 2, 0, 0], [1, 1, 1, 2, 3, 3]])
    true = np.array([[1, 1, 0, 2, 2, 2], [1, 1, 0, 4, 3, 3]])
    truth = {1: (0, False), 2: (5, False), 3: (7, True), 4: (5, False)}
    pair = PanopticPair(owner, {}, true, truth)
    found = module.best_overlap(owner, pair, torch.tensor([0, 5, 7, 0]))
    # void leaves the union; the better of two; a crowd is no segment; no pixel
    assert found.tolist() == [1.0, 0.5, 0.0, 0.0]


def test_stages_are_the_heads_own(model, drawn, figure):
    single = ImageBatch(drawn.images.pixels[1:], drawn.images.padding[1:], False)
    with torch.no_grad():
        output = model(single)
        head, source = model.mask_head, output.masks
        every = torch.arange(5)
        x = torch.cat((source.coarse.expand(5, -1, -1, -1), 512 * source.maps[0]), 1)
        x = head.blocks[1](head.blocks[0](x))
        stages = [x]
        for adapter, block, fine in zip(
            head.adapters, head.blocks[2:], source.features
        ):
            x = functional.interpolate(x, size=fine.shape[-2:])
            x = block(x + adapter(fine))
            stages.append(x)
        masks = model.masks(output, torch.zeros_like(every), every).sigmoid()
    size = masks.shape[-2:]
    shown = figure.arrays["stages"]
    assert figure.notes["stages"] == ["stride 16", "stride 8", "stride 4", "mask"]
    for number, stage in enumerate(stages):
        own = ((stage - stage.mean(0)) ** 2).mean(1).sqrt()
        own = functional.interpolate(own[None], size=size)[0]
        own = 255 * own / own.amax((1, 2), keepdim=True)
        assert np.abs(shown[:, number].astype(float) - own.numpy()).max() < 1
    masks = 255 * masks / masks.amax((1, 2), keepdim=True)
    assert np.abs(shown[:, 3].astype(float) - masks.numpy()).max() < 1
    maps = 255 * source.maps[0] / source.maps[0].amax((-2, -1), keepdim=True)
    assert np.abs(figure.arrays["maps"].astype(float) - maps.numpy()).max() < 1


def test_the_model_is_left_as_it_was(drawn):
    model = spread_out().train()
    viz.segments(model, drawn)
    assert model.training and not any(b._forward_hooks for b in model.mask_head.blocks)


def test_without_targets_there_is_no_truth(model, drawn):
    figure = viz.segments(model, drawn.images, query=2)
    assert "true" not in figure.arrays and "curve" not in figure.arrays
    assert figure.notes["start"]["item"] == 2 and "PQ" not in figure.summary
    assert figure.notes["names"][9] == "class 9"


def test_padding_is_cut_off_and_heads_without_maps_or_climb_are_drawn(drawn):
    wide = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    batch = ImageBatch.from_list([normalise(wide), normalise(drawn.rgb[0])])
    for head in ({"inputs": "features"}, {"finer": 0}):
        config = small_panoptic().config.mask_head
        model = spread_out(mask_head=type(config)(**(vars(config) | head)))
        figure = viz.segments(model, batch, image=1)
        assert figure.arrays["owner"].shape[1:] == (64, 64)
        assert figure.picture.shape[:2] == (64, 64)
        assert figure.poster() and ("maps" in figure.arrays) == ("finer" in head)
    assert figure.notes["stages"] == ["stride 16", "mask"]


def test_of_many_queries_the_surest_are_shown_and_keep_their_numbers(drawn):
    model = spread_out(queries=60)
    figure = viz.segments(model, drawn, query=59)
    items = figure.notes["items"]
    assert len(items) == 40 and items[figure.notes["start"]["item"]] == 59
    assert figure.arrays["maps"].shape[0] == figure.arrays["scores"].shape[1] == 40
    assert figure.arrays["owner"].max() <= 40


def test_a_large_picture_stays_small(model):
    rgb = torch.rand(3, 300, 420, generator=torch.Generator().manual_seed(0))
    figure = viz.segments(model, ImageBatch.from_list([normalise(rgb)]))
    _, h, w = figure.arrays["owner"].shape
    assert h * w <= module.MOST_PIXELS and abs(w / h - 1.4) < 0.02


@pytest.mark.parametrize(
    ("given", "says"), [({"image": 2}, "0 to 1"), ({"query": 5}, "0 to 4")]
)
def test_what_is_not_there_is_named(model, drawn, given, says):
    with pytest.raises(ValueError, match=says):
        viz.segments(model, drawn, **given)


def test_the_summary_says_who_owns_pixels(figure):
    owner = figure.arrays["owner"][figure.notes["start"]["frame"]]
    count = len(set(owner.ravel().tolist()) - {0})
    assert f"above 0.2, {count} own a segment" in figure.summary
    assert "PQ of this picture is" in figure.summary


def test_each_maps_share_of_the_querys_weight_is_told(model, drawn, figure):
    with torch.no_grad():
        maps = model(ImageBatch.from_pixels(drawn.images.pixels[1:])).masks.maps[0]
    shares = figure.arrays["shares"].astype(float)  # joint softmax: they add up to 1
    assert np.abs(shares - maps.sum((-2, -1)).numpy()).max() < 1e-3
    assert np.abs(shares.sum(1) - 1).max() < 2e-3 and np.ptp(shares) > 0.01
    said = shares_of(State(figure, item=2))
    assert [int(text.removesuffix(" %")) for text in said] == pytest.approx(
        100 * shares[2], abs=0.5
    )
    figure.arrays["shares"][:] = 0.125  # exactly between: up, as in the browser
    assert shares_of(State(figure, item=2))[0] == "13 %"
    figure.arrays["shares"][:] = shares


def test_the_curve_says_from_where_to_where_it_goes():
    assert figures.segments().notes["curve"]["reach"] == [0.09, 0.9]


def test_fates():
    figure = figures.segments()
    said = [fate_of(State(figure, 3, item)) for item in range(4)]
    assert said == [
        "4.7 % of the pixels: a hit, IoU 0.75",
        "not kept",
        "4.2 % of the pixels: a hit, IoU 1.00",
        "83.3 % of the pixels: a false alarm, IoU 0.40",
    ]


def test_a_still_map_has_borders_between_segments_only():
    ids = np.array([[1, 1, 2], [1, 1, 2]])
    assert borders(ids) == [[(2, 0), (2, 1)], [(2, 1), (2, 2)]]
    assert borders(np.array([[1], [0]])) == [[(0, 1), (1, 1)]]


def test_seams_are_borders_inside_a_class():
    ids = np.array([[1, 2, 3]])
    kinds = classes_of(ids, {1: 5, 2: 5, 3: 0})
    assert kinds.tolist() == [[5, 5, 0]]
    assert borders(ids, kinds) == [[(1, 0), (1, 1)]]
    assert classes_of(np.array([[0, 1]]), {1: 5}).tolist() == [[-1, 5]]


def test_segments_of_one_class_differ_in_shade_and_meet_in_a_red_seam():
    ids = torch.tensor([[1, 2, 3]])
    figure, ax = viz_axes()
    text = {1: "query 7", 2: "query 9", 3: "query 2"}
    rgb = torch.full((3, 1, 3), 0.5)
    viz.segment_map(ax, rgb, ids, {1: 0, 2: 0, 3: 1}, 6, text)
    first, second, _ = ax.images[0].get_array()[0]
    assert np.abs(first - second).max() > 0.02
    white, red = ax.collections
    assert len(white.get_segments()) == 2
    assert [line.tolist() for line in red.get_segments()] == [[[1, 0], [1, 1]]]
    assert not ax.texts  # too small for a name
    ids = ids.repeat_interleave(10, 0).repeat_interleave(10, 1)
    big = rgb.repeat_interleave(10, 1).repeat_interleave(10, 2)
    viz.segment_map(ax, big, ids, {1: 0, 2: 0, 3: 1}, 6, text)
    assert [each.get_text() for each in ax.texts] == list(text.values())


def test_a_still_map_tints_things_more_than_stuff_and_blackens_void():
    ids = torch.tensor([[1, 2], [0, 2]])
    figure, ax = viz_axes()
    viz.segment_map(ax, torch.full((3, 2, 2), 0.5), ids, {1: 0, 2: 7}, 6, title="it")
    shown = ax.images[0].get_array()
    assert np.allclose(shown[1, 0], 0)
    far = np.abs(shown - 0.5).max(-1)
    assert far[0, 0] > far[0, 1] > 0 and ax.get_title() == "it"


def test_names_stand_well_inside_and_small_segments_have_none():
    ids = torch.ones(40, 40, dtype=torch.int64)
    ids[4:35, 20:39], ids[0, 0:5] = 2, 3
    figure, ax = viz_axes()
    names = ["disc", "sky", "speck"]
    rgb = torch.zeros(3, 40, 40)
    viz.segment_map(ax, rgb, ids, {1: 1, 2: 0, 3: 2}, 1, names)
    places = {text.get_text(): text.get_position() for text in ax.texts}
    assert set(places) == {"disc", "sky"}
    x, y = places["disc"]
    assert 27 <= x <= 31 and 12 <= y <= 26 and ids[int(places["sky"][1]), 9] == 1
    assert places["sky"][0] < 19


def viz_axes():
    import matplotlib.pyplot as plt

    return plt.subplots()


# --- in a browser --------------------------------------------------------------------

STATE, SET = "() => ({ ...detrFigure.state() })", "x => detrFigure.set(x)"
READ_CANVAS = """() => {
  const root = document.getElementById("figure").shadowRoot;
  const canvas = root.querySelector(".stages .picture"), { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  return [height, width, btoa(String.fromCharCode(...data))];
}"""

INKED = """() => {
  const root = document.getElementById("figure").shadowRoot;
  const canvas = root.querySelector(".stages .overlay"), { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  return data.filter((value, i) => i % 4 === 3 && value > 0).length;
}"""


@pytest.fixture
def opened(page, tmp_path):
    """The sample as a page: its figure, and the frame that it lives in."""
    figure = figures.segments()
    figure.save_html(tmp_path / "segments.html")
    page.goto((tmp_path / "segments.html").as_uri())
    (frame,) = live_figures(page)
    return figure, frame


def test_the_canvas_is_the_reference(opened):
    figure, frame = opened
    for at, item in ((0, 0), (3, 2), (9, 3)):
        frame.evaluate(SET, {"frame": at, "item": item})
        frame.evaluate(TWO_FRAMES)
        height, width, text = frame.evaluate(READ_CANVAS)
        shown = np.frombuffer(base64.b64decode(text), np.uint8)
        shown = shown.reshape(height, width, 4)[..., :3].astype(int)
        wanted = still.tinted(State(figure, at, item)).astype(int)
        assert np.abs(shown - wanted).max() <= 2


def test_pointer_and_keys_find_segments(page, opened):
    figure, frame = opened
    box = frame.locator(".stages .picture").bounding_box()

    def move(x: float, y: float) -> int:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        frame.evaluate(TWO_FRAMES)
        return frame.evaluate(STATE)["item"]

    assert move(0.1, 0.7) == 2 and move(0.9, 0.9) == 3
    said = [line.strip() for line in frame.locator(".words p").all_inner_texts()]
    assert said[:3] == ["query 3", "sky 0.45", fate_of(State(figure, 3, 3))]
    frame.locator(".card").focus()
    page.keyboard.press("]")  # 0.4: the sky stays; then it leaves
    page.keyboard.press("]")
    assert "not kept" in read(frame)
    assert move(0.1, 0.7) == 2 and move(0.9, 0.9) == 2  # void changes nothing
    page.keyboard.press("h")
    shares = shares_of(State(figure, 5, 2))
    assert f"shown: map 1 {shares[0]}" in read(frame)
    assert frame.locator(".heads em").all_inner_texts() == [*shares, *4 * [""]]
    before = frame.evaluate(INKED)
    page.keyboard.press("t")
    frame.evaluate(TWO_FRAMES)
    assert frame.evaluate(STATE)["truth"]
    assert frame.evaluate(INKED) > before + 1000  # borders of the true segments
    frame.locator(".heads button").last.click()
    frame.evaluate(TWO_FRAMES)
    assert frame.evaluate(STATE)["head"] == 11 and "shown: mask" in read(frame)
