"""Interactive figures in a real Chromium: what they show, and what they answer to."""

import base64
import io
import os

import numpy as np
import pytest
import sample_figures as figures
from pages import TWO_FRAMES, live_figures, read
from PIL import Image
from scipy.optimize import linear_sum_assignment

from detr_steps.viz.engine import still
from detr_steps.viz.engine.figure import module
from detr_steps.viz.engine.readout import State

pytestmark = pytest.mark.browser
everyone = pytest.mark.parametrize("make", figures.ALL.values(), ids=figures.ALL)

READ_CANVAS = """([name, index]) => {
  const root = document.getElementById("figure").shadowRoot;
  const canvas = root.querySelectorAll(name)[index], { width, height } = canvas;
  const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
  let text = "";
  for (const byte of data) text += String.fromCharCode(byte);
  return [height, width, btoa(text)];
}"""
STATE = "() => ({ ...detrFigure.state() })"
SET = "changes => detrFigure.set(changes)"


@pytest.fixture
def show(page, watch, tmp_path):
    """Opens a figure as a page of its own; gives the frame it lives in."""

    def opened(figure, width: int = 860, height: int = 600):
        page.set_viewport_size({"width": width, "height": height})
        figure.save_html(tmp_path / "figure.html")
        page.goto((tmp_path / "figure.html").as_uri())
        (frame,) = live_figures(page)
        frame.evaluate(TWO_FRAMES)
        return frame

    yield opened
    assert watch.errors == [] and watch.outside == []


def canvas(frame, name: str = ".picture", index: int = 0) -> np.ndarray:
    """The pixels of a canvas of the figure: [H, W, 3]."""
    frame.evaluate(TWO_FRAMES)
    height, width, text = frame.evaluate(READ_CANVAS, [name, index])
    data = np.frombuffer(base64.b64decode(text), np.uint8)
    return data.reshape(height, width, 4)[..., :3].astype(int)


def state(frame) -> dict:
    frame.evaluate(TWO_FRAMES)
    return frame.evaluate(STATE)


def move(page, frame, x: float, y: float) -> None:
    """Put the pointer on a place of the stage, in shares of the picture."""
    box = frame.locator(".picture").first.bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])


def reference(figure, frame: int, item: int, head: int) -> np.ndarray:
    """What the stage should show, computed with NumPy."""
    maps, peaks = (figure.arrays[name][frame, item] for name in ("maps", "peaks"))
    values = still.head_map(maps, peaks, head)
    cover = figure.notes.get("cover", (1, 1))
    return still.glow(still.grey_of(figure.shown), values, cover).astype(int)


# --- what is shown -------------------------------------------------------------------


@pytest.mark.parametrize("make", [figures.attention, figures.encoder, figures.lapse])
def test_the_canvas_is_the_reference_within_two_levels(make, show):
    figure = make()
    frame = show(figure)
    frames, items, heads = figure.arrays["maps"].shape[:3]
    random = np.random.default_rng(0)
    for head in (-1, 0, heads - 1):
        for _ in range(3):
            at = int(random.integers(frames)), int(random.integers(items))
            frame.evaluate(SET, {"frame": at[0], "item": at[1], "head": head})
            wrong = np.abs(canvas(frame) - reference(figure, *at, head))
            assert wrong.max() <= 2, (at, head)


def test_all_layers_are_the_reference(show):
    figure = figures.layers()
    frame = show(figure)
    frame.evaluate(SET, {"item": 4, "head": 1})
    for layer in range(3):
        wrong = canvas(frame, index=layer) - reference(figure, layer, 4, 1)
        assert np.abs(wrong).max() <= 2, layer


def test_a_map_without_a_picture_is_the_reference(show):
    figure = figures.attention(picture=None)
    frame = show(figure)
    assert np.abs(canvas(frame) - reference(figure, 2, 1, -1)).max() <= 2


