"""What all tests share: no windows, and no browser tests without a browser."""

import matplotlib
import pytest

pytest.register_assert_rewrite("pages")  # before it is imported

from pages import Gate, Watch  # noqa: E402

from tools.chromium import NO_CHROMIUM, find_chromium  # noqa: E402

# Not through MPLBACKEND: the notebooks' kernels would inherit it and draw nothing.
matplotlib.use("Agg")


@pytest.fixture(scope="session")
def chromium() -> str:
    """For playwright: `p.chromium.launch(executable_path=chromium, ...)`."""
    return find_chromium()


@pytest.fixture(scope="module")
def browser(chromium):
    """A running Chromium, one for each module: its event loop is in others' way."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=chromium,
            args=["--no-sandbox", "--disable-gpu"],
            proxy={"server": "http://every-context-has-its-own"},
        )
        yield running
        running.close()


@pytest.fixture
def home() -> str:
    """Host and port of the one server that a page may ask: here none."""
    return ""


@pytest.fixture
def gate(home):
    """Notes and refuses what a page asks of anybody but `home`."""
    gate = Gate(home)
    yield gate
    gate.close()


@pytest.fixture
def page(browser, gate, tmp_path):
    """A fresh page; what it looks like is kept when its test fails."""
    size = {"width": 1200, "height": 900}
    context = browser.new_context(viewport=size, proxy=gate.proxy)
    context.set_default_timeout(60_000)
    yield context.new_page()
    context.close()


@pytest.fixture
def watch(page, gate) -> Watch:
    """What the page complains about and asks for; it reaches no network."""
    return Watch(page, gate)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed browser test shows where its screenshot is and what the page said."""
    report = yield
    page = getattr(item, "funcargs", {}).get("page")
    if report.failed and page is not None and call.when == "call":
        report.sections.append(("Browser", _look(item, page)))
    return report


def _look(item, page) -> str:
    watch = item.funcargs.get("watch")
    lines = [f"address: {page.url}"]
    if watch:
        lines += [f"said: {text}" for text in watch.errors[-10:]]
        lines += [f"asked: {url}" for url in watch.outside[-10:]]
    try:
        file = item.funcargs["tmp_path"] / "page.png"
        page.screenshot(path=file, timeout=5000)
        lines.append(f"screenshot: {file}")
    except Exception as error:  # the page may be gone: say so, hide nothing else
        lines.append(f"no screenshot: {error}")
    return "\n".join(lines)


def pytest_collection_modifyitems(items):
    """Tests marked `browser` are skipped, with the reason, where there is none."""
    if find_chromium():
        return
    skip = pytest.mark.skip(reason=NO_CHROMIUM)
    for item in items:
        if "browser" in item.keywords:
            item.add_marker(skip)
