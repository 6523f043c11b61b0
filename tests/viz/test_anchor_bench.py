"""The anchor bench: its numbers are the library's, in NumPy and in the page."""

import copy
import os
from dataclasses import replace

import numpy as np
import pytest
import sample_figures as figures
import torch
from every_system import padded
from pages import TWO_FRAMES, live_figures, read
from small import small_conditional_config, small_dab_config
from torch import nn

from detr_steps import ConditionalDETR, DABDETRConfig, viz
from detr_steps.data.scenes import Scenes
from detr_steps.nn.conditional import Add, Shifted, Unchanged, point_code
from detr_steps.viz.engine import bench, posters
from detr_steps.viz.engine.bench import IDENTITY, TRAINED, UNTRAINED

BATCH, TARGETS = padded()
CONFIG = small_dab_config()
ANCHOR = (0.3, 0.6, 0.15, 0.4)


def build(seed: int = 0, **changes: object) -> nn.Module:
    """A model whose every number counts: no zeros of a fresh start."""
    torch.manual_seed(seed)
    model = replace(CONFIG, **changes).build().eval()
    for value in model.parameters():
        if value.dim() == 1:
            nn.init.normal_(value, 0, 0.2)
    return model


@pytest.fixture(scope="module")
def model():
    return build()


def caught(model, layer: int) -> tuple:
    """What a layer and its cross-attention were given for the second image."""
    seen, decoder = [], model.decoder[layer]
    hooks = [
        each.register_forward_pre_hook(lambda module, args: seen.append(args[:2]))
        for each in (decoder, decoder.cross_attention)
    ]
    with torch.no_grad():
        model(BATCH)
    for hook in hooks:
        hook.remove()
    (before, _), (queries, memory) = seen
    return before.content, queries, memory


def library_maps(attention, queries, memory, spatial, query: int) -> torch.Tensor:
    """Weights of one query in each head, by the library: `[M, h, w]`."""
    given = queries.spatial.clone()
    given[1, query] = spatial
    with torch.no_grad():
        _, seen = attention.read(queries._replace(spatial=given), memory, trace=True)
    return seen.weights[1, :, query].unflatten(-1, memory.sizes[0])


def same_scores(mine: np.ndarray, theirs: torch.Tensor) -> None:
    """Logits of all cells agree to 1e-3, but for a constant that softmax drops."""
    rows, columns = mine.shape[-2:]
    assert theirs[..., rows:, :].sum() + theirs[..., columns:].sum() == 0  # padding
    apart = np.log(mine) - theirs[..., :rows, :columns].double().log().numpy()
    apart -= apart.mean((-2, -1), keepdims=True)
    assert np.abs(apart).max() < 1e-3


def alone(attention: nn.Module) -> nn.Module:
    """The same attention, which compares positions only."""
    attention = copy.deepcopy(attention)
    nn.init.zeros_(attention.query.weight)
    nn.init.zeros_(attention.query.bias)
    if attention.query_position is not None:
        nn.init.zeros_(attention.query_position.weight)
        nn.init.zeros_(attention.query_position.bias)
    return attention


# --- the numbers ---------------------------------------------------------------------


@pytest.mark.parametrize("layer", [0, 1, 2])
@pytest.mark.parametrize("changes", [{}, {"modulate": False}, {"transform": Shifted()}])
def test_the_maps_are_those_of_the_model_with_its_anchor_moved(layer, changes):
    model = build(**changes)
    figure = viz.anchor_bench(
        model, BATCH, image=1, anchor=ANCHOR, layer=layer, query=2
    )
    content, queries, memory = caught(model, layer)
    box = torch.tensor(ANCHOR).expand_as(queries.references)
    with torch.no_grad():
        code = point_code(box, CONFIG.channels)
        spatial = model.spatial(layer, box, code, content)[1, 2]
    attention = model.decoder[layer].cross_attention
    whole = library_maps(attention, queries, memory, spatial, 2)
    position = library_maps(alone(attention), queries, memory, spatial, 2)
    for head in range(CONFIG.heads):
        seen = bench.look(figure.arrays, figure.notes["start"] | {"head": head})
        same_scores(seen.maps[0], position[head])
        same_scores(seen.maps[2], whole[head])
    mean = bench.look(figure.arrays, figure.notes["start"]).maps[2]
    rows, columns = mean.shape
    assert np.allclose(mean, whole.mean(0)[:rows, :columns], atol=1e-4)