def test_small_maps_of_the_heads_peak_where_the_large_one_does(show):
    figure = figures.attention()
    frame = show(figure)
    for head in range(4):
        tile = canvas(frame, ".heads canvas", head + 1)
        place = np.unravel_index(tile.sum(-1).argmax(), tile.shape[:2])
        cell = np.array(place) / tile.shape[:2] * [6, 8]
        best = figure.arrays["maps"][2, 1, head].argmax()
        assert np.abs(cell - np.add(divmod(best, 8), 0.5)).max() < 1.2


@pytest.mark.parametrize("make", [figures.attention, figures.sharpening])
def test_the_words_are_the_poster_ones(make, show):
    figure = make()
    frame = show(figure)
    shown = frame.locator(".words p").all_inner_texts()
    assert [line.strip() for line in shown] == [
        words for words, _ in State(figure, None, 1, -1).lines
    ]


def test_sparsity_is_that_of_the_head_shown(show):
    figure = figures.sharpening()
    frame = show(figure)
    for head in (-1, 2):
        frame.evaluate(SET, {"head": head})
        state(frame)
        values = "() => [...Array(12).keys()].map(f => FIGURE.sparsity(f))"
        here = 'document.getElementById("figure").detrFigure'
        seen = frame.evaluate(values.replace("FIGURE", here))
        assert np.allclose(seen, State(figure, head=head).sparsity(), atol=1e-3)
    changes = frame.evaluate(f"() => {here}.changes(1)")
    assert changes == State(figure, item=1).changes() and len(changes) >= 2


# --- the pointer ---------------------------------------------------------------------


def test_a_query_that_has_lost_its_object_is_held_against_it(show):
    """Matched in the last layer only: before, the same object's IoU is told."""
    figure = figures.layers()
    said = [State(figure, frame, 1).match for frame in range(3)]
    assert said[0].startswith("not matched: object 1 (box), IoU 0.")
    assert said[2] == said[0].removeprefix("not matched: ")  # the box stays put
    assert State(figure, 2, 5).match == "matched to no object"
    frame = show(figure)
    texts = [x.inner_text() for x in frame.locator(".stages p").all()]
    for text, words in zip(texts, said):
        assert words.replace(", ", " ") in " ".join(text.split()), text


def test_hovering_picks_the_smallest_box_and_changes_the_canvas(page, show):
    frame = show(figures.attention())
    move(page, frame, 0.2, 0.2)
    assert state(frame)["item"] == 0
    before = canvas(frame)
    move(page, frame, 0.7, 0.65)  # inside box 2, which lies inside box 1
    assert state(frame)["item"] == 2
    assert np.abs(canvas(frame) - before).max() > 20
    move(page, frame, 0.55, 0.45)  # inside box 1 only
    assert state(frame)["item"] == 1
    move(page, frame, 0.05, 0.6)  # in no box: the nearest
    assert state(frame)["item"] == 0


def test_hovering_a_cell_picks_it(page, show):
    frame = show(figures.encoder())
    move(page, frame, 0.5, 0.5)  # the map spans 1.06 x 1.1 of the picture
    assert state(frame)["item"] == int(0.5 / 1.1 * 6) * 8 + int(0.5 / 1.06 * 8)


def test_a_click_pins_and_lets_go(page, show):
    frame = show(figures.attention())
    move(page, frame, 0.2, 0.2)
    page.mouse.down()
    page.mouse.up()
    move(page, frame, 0.7, 0.65)
    assert state(frame)["pinned"] and state(frame)["item"] == 0
    assert "pinned" in read(frame)
    page.mouse.down()
    page.mouse.up()
    move(page, frame, 0.71, 0.65)
    assert not state(frame)["pinned"] and state(frame)["item"] == 2


