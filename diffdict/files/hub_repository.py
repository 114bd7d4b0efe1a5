"""A repository on the Hugging Face hub: files in and out, resumable, mistakes in one line."""

import hashlib
import importlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from types import ModuleType

from diffdict.errors import UserError, one_line
from diffdict.files.atomic import require_space, sha256
from diffdict.files.hub_address import HubAddress, hub_address

FILES, BYTES = 100, 1_000_000_000  # of one commit of many: what a broken connection costs
CLIENTS = ("httpx", "httpx2", "httpcore")  # the HTTP client under its names
LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def hub_library() -> ModuleType:
    """The huggingface_hub package, which is an extra."""
    try:
        for part in ("hf_api", "errors"):  # attributes of it once they are imported
            importlib.import_module(f"huggingface_hub.{part}")
        for client in CLIENTS:
            logging.getLogger(client).setLevel(logging.WARNING)  # a line a request is no news
        return importlib.import_module("huggingface_hub")
    except ImportError as error:
        raise UserError(
            "hf:// needs huggingface_hub, which is not here: pip install 'diffdict[hub]'"
        ) from error


class HubRepository:
    """What lies at an address; whoever logged in is known to huggingface_hub, not to this class."""

    def __init__(self, address: HubAddress) -> None:
        self.address, self.library = address, hub_library()

    @cached_property
    def api(self) -> object:
        """Of $HF_ENDPOINT, as it stands now."""
        return self.library.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="diffdict")

    @cached_property
    def commit(self) -> str:
        """The sha of the revision that is asked for."""
        with self.plain_errors():
            return self.api.repo_info(**self._where).sha

    def contents(self) -> dict[str, object]:
        """Its files with their sizes and hashes, by path."""
        with self.plain_errors():
            entries = self.api.list_repo_tree(**self._where, recursive=True)
            return {
                one.path: one for one in entries if isinstance(one, self.library.hf_api.RepoFile)
            }

    def fetch(self) -> Path:
        """The folder asked for, in huggingface_hub's cache; without a network as it was last."""
        only = f"{self.address.inside}/*" if self.address.inside else None
        with self.plain_errors():
            whole = self._download(revision=self.address.revision, allow_patterns=only)
        folder = Path(whole) / self.address.inside
        if not folder.is_dir():
            raise UserError(f"{self.address} names no folder: {self.address.repo} has none of it")
        return folder

    def fetch_into(self, folder: Path, paths: Iterable[str]) -> None:
        """These files below a folder; those that have come whole do not come again."""
        remote, paths = self.contents(), list(paths)
        missing = [path for path in paths if not is_same(folder / path, remote[path])]
        require_space(folder, sum(remote[path].size for path in missing), str(self.address))
        with self.plain_errors():
            self._download(revision=self.commit, allow_patterns=paths, local_dir=folder)

    def create(self, private: bool) -> None:
        """The repository, unless it is there."""
        with self.plain_errors():
            self.api.create_repo(
                self.address.repo, repo_type=self.address.kind, private=private, exist_ok=True
            )

    def push(self, files: Mapping[str, Path | bytes], replaced: str | None = None) -> int:
        """Adds what is not there already in one commit; returns how many files that were.

        `replaced`: a folder that has no other files afterwards.
        """
        remote = self.contents()
        new = [path for path, file in files.items() if not is_same(file, remote.get(path))]
        gone = [path for path in remote if replaced and path.startswith(f"{replaced}/")]
        gone = [path for path in gone if path not in files]
        adds = [self.library.CommitOperationAdd(path, _content(files[path])) for path in new]
        removes = [self.library.CommitOperationDelete(path) for path in gone]
        if adds or removes:
            self._commit([*adds, *removes], f"Push {len(adds)} files with diffdict")
        return len(adds)

    def push_many(self, files: Mapping[str, Path]) -> Iterator[tuple[int, int]]:
        """Adds files in their order, some in a commit: what is there stays there after a break.

        Yields how many of them, and of how many bytes, are there by now.
        """
        remote = self.contents()
        new = [path for path, file in files.items() if not is_same(file, remote.get(path))]
        number = len(files) - len(new)
        size = sum(file.stat().st_size for path, file in files.items() if path not in {*new})
        yield number, size
        while new:
            batch, new = _first_batch(new, files)
            adds = [self.library.CommitOperationAdd(path, files[path]) for path in batch]
            self._commit(adds, f"Push {len(batch)} files with diffdict")
            number += len(batch)
            size += sum(files[path].stat().st_size for path in batch)
            yield number, size

    def _commit(self, operations: list, message: str) -> None:
        with self.plain_errors():
            self.api.create_commit(
                self.address.repo,
                operations,
                commit_message=message,
                repo_type=self.address.kind,
                revision=self.address.revision,
            )

    def _download(self, **options: object) -> str:
        return self.api.snapshot_download(
            self.address.repo,
            repo_type=self.address.kind,
            **options,
        )

    @property
    def _where(self) -> dict[str, str | None]:
        repo, kind, revision, _ = self.address
        return {"repo_id": repo, "repo_type": kind, "revision": revision}

    @contextmanager
    def plain_errors(self) -> Iterator[None]:
        """What the hub or the way to it says becomes a UserError that names the address."""
        try:
            yield
        except Exception as error:
            uploading = isinstance(error, RuntimeError) and error.__cause__ is not None
            why = self._explained(error.__cause__ if uploading else error)
            if why is None:
                raise
            raise UserError(why) from error

    def _explained(self, error: BaseException) -> str | None:
        """One line for what its user can mend; None for a bug."""
        errors, address = self.library.errors, self.address
        if isinstance(error, errors.GatedRepoError):
            page = f"https://huggingface.co/{'datasets/' * (address.kind == 'dataset')}"
            return f"{address} is gated: accept its terms at {page}{address.repo}, and {LOG_IN}"
        if isinstance(error, errors.RepositoryNotFoundError):
            return f"{address} is not there, or not for you: check the name, or {LOG_IN}"
        if isinstance(error, errors.RevisionNotFoundError):
            return (
                f"{address} has no such revision: leave @{address.revision} out, or name a branch, "
                "a tag or a commit of it"
            )
        if isinstance(error, errors.OfflineModeIsEnabled | errors.LocalEntryNotFoundError) or (
            not isinstance(error, errors.HfHubHTTPError) and _of_connection(error)
        ):
            return self._unreachable(error)
        if isinstance(error, errors.HfHubHTTPError):
            return self._refusal(error)
        if isinstance(error, errors.HFValidationError) or "README.md" in str(error):
            return f"{address}: {one_line(error)}"
        return None

    def _unreachable(self, error: BaseException) -> str:
        return (
            f"{self.address} cannot be reached ({one_line(error.__cause__ or error)[:120]}), and "
            "is not in the cache of an earlier run: connect this machine, or copy "
            "the folder here and name its path"
        )

    def _refusal(self, error: BaseException) -> str:
        status = error.response.status_code
        if status in (401, 403):
            return f"{self.address} may not be written or read by you ({status}): {LOG_IN}"
        return (
            f"{self.address} was refused by the hub ({status}: {one_line(error)[:200]}): the same "
            "command goes on where it stopped"
        )


