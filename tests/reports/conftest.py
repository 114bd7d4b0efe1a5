"""For tests of pages: a headless Chromium behind two pipes, and a small page of concepts."""

import base64
import fcntl
import io
import itertools
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffdict.reports.concepts.page import (
    Class,
    Latent,
    PageContent,
    PagePicture,
    TopPicture,
    write_page,
)
from tests.processes import PATIENCE

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless=new",
    "--remote-debugging-pipe",
    "--no-first-run",
    "--disable-gpu",
    "--disable-dev-shm-usage",  # containers give it 64 MB
    "--disable-background-networking",
    "--force-color-profile=srgb",
)
KEYS = {"Enter": (13, "\r"), "/": (191, "/"), "ArrowDown": (40, ""), "Home": (36, "")}
KEYS |= {"End": (35, "")}
MISSING = (
    "A page is tested in a real browser, and no Chromium is here: install one (Debian, Ubuntu: "
    "apt-get install chromium; macOS: brew install --cask chromium), or say where one is with "
    "CHROMIUM=/path/to/chromium, or leave these tests out with -m 'not browser'"
)


class Chromium:
    """The process and its two pipes."""

    def __init__(self, path: str, folder: Path) -> None:
        theirs, self.out = _high_pipe()
        self.into, answers = _high_pipe()
        command = [path, *FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"]
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")  # which root cannot have
        log = (os.POSIX_SPAWN_OPEN, 2, str(folder / "log"), os.O_WRONLY | os.O_CREAT, 0o600)
        pipes = [(os.POSIX_SPAWN_DUP2, theirs, 3), (os.POSIX_SPAWN_DUP2, answers, 4)]
        environment = {**os.environ, "HOME": str(folder)}
        self.pid = os.posix_spawn(
            path, command, environment, file_actions=[log, *pipes], setpgroup=0
        )
        os.close(theirs)
        os.close(answers)
        self.log, self.ids, self.rest = folder / "log", itertools.count(1), b""
        self.pages: dict[str, Page] = {}

    def ask(self, method: str, session: str | None = None, **given: object) -> dict:
        """Sends a command and returns its result; what else is said meanwhile goes to the pages."""
        number = next(self.ids)
        message = {"id": number, "method": method, "params": given}
        if session is not None:
            message["sessionId"] = session
        os.write(self.out, json.dumps(message).encode() + b"\0")
        while True:
            said = self._read()
            if said.get("id") == number:
                assert "error" not in said, f"{method}: {said['error']}"
                return said["result"]
            if said.get("sessionId") in self.pages:
                self.pages[said["sessionId"]].heard(said["method"], said["params"])

    def close(self) -> None:
        """Ends the process with all of its children."""
        os.killpg(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self.out)
        os.close(self.into)

    def _read(self) -> dict:
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.into], [], [], PATIENCE)
            part = os.read(self.into, 2**20) if ready else b""
            assert part, f"Chromium fell silent:\n{self.log.read_text()[-2000:]}"
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)