def test_a_small_map_previews_its_head_and_a_click_keeps_it(page, show):
    figure = figures.attention()
    frame = show(figure)
    tile = frame.locator(".heads button").nth(3)  # head 3
    tile.hover()
    assert state(frame)["head"] == -1
    assert np.abs(canvas(frame) - reference(figure, 2, 1, 2)).max() <= 2
    tile.click()
    move(page, frame, 0.55, 0.45)
    assert state(frame)["head"] == 2 and tile.get_attribute("aria-pressed") == "true"


def test_the_strip_shows_and_pins_queries(page, show):
    frame = show(figures.attention())
    strip = frame.locator(".items .strip")
    box = strip.bounding_box()

    def at(item: int) -> tuple[float, float]:
        return box["x"] + (item + 0.5) / 6 * box["width"], box["y"] + 10

    page.mouse.move(*at(5))
    assert state(frame)["item"] == 5
    page.mouse.move(*at(3))
    page.mouse.down()
    page.mouse.up()
    page.mouse.move(*at(5))
    assert state(frame)["item"] == 3 and state(frame)["pinned"]


def test_dragging_along_the_curve_scrubs_through_training(page, show):
    frame = show(figures.lapse())
    box = frame.locator(".frames .strip").bounding_box()
    seen = []
    for step in (1, 6, 10):
        place = box["x"] + (step + 0.5) / 12 * box["width"], box["y"] + 10
        page.mouse.move(*place)
        page.mouse.down()
        seen.append(state(frame)["frame"])
    page.mouse.up()
    assert seen == [1, 6, 10]
    assert read(frame, ".frames label") == "step 102,400"


