"""Downloads that resume, wait for each other, and are verified before they get their name."""

import http
import http.client
import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from rich.progress import Progress

from diffdict.errors import UserError
from diffdict.files.atomic import (
    bytes_bar,
    console,
    fsync,
    human_bytes,
    plain_disk_errors,
    require_space,
    writable_folder,
    write_atomic,
)
from diffdict.files.atomic import sha256 as _digest  # download() has an argument of that name
from diffdict.files.json_text import json_text

try:
    import fcntl
except ImportError:  # no advisory locks on this system: writers still agree on every byte's place
    fcntl = None

CHUNK = 1 << 20  # bytes moved at a time
TIMEOUT = 30.0  # seconds without a byte before a connection counts as broken
ATTEMPTS = 20  # connections that one download may use, as long as each brings bytes
PAUSE = 1.0  # seconds between them


def download(url: str, path: str | Path, *, sha256: str | None = None, note: str = "") -> Path:
    """The file at this address, whole and verified; after a cut or Ctrl-C the next call resumes."""
    path = Path(path)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"Cannot download {url}: only http:// and https:// addresses are fetched.")
    if not path.exists():
        writable_folder(path.parent)
        part = path.with_name(path.name + ".part")
        with plain_disk_errors(path), _locked(part, path) as file:
            if not path.exists():  # else another process brought it while this one waited
                _Download(url, path, part, file).run(note)
                _check_digest(part, sha256, f"what {url} sent", keep=False)
                os.fsync(file.fileno())
                os.replace(part, path)
                fsync(path.parent)
    _check_digest(path, sha256, str(path), keep=True)
    return path


def _check_digest(path: Path, wanted: str | None, what: str, keep: bool) -> None:
    if wanted is None or (digest := _digest(path)) == wanted.lower():
        return
    if not keep:
        path.unlink()
    way_out = "Move that file away" if keep else "Nothing was kept:"
    raise UserError(
        f"The sha256 of {what} is {digest}, it should be {wanted}. {way_out} and try again; "
        f"if it stays so, the file was changed at its source."
    )


@contextmanager
def _locked(part: Path, path: Path) -> Iterator[BinaryIO]:
    """The part file, open for this process alone as far as the file system can promise it."""
    while True:
        handle = os.open(part, os.O_RDWR | os.O_CREAT, 0o666)
        with open(handle, "r+b", buffering=0) as file:
            _lock(handle, path)
            if not _is_still(part, handle):
                continue  # another process finished or gave up while this one waited
            try:
                yield file
            finally:
                if _is_still(part, handle) and not os.fstat(handle).st_size:
                    part.unlink()
            return


def _is_still(part: Path, handle: int) -> bool:
    """Whether the open file still bears this name."""
    try:
        return os.path.samestat(os.fstat(handle), part.stat())
    except FileNotFoundError:
        return False


def _lock(handle: int, path: Path) -> None:
    if fcntl is None:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        console().print(f"Another process is downloading {path}: waiting for it", markup=False)
        fcntl.flock(handle, fcntl.LOCK_EX)
    except (
        OSError
    ):  # a file system without locks: both then write the same bytes at the same places
        return


class _BrokenOff(Exception):
    """The connection ended before the file did."""