class Page:
    """A tab with its own storage: what a person sees and does, what the browser complains of."""

    def __init__(self, chromium: Chromium, downloads: Path) -> None:
        self.chromium, self.complaints, self.requests = chromium, [], []
        self.context = chromium.ask("Target.createBrowserContext")["browserContextId"]
        mine = {"browserContextId": self.context}
        allowed = {"behavior": "allow", "downloadPath": str(downloads)}
        chromium.ask("Browser.setDownloadBehavior", **allowed, **mine)
        target = chromium.ask("Target.createTarget", url="about:blank", **mine)["targetId"]
        attached = chromium.ask("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        chromium.pages[self.session] = self
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.ask(f"{domain}.enable")
        self.size(1280, 800)

    def ask(self, method: str, **given: object) -> dict:
        """A command to this tab."""
        return self.chromium.ask(method, self.session, **given)

    def heard(self, method: str, said: dict) -> None:
        """Keeps complaints and whatever was fetched."""
        if method == "Runtime.exceptionThrown":
            self.complaints.append(said["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning"):
            self.complaints.append(said["args"])
        elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.complaints.append(said["entry"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"][:200])

    def size(self, width: int, height: int, phone: bool = False, dark: bool = False) -> None:
        """The window, and the person's colours."""
        shape = {"width": width, "height": height, "deviceScaleFactor": 2 if phone else 1}
        self.ask("Emulation.setDeviceMetricsOverride", **shape, mobile=phone)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path: Path, place: str = "") -> None:
        """Loads a file; returns when its scripts have run."""
        self.ask("Page.navigate", url="about:blank")  # else only the place would change
        self.ask("Page.navigate", url=path.as_uri() + place)
        self.wait(f"location.hash === {json.dumps(place)} && document.readyState === 'complete'")

    def do(self, script: str) -> object:
        """What an expression is in the page, as plain data."""
        given = {"expression": script, "awaitPromise": True, "returnByValue": True}
        said = self.ask("Runtime.evaluate", **given)
        assert "exceptionDetails" not in said, said["exceptionDetails"]
        return said["result"].get("value")

    def wait(self, script: str) -> None:
        """Until the expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.do(script):
            assert time.monotonic() < end, f"never true: {script}"
            time.sleep(0.02)

    def text(self, selector: str) -> str:
        """What is written there."""
        return self.do(f"document.querySelector({json.dumps(selector)}).innerText")

    def texts(self, selector: str) -> list[str]:
        """What is written in all of them."""
        every = f"document.querySelectorAll({json.dumps(selector)})"
        return self.do(f"Array.from({every}, (each) => each.innerText)")

    def click(self, selector: str) -> None:
        """A real click in the middle of an element, which has to be in sight and on top."""
        box = self.do(
            f"(() => {{ const each = document.querySelector({json.dumps(selector)});"
            "each.scrollIntoView({block: 'nearest'}); const box = each.getBoundingClientRect();"
            "const at = [box.x + box.width / 2, box.y + box.height / 2];"
            "return [...at, each.contains(document.elementFromPoint(...at))]; })()"
        )
        assert box[2], f"{selector} is hidden"
        for kind in ("mousePressed", "mouseReleased"):
            at = {"x": box[0], "y": box[1], "button": "left", "clickCount": 1}
            self.ask("Input.dispatchMouseEvent", type=kind, **at)

    def type(self, text: str) -> None:
        """Text into what has the focus."""
        self.ask("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """One key down and up."""
        code, text = KEYS[key]
        same = {"key": key, "windowsVirtualKeyCode": code}
        self.ask("Input.dispatchKeyEvent", type="keyDown", text=text, **same)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **same)

    def give_file(self, selector: str, path: Path) -> None:
        """A file as chosen in a file input."""
        found = f"document.querySelector({json.dumps(selector)})"
        element = self.ask("Runtime.evaluate", expression=found)["result"]["objectId"]
        self.ask("DOM.setFileInputFiles", objectId=element, files=[str(path)])

    def screenshot(self, path: Path) -> Path:
        """What is in the window, as a PNG."""
        path.write_bytes(base64.b64decode(self.ask("Page.captureScreenshot")["data"]))
        return path

    def close(self) -> None:
        """The tab and its storage gone."""
        del self.chromium.pages[self.session]
        self.chromium.ask("Target.disposeBrowserContext", browserContextId=self.context)


class Sample:
    """A small dictionary's concepts, with text that would like to be markup."""

    EVIL = '</title></script x><script>document.title = "evil"</script><b>hair & "skin"'
    HEIGHT, WIDTH, BINS = 6, 8, 5

    @staticmethod
    def picture(index, side=24):
        rng = np.random.default_rng(index)
        stream = io.BytesIO()
        pixels = rng.integers(
            0, 255, (side, side * Sample.WIDTH // Sample.HEIGHT, 3), dtype=np.uint8
        )
        Image.fromarray(pixels).save(stream, format="PNG" if index % 2 else "JPEG")
        mask = np.zeros(pixels.shape[:2], dtype=np.uint8)
        mask[: side // 2] = 1  # the upper half is of the evil class
        mask[-1] = 255  # ignored
        return PagePicture(
            f"test/{index} {Sample.EVIL}", stream.getvalue(), mask if index else None
        )

    @staticmethod
    def latent(number, pictures=10, top=4):
        rng = np.random.default_rng(number)
        if number == 7:  # never active
            return Latent(7, 0.0, float("nan"), None, None, None, np.zeros(Sample.BINS, dtype=int))
        tops = [
            TopPicture(
                int((number + i) % pictures),
                3.0 * 0.9**i,
                rng.integers(0, 256, (Sample.HEIGHT, Sample.WIDTH), dtype=np.uint8),
            )
            for i in range(top)
        ]
        score, counts = (number * 37 % 101) / 101, rng.integers(1, 1000, Sample.BINS)
        return Latent(
            number, (number + 1) / 1e5, 0.5 + number / 7, number % 3, score, score / 2, counts, tops
        )

    @staticmethod
    def concepts(count=60, shown=10, top=4, **changed):
        classes = [
            Class("nose", (200, 40, 40), 5, 0.6, 0.5, 0.8, 0.7, 0.25, 0.125),
            Class(Sample.EVIL, (40, 40, 200), 12, 0.4, 0.3, 0.6, 0.5, 0.35, None),
            Class("hat", (40, 160, 40), 9, 0.2, None, None, None, None, None, absent=True),
        ]
        given = PageContent(
            title=f"Concepts of {Sample.EVIL}",
            key="abc",
            facts={
                "dataset": Sample.EVIL,
                "timestep": 50,
                "latents": 2560,
                "FVU": 0.123456,
                "L0": None,
            },
            classes=classes,
            latents=[Sample.latent(number, shown, top) for number in range(count)],
            pictures=[Sample.picture(index) for index in range(shown)],
            edges=[0, 0.1, 0.5, 1, 2, 3],
        )
        return given._replace(**changed)


@pytest.fixture(scope="session")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One process for all tests."""
    said = os.environ.get("CHROMIUM")
    path = next(filter(None, map(shutil.which, [said] if said else NAMES)), None)
    if path is None:
        pytest.fail(MISSING, pytrace=False)
    browser = Chromium(path, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture
def tab(chromium: Chromium, tmp_path: Path) -> Iterator[Page]:
    """A fresh tab; a test in which the browser complains or fetches anything has failed."""
    page = Page(chromium, tmp_path / "downloads")
    yield page
    complaints, fetched = page.complaints, page.requests
    page.close()
    assert not complaints
    assert not [url for url in fetched if not url.startswith(("file:", "data:", "about:", "blob:"))]


@pytest.fixture
def sample() -> type[Sample]:
    """What the page holds."""
    return Sample


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """A small page on disk."""
    return write_page(Sample.concepts(), tmp_path / "page.html").path


def _high_pipe() -> tuple[int, int]:
    """A pipe whose ends are above the numbers that the browser uses."""
    ends = os.pipe()
    high = tuple(fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends)
    for end in ends:
        os.close(end)
    return high
