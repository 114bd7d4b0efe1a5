"""A hub of one process: as much of the Hugging Face hub's HTTP as pushing and fetching need."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

TEXT = (".md", ".json", ".csv")  # all else lies in the LFS store, as .gitattributes has it there


class Blob(NamedTuple):
    """A file there."""

    data: bytes
    large: bool

    @property
    def oid(self) -> str:
        head = b"blob %d\0" % len(self.data)
        return hashlib.sha1(head + self.data).hexdigest()

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.large else self.oid


class FakeHub(ThreadingHTTPServer):
    """Repositories by `models/user/name`, each a list of commits; faults are set by a test."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.repositories: dict[str, list[tuple[str, dict[str, Blob]]]] = {}
        self.stored: dict[str, bytes] = {}  # LFS objects
        self.private: dict[str, bool] = {}
        self.commits = 0  # taken
        self.commits_left: int | None = None  # until the hub refuses more
        self.gated = self.readable_only = False
        self.requests: list[str] = []
        self.sent: list[str] = []  # paths of files downloaded

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def files(self, repo: str) -> dict[str, Blob]:
        return self.repositories[repo][-1][1]

    def add(self, repo: str, files: dict[str, Blob]) -> str:
        self.commits += 1
        sha = hashlib.sha1(f"{repo} {self.commits}".encode()).hexdigest()
        self.repositories[repo].append((sha, files))
        return sha


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def reply(self, status: int, body: object = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(data)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def refuse(self, status: int, code: str) -> None:
        self.reply(status, {"error": code}, X_Error_Code=code, X_Error_Message=code)

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        data = b""
        while size := int(self.rfile.readline(), 16):
            data += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return data

    def revision(self, repo: str, revision: str) -> tuple[str, dict[str, Blob]] | None:
        """The commit, or None after a refusal."""
        hub: FakeHub = self.server
        commits = hub.repositories.get(repo, [])
        named = {"main": commits[-1]} if commits else {}
        named |= {sha: (sha, files) for sha, files in commits}
        if hub.gated:
            self.refuse(403, "GatedRepo")
        elif repo not in hub.repositories:
            self.refuse(404, "RepoNotFound")
        elif revision not in named:
            self.refuse(404, "RevisionNotFound")
        else:
            return named[revision]
        return None

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.requests.append(f"{self.command} {path}")
        if asked := re.fullmatch(r"/api/((?:model|dataset)s/\w+/[\w.-]+)(?:/(\w+)/(\w+))?", path):
            if commit := self.revision(asked[1], asked[3] or "main"):
                facts = {"id": asked[1].partition("/")[2], "sha": commit[0], "siblings": []}
                self.reply(200, tree(commit[1]) if asked[2] == "tree" else facts)
        elif asked := re.fullmatch(r"/(datasets/)?(\w+/[\w.-]+)/resolve/(\w+)/(.+)", path):
            if commit := self.revision(f"{asked[1] or 'models/'}{asked[2]}", asked[3]):
                self.send(asked[4], *commit)
        else:
            self.refuse(404, "EntryNotFound")

    def send(self, path: str, sha: str, files: dict[str, Blob]) -> None:
        """A file of a commit, or for HEAD its facts."""
        if path not in files:
            self.refuse(404, "EntryNotFound")
            return
        if self.command == "GET":
            self.server.sent.append(path)
        self.reply(200, files[path].data, ETag=f'"{files[path].etag}"', X_Repo_Commit=sha)

    def do_PUT(self) -> None:
        data = self.body()
        self.server.stored[self.path.rpartition("/")[2]] = data
        self.reply(200)

    def do_POST(self) -> None:
        hub: FakeHub = self.server
        path, data = unquote(urlsplit(self.path).path), self.body()
        hub.requests.append(f"POST {path}")
        if hub.readable_only and path != "/api/validate-yaml":
            self.reply(403, {"error": "Forbidden"}, X_Error_Message="Forbidden")
        elif path == "/api/validate-yaml":
            self.reply(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self.create(**json.loads(data))
        elif path.endswith("/objects/batch"):
            wanted = json.loads(data)["objects"]
            self.reply(200, {"objects": [self.upload(**each) for each in wanted]})
        elif "/preupload/" in path:
            self.reply(200, {"files": [mode(each) for each in json.loads(data)["files"]]})
        elif asked := re.fullmatch(r"/api/(\w+/\w+/[\w.-]+)/commit/main", path):
            self.commit(asked[1], [json.loads(line) for line in data.splitlines()])
        else:
            self.refuse(404, "EntryNotFound")

    def create(self, name: str, type: str = "model", visibility: str = "public", **other) -> None:
        """A repository, unless it is there."""
        hub, owner = self.server, other.get("organization") or "user"
        repo = f"{type}s/{owner}/{name}"
        new = repo not in hub.repositories
        if new:
            hub.repositories[repo], hub.private[repo] = [], visibility == "private"
            hub.add(repo, {})
        self.reply(200 if new else 409, {"url": f"{hub.url}/{owner}/{name}"})

    def upload(self, oid: str, size: int) -> dict:
        """What the LFS store says of an object: how to send it, unless it is there."""
        where = {"upload": {"href": f"{self.server.url}/lfs/{oid}"}}
        known = oid in self.server.stored
        return {"oid": oid, "size": size, **({} if known else {"actions": where})}

    def commit(self, repo: str, lines: list[dict]) -> None:
        hub: FakeHub = self.server
        if hub.commits_left is not None:
            hub.commits_left -= 1
            if hub.commits_left < 0:
                self.reply(400, {"error": "the line broke"}, X_Error_Message="the line broke")
                return
        files = dict(hub.files(repo))
        for line in lines:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
            elif line["key"] == "lfsFile":
                files[value["path"]] = Blob(hub.stored[value["oid"]], True)
            elif line["key"] == "deletedFile":
                del files[value["path"]]
        sha = hub.add(repo, files)
        page = f"{hub.url}/{repo.removeprefix('models/')}/commit/{sha}"
        self.reply(200, {"success": True, "commitOid": sha, "commitUrl": page})


def mode(file: dict) -> dict:
    """How the hub wants a file to come."""
    way = "regular" if file["path"].endswith(TEXT) else "lfs"
    return {"path": file["path"], "uploadMode": way, "shouldIgnore": False}


def tree(files: dict[str, Blob]) -> list[dict]:
    """Files and folders, as the hub lists them."""
    rows = []
    for path, blob in files.items():
        row = {"type": "file", "path": path, "size": len(blob.data), "oid": blob.oid}
        size = len(blob.data)
        lfs = {"lfs": {"oid": blob.sha256, "size": size, "pointerSize": 130}} if blob.large else {}
        rows.append({**row, **lfs})
    folders = {path.rpartition("/")[0] for path in files if "/" in path}
    return [*rows, *({"type": "directory", "path": path, "oid": "0" * 40} for path in folders)]


@contextmanager
def serving() -> Iterator[FakeHub]:
    """A hub at work."""
    hub = FakeHub()
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