def test_untrained_projections_are_those_of_the_fresh_model(model):
    fresh = build(seed=5)
    figure = viz.anchor_bench(
        model, BATCH, image=1, anchor=ANCHOR, query=2, fresh=fresh
    )
    _, queries, memory = caught(model, 2)
    start = figure.notes["start"]
    ratio = torch.tensor(start["expected"]) / torch.tensor(ANCHOR[2:])
    code = point_code(torch.tensor(ANCHOR), CONFIG.channels)[: CONFIG.channels]
    spatial = (code.unflatten(-1, (2, -1)) * ratio.flip(-1)[:, None]).flatten()
    attention = alone(fresh.decoder[-1].cross_attention)
    position = library_maps(attention, queries, memory, spatial, 2)
    for head in range(CONFIG.heads):
        state = start | {"head": head, "weights": UNTRAINED}
        same_scores(bench.look(figure.arrays, state).maps[0], position[head])


def test_the_surest_query_and_an_untrained_model_are_the_default(model):
    before = torch.get_rng_state()
    figure = viz.anchor_bench(model, BATCH, image=1)
    assert torch.equal(torch.get_rng_state(), before)
    again = viz.anchor_bench(model, BATCH, image=1, layer=len(model.decoder) - 1)
    assert figure.html() == again.html()
    with torch.no_grad():
        scores = model(BATCH).logits[-1, 1].sigmoid().amax(-1)
    assert figure.notes["query"].startswith(f"query {int(scores.argmax())}: ")
    sine, key = (figure.arrays[name].astype(float) for name in ("sine", "key"))
    assert np.abs(sine[0] - sine[1]).max() > 0.1 < np.abs(key[0] - key[1]).max()


# --- the law -------------------------------------------------------------------------


