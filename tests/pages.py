"""What every page of the course is asked for: quiet, alone, its figures alive."""

from collections.abc import Iterator
from urllib.parse import urlparse

LOCAL = "file", "data", "blob", "about"  # schemes that ask nobody
BADGE_HOST = "colab.research.google.com"  # of a chapter's one picture from elsewhere
SLOW = 60_000  # milliseconds that a busy machine may take
READY = """async limit => {
    const late = new Promise(done => setTimeout(done, limit, "never got ready"));
    const ready = detrFigure.ready.then(() => "ready", error => `failed: ${error}`);
    return Promise.race([ready, late]);
}"""
TWO_FRAMES = """() => new Promise(
    done => requestAnimationFrame(() => requestAnimationFrame(done)))"""
PLACES = (0.5, 0.5), (0.3, 0.35), (0.7, 0.6), (0.2, 0.75), (0.85, 0.2)


class Watch:
    """Collects what a page says and whom it asks; lets it ask only `home`."""

    def __init__(self, page, home: str = "") -> None:
        self.home = urlparse(home).netloc
        self.errors: list[str] = []
        self.outside: list[str] = []  # addresses asked for, and refused
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        page.on("console", self._said)
        page.context.route(self._is_outside, self._refuse)

    def _is_outside(self, url: str) -> bool:
        parts = urlparse(url)
        return parts.scheme not in LOCAL and parts.netloc != self.home

    def _refuse(self, route) -> None:
        self.outside.append(route.request.url)
        route.abort()

    def _said(self, message) -> None:
        place = message.location.get("url", "")
        if message.type == "error" and not self._is_outside(place or "about:blank"):
            self.errors.append(f"{message.text} ({place[:120]})")


def live_figures(page, limit: int = SLOW) -> Iterator:
    """The frame of each interactive figure of a page, top to bottom, in sight, ready.

    Fails with what is missing where a frame holds no figure or never gets ready.
    """
    for element in page.locator("iframe[srcdoc]").all():
        # out of sight a frame neither loads nor draws
        element.scroll_into_view_if_needed()
        frame = element.element_handle().content_frame()
        told = is_ready(frame, limit)
        assert told == "ready", f"{element.get_attribute('title')}: {told}"
        yield frame


def is_ready(frame, limit: int) -> str:
    """Say "ready" once a frame's figure has drawn, or what is wrong with it."""
    try:
        frame.wait_for_function("() => globalThis.detrFigure", timeout=limit)
        return frame.evaluate(READY, limit)
    except Exception as error:
        return f"no figure inside ({str(error).splitlines()[0]})"


def stage(within):
    """The largest canvas of a frame, or of a part of a page."""
    canvases = within.locator("canvas")
    canvases.first.wait_for(timeout=SLOW)
    sizes = canvases.evaluate_all("all => all.map(c => c.clientWidth * c.clientHeight)")
    return canvases.nth(sizes.index(max(sizes)))


def hovering_changes(page, within) -> bool:
    """True where a figure's stage looks different once the pointer is on it."""
    canvas = stage(within)
    canvas.scroll_into_view_if_needed()
    page.mouse.move(0, 0)
    before = settled(canvas)
    for x, y in PLACES:
        move(page, canvas, x, y)
        canvas.evaluate(TWO_FRAMES)  # the figure draws in the next one
        if canvas.screenshot() != before:
            return True
    return False


def settled(canvas) -> bytes:
    """What a canvas looks like once two frames in a row are the same."""
    before, now = b"", canvas.screenshot()
    while now != before:
        canvas.evaluate(TWO_FRAMES)
        before, now = now, canvas.screenshot()
    return now


def move(page, canvas, x: float, y: float) -> None:
    """Put the pointer on a place of a canvas, in shares of its size."""
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)


def assert_figures_live(page, watch: Watch, limit: int = SLOW) -> int:
    """Every interactive figure answers the pointer, in silence; their number."""
    count = 0
    for frame in live_figures(page, limit):
        title = frame.frame_element().get_attribute("title")
        assert hovering_changes(page, frame), f"{title}: hovering changes nothing"
        count += 1
    assert watch.errors == []
    return count
