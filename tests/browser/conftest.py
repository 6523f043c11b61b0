"""A JupyterLab of the tests' own: fresh folders, any free port, gone afterwards."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

START_SECONDS = 180  # of a busy machine; a quiet one needs three
RUN_SECONDS = 600


class Lab:
    """A running `jupyter lab` on `folder`, and the pages it serves."""

    def __init__(self, place: Path) -> None:
        self.folder = place / "notebooks"
        self.folder.mkdir(parents=True)
        self.log_file = place / "server.log"
        homes = {name: place / name for name in ("data", "config", "runtime")}
        own = {f"JUPYTER_{name.upper()}_DIR": str(homes[name]) for name in homes}
        # nothing of the person who runs the tests: settings, start-up files, tokens
        kept = {k: v for k, v in os.environ.items() if not k.startswith("JUPYTER")}
        self.environment = {**kept, **own, "IPYTHONDIR": str(place / "ipython")}
        self.process: subprocess.Popen | None = None
        self.runtime = homes["runtime"]
        self.workspaces = place / "workspaces"
        # else a question about news lies over what a test wants to click
        settings = homes["config"] / "lab/user-settings/@jupyterlab/apputils-extension"
        settings.mkdir(parents=True)
        quiet = json.dumps({"fetchNews": "false", "checkForUpdates": False})
        (settings / "notification.jupyterlab-settings").write_text(quiet)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = {
            "ServerApp.root_dir": self.folder,
            "ServerApp.ip": "127.0.0.1",
            "ServerApp.port": 0,  # any free one
            "LabApp.workspaces_dir": self.workspaces,
            "LabApp.expose_app_in_browser": True,  # to ask it what it is doing
            "LabApp.news_url": None,
            "LabApp.check_for_updates_class": "jupyterlab.NeverCheckForUpdate",
        }
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
        command += [f"--{name}={value}" for name, value in options.items()]
        with open(self.log_file, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self._wait()

    def _wait(self) -> None:
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            try:
                (file,) = self.runtime.glob("jpserver-*.json")
                server = json.loads(file.read_text(encoding="utf-8"))
                self.url, self.token = server["url"], server["token"]
                self.ask("api/status")
                return
            except (ValueError, OSError):  # not written yet, or not answering yet
                time.sleep(0.1)
        raise RuntimeError(f"JupyterLab did not start:\n{self.log()}")

    def ask(self, path: str, method: str = "GET") -> object:
        """Call the server's own interface."""
        request = urllib.request.Request(self.url + path, method=method)
        request.add_header("Authorization", f"token {self.token}")
        with urllib.request.urlopen(request, timeout=20) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def log(self) -> str:
        """The last lines of the server's log."""
        text = self.log_file.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-30:])

    def stop_kernels(self) -> None:
        for session in self.ask("api/sessions"):
            self.ask(f"api/sessions/{session['id']}", "DELETE")

    def stop(self) -> None:
        """End the kernels, then the server, whatever state they are in."""
        if self.process is None:
            return
        steps = self._shut_down, self.process.terminate, self.process.kill
        for step in steps:
            try:
                step()
                self.process.wait(15)
                return
            except (OSError, AttributeError, subprocess.TimeoutExpired):
                continue  # it never answered, or hangs: less gently

    def _shut_down(self) -> None:
        self.stop_kernels()
        self.ask("api/shutdown", "POST")

    def write(self, name: str, *sources: str, outputs: dict | None = None) -> Path:
        """A notebook of code cells; `outputs` (by MIME type) as if the last had run."""
        cells = [nbformat.v4.new_code_cell(source) for source in sources]
        if outputs:
            shown = nbformat.v4.new_output("display_data", data=outputs)
            cells[-1].outputs, cells[-1].execution_count = [shown], len(cells)
        book = nbformat.v4.new_notebook(cells=cells)
        book.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
        path = self.folder / name
        nbformat.write(book, path)
        return path

    def trust(self, path: Path) -> None:
        """`jupyter trust`, as a reader would."""
        command = [sys.executable, "-m", "nbformat.sign", str(path)]
        subprocess.run(command, env=self.environment, check=True, capture_output=True)

    def open(self, page, path: Path) -> "Notebook":
        """Open a notebook in the page, in an empty workspace, with its kernel ready."""
        inside = path.relative_to(self.folder).as_posix()
        page.goto(f"{self.url}lab/tree/{inside}?token={self.token}&reset")
        return Notebook(page)


class Notebook:
    """The open notebook of a JupyterLab page."""

    PANEL = "jupyterapp.shell.currentWidget"

    def __init__(self, page) -> None:
        self.page = page
        page.wait_for_function(
            f"() => window.jupyterapp && {self.PANEL}?.content?.model?.cells.length",
            timeout=1000 * START_SECONDS,
        )
        page.evaluate(f"() => {self.PANEL}.context.ready")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for()

    def run_all(self) -> None:
        """Run > Run All Cells; returns when every cell ran and the kernel is idle."""
        self.page.wait_for_function(
            f"() => {self.PANEL}.sessionContext.session?.kernel?.status === 'idle'",
            timeout=1000 * START_SECONDS,
        )
        menu = self.page.locator(".lm-MenuBar-item", has_text="Run").first
        menu.click()
        self.page.locator(".lm-Menu-item[data-command='runmenu:run-all']").click()
        self.page.wait_for_function(
            f"""() => {{
                const {{sessionContext, content}} = {self.PANEL};
                const cells = content.widgets.map(cell => cell.model);
                const ran = cell => cell.type !== "code" || cell.executionCount
                    || !cell.sharedModel.getSource().trim();
                const failed = cell => cell.outputs?.toJSON().some(
                    output => output.output_type === "error");
                return cells.some(failed) || (cells.every(ran)
                    && sessionContext.session.kernel.status === "idle");
            }}""",
            timeout=1000 * RUN_SECONDS,
            polling=250,
        )

    def outputs(self) -> list[dict]:
        """All outputs, as they would be saved."""
        return self.page.evaluate(
            f"() => {self.PANEL}.content.widgets.flatMap("
            "cell => cell.model.outputs?.toJSON() ?? [])"
        )


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Lab]:
    """One JupyterLab for all tests of a module."""
    lab = Lab(tmp_path_factory.mktemp("lab"))
    try:
        lab.start()
        yield lab
    finally:
        lab.stop()


@pytest.fixture
def home(server) -> str:
    """The page may ask the JupyterLab, and nobody else."""
    return server.url.split("/")[2]


@pytest.fixture
def lab(server, page) -> Iterator[Lab]:
    """The JupyterLab, without kernels of earlier tests."""
    yield server
    server.stop_kernels()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A failed test shows the end of the server's log."""
    report = yield
    server = getattr(item, "funcargs", {}).get("server")
    if report.failed and server:
        report.sections.append(("JupyterLab", server.log()))
    return report