def test_touch_shows_and_pins(browser, tmp_path):
    context = browser.new_context(
        viewport={"width": 390, "height": 640}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    figures.attention().save_html(tmp_path / "figure.html")
    page.goto((tmp_path / "figure.html").as_uri())
    (frame,) = live_figures(page)
    box = frame.locator(".picture").first.bounding_box()
    place = box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"]
    page.touchscreen.tap(*place)
    assert state(frame)["item"] == 0 and state(frame)["pinned"]
    page.touchscreen.tap(*place)
    assert not state(frame)["pinned"]
    context.close()


# --- the keyboard --------------------------------------------------------------------


def test_everything_is_reached_by_keys(page, show):
    frame = show(figures.attention())
    frame.locator(".card").focus()
    expected = {"item": 1, "frame": 2, "head": -1, "truth": True, "pinned": False}
    for key, changes in [
        ("ArrowRight", {"item": 2}),
        ("ArrowLeft", {"item": 1}),
        ("End", {"item": 5}),
        ("ArrowRight", {}),
        ("Home", {"item": 0}),
        ("[", {"frame": 1}),
        ("]", {"frame": 2}),
        ("h", {"head": 0}),
        ("h", {"head": 1}),
        ("t", {"truth": False}),
        ("Enter", {"pinned": True}),
        ("Escape", {"pinned": False}),
    ]:
        page.keyboard.press(key)
        expected |= changes
        now = state(frame)
        assert {name: now[name] for name in expected} == expected, key
    page.keyboard.press("?")
    assert frame.locator(".keys").is_visible()
    page.keyboard.press("Escape")
    assert not frame.locator(".keys").is_visible()


def test_arrows_walk_over_the_cells(page, show):
    frame = show(figures.encoder())
    frame.locator(".card").focus()
    for key, item in [("ArrowDown", 8), ("ArrowRight", 9), ("ArrowUp", 1)]:
        page.keyboard.press(key)
        assert state(frame)["item"] == item


@everyone
def test_every_control_has_a_name_and_a_visible_focus(make, page, show):
    frame = show(make())
    controls = frame.locator("button, input, canvas[role=img]").all()
    names = [control.get_attribute("aria-label") for control in controls]
    assert all(names) and len(set(names[1:])) == len(names) - 1
    missing = {
        each.get_attribute("aria-label") for each in frame.locator("button").all()
    }
    missing |= {
        each.get_attribute("aria-label") for each in frame.locator("input").all()
    }
    frame.locator(".card").focus()
    for _ in range(len(controls) + 5):
        page.keyboard.press("Tab")
        name, ring = frame.evaluate("""() => {
          const active = document.getElementById("figure").shadowRoot.activeElement;
          const shown = active?.closest(".strip") ?? active;
          return [active?.ariaLabel, shown && getComputedStyle(shown).outlineStyle];
        }""")
        assert name not in missing or ring == "solid", name
        missing.discard(name)
    assert missing == set()


def test_what_changed_is_spoken_when_the_pointer_rests(page, show):
    frame = show(figures.attention())
    move(page, frame, 0.2, 0.2)
    spoken = frame.locator("[aria-live=polite]")
    frame.wait_for_function(
        """() => document.getElementById("figure").shadowRoot
          .querySelector(".spoken").textContent.startsWith("query 0")"""
    )
    assert "object 0 (disc), IoU" in spoken.text_content()


def test_playing_is_asked_for_and_ends_with_the_last_frame(page, show):
    frame = show(figures.lapse())
    frame.evaluate(SET, {"frame": 9})
    assert not state(frame)["playing"] and state(frame)["frame"] == 9
    frame.locator(".card").focus()
    page.keyboard.press("Space")
    assert state(frame)["playing"]
    frame.wait_for_function("() => detrFigure.state().frame === 11")
    frame.wait_for_function("() => !detrFigure.state().playing")


def test_less_motion_means_steps(page, show):
    page.emulate_media(reduced_motion="reduce")
    frame = show(figures.lapse())
    frame.locator(".card").focus()
    for expected in (0, 1, 2):
        page.keyboard.press("Space")
        assert state(frame)["frame"] == expected and not state(frame)["playing"]


# --- looks ---------------------------------------------------------------------------

TOO_WIDE = """() => {
  const card = document.getElementById("figure").shadowRoot.querySelector(".card");
  const edge = card.getBoundingClientRect(), wrong = [];
  if (document.documentElement.scrollWidth > innerWidth) wrong.push("page");
  for (const element of card.querySelectorAll(".grid > *, .grid button, table")) {
    const { left, right, bottom, width } = element.getBoundingClientRect();
    const scrolls = element.closest(".panel, .stages");
    if (!width || (scrolls && scrolls !== element)) continue;
    if (left < edge.left || right > edge.right + 0.5 || bottom > edge.bottom + 0.5) {
      wrong.push(`${element.className || element.textContent} ends at ${right}`);
    }
  }
  const words = card.querySelector(".words");
  if (words.scrollHeight > words.clientHeight + 2) wrong.push("words are cut");
  return wrong;
}"""


# Room for wider fonts than this machine has, as in the book's pages.
SPACED = """() => {
  const style = document.createElement("style");
  style.textContent = ".card, .card * { letter-spacing: 0.12em !important }";
  document.getElementById("figure").shadowRoot.append(style);
}"""


@everyone
@pytest.mark.parametrize("width", [350, 560, 820])
def test_nothing_is_cut_at_any_width(make, width, show):
    frame = show(make(), width=width + 32)  # the page has margins of 16 pixels
    assert frame.evaluate("() => innerWidth") == width
    assert frame.evaluate(TOO_WIDE) == []
    stage = frame.locator(".stack").first.bounding_box()
    assert stage["width"] >= 140 and stage["height"] >= 100
    panel = frame.locator(".panel").evaluate("p => p.scrollHeight - p.clientHeight")
    assert panel <= 2 or make is figures.matching  # a table may be scrolled
    frame.evaluate(SPACED)
    assert frame.evaluate(TOO_WIDE) == []


def background(frame) -> str:
    frame.evaluate(TWO_FRAMES)
    return frame.locator(".card").evaluate("c => getComputedStyle(c).backgroundColor")


def test_light_and_dark_follow_the_system_and_the_page_around(page, show):
    frame = show(figures.attention())
    light, dark = "rgb(255, 255, 255)", "rgb(21, 24, 29)"
    assert background(frame) == light
    page.emulate_media(color_scheme="dark")
    assert background(frame) == dark
    tell = """theme => document.querySelector("iframe").contentWindow
      .postMessage({ type: "theme", value: theme }, "*")"""
    frame.evaluate("""() => {
      globalThis.heard = []; // the figure, which listens longer, hears it first
      addEventListener("message", event => heard.push(event.data.value));
    }""")
    for told, expected in (("light", light), ("constructor", light), ("dark", dark)):
        page.evaluate(tell, told)
        frame.wait_for_function("told => heard.includes(told)", arg=told)
        assert background(frame) == expected


def test_an_old_browser_keeps_the_poster(page, tmp_path):
    figures.attention().save_html(tmp_path / "figure.html")
    text = (tmp_path / "figure.html").read_text(encoding="utf-8")
    old = text.replace("DecompressionStream", "SomethingNotYetInvented")
    (tmp_path / "figure.html").write_text(old, encoding="utf-8")
    page.goto((tmp_path / "figure.html").as_uri())
    frame = page.frames[1]
    frame.wait_for_load_state()
    frame.evaluate(TWO_FRAMES)
    assert frame.evaluate("() => document.getElementById('figure').shadowRoot") is None
    poster = page.locator("img")
    assert poster.evaluate("i => i.complete && i.naturalWidth") == 820
    with_frame = pixels(page)
    page.locator("iframe").evaluate("i => i.remove()")
    assert np.abs(pixels(page) - with_frame).max() <= 2  # the frame is clear
    poster.evaluate("i => { i.style.visibility = 'hidden' }")
    assert np.abs(pixels(page) - with_frame).max() > 100  # and the poster was seen


def pixels(page) -> np.ndarray:
    """What a page looks like: [H, W, 3]."""
    page.evaluate(TWO_FRAMES)
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)


