"""The feature store: what a backbone saw in the pictures of a split, in checksummed shards."""

import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path

import torch
from jaxtyping import Float32, Int64, Shaped, UInt8
from torch import Tensor

from diffdict import __version__, files
from diffdict.features.locations import Blocks, Key, Timesteps, listed, place
from diffdict.features.store.identity import FORMAT, Identity
from diffdict.features.store.missing import MissingFeatures
from diffdict.features.store.sealed import (
    StoreError,
    facts_digest,
    read_sealed,
    require_same,
    sweep,
    write_once,
)
from diffdict.features.store.shards import (
    ATTRIBUTES,
    LABEL,
    MASK,
    TORCH,
    Shard,
    ShardFile,
    ShardWriter,
    Stream,
    check,
    map_shard,
)


class TokenShards(Sequence):
    """One stream's shards, [pictures, tokens, channels] each: views of the mapped files."""

    def __init__(self, store: "FeatureStore", stream: str) -> None:
        self.store, self.stream = store, store.streams[stream]

    def __len__(self) -> int:
        return self.store.shards

    def __getitem__(self, shard: int) -> Shaped[Tensor, "pictures tokens channels"]:
        if not 0 <= shard < len(self):
            raise IndexError(shard)
        return self.store.mapped(self.stream.name, shard).x

    def path(self, shard: int) -> Path:
        """Where the shard lies, for read-ahead."""
        return self.store.file(self.stream.name, shard).path


