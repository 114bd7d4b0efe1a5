"""One shard of a feature store: k pictures of a stream in a safetensors file, with checksums."""

import json
import os
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
import xxhash
from jaxtyping import Int64, Shaped, UInt64
from torch import Tensor

from diffdict import files
from diffdict.features.store.sealed import StoreError, differences, open_temporary

Dtype = Literal["fp16", "bf16", "fp32", "uint8", "int64"]
TORCH = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "uint8": torch.uint8,
    "int64": torch.int64,
}
SAFETENSORS = {"fp16": "F16", "bf16": "BF16", "fp32": "F32", "uint8": "U8", "int64": "I64"}
MASK, LABEL, ATTRIBUTES = "mask", "label", "attributes"  # the streams of labels
ALIGNMENT = 4096  # x starts on a page, so that mapped tokens are aligned for every dtype


class Stream(NamedTuple):
    """What one stream holds of every picture."""

    channels: int
    height: int
    width: int
    dtype: str  # fp16, bf16, fp32; uint8 for masks, int64 for classes
    timestep: int | None  # None for networks without timesteps, and for labels
    block: int | str
    meaning: Sequence | None = None  # names of the classes of `label`, or what each attribute is

    @property
    def facts(self) -> dict[str, object]:
        """These, for a file: of features and masks those that they have always had."""
        facts = self._asdict()
        if self.meaning is None:
            del facts["meaning"]
        return facts

    @property
    def is_label(self) -> bool:
        """Whether it holds labels of the pictures, not features."""
        return self.block == MASK or self.meaning is not None

    @property
    def name(self) -> str:
        """Its folder: t0150-b06, b12, layer1.0, or mask, label, attributes."""
        block = f"b{self.block:02d}" if isinstance(self.block, int) else self.block
        return block if self.timestep is None else f"t{self.timestep:04d}-{block}"

    def place(self) -> tuple:
        """Where it stands among others: features by timestep and block, then labels."""
        timestep = -1 if self.timestep is None else self.timestep
        return self.is_label, timestep, isinstance(self.block, str), self.block

    @property
    def spoken(self) -> str:
        """For people: 512 × 8 × 8 fp16, 2 classes (cat, dog), 1 attributes (yaw: number)."""
        if self.block == LABEL and self.meaning is not None:
            return f"{len(self.meaning)} classes ({', '.join(self.meaning)})"
        if self.meaning is not None:
            attributes = (f"{attribute['name']}: {attribute['kind']}" for attribute in self.meaning)
            return f"{len(self.meaning)} attributes ({', '.join(attributes)})"
        return f"{self.channels} × {self.height} × {self.width} {self.dtype}"

    @property
    def picture(self) -> tuple[int, int]:
        """The shape of one picture in a shard: tokens × channels (labels: 1), or the mask."""
        if self.block == MASK:
            return self.height, self.width
        return self.height * self.width, self.channels

    @property
    def picture_bytes(self) -> int:
        """Bytes of one picture."""
        return self.picture[0] * self.picture[1] * TORCH[self.dtype].itemsize


class Shard(NamedTuple):
    """What a mapped shard holds; x is the file itself, not a copy."""

    x: Shaped[Tensor, "pictures rows columns"]  # tokens × channels, masks, or other labels
    image: Int64[Tensor, " pictures"]  # index in the dataset
    xxh3: UInt64[Tensor, " pictures"]  # checksum of each picture's bytes


class ShardFile(NamedTuple):
    """Which pictures of which stream a shard must hold, and for which store."""

    path: Path
    stream: Stream
    images: range
    metadata: Mapping[str, str]  # the store's fingerprint and facts, the same in all its shards

    @property
    def header(self) -> bytes:
        """The exact bytes before x: a function of what the shard is, so any change shows."""
        k, x = len(self.images), len(self.images) * self.stream.picture_bytes
        shard_facts = {
            "stream": self.stream.name,
            "grid": f"{self.stream.height},{self.stream.width}",
            "shard": self.path.stem,
        }
        facts = {
            "__metadata__": {**self.metadata, **shard_facts},
            "x": _entry(SAFETENSORS[self.stream.dtype], [k, *self.stream.picture], 0, x),
            "image": _entry("I64", [k], x, x + 8 * k),
            "xxh3": _entry("U64", [k], x + 8 * k, x + 16 * k),
        }
        text = files.json_text(facts).encode()
        text += b" " * (-(8 + len(text)) % ALIGNMENT)
        return struct.pack("<Q", len(text)) + text

    @property
    def size(self) -> int:
        """The bytes of the whole file."""
        return len(self.header) + len(self.images) * (self.stream.picture_bytes + 16)