# --- matching and points -------------------------------------------------------------


def test_no_cost_is_minus_zero(show):
    figure = figures.matching(3, 1)
    figure.arrays["parts"] = np.array([-0.004, -0.5, 0], "f4").reshape(1, 3, 1)
    figure.notes |= {"parts": ["cost"], "weights": [1], "limits": [[0, 4]]}
    cells = show(figure).locator("td").all_text_contents()
    assert cells == ["0.0", "−0.5", "0.0"]


ASSIGN = "cost => document.getElementById('figure').detrFigure.assign(cost)"


def test_the_assignment_in_the_browser_is_scipys(show):
    frame = show(figures.matching())
    random = np.random.default_rng(0)
    for rows, columns in [
        (1, 1),
        (5, 5),
        (12, 4),
        (4, 12),
        (40, 17),
        (100, 20),
        (3, 0),
    ]:
        cost = random.normal(0, 3, (rows, columns))
        found = frame.evaluate(ASSIGN, cost.tolist())
        expected = [-1] * columns
        for row, column in zip(*linear_sum_assignment(cost)):
            expected[column] = int(row)
        assert found == expected


def pairs(frame) -> dict[int, int]:
    """Query of each object as framed in the table."""
    cells = frame.locator("td.pair").evaluate_all(
        "all => all.map(c => [+c.dataset.n, +c.dataset.q])"
    )
    return {n: q for n, q in cells}


def test_moving_a_weight_changes_the_pairs(page, show):
    figure = figures.matching()
    frame = show(figure)

    def expected(weights) -> dict[int, int]:
        cost = still.total_cost(figure.arrays["parts"], weights)
        return {int(n): int(q) for q, n in zip(*linear_sum_assignment(cost))}

    before = expected([1, 5, 2])
    assert pairs(frame) == before
    frame.locator(".items input").nth(1).fill("0")
    frame.evaluate(TWO_FRAMES)
    after = expected([1, 0, 2])
    assert pairs(frame) == after != before
    changed = sum(before[n] != after[n] for n in before)
    assert frame.locator("td.new").count() == frame.locator("td.was").count() == changed
    assert f"{changed} of 4 pairs changed" in read(frame)