def hub_folder(path: str | Path) -> Path:
    """The folder at an address, fetched unless it is in the cache."""
    address = hub_address(path)
    return HubRepository(address).fetch()


def is_same(file: Path | bytes, remote: object | None) -> bool:
    """Whether a file here is the one there, by the hash that the hub keeps of it."""
    if remote is None or (isinstance(file, Path) and not file.is_file()):
        return False
    size = file.stat().st_size if isinstance(file, Path) else len(file)
    if size != remote.size:
        return False
    if remote.lfs is not None:
        ours = sha256(file) if isinstance(file, Path) else hashlib.sha256(file).hexdigest()
        return ours == remote.lfs.sha256
    data = file.read_bytes() if isinstance(file, Path) else file
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest() == remote.blob_id


def _first_batch(paths: list[str], files: Mapping[str, Path]) -> tuple[list[str], list[str]]:
    """As many of the first as one commit takes, and the others."""
    size = 0
    for number, path in enumerate(paths):
        size += files[path].stat().st_size
        if number and (number == FILES or size > BYTES):
            return paths[:number], paths[number:]
    return paths, []


def _content(file: Path | bytes) -> str | bytes:
    return file if isinstance(file, bytes) else str(file)


def _of_connection(error: BaseException) -> bool:
    """Whether it comes of the HTTP client, which is httpx under one name or the other."""
    return type(error).__module__.partition(".")[0] in CLIENTS