class _Remote(NamedTuple):
    """What tells one version of a remote file from another."""

    url: str
    etag: str | None
    modified: str | None
    length: int | None

    @property
    def validator(self) -> str | None:
        """What If-Range may name: a strong ETag, else a date."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.modified


class _Download:
    """One file being fetched into its part, over as many connections as each brings some bytes."""

    def __init__(self, url: str, path: Path, part: Path, file: BinaryIO) -> None:
        self.url, self.path, self.part, self.file = url, path, part, file
        self.state = part.with_name(part.name + ".json")

    @property
    def size(self) -> int:
        """Bytes that have come so far."""
        return os.fstat(self.file.fileno()).st_size

    def run(self, note: str) -> None:
        """All bytes, or a UserError that says how to go on."""
        with bytes_bar(self.path.name) as progress:
            for attempt in range(ATTEMPTS):
                before = self.size
                try:
                    self.stream(progress, note if attempt == 0 else None)
                    break
                except _BrokenOff as error:
                    if self.size <= before or attempt == ATTEMPTS - 1:
                        raise self.failed(
                            f"broke off after {human_bytes(self.size)}", error
                        ) from error
                    time.sleep(PAUSE)
        self.state.unlink(missing_ok=True)

    def failed(self, how: str, why: object) -> UserError:
        """The failure, and both ways out."""
        return UserError(
            f"The download of {self.url} {how} ({why}). The same command resumes it; "
            f"or fetch it on another machine and put it at {self.path}."
        )

    def stream(self, progress: Progress, note: str | None) -> None:
        """One connection: from the part's end, when the remote is provably still the same file."""
        record = self.known()
        offset = self.size if record and record.validator else 0
        if record and offset and offset == record.length:
            return
        with self.connect(offset, record) as response:
            remote, start = self.answered(response)
            if start != 0 and (start != offset or record is None or remote != record):
                if offset == 0:
                    raise self.failed("answered with a piece", f"it starts at byte {start}")
                self.file.truncate(0)  # a server that ignores If-Range: another file's tail
                self.stream(progress, note)
                return
            if start == 0:
                self.file.truncate(0)
                write_atomic(self.state, json_text(remote._asdict()).encode())
            self.file.seek(start)
            if remote.length is not None:
                require_space(self.path, remote.length - start, self.path.name)
            size = "unknown size" if remote.length is None else human_bytes(remote.length)
            if note is not None:
                progress.console.print(
                    f"Downloading {self.path.name} ({size}) from {self.url}. {note}".rstrip(),
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
            self.copy(response, progress, start, remote.length)

    def known(self) -> _Remote | None:
        """What the part on disk is a piece of, when it was left by this address."""
        try:
            remote = _Remote(**json.loads(self.state.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None
        return remote if remote.url == self.url else None

    def connect(self, offset: int, known: _Remote | None) -> http.client.HTTPResponse:
        """The answer to a request for everything from this byte on."""
        headers = {"User-Agent": "diffdict", "Accept-Encoding": "identity"}
        if offset and known:
            headers |= {"Range": f"bytes={offset}-", "If-Range": known.validator}
        try:
            return urllib.request.urlopen(
                urllib.request.Request(self.url, headers=headers), timeout=TIMEOUT
            )
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
                self.file.truncate(0)
                return self.connect(0, None)
            raise self.failed(f"was refused: {error.code}", error.reason) from error
        except (OSError, http.client.HTTPException) as error:
            raise self.failed("could not start", getattr(error, "reason", error)) from error

    def answered(self, response: http.client.HTTPResponse) -> tuple[_Remote, int]:
        """The remote file's identity and the byte that the answer starts at."""
        head, start = response.headers, 0
        if head.get_content_type() == "text/html" and self.path.suffix not in (".html", ".htm"):
            raise self.failed("answered with a web page instead of the file", "moved, or a login")
        length = int(size) if (size := head.get("Content-Length", "")).isdigit() else None
        if response.status == http.HTTPStatus.PARTIAL_CONTENT:
            span, _, total = head.get("Content-Range", "").removeprefix("bytes ").partition("/")
            start = int(first) if (first := span.partition("-")[0]).isdigit() else -1
            length = int(total) if total.isdigit() else None
        return _Remote(self.url, head["ETag"], head["Last-Modified"], length), start

    def copy(
        self,
        response: http.client.HTTPResponse,
        progress: Progress,
        start: int,
        length: int | None,
    ) -> None:
        """The answer's body onto the part's end."""
        task = progress.task_ids[0]
        progress.update(task, total=length, completed=start)
        while True:
            try:
                chunk = response.read(CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenOff(str(error) or type(error).__name__) from error
            if not chunk:
                break
            rest = memoryview(chunk)
            while rest:
                rest = rest[self.file.write(rest) :]
            progress.advance(task, len(chunk))
        if length is not None and self.size != length:
            raise _BrokenOff(f"{self.size} of {length} bytes came")