def test_a_cell_of_the_table_shows_its_pair(page, show):
    figure = figures.matching()
    frame = show(figure)
    before = canvas(frame, ".overlay")
    frame.locator("td[data-q='5'][data-n='2']").hover()
    assert state(frame)["item"] == 5 and state(frame)["column"] == 2
    assert (canvas(frame, ".overlay") != before).any()
    words = read(frame).replace("−", "-")
    cost = still.total_cost(figure.arrays["parts"], [1, 5, 2])[5, 2]
    assert "query 5 for object 2" in words and f"cost {cost:.2f} = 1.0 ×" in words
    frame.locator(".card").focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowLeft")
    assert (state(frame)["item"], state(frame)["column"]) == (6, 1)


def test_without_a_rule_nobody_is_paired(show):
    figure = figures.matching()
    notes = figure.notes | {"rule": "none"}
    frame = show(figures.attention("matching", arrays=figure.arrays, notes=notes))
    assert pairs(frame) == {}


FOUR = """() => {
  const figure = document.getElementById("figure").detrFigure;
  return [figure.chosen.i, figure.four(figure.chosen)];
}"""


def test_a_point_reads_four_cells_with_bilinear_shares(page, show):
    figure = figures.points()
    frame = show(figure)
    for level, (h, w) in enumerate(figure.notes["levels"]):
        frame.evaluate(SET, {"level": level, "item": 2, "frame": 1})
        frame.evaluate(TWO_FRAMES)
        index, cells = frame.evaluate(FOUR)
        place = figure.arrays["locations"][1, 2].reshape(-1, 2)[index].astype(float)
        x, y = place * [w, h] - 0.5
        assert sum(cell["share"] for cell in cells) == pytest.approx(1)
        middle = [sum(c["share"] * c[k] for c in cells) for k in ("row", "column")]
        assert middle == pytest.approx([y, x])


def test_heads_levels_points_and_zoom_have_keys(page, show):
    frame = show(figures.points())
    frame.locator(".card").focus()
    first, _ = frame.evaluate(FOUR)
    page.keyboard.press("p")
    frame.evaluate(TWO_FRAMES)
    second, _ = frame.evaluate(FOUR)
    weights = figures.points().arrays["weights"][1, 1].ravel()
    assert [first, second] == np.argsort(-weights, kind="stable")[:2].tolist()
    before = canvas(frame, ".overlay")
    page.keyboard.press("h")
    page.keyboard.press("l")
    assert (state(frame)["head"], state(frame)["level"]) == (0, 0)
    assert (canvas(frame, ".overlay") != before).any()
    scale = "() => document.getElementById('figure').detrFigure.main.zoom.scale"
    page.keyboard.press("+")
    assert frame.evaluate(scale) == 1.5
    page.keyboard.press("0")
    assert frame.evaluate(scale) == 1


def test_points_and_heads_may_have_other_names(show):
    plain, named = figures.points(), {"head_name": "tap", "point_name": "place"}
    notes = plain.notes | named | {"even": True}
    words = (
        "() => JSON.stringify(document.getElementById('figure').detrFigure.describe())"
    )
    for given, says in ((plain.notes, "head"), (notes, "tap")):
        arrays = plain.arrays
        frame = show(figures.attention("points", arrays=arrays, notes=given))
        told = frame.evaluate(words)
        assert f"{says} " in told and ("weight" in told) == (says == "head")


def test_the_ninth_head_has_a_colour_of_its_own(show):
    frame = show(figures.points())
    figure = "document.getElementById('figure').detrFigure"
    colours = frame.evaluate(
        f"() => [...Array(9)].map((_, m) => {figure}.headColour(m))"
    )
    assert len(set(colours)) == 9


