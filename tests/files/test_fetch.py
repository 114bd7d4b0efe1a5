"""Downloads resume, are verified, and name what went wrong."""

import hashlib
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from diffdict import files
from diffdict.errors import UserError
from diffdict.files import atomic, fetch

BODY = bytes(range(256)) * 9000  # 2.3 MB: more than two chunks


class Remote(ThreadingHTTPServer):
    """A file server whose faults the test chooses."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.body, self.etag, self.ranges, self.kind = (
            BODY,
            '"one"',
            True,
            "application/octet-stream",
        )
        self.cut: list[int] = []  # bytes after which the next connections end
        self.announce: int | None = None  # a Content-Length that is not true
        self.ignore_if_range = False
        self.slow = 0.0
        self.status = 200
        self.asked: list[tuple[str | None, int]] = []  # Range header, bytes sent

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.bin"


class _Answer(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        at: Remote = self.server
        if at.status != 200:
            return self.send_error(at.status)
        wanted, start = self.headers.get("Range"), 0
        same = at.ignore_if_range or self.headers.get("If-Range") in (None, at.etag)
        if wanted and at.ranges and same:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
        if start >= len(at.body) > 0 and start:
            return self.send_error(416)
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", at.kind)
        body = at.body[start:]
        self.send_header("Content-Length", str(at.announce or len(body)))
        if at.etag:
            self.send_header("ETag", at.etag)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(at.body) - 1}/{len(at.body)}")
        self.end_headers()
        body = body[: at.cut.pop(0)] if at.cut else body
        at.asked.append((wanted, len(body)))
        if at.slow:
            self.wfile.write(body[:1000])
            time.sleep(at.slow)
            body = body[1000:]
        self.wfile.write(body)
        return None

    def log_message(self, *_) -> None:
        """Nothing on the screen."""


@pytest.fixture
def remote(monkeypatch) -> Iterator[Remote]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fetch, "PAUSE", 0.0)
    with Remote() as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


def alone(path: Path) -> bool:
    """The file is there and nothing else was left in its folder."""
    return [each.name for each in path.parent.iterdir()] == [path.name]


def test_download_says_size_and_note_and_verifies(remote, tmp_path, capsys):
    path = tmp_path / "in" / "weights.bin"
    digest = hashlib.sha256(BODY).hexdigest()
    assert files.download(remote.url, path, sha256=digest, note="Licence: MIT.") == path
    assert path.read_bytes() == BODY
    assert alone(path)
    said = capsys.readouterr().err
    assert "(2.3 MB)" in said
    assert "Licence: MIT." in said
    files.download(remote.url, path, sha256=digest)
    assert len(remote.asked) == 1
    with pytest.raises(UserError, match="Move that file away"):
        files.download(remote.url, path, sha256="0" * 64)
    assert path.read_bytes() == BODY


def test_a_cut_connection_is_resumed_where_it_ended(remote, tmp_path):
    remote.cut = [1_000_000, 700_000]
    path = files.download(remote.url, tmp_path / "weights.bin")
    assert path.read_bytes() == BODY
    assert [wanted for wanted, _ in remote.asked] == [None, "bytes=1000000-", "bytes=1700000-"]
    assert alone(path)


def test_a_later_call_resumes_what_an_interrupted_one_left(remote, tmp_path, monkeypatch):
    remote.cut = [1_500_000]

    def interrupted(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(fetch.time, "sleep", interrupted)
    with pytest.raises(KeyboardInterrupt):
        files.download(remote.url, tmp_path / "weights.bin")
    assert not (tmp_path / "weights.bin").exists()
    assert (tmp_path / "weights.bin.part").stat().st_size == 1_500_000
    path = files.download(remote.url, tmp_path / "weights.bin")
    assert path.read_bytes() == BODY
    assert remote.asked[-1] == ("bytes=1500000-", len(BODY) - 1_500_000)
    assert alone(path)


@pytest.mark.parametrize("how", ["changed", "changed, If-Range ignored", "no ranges", "no etag"])
def test_a_part_that_cannot_be_continued_is_fetched_anew(remote, tmp_path, monkeypatch, how):
    remote.cut = [1_500_000]
    remote.etag = None if how == "no etag" else remote.etag
    monkeypatch.setattr(fetch, "ATTEMPTS", 1)
    with pytest.raises(UserError, match=r"broke off after 1\.5 MB.*resumes it"):
        files.download(remote.url, tmp_path / "weights.bin")
    if how.startswith("changed"):
        remote.body, remote.etag = BODY[::-1], '"two"'
    remote.ignore_if_range = "ignored" in how
    remote.ranges = how != "no ranges"
    path = files.download(remote.url, tmp_path / "weights.bin")
    assert path.read_bytes() == remote.body
    assert alone(path)


def test_a_wrong_hash_keeps_nothing(remote, tmp_path):
    with pytest.raises(UserError, match=r"sha256 of what http.* should be 0000.*Nothing was kept"):
        files.download(remote.url, tmp_path / "weights.bin", sha256="0" * 64)
    assert not list(tmp_path.iterdir())


def test_a_wrong_length_never_gets_the_final_name(remote, tmp_path):
    remote.announce = len(BODY) + 5
    with pytest.raises(UserError, match="broke off"):
        files.download(remote.url, tmp_path / "weights.bin")
    assert not (tmp_path / "weights.bin").exists()


@pytest.mark.parametrize(
    ("status", "kind"), [(404, ""), (503, ""), (200, "text/html; charset=utf-8")]
)
def test_an_answer_that_is_no_file_is_said(remote, tmp_path, status, kind):
    remote.status, remote.kind = status, kind
    word = str(status) if status != 200 else "web page"
    with pytest.raises(UserError, match=rf"{word}.*put it at .*weights\.bin"):
        files.download(remote.url, tmp_path / "weights.bin")
    assert not list(tmp_path.iterdir())


def test_offline_names_the_address_and_the_place(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    url = "http://127.0.0.1:9/weights.bin"
    with pytest.raises(UserError, match=rf"{url} could not start .*put it at .*weights\.bin"):
        files.download(url, tmp_path / "weights.bin")
    with pytest.raises(UserError, match="only http"):
        files.download("file:///etc/hostname", tmp_path / "weights.bin")


def test_no_room_is_said_before_a_byte_is_fetched(remote, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "free_bytes", lambda _: 1000)
    with pytest.raises(UserError, match=r"No room for weights\.bin.*2\.3 MB, 1\.0 KB are free"):
        files.download(remote.url, tmp_path / "weights.bin")
    assert not (tmp_path / "weights.bin").exists()


def test_two_at_once_fetch_it_once(remote, tmp_path):
    remote.slow = 0.2
    path = tmp_path / "weights.bin"
    both = [threading.Thread(target=files.download, args=(remote.url, path)) for _ in range(3)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert path.read_bytes() == BODY
    assert len(remote.asked) == 1
    assert alone(path)