class FeatureStore:
    """Maps and labels by picture; `open` reads a finished store, `create` begins or resumes one."""

    def __init__(self, path: Path, facts: Mapping, streams: Mapping[str, Stream]) -> None:
        self.path = path
        self.identity: dict = facts["identity"]
        self.recorded: dict = facts["recorded"]  # versions, palette: told, never compared
        self.streams = dict(streams)
        self.metadata = {
            "store": facts_digest(self.identity),
            "facts": files.json_text(self.identity, sort_keys=True),
        }
        self.pictures_per_shard: int = self.identity["pictures_per_shard"]
        self.shards = -(-len(self) // self.pictures_per_shard)
        self._mapped: dict[tuple[str, int], Shard] = {}

    # ------------------------------------------------------------------ making and opening

    @classmethod
    def create(
        cls,
        path: str | Path,
        identity: Identity,
        streams: Iterable[Stream],
        recorded: Mapping | None = None,
    ) -> "FeatureStore":
        """A store to write into: new, or the one that stands there with the same identity."""
        path = Path(path)
        wanted = identity.facts
        if not (path / "store.json").exists():
            files.writable_folder(path)
        facts = {"identity": wanted, "recorded": {**(recorded or {}), "versions": versions()}}
        facts = write_once(path / "store.json", facts)
        require_same(path, facts["identity"], wanted)
        store = cls(path, facts, {stream.name: stream for stream in streams})
        for stream in store.streams.values():
            store._create_stream(stream)
        return store

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        streams: Sequence[str] | None = None,
        timestep: Timesteps = None,
        block: Blocks = None,
        expect: Mapping | None = None,
    ) -> "FeatureStore":
        """A finished store, or of it the streams named or asked for, in timestep-then-block order.

        `expect` holds facts of the identity that must be so, such as backbone_sha256.
        """
        path = Path(path)
        if not (path / "store.json").is_file():
            raise StoreError(
                f"No feature store at {path}: {path / 'store.json'} is missing. {MAKE}"
            )
        facts = read_sealed(path / "store.json")
        if facts["identity"].get("format") != FORMAT:
            version = facts["identity"].get("format")
            raise StoreError(
                f"{path} has store format {version}, this diffdict reads {FORMAT}. "
                f"Extract again into another folder, or use the version that wrote it: "
                f"{facts['recorded']['versions']}."
            )
        require_same(path, facts["identity"], {**facts["identity"], **(expect or {})})
        store = cls(path, facts, _streams(path, facts_digest(facts["identity"])))
        if streams is not None:
            store = store._with(streams)
        elif timestep is not None or block is not None:
            store = store.select(timestep=timestep, block=block)
        store.require_complete()
        return store

    def select(
        self,
        *,
        timestep: Timesteps = None,
        block: Blocks = None,
    ) -> "FeatureStore":
        """The same store with only these streams (and the labels), in timestep-then-block order.

        What a network without timesteps saw has none to choose from: whichever is asked for.
        """
        timestep = timestep if self.identity["noise"] is not None else None
        streams = {(s.timestep, s.block): name for name, s in self.features.items()}
        axes = [list(dict.fromkeys(axis)) for axis in zip(*streams, strict=True)]
        timesteps, blocks = listed(timestep) or axes[0], listed(block) or axes[1]
        exact = timestep is not None and block is not None
        cells = set(streams) if exact else set(product(*axes))
        for key in product(timesteps, blocks):
            if key not in cells:
                raise self._absent(key, timestep, block)
        names = [streams[key] for key in product(timesteps, blocks) if key in streams]
        return self._with([*names, *(name for name, s in self.streams.items() if s.is_label)])

    def _absent(self, key: Key, timestep: Timesteps, block: Blocks) -> MissingFeatures:
        return MissingFeatures(
            f"No features of {self.identity['dataset']} ({self.identity['split']}) at "
            f"{place(*key)} in {self.path}, which holds {', '.join(self.streams)}. Make them:",
            timestep,
            block,
            path=self.path,
        )

    def _with(self, names: Sequence[str]) -> "FeatureStore":
        for name in names:
            if name not in self.streams:
                held = ", ".join(self.streams)
                raise StoreError(f"No stream {name} in {self.path}, which holds {held}. {MAKE}")
        facts = {"identity": self.identity, "recorded": self.recorded}
        store = type(self)(self.path, facts, {name: self.streams[name] for name in names})
        store._mapped = self._mapped  # checked once a process, whatever is selected
        return store

    def require_complete(self) -> None:
        """Nothing, or a StoreError that counts the shards still missing."""
        for name in self.streams:
            if missing := sorted(set(range(self.shards)) - self._finished(name)):
                raise StoreError(
                    f"{len(missing)} of {self.shards} shards of {name} are missing in {self.path} "
                    f"(first {missing[0]:06d}.safetensors). "
                    f"Run the same extraction again: it goes on where it stopped."
                )

    # ------------------------------------------------------------------ reading

    def __len__(self) -> int:
        return self.identity["pictures"]

    @property
    def features(self) -> dict[str, Stream]:
        """The streams that hold no labels."""
        return {name: stream for name, stream in self.streams.items() if not stream.is_label}

    def __getitem__(self, picture: int) -> dict[str, Tensor]:
        """The picture's map in every stream, [channels, height, width], and its labels: views."""
        read = {MASK: self.mask, LABEL: self.label, ATTRIBUTES: self.attributes}
        return {
            name: read[name](picture) if stream.is_label else self._map(stream, picture)
            for name, stream in self.streams.items()
        }

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        return (self[picture] for picture in range(len(self)))

    def mask(self, picture: int) -> UInt8[Tensor, "height width"]:
        """The picture's label map."""
        return self._label(MASK, picture)

    def label(self, picture: int) -> Int64[Tensor, ""]:
        """The picture's class, a number in `facts["picture_classes"]`."""
        return self._label(LABEL, picture)[0, 0]

    def attributes(self, picture: int) -> Float32[Tensor, " attributes"]:
        """The picture's attributes, those of `facts["attributes"]`; NaN where unknown."""
        return self._label(ATTRIBUTES, picture)[0]

    def tokens(self, stream: str | None = None) -> TokenShards:
        """The shards of one stream (by default the only one) as [pictures, tokens, channels]."""
        if stream is None and len(self.features) != 1:
            raise StoreError(f"{self.path} holds {', '.join(self.features)}: name one of them.")
        return TokenShards(self, stream or next(iter(self.features)))

    @property
    def facts(self) -> dict:
        """Where the features come from and what they are; a single stream's facts at the top."""
        streams = {name: stream.facts for name, stream in self.features.items()}
        single = next(iter(streams.values())) if len(streams) == 1 else {}
        meanings = {name: list(s.meaning or ()) for name, s in self.streams.items() if s.is_label}
        noise = self.identity["noise"] or {}
        return {
            **self.identity,
            **self.recorded,
            **single,
            "noise_seed": noise.get("seed"),
            "labelled": MASK in self.streams,
            "picture_classes": meanings.get(LABEL, []),
            "attributes": meanings.get(ATTRIBUTES, []),
            "streams": streams,
        }

    def file(self, stream: str, shard: int) -> ShardFile:
        """What that shard must be, and where."""
        first = shard * self.pictures_per_shard
        images = range(first, min(len(self), first + self.pictures_per_shard))
        path = self.path / stream / f"{shard:06d}.safetensors"
        return ShardFile(path, self.streams[stream], images, self.metadata)

    def mapped(self, stream: str, shard: int) -> Shard:
        """The shard mapped into memory, its checksums verified when this process first maps it."""
        if (stream, shard) not in self._mapped:
            file = self.file(stream, shard)
            mapped = map_shard(file)
            check(file, mapped)
            self._mapped[stream, shard] = mapped
        return self._mapped[stream, shard]

    def _row(self, stream: str, picture: int) -> Tensor:
        if not 0 <= picture < len(self):
            raise IndexError(f"picture {picture} of {len(self)}")
        shard, row = divmod(picture, self.pictures_per_shard)
        return self.mapped(stream, shard).x[row]

    def _map(self, stream: Stream, picture: int) -> Shaped[Tensor, "channels height width"]:
        grid = (stream.height, stream.width)
        return self._row(stream.name, picture).unflatten(0, grid).permute(2, 0, 1)

    def _label(self, kind: str, picture: int) -> Shaped[Tensor, "rows columns"]:
        if kind not in self.streams or not self.streams[kind].is_label:
            words = {MASK: "masks", LABEL: "classes of pictures", ATTRIBUTES: "attributes"}
            raise StoreError(
                f"{self.path} has no {words[kind]}, it holds {', '.join(self.streams)}. If "
                f"{self.identity['dataset']} has some, the same extraction again adds them."
            )
        return self._row(kind, picture)

    def verify(self) -> str:
        """Every bit of every shard read again: a sentence, or a StoreError on the first fault."""
        shards = [self.file(name, shard) for name in self.streams for shard in range(self.shards)]
        for file in shards:
            check(file, map_shard(file))
        size = files.human_bytes(sum(file.size for file in shards))
        return f"{self.path}: {len(shards)} shards, {size}, every bit as it was written"

    def describe(self) -> str:
        """What is in the store, in one screen."""
        facts = {**self.identity, **self.recorded["versions"]}
        facts["class_names"] = ", ".join(facts["class_names"])
        lines = [f"{self.path}", *(f"  {name:18} {value}" for name, value in facts.items())]
        for name, stream in self.streams.items():
            size = files.human_bytes(stream.picture_bytes * len(self))
            lines.append(f"  {name:18} {stream.spoken}, {size} in {self.shards} shards")
        return "\n".join(lines)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_mapped": {}}  # another process maps and checks for itself

    # ------------------------------------------------------------------ writing

    def todo(self, rank: int = 0, world: int = 1) -> dict[int, list[str]]:
        """Of the shards that are this rank's for good (i % world), the streams still missing.

        Dealing out only what remains would lose shards, for ranks look at different moments.
        """
        finished = {name: self._finished(name) for name in self.streams}
        missing = {
            shard: [name for name in self.streams if shard not in finished[name]]
            for shard in range(rank, self.shards, world)
        }
        return {shard: names for shard, names in missing.items() if names}

    def writer(self, stream: str, shard: int) -> ShardWriter:
        """Begins that shard in a temporary file."""
        return ShardWriter(self.file(stream, shard))

    def sweep(self, rank: int = 0, world: int = 1) -> int:
        """Removes what dead writers left of this rank's shards; how many files it was."""
        folders = [self.path, *(self.path / name for name in self.streams)]
        strays = [temp for folder in folders for temp in folder.glob("*.tmp")]
        return sum(sweep(temp) for temp in strays if _number(temp) % world == rank)

    def _finished(self, stream: str) -> set[int]:
        """A name is only ever given to a whole file, so the listing tells."""
        folder = self.path / stream
        names = os.listdir(folder) if folder.is_dir() else []
        return {int(name[:6]) for name in names if name.endswith(".safetensors")}

    def _create_stream(self, stream: Stream) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", stream.name):
            raise StoreError(
                f"A block's name is a folder's: letters, digits, . _ -; got {stream.name}"
            )
        path = self.path / stream.name / "stream.json"
        facts = {"store": self.metadata["store"], **stream.facts}
        require_same(path, write_once(path, facts), facts)


MAKE = "Make it with extract.py, or name the folder that holds store.json."


def versions() -> dict[str, str]:
    """The libraries at work: recorded, never compared."""
    return {
        "diffdict": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _number(path: Path) -> int:
    """The shard's number, which stands first in its name and in its temporary file's."""
    digits = path.name.split(".")[0]
    return int(digits) if digits.isdigit() else 0


def _streams(path: Path, store: str) -> dict[str, Stream]:
    """Every stream that stands in the folder, features by timestep and block, then labels."""
    streams = []
    for file in path.glob("*/stream.json"):
        facts = read_sealed(file)
        owner = facts.pop("store")
        stream = Stream(**facts)
        if owner != store or stream.name != file.parent.name or stream.dtype not in TORCH:
            raise StoreError(f"{file} belongs to another store or stream. Delete {file.parent}.")
        streams.append(stream)
    return {stream.name: stream for stream in sorted(streams, key=Stream.place)}