def test_the_wheel_zooms_around_the_pointer_once_pinned(page, show):
    frame = show(figures.points())
    zoom = "() => document.getElementById('figure').detrFigure.main.zoom"
    move(page, frame, 0.7, 0.6)
    page.mouse.wheel(0, -100)
    assert frame.evaluate(zoom)["scale"] == 1  # the page scrolls
    page.mouse.down()
    page.mouse.up()
    page.mouse.wheel(0, -100)
    frame.wait_for_function(f"() => ({zoom})().scale === 1.25")
    now = frame.evaluate(zoom)
    assert (0.7 - now["x"]) * 1.25 == pytest.approx(0.7, abs=0.01)


# --- the other host ------------------------------------------------------------------

HOST = """async ([source, bundle]) => {
  const file = new Blob([source], { type: "text/javascript" });
  const { default: { render } } = await import(URL.createObjectURL(file));
  const el = document.body.appendChild(document.createElement("div"));
  el.style.cssText = "width: 800px; height: 560px";
  globalThis.told = [];
  globalThis.heard = {};
  globalThis.model = {
    bundle, get: name => model[name], on: (name, act) => { heard[name] = act; },
    set: (name, value) => { model[name] = value; }, off() {},
    save_changes() { told.push([...model.point]); },
  };
  globalThis.leave = await render({ model, el });
  globalThis.figure = el.detrFigure;
}"""


def test_with_a_kernel_a_patch_is_dragged_and_the_state_stays(page, watch):
    import json

    live = {"live": {"patch": [0.5, 0.5, 0.2, 0.3]}}
    figure = figures.attention(notes=figures.attention().notes | live)
    page.goto("about:blank")
    page.evaluate(HOST, [module(), json.dumps(figure.bundle)])
    page.evaluate(TWO_FRAMES)
    box = page.locator(".stack").bounding_box()

    def at(x, y):
        return box["x"] + x * box["width"], box["y"] + y * box["height"]

    page.mouse.move(*at(0.52, 0.5))
    page.mouse.down()
    page.mouse.move(*at(0.32, 0.3))
    page.evaluate(TWO_FRAMES)
    assert page.evaluate("() => told")[-1] == pytest.approx([0.3, 0.3], abs=0.01)
    other = figures.attention(picture=255 - figure.picture, notes=figure.notes)
    page.evaluate("bundle => { model.bundle = bundle; }", json.dumps(other.bundle))
    page.evaluate("() => { figure.set({ head: 1 }); heard['change:bundle'](); }")
    page.wait_for_function("title => figure.bundle.picture === title",
                           arg=other.bundle["picture"])  # fmt: skip
    assert page.evaluate("() => figure.patch.slice(0, 2)") == pytest.approx(
        [0.3, 0.3], abs=0.01
    )  # still under the pointer
    page.mouse.up()
    assert page.evaluate("() => figure.state.head") == 1
    page.evaluate("() => leave()")
    assert watch.errors == []


# --- speed ---------------------------------------------------------------------------


def test_sixty_frames_a_second_are_kept(show):
    maps, peaks = figures.sparse_maps(6, 100, 8, 8, 8)
    arrays = {"maps": maps, "peaks": peaks, **figures.answers(6, 100)}
    frame = show(figures.attention(arrays=arrays))
    frame.evaluate(figures.ROUND, 3)  # warms up
    tries = []
    for _ in range(3):  # the best: a busy machine says nothing about the figure
        tries.append(frame.evaluate(figures.ROUND, 3))
        assert tries[-1]["draws"] > 50
        if tries[-1]["frame_p95_ms"] <= 18 and tries[-1]["draw_ms"] <= 1:
            return
    if hasattr(os, "getloadavg") and os.getloadavg()[0] > os.cpu_count():
        pytest.skip(f"the machine is busy with other work: {tries}")
    raise AssertionError(tries)