def _entry(dtype: str, shape: list[int], start: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


class ShardWriter:
    """Streams the pictures of one shard into a temporary file; `finish` gives it its name."""

    def __init__(self, shard: ShardFile) -> None:
        self.shard = shard
        self.checksums: list[int] = []
        with files.plain_disk_errors(shard.path, shard.size):
            shard.path.parent.mkdir(parents=True, exist_ok=True)
            self.temp, self.file = open_temporary(shard.path)
        self._write(shard.header)

    def add(self, picture: Shaped[Tensor, "rows columns"]) -> None:
        """The next picture, in the stream's dtype, on the CPU."""
        self.extend(picture[None])

    def extend(self, pictures: Shaped[Tensor, "pictures rows columns"]) -> None:
        """The next pictures, in the stream's dtype, on the CPU."""
        stream, images = self.shard.stream, self.shard.images
        if len(self.checksums) + len(pictures) > len(images):
            raise RuntimeError(f"{self.shard.path} is full: {len(images)} pictures")
        if tuple(pictures.shape[1:]) != stream.picture or pictures.dtype != TORCH[stream.dtype]:
            layout = f"{pictures.dtype} {tuple(pictures.shape[1:])}"
            raise RuntimeError(f"{stream.name}: {layout}, expected {stream.dtype} {stream.picture}")
        flat = pictures.contiguous().view(-1)  # a single column may keep a stride of its own
        data = flat.view(torch.uint8).numpy().reshape(len(pictures), -1)
        self.checksums += map(xxhash.xxh3_64_intdigest, data)
        self._write(data)

    def finish(self) -> Path:
        """The whole shard under its final name, on disk for good."""
        if len(self.checksums) != len(self.shard.images):
            raise RuntimeError(
                f"{self.shard.path}: {len(self.checksums)} of {len(self.shard.images)} pictures"
            )
        self._write(np.asarray(self.shard.images, "<i8").tobytes())
        self._write(np.asarray(self.checksums, "<u8").tobytes())
        try:
            with files.plain_disk_errors(self.shard.path, self.shard.size):
                self.file.flush()
            return files.publish(self.temp, self.shard.path)
        finally:
            self.abandon()

    def abandon(self) -> None:
        """Closes the temporary file, and removes it when it has not become the shard."""
        self.temp.unlink(missing_ok=True)
        with suppress(OSError):  # what a full disk refused is refused again here
            self.file.close()

    def _write(self, data: bytes | np.ndarray) -> None:
        try:
            with files.plain_disk_errors(self.shard.path, self.shard.size):
                self.file.write(data)
        except BaseException:
            self.abandon()
            raise


def map_shard(shard: ShardFile) -> Shard:
    """The shard mapped into memory, if its length and header are what they must be."""
    try:
        size = os.stat(shard.path).st_size
        with shard.path.open("rb") as file:
            head = file.read(len(shard.header))
    except FileNotFoundError:
        raise BrokenShard(f"{shard.path} is missing") from None
    if head != shard.header or size != shard.size:
        raise BrokenShard(f"{shard.path} {_difference(shard, head, size)}")
    storage = torch.UntypedStorage.from_file(str(shard.path), False, size)
    k, start = len(shard.images), len(shard.header)
    image = start + k * shard.stream.picture_bytes
    # copied: behind pictures of any number of bytes they lie at any byte
    numbers = _view(storage, torch.uint8, image, (2, 8 * k)).clone()
    return Shard(
        _view(storage, TORCH[shard.stream.dtype], start, (k, *shard.stream.picture)),
        numbers[0].view(torch.int64),
        numbers[1].view(torch.uint64),
    )


class BrokenShard(StoreError):
    """A shard that is not whole; `what` says how, for stores that are not made by extract.py."""

    def __init__(self, what: str) -> None:
        again = "Run" if what.endswith("is missing") else "Delete it and run"
        super().__init__(f"{what}. {again} the same extraction again: it makes what is missing.")
        self.what = what


def _view(
    storage: torch.UntypedStorage, dtype: torch.dtype, byte: int, shape: tuple[int, ...]
) -> Tensor:
    """The storage's bytes from there on as a tensor; `byte` is a multiple of the dtype's size."""
    return torch.empty(0, dtype=dtype).set_(storage, byte // dtype.itemsize, shape)


def _difference(shard: ShardFile, head: bytes, size: int) -> str:
    """How a shard that must not be mapped differs from what it must be."""
    try:
        length = struct.unpack("<Q", head[:8])[0]
        metadata = json.loads(head[8 : 8 + length])["__metadata__"]
        theirs, ours = json.loads(metadata["facts"]), json.loads(shard.metadata["facts"])
    except (struct.error, ValueError, KeyError, TypeError):
        metadata = None
    if metadata is None or head == shard.header:
        wrong = f"{size} bytes instead of {shard.size}"
        return "has a damaged header" if size == shard.size else f"is cut or torn: {wrong}"
    if theirs != ours:
        return f"was written for another store: {differences(theirs, ours)}"
    if (metadata.get("stream"), metadata.get("shard")) != (shard.stream.name, shard.path.stem):
        return f"is another shard: {metadata.get('stream')}/{metadata.get('shard')}"
    return "has a damaged header"


def check(shard: ShardFile, mapped: Shard) -> None:
    """Every bit of a mapped shard, against its checksums and the pictures that it must hold."""
    if mapped.image.tolist() != list(shard.images):
        raise BrokenShard(f"{shard.path} does not hold pictures {shard.images}")
    pictures = mapped.x.flatten(1).view(torch.uint8).numpy()
    for image, picture, checksum in zip(shard.images, pictures, mapped.xxh3.tolist(), strict=True):
        if xxhash.xxh3_64_intdigest(picture) != checksum:
            raise BrokenShard(f"{shard.path} is damaged: picture {image} does not fit its checksum")
