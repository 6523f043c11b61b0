"""What every page of the course is asked for: quiet, alone, its figures alive."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlparse

WEB = "http", "https"
# Asked by browsers themselves, for the sake of any form, sign-in or update.
BROWSERS_OWN = {
    *("content-autofill.googleapis.com", "optimizationguide-pa.googleapis.com"),
    *("update.googleapis.com", "safebrowsing.googleapis.com", "clients2.google.com"),
    *("accounts.google.com", "edge.microsoft.com"),
}
BADGE_HOST = "colab.research.google.com"  # of a chapter's one picture from elsewhere
SLOW = 60_000  # milliseconds that a busy machine may take
READY = """async limit => {
    const late = new Promise(done => setTimeout(done, limit, "never got ready"));
    const ready = detrFigure.ready.then(() => "ready", error => `failed: ${error}`);
    return Promise.race([ready, late]);
}"""
TWO_FRAMES = """() => new Promise(
    done => requestAnimationFrame(() => requestAnimationFrame(done)))"""
# Does each text end inside its part of the page, and inside each box that would
# cut it off? Boxes that scroll may hold more than they show.
CUT_OFF = """async () => {
    await globalThis.MathJax?.startup?.promise;
    const parts = ".bd-article, .prev-next-area, .bd-header-article, "
        + ".bd-sidebar-primary, .bd-sidebar-secondary, body";
    const unseen = "script, style, svg, mjx-container, .visually-hidden";
    const found = new Set(), range = document.createRange();
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const overflow = element => getComputedStyle(element).overflowX;
    const tell = (what, right) =>
        found.add(`${what.trim().slice(0, 50)}: ends at ${Math.round(right)} px`);
    while (texts.nextNode()) {
        const text = texts.currentNode, element = text.parentElement;
        if (!text.data.trim() || element.closest(unseen)) continue;
        range.selectNodeContents(text);
        const { right, width } = range.getBoundingClientRect();
        const part = element.closest(parts);
        for (let box = element; width; box = box.parentElement) {
            if (box !== part && /auto|scroll/.test(overflow(box))) break;
            const cuts = box === part || /hidden|clip/.test(overflow(box));
            if (cuts && right > box.getBoundingClientRect().right + 1) {
                tell(text.data, right);
            }
            if (box === part) break;
        }
    }
    const wide = document.documentElement.scrollWidth;
    if (wide > innerWidth) tell("the page", wide);
    return [...found].slice(0, 5);
}"""
PLACES = (0.5, 0.5), (0.3, 0.35), (0.7, 0.6), (0.2, 0.75), (0.85, 0.2)


class Gate(ThreadingHTTPServer):
    """The proxy that all requests of a page go through: each is noted and refused.

    What a browser reports is no proof of silence: newer Chromiums run a sandboxed frame
    in a process of its own, whose requests Playwright neither tells nor stops.
    """

    daemon_threads = True

    def __init__(self, home: str = "") -> None:
        super().__init__(("127.0.0.1", 0), _Refusal)
        self.home = home  # host and port that may be reached, past the gate
        self.asked: list[str] = []  # addresses; of an encrypted one only the host
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def proxy(self) -> dict[str, str]:
        """What Playwright's `new_context` takes as its proxy."""
        address = {"server": f"http://127.0.0.1:{self.server_port}"}
        return address | ({"bypass": self.home} if self.home else {})

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Refusal(BaseHTTPRequestHandler):
    """Answers whatever is asked with 403."""

    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # of a proxy: the whole address
        self._refuse()

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET

    def do_CONNECT(self) -> None:
        """What is encrypted, and web sockets: host:port is all that is told."""
        self.server.asked.append("https://" + self.path.removesuffix(":443"))
        self._refuse()

    def _refuse(self) -> None:
        self.send_response(403)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *words) -> None:
        pass


class Watch:
    """Collects what a page complains about and, at its gate, whom it asks."""

    def __init__(self, page, gate: Gate) -> None:
        self.gate = gate
        self.errors: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(f"uncaught: {error}"))
        page.on("console", self._said)

    @property
    def outside(self) -> list[str]:
        """The addresses that the page asked for so far; all were refused."""
        asked = list(self.gate.asked)
        return [url for url in asked if urlparse(url).hostname not in BROWSERS_OWN]

    def _said(self, message) -> None:
        place = message.location.get("url", "")
        parts = urlparse(place)
        refused = parts.scheme in WEB and parts.netloc != self.gate.home  # in `outside`
        if message.type == "error" and not refused:
            self.errors.append(f"{message.text} ({place[:120]})")


def cut_off(page) -> list[str]:
    """What of a page of the book is wider than its place, and cannot be scrolled to."""
    return page.evaluate(CUT_OFF)


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


def pointing_changes(page, within) -> bool:
    """True where a figure's stage looks different once the pointer is on it.

    The anchor bench waits for a pressed one: what it shows is moved, not picked.
    """
    view = "JSON.parse(document.getElementById('bundle').textContent).view"
    pressed, canvas = within.evaluate(view) == "bench", stage(within)
    canvas.scroll_into_view_if_needed()
    page.mouse.move(0, 0)
    before = settled(canvas)
    for x, y in PLACES:
        if pressed:
            page.mouse.down()  # and drag it to the next place
        move(page, canvas, x, y)
        page.mouse.up()
        canvas.evaluate(TWO_FRAMES)  # the figure draws in the next one
        if canvas.screenshot() != before:
            return True
    return False


def read(frame, selector: str = ".words") -> str:
    """The text of a part of a live figure, once it has drawn its latest state."""
    frame.evaluate(TWO_FRAMES)  # a change is drawn, and said, in the next one
    return frame.locator(selector).first.inner_text()


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
        assert pointing_changes(page, frame), f"{title}: pointing changes nothing"
        count += 1
    assert watch.errors == []
    return count