def identity(temperature: float, ratio: float, channels: int = 256) -> bench.Profile:
    """Sine codes as they are over 64 cells, the anchor in the middle; 32 per head."""
    arrays = {"content": np.zeros((16 * channels // 256, 64, 64), np.float32)}
    arrays["scale"] = np.ones(channels, np.float32)
    state = {"anchor": [0.5, 0.5, 0.2, 0.2], "expected": [0.2 * ratio] * 2, "head": 0}
    state |= {"temperature": temperature, "modulate": True, "weights": IDENTITY}
    return bench.look(arrays, state).x


def test_the_width_follows_the_root_of_the_ratio():
    # scores are a / √32 · Σ cos(ω d): facts of DAB-DETR, computed independently
    measured = [identity(20, a).width for a in (0.25, 0.5, 1, 2, 4)]
    assert measured == pytest.approx([0.227, 0.178, 0.123, 0.083, 0.058], abs=2e-3)
    predicted = [identity(20, a).predicted for a in (0.25, 0.5, 1, 2, 4)]
    assert predicted == pytest.approx([0.227, 0.160, 0.113, 0.080, 0.057], abs=1e-3)
    assert predicted[0] / predicted[2] == pytest.approx(2)


def test_the_law_breaks_where_the_temperature_is_10_000():
    profile = identity(10_000, 0.25)
    assert profile.width == pytest.approx(0.266, abs=2e-3)
    assert profile.predicted == pytest.approx(0.379, abs=2e-3)  # flatter than flat
    steep = identity(10_000, 16)
    assert steep.predicted == pytest.approx(profile.predicted / 8)


@pytest.mark.parametrize("channels", [128, 256])
def test_the_prediction_is_the_curvature_of_the_scores(channels):
    x, step = np.array([0.5]), 1e-4
    codes = [bench.sines(x + d, channels // 2, 20) for d in (-step, 0, step)]
    near, top, far = (float((codes[1] @ code.T).squeeze()) for code in codes)
    curvature = -(near - 2 * top + far) / step**2 / 32**0.5
    law = identity(20, 1, channels).predicted
    assert law == pytest.approx(curvature**-0.5, rel=1e-4)


def test_a_gaussian_weighs_as_much_as_the_cells():
    seen = identity(20, 2)
    at = np.linspace(0, 1, 121)
    law = seen.gaussian(at)
    assert law.mean() == pytest.approx(seen.weights.mean(), rel=1e-6)
    assert at[law.argmax()] == 0.5
    spread = ((at - 0.5) ** 2 * law).sum() / law.sum()
    assert spread**0.5 == pytest.approx(seen.predicted, rel=1e-3)


def test_of_projected_codes_the_law_scales_the_width_without_modulation(model):
    figure = viz.anchor_bench(model, BATCH, image=1)
    for weights in (UNTRAINED, TRAINED):
        for head in (-1, 0, 3):
            state = figure.notes["start"] | {"weights": weights, "head": head}
            seen = bench.look(figure.arrays, state)
            plain = bench.look(figure.arrays, state | {"modulate": False})
            for one, other in zip(seen[1:], plain[1:]):
                assert other.predicted == pytest.approx(other.width)
                assert one.predicted == pytest.approx(other.width / one.ratio**0.5)


# --- what is refused, and what is packed ---------------------------------------------


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"anchor": (0.5, 0.5, 0, 0.2)}, r"0.2\) has a side of no size"),
        ({"anchor": (0.5, 0.5, 0.2, -0.1)}, "has a side of no size"),
        ({"anchor": (0.5, 0.5, 1.2, 0.1)}, "or one larger than the picture"),
        ({"anchor": (1.5, 0.5, 0.2, 0.1)}, "has its centre outside of the picture"),
        ({"anchor": (64, 64, 20, 10)}, "shares of the picture between 0 and 1"),
        ({"anchor": (0.5, 0.5)}, "is not four numbers"),
        ({"anchor": (0.5, float("nan"), 0.1, 0.1)}, "is not four numbers"),
        ({"layer": 3}, "layer 3 of 3: 0 to 2, or from the end"),
        ({"layer": -4}, "layer -4 of 3"),
        ({"query": 5}, "query 5 of 5: 0 to 4"),
        ({"query": -1}, "query -1 of 5: 0 to 4"),
        ({"image": 2}, "image 2 of a batch of 2"),
        (
            {"fresh": small_dab_config(channels=16).build()},
            "fresh has 16 channels, the",
        ),
    ],
)
def test_what_is_no_bench_is_refused_with_the_cure(settings, words, model):
    with pytest.raises(ValueError, match=words):
        viz.anchor_bench(model, BATCH, **settings)


def test_the_reader_begins_where_the_caller_says(model):
    start = {"weights": "identity", "modulate": False, "temperature": 50, "head": 1}
    begun = viz.anchor_bench(model, BATCH, start=start).notes["start"]
    wanted = {"weights": IDENTITY, "modulate": False, "temperature": 50}
    assert begun.items() >= (wanted | {"head": 1, "lam": True}).items()


@pytest.mark.parametrize(
    ("start", "words"),
    [
        ({"weights": "raw"}, "weights='raw': one of .*identity"),
        ({"head": 9}, "head=9"),
        ({"temperature": 1}, "temperature=1: one of 2 to 10000"),
        ({"size": 2}, "size=2: one of .*weights"),
    ],
)
def test_an_unknown_start_is_refused(start, words, model):
    with pytest.raises(ValueError, match=words):
        viz.anchor_bench(model, BATCH, start=start)


def test_other_systems_and_other_attention_are_refused(model):
    other = ConditionalDETR(small_conditional_config())
    with pytest.raises(TypeError, match="model is a ConditionalDETR: only the queries"):
        viz.anchor_bench(other, BATCH)
    with pytest.raises(TypeError, match="fresh is a ConditionalDETR"):
        viz.anchor_bench(model, BATCH, fresh=other)
    with pytest.raises(ValueError, match="give a model with combine=Concat"):
        viz.anchor_bench(build(combine=Add()), BATCH)


@pytest.mark.parametrize(
    "changes",
    [
        {"modulate": False, "anchor_dim": 2},
        {"transform": Unchanged()},
        {"patterns": 2},
        {"update": False},
    ],
)
def test_every_ablation_has_a_bench(changes):
    figure = viz.anchor_bench(build(**changes), BATCH, anchor=ANCHOR)
    start = figure.notes["start"]
    assert start["modulate"] == changes.get("modulate", True)
    if not start["modulate"]:
        assert start["expected"] == list(ANCHOR[2:])
    assert figure.poster()[1:4] == b"PNG"


@pytest.fixture(scope="module")
def tiny():
    torch.manual_seed(3)
    model = DABDETRConfig.tiny(classes=6).build()
    return viz.anchor_bench(model, Scenes("val").draw([277]))


def test_a_figure_of_the_tiny_preset_is_small(tiny):
    assert tiny.size < 350_000
    assert len(posters.poster(tiny, (820, 560), "webp")) < 120_000  # as it is kept
    for words in ("8 x 8 cells", "0.25 x 0.25", "temperature 20", "layer 6"):
        assert words in tiny.summary


# --- the page ------------------------------------------------------------------------

LOOK = """changes => {
  const figure = document.getElementById("figure").detrFigure;
  Object.assign(figure.state, changes);
  const { maps, x, y } = figure.look();
  const told = ({ weights, width, predicted, ratio }) =>
    ({ weights: [...weights], width, predicted, ratio });
  return { maps: maps.map((map) => [...map]), x: told(x), y: told(y) };
}"""
STATE = "() => ({ ...detrFigure.state() })"


@pytest.fixture
def show(page, watch, tmp_path):
    """Opens a figure as a page of its own; gives the frame it lives in."""

    def opened(figure, width: int = 860):
        page.set_viewport_size({"width": width, "height": 600})
        figure.save_html(tmp_path / "figure.html")
        page.goto((tmp_path / "figure.html").as_uri())
        (frame,) = live_figures(page)
        frame.evaluate(TWO_FRAMES)
        return frame

    yield opened
    assert watch.errors == [] and watch.outside == []


def state(frame) -> dict:
    frame.evaluate(TWO_FRAMES)
    return frame.evaluate(STATE)


@pytest.mark.browser
def test_the_page_computes_the_reference(show, tiny):
    frame, start = show(tiny), tiny.notes["start"]
    random = np.random.default_rng(0)
    for number in range(24):
        changes = {
            "anchor": random.uniform(0.05, 0.95, 4).tolist(),
            "temperature": [2.0, 20.0, 10_000.0][number % 3],
            "weights": number % 3 if number < 12 else TRAINED,
            "modulate": bool(number % 4),
            "lam": bool(number % 5),
            "head": int(random.integers(-1, 8)),
        }
        shown = frame.evaluate(LOOK, changes)
        seen = bench.look(tiny.arrays, start | changes)
        maps = np.array(shown["maps"]).reshape(seen.maps.shape)
        assert np.allclose(maps, seen.maps, atol=1e-6)
        for axis in "xy":
            mine, theirs = getattr(seen, axis), shown[axis]
            assert np.allclose(theirs.pop("weights"), mine.weights, atol=1e-6)
            expected = {name: getattr(mine, name) for name in theirs}
            assert theirs == pytest.approx(expected, rel=1e-5)


def at(frame, x: float, y: float) -> tuple[float, float]:
    """A place of the picture on the page."""
    box = frame.locator(".cross .picture").bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def drag(page, frame, start: tuple, end: tuple) -> list[float]:
    """Drag on the picture; returns the anchor after it."""
    page.mouse.move(*at(frame, *start))
    page.mouse.down()
    page.mouse.move(*at(frame, *end), steps=3)
    page.mouse.up()
    return state(frame)["anchor"]


@pytest.mark.browser
def test_the_anchor_is_dragged_and_its_sides_are_pulled(page, show):
    frame = show(figures.bench())  # at 0.5, 0.4 of 0.25 x 0.25
    close = dict(abs=0.01)
    moved = drag(page, frame, (0.53, 0.42), (0.33, 0.52))
    assert moved == pytest.approx([0.3, 0.5, 0.25, 0.25], **close)
    wide = drag(page, frame, (0.425, 0.5), (0.5, 0.55))
    assert wide == pytest.approx([0.3, 0.5, 0.4, 0.25], **close)
    high = drag(page, frame, (0.3, 0.625), (0.35, 0.8))
    assert high == pytest.approx([0.3, 0.5, 0.4, 0.6], **close)
    both = drag(page, frame, (0.5, 0.8), (0.35, 0.55))
    assert both == pytest.approx([0.3, 0.5, 0.1, 0.1], **close)
    out = drag(page, frame, (0.9, 0.9), (1.4, 0.9))  # beside it: it comes along
    assert out == pytest.approx([1, 0.9, 0.1, 0.1], **close)


@pytest.mark.browser
def test_the_bench_is_reached_by_keys(page, show):
    frame = show(figures.bench())
    frame.locator(".card").focus()
    expected = state(frame)
    for key, changes in [
        ("ArrowRight", {"anchor": [0.52, 0.4, 0.25, 0.25]}),
        ("ArrowUp", {"anchor": [0.52, 0.38, 0.25, 0.25]}),
        ("Shift+ArrowRight", {"anchor": [0.52, 0.38, 0.27, 0.25]}),
        ("Shift+ArrowDown", {"anchor": [0.52, 0.38, 0.27, 0.23]}),
        ("]", {"temperature": 25.18}),
        ("[", {"temperature": 20.0}),
        ("m", {"modulate": False}),
        ("l", {"lam": False}),
        ("w", {"weights": IDENTITY}),
        ("l", {}),  # λ belongs to the model's own projections
        ("h", {"head": 0}),
        ("Escape", figures.bench().notes["start"]),
    ]:
        page.keyboard.press(key)
        expected |= changes
        now = state(frame)
        for name in figures.bench().notes["start"]:
            assert now[name] == pytest.approx(expected[name], abs=0.02), key


@pytest.mark.browser
def test_sliders_and_buttons_set_the_state(show):
    frame = show(figures.bench())
    temperature, width, height = frame.locator(".slider input").all()
    temperature.fill("0.275")
    assert state(frame)["temperature"] == 20  # the marked one is caught near it
    temperature.fill("1")
    assert state(frame)["temperature"] == pytest.approx(10_000)
    temperature.fill("0")
    assert state(frame)["temperature"] == pytest.approx(2)
    width.fill("1")
    height.fill("0")
    assert state(frame)["anchor"][2:] == pytest.approx([1, 0.02])
    frame.get_by_role("button", name="W identity").click()
    assert state(frame)["weights"] == IDENTITY
    assert frame.locator("button", has_text="λ").is_disabled()
    words = read(frame)
    assert "w_ref / w = 0.30 / 1.00 = 0.30" in words and "compared as they are" in words
    frame.locator("button", has_text="modulate").click()
    assert "not modulated" in read(frame)


@pytest.mark.browser
def test_sixty_frames_a_second_are_kept_while_dragging(show, tiny):
    frame = show(tiny)
    frame.evaluate(figures.ROUND, 2)  # warms up
    tries = []
    for _ in range(3):  # the best: a busy machine says nothing about the figure
        tries.append(frame.evaluate(figures.ROUND, 3))
        assert tries[-1]["draws"] > 50
        if tries[-1]["frame_p95_ms"] <= 18 and tries[-1]["draw_ms"] <= 2:
            return
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > os.cpu_count():
        pytest.skip(f"the machine is busy with other work: {tries}")
    raise AssertionError(tries)
