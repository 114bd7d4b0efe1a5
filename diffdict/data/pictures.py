"""What all picture files share: decoding, sizes, labels, splits, colours, and their fingerprint."""

import functools
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from types import NoneType

import numpy as np
import torch
import xxhash
from jaxtyping import Float32, Int64, Integer, Shaped, UInt8
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from diffdict.errors import UserError
from diffdict.files import bytes_bar, json_text, write_atomic

SPLITS = ("train", "val", "test")
BITS_16 = ("I;16", "I;16L", "I;16B", "I;16N", "I")  # I: how 16-bit grey came from older encoders
IN_RANGE = (torch.arange(256).float() / 255 * 2 - 1).numpy()  # of every byte its value in [-1, 1]
UNREADABLE = (
    UnidentifiedImageError,
    OSError,
    SyntaxError,
    ValueError,
    Image.DecompressionBombError,
)


def decode_picture(source: Path | BytesIO, name: str) -> UInt8[np.ndarray, "height width 3"]:
    """RGB of any picture Pillow reads; alpha is dropped, 16-bit grey is rounded to 8."""
    try:
        with Image.open(source) as image:
            if image.mode in BITS_16:
                grey = np.asarray(image).astype(np.int64)
                if grey.min() < 0 or grey.max() > 65535:
                    raise UserError(f"{name} has 32-bit pixels: save it with 8 or 16 bits")
                grey = ((grey + 128) // 257).astype(np.uint8)
                return np.repeat(grey[..., None], 3, axis=2)
            if image.mode == "F":
                raise UserError(
                    f"{name} has floating-point pixels, whose white is unknown: "
                    "save it as an 8-bit PNG"
                )
            return np.asarray(image.convert("RGB"))
    except UserError:
        raise
    except UNREADABLE as error:
        unknown = isinstance(error, UnidentifiedImageError)  # it says where bytes lie in memory
        why = "no format that Pillow reads" if unknown else error
        raise UserError(f"{name} is no whole picture ({why}): replace it or take it out") from error


def read_mask(path: Path) -> Integer[np.ndarray, "height width"]:
    """The labels of a .npy array, or of a single-channel or palette picture."""
    try:
        if path.suffix == ".npy":
            labels = np.load(path, allow_pickle=False)
        else:
            with Image.open(path) as image:
                if image.mode not in ("1", "L", "P", *BITS_16):
                    raise UserError(
                        f"The mask {path} has {len(image.getbands())} channels ({image.mode}), "
                        "it needs one: save labels as a grey or palette PNG, or as .npy"
                    )
                labels = np.asarray(image)
    except UserError:
        raise
    except (EOFError, *UNREADABLE) as error:
        raise UserError(f"The mask {path} cannot be read ({error}): replace it") from error
    if labels.ndim == 3 and labels.shape[-1] == 1:
        labels = labels[..., 0]
    if labels.ndim != 2:
        raise UserError(
            f"The mask {path} must be height × width, it is of shape {labels.shape}: save it so"
        )
    return whole_numbers(labels, f"The mask {path}")


def whole_numbers(labels: Shaped[np.ndarray, "*size"], name: str) -> Integer[np.ndarray, "*size"]:
    """The labels as integers, where they are such whatever their dtype."""
    if np.issubdtype(labels.dtype, np.integer):
        return labels
    with np.errstate(invalid="ignore"):  # NaN and infinity leave NaN, which is not 0
        whole = labels.dtype.kind in "bf" and (labels % 1 == 0).all()
    if not whole:
        raise UserError(f"{name} must be whole numbers, it is {labels.dtype}: save it as uint8")
    return labels.astype(np.int64)


def fit_picture(
    pixels: UInt8[np.ndarray, "height width 3"],
    size: int | None,
    crop: str | None,
    name: str,
    resize: str = "bilinear",
) -> Float32[Tensor, "3 side side"]:
    """The square picture in [-1, 1], resized with Pillow's bilinear filter where sizes differ.

    resize=guided: cut and resized as guided-diffusion does it, whatever its shape.
    """
    if resize == "guided":
        check_sides(pixels, name)
        pixels = fit_guided(pixels, size or min(pixels.shape[:2]))
    pixels = square(pixels, crop, name)
    if size is not None and pixels.shape[0] != size:
        image = Image.fromarray(np.ascontiguousarray(pixels))
        pixels = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
    return in_range(pixels.transpose(2, 0, 1))


def in_range(planes: UInt8[np.ndarray, "*pictures 3 _ _"]) -> Float32[Tensor, "*pictures 3 _ _"]:
    """The values of bytes in [-1, 1]."""
    return torch.from_numpy(np.take(IN_RANGE, planes))  # one pass instead of four


def fit_guided(
    pixels: UInt8[np.ndarray, "height width 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """The middle of the picture as guided-diffusion cuts it: halved by BOX, then bicubic."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    while min(image.size) >= 2 * size:
        image = image.resize(tuple(side // 2 for side in image.size), Image.Resampling.BOX)
    scale = size / min(image.size)
    image = image.resize(
        tuple(round(side * scale) for side in image.size), Image.Resampling.BICUBIC
    )
    left, top = ((side - size) // 2 for side in image.size)
    return np.asarray(image)[top : top + size, left : left + size]


def squashed(
    pixels: UInt8[np.ndarray, "height width 3"], size: int
) -> UInt8[np.ndarray, "size size 3"]:
    """All of the picture as a square, whatever that makes of its shape; Pillow's bilinear."""
    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def check_split(name: str, split: str) -> None:
    """Pictures have three splits."""
    if split not in SPLITS:
        raise UserError(f"{name} has no split {split!r}: choose one of {', '.join(SPLITS)}")


def check_sides(pixels: UInt8[np.ndarray, "height width 3"], name: str) -> None:
    """What can be cut to a square and still shows something."""
    height, width = pixels.shape[:2]
    if min(height, width) < 8 or max(height, width) >= 50 * min(height, width):
        raise UserError(
            f"{name} is {width}×{height}: pictures are at least 8 pixels wide and high, and less "
            "than 50 times as long as wide. Take it out, or replace it"
        )


def check_fit(crop: str | None, resize: str, masks: bool = False) -> None:
    """How pictures become squares of one size."""
    if crop not in (None, "center"):
        raise UserError(f"dataset.crop={crop} is unknown: it is center or null")
    if resize not in ("bilinear", "guided"):
        raise UserError(f"dataset.resize={resize} is unknown: it is bilinear or guided")
    if resize == "guided" and masks:
        raise UserError(
            "dataset.resize=guided cuts pictures without masks: dataset.resize=bilinear "
            "dataset.crop=center, or dataset.masks=false"
        )


def fit_facts(size: int, crop: str | None, resize: str) -> tuple[int | str | None, ...]:
    """How pictures are fitted, for their fingerprint."""
    return (size, crop) if resize == "bilinear" else (size, crop, resize)


def fit_mask(
    labels: Integer[np.ndarray, "height width"], size: int | None, crop: str | None, name: str
) -> Int64[Tensor, "side side"]:
    """The square mask, resized to the nearest label as OpenCV does it."""
    labels = square(labels, crop, name)
    if size is not None and labels.shape[0] != size:
        labels = resize_labels(labels, size, size)
    return torch.tensor(labels.astype(np.int64))


def resize_labels(
    labels: Integer[np.ndarray, "_ _"], height: int, width: int
) -> Integer[np.ndarray, "height width"]:
    """The nearest label, as OpenCV finds it."""
    rows, columns = nearest_index(labels.shape[0], height), nearest_index(labels.shape[1], width)
    return labels[rows[:, None], columns]


def nearest_index(source: int, target: int) -> Integer[np.ndarray, " target"]:
    """OpenCV's INTER_NEAREST: target i takes source floor(i · source/target), in its doubles."""
    scale = 1.0 / (target / source)
    return np.minimum(np.floor(np.arange(target) * scale).astype(np.int64), source - 1)


def square(pixels: np.ndarray, crop: str | None, name: str) -> np.ndarray:
    """The pixels if they are square, else their centre where crop=center asks for it."""
    height, width = pixels.shape[:2]
    if height == width:
        return pixels
    if crop != "center":
        raise UserError(
            f"{name} is {width}×{height}, pictures must be square: dataset.crop=center takes "
            "the middle of each"
        )
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return pixels[top : top + side, left : left + side]


def check_labels(
    labels: Integer[np.ndarray, "..."], num_classes: int, ignore_label: int | None, name: str
) -> None:
    """Every label is a class or the ignored one."""
    values = np.unique(labels)
    wrong = values[((values < 0) | (values >= num_classes)) & (values != ignore_label)]
    if wrong.size:
        raise UserError(
            f"{name} holds label {int(wrong[0])}, its {num_classes} classes are 0 to "
            f"{num_classes - 1}: give dataset.num_classes, or dataset.ignore_label={int(wrong[0])}"
        )


def class_list(
    names: Sequence[str] | None, num_classes: int | None, dataset: str
) -> list[str] | None:
    """The names of the classes, numbered where only their count is known."""
    if names is None:
        return None if num_classes is None else [f"class {label}" for label in range(num_classes)]
    if num_classes not in (None, len(names)):
        raise UserError(
            f"{dataset} has num_classes={num_classes} and {len(names)} class_names: "
            "give one of them, or as many names as classes"
        )
    return list(names)


def read_classes(folder: Path) -> dict[str, object]:
    """What classes.json in this folder says of the classes of pixels and pictures, or nothing."""
    path = folder / "classes.json"
    if not path.is_file():
        return {}
    try:
        facts = json.loads(path.read_text())
        lists = {"classes": facts["classes"], "picture_classes": facts.get("picture_classes", [])}
        for key, names in lists.items():
            if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
                raise TypeError(f"{key} is {names!r}, no list of names")
            if twice := [name for name in names if names.count(name) > 1]:
                raise ValueError(f"{key} names {twice[0]!r} twice")
        if type(ignored := facts.get("ignore_label")) not in (int, NoneType):
            raise TypeError(f"ignore_label is {ignored!r}, no whole number and not null")
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f'{path} must be JSON like {{"classes": ["sky", "road"], "ignore_label": 255}}, '
            f"it fails with {error!r}"
        ) from error
    return {
        "class_names": lists["classes"],
        "picture_classes": lists["picture_classes"],
        "ignore_label": ignored,
    }


def split_range(
    total: int, split: str, counts: dict[str, int | None], dataset: str, shared: bool
) -> range:
    """Positions of a split: the first n of its own pictures, or its turn of those all share.

    Shared pictures are cut in the order train, val, test; null takes all that are left (val: none).
    Of its own pictures a split takes those that there are, and says where they are fewer.
    """
    wanted, start = counts[split], 0
    if min(count or 0 for count in counts.values()) < 0:
        keys = " ".join(f"dataset.{key}_pictures={count}" for key, count in counts.items())
        raise UserError(f"{dataset} has no negative number of pictures, got {keys}: null takes all")
    if shared:
        for earlier in SPLITS[: SPLITS.index(split)]:
            number = counts[earlier]
            start += number if number is not None else total if earlier == "train" else 0
        start = min(start, total)
        wanted = 0 if split == "val" and wanted is None else wanted
    left = total - start
    if left and not shared and (wanted or 0) > left:
        warnings.warn(
            f"{dataset} has {left} pictures for {split}, {wanted} were asked for: all are taken.",
            stacklevel=2,
        )
        wanted = left
    if (wanted or 0) > left or (not left and split != "val"):
        way_out = " or put pictures into train/ and test/" if shared else ""
        raise UserError(
            f"{dataset} has {left} pictures for {split} and {wanted or 'at least 1'} asked for: "
            f"change dataset.{{train,val,test}}_pictures{way_out}"
        )
    return range(start, total if wanted is None else start + wanted)


@functools.cache
def palette(colours: int) -> list[tuple[int, int, int]]:
    """So many colours, slate first, then always the candidate farthest from all before (OKLab)."""
    steps = np.linspace(0, 1, 9)
    candidates = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), -1).reshape(-1, 3)
    lab = _oklab(candidates)
    readable = (lab[:, 0] > 0.4) & (lab[:, 0] < 0.95)
    candidates, lab = candidates[readable], lab[readable]
    chosen = [(44, 52, 64)]
    apart = np.full(len(candidates), np.inf)
    while len(chosen) < colours:
        newest = _oklab(np.array([chosen[-1]]) / 255)
        apart = np.minimum(apart, np.linalg.norm(lab - newest, axis=1))
        best = int(apart.argmax())
        chosen.append(tuple(round(255 * float(value)) for value in candidates[best]))
    return chosen[:colours]


def _oklab(rgb: Float32[np.ndarray, "n 3"] | np.ndarray) -> np.ndarray:
    """Ottosson 2020: lightness and two opponent colours, distances as the eye sees them."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    cones = linear @ np.array(
        [
            [0.4122214708, 0.2119034982, 0.0883024619],
            [0.5363325363, 0.6806995451, 0.2817188376],
            [0.0514459929, 0.1073969566, 0.6299787005],
        ]
    )
    return np.cbrt(cones) @ np.array(
        [
            [0.2104542553, 1.9779984951, 0.0259040371],
            [0.7936177850, -2.4285922050, 0.7827717662],
            [-0.0040720468, 0.4505937099, -0.8086757660],
        ]
    )


def cache_folder() -> Path:
    """Where what can be made again is kept: $XDG_CACHE_HOME/diffdict, else ~/.cache/diffdict."""
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "diffdict"


def fingerprint(root: Path, names: Iterable[str], *facts: object) -> str:
    """A digest of these files' names, sizes and contents, and of the facts.

    Contents are hashed once for a (path, size, time): the hashes are kept in the cache folder,
    and only for this call where that cannot be written.
    """
    key = xxhash.xxh3_128_hexdigest(str(root.resolve()).encode())
    cache_file = cache_folder() / "hashes" / f"{key}.json"
    hashes: dict[str, list[int | str]] = {}
    with suppress(OSError, ValueError):
        hashes = json.loads(cache_file.read_text())
    digest, names = xxhash.xxh3_128(repr(facts).encode()), sorted(names)
    stats = {name: (root / name).stat() for name in names}
    marks = {name: [stat.st_size, stat.st_mtime_ns] for name, stat in stats.items()}
    fresh = [name for name in names if hashes.get(name, [])[:2] != marks[name]]
    for name in _shown(fresh, sum(marks[name][0] for name in fresh), f"reading {root}"):
        hashes[name] = [*marks[name], _content(root / name)]
    for name in names:
        digest.update(f"{name}\0{hashes[name][0]}\0{hashes[name][2]}\0".encode())
    if fresh:
        with suppress(OSError, UserError):
            write_atomic(cache_file, json_text(hashes).encode())
    return digest.hexdigest()


def _shown(names: list[str], size: int, title: str) -> Iterator[str]:
    """The names, with a progress bar where reading these files takes longer than a moment."""
    if size < 1e9 and len(names) < 20_000:
        yield from names
        return
    with bytes_bar(title) as bar:
        bar.update(bar.task_ids[0], total=size)
        for number, name in enumerate(names, 1):
            yield name
            bar.update(bar.task_ids[0], completed=size * number // len(names))


def _content(path: Path) -> str:
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        read: Callable[[], bytes] = functools.partial(file.read, 1 << 20)
        for piece in iter(read, b""):
            digest.update(piece)
    return digest.hexdigest()
