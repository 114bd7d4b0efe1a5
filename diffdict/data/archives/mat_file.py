"""Variables of MATLAB 5 files (.mat): numbers, text, cells and structs; nothing in them is run."""

import math
import struct
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Shaped

from diffdict.errors import UserError

MAX_BYTES = 1 << 29  # of a file, and of all that is unpacked from it
MAX_VALUES = 1 << 20  # in a file, each cell and each field of a struct counted
MAX_DEPTH = 16  # of cells and structs inside each other
HEADER = 128  # bytes
HDF5 = b"\x89HDF\r\n\x1a\n"

# kinds of a stored element
INT8, UINT8, UINT16, INT32, UINT32, MATRIX, COMPRESSED, UTF8 = 1, 2, 4, 5, 6, 14, 15, 16
STORED = {INT8: "i1", UINT8: "u1", 3: "i2", UINT16: "u2", INT32: "i4", UINT32: "u4", 7: "f4"}
STORED |= {9: "f8", 12: "i8", 13: "u8"}
TEXT = {INT8: "latin-1", UINT8: "latin-1", UTF8: "utf-8", UINT16: "utf-16", 17: "utf-16"}
TEXT |= {18: "utf-32"}
# kinds of a variable
CELL, STRUCT, CHAR = 1, 2, 4
NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4"}
NUMBERS |= {14: "i8", 15: "u8"}
UNREAD = {3: "an object", 5: "a sparse matrix", 16: "a function", 17: "an object of a class"}
COMPLEX, LOGICAL = 0x08, 0x02


class CellArray(NamedTuple):
    """A MATLAB cell array; its elements run down the columns."""

    shape: tuple[int, ...]
    elements: list


class StructArray(NamedTuple):
    """A MATLAB struct array: its elements, by field, run down the columns; none without fields."""

    shape: tuple[int, ...]
    fields: tuple[str, ...]
    elements: list[dict]


MatValue = np.ndarray | str | CellArray | StructArray


class _BrokenFile(ValueError):
    """What is wrong with a file, and what can be done about it."""

    def __init__(self, what: str, way_out: str = "Unpack or fetch it again"):
        super().__init__(what)
        self.way_out = way_out


def read_mat(path: Path) -> dict[str, MatValue]:
    """Every variable of a MATLAB 5 file, by its name.

    Numbers and logicals become arrays of MATLAB's shape, a row of characters a string, several
    rows an array of single characters.
    """
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise _BrokenFile(f"it has {size} bytes, at most {MAX_BYTES} are read")
        content = path.read_bytes()
        order = _byte_order(content)
        return _Variables(order).read(memoryview(content)[HEADER:])
    except _BrokenFile as error:
        raise UserError(f"{path} is no MATLAB 5 file to read: {error}. {error.way_out}") from error
    except OSError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}): a MATLAB 5 file belongs there"
        ) from error


def _byte_order(content: bytes) -> str:
    """< or >, as the file's header says."""
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER])
    version = struct.unpack_from(f"{order}H", content, 124)[0] >> 8 if order else None
    if version == 2 or HDF5 in (content[:8], content[512:520]):
        raise _BrokenFile(
            "it is one of MATLAB 7.3 (HDF5)",
            "Load it in MATLAB and save(FILE, '-v7')",
        )
    if len(content) < HEADER:
        raise _BrokenFile(f"it has {len(content)} bytes, its header alone has {HEADER}")
    if version != 1:
        raise _BrokenFile("its header is not MATLAB 5's")
    return order


class _Elements:
    """The elements in a piece of a file, taken one after another."""

    def __init__(self, content: memoryview, order: str):
        self.content, self.order, self.place = content, order, 0

    @property
    def left(self) -> int:
        """Bytes that were not taken."""
        return len(self.content) - self.place

    def take(self, what: str, *kinds: int) -> tuple[int, memoryview]:
        """Kind and content of the next element, which must be of one of these kinds."""
        rest = self.content[self.place :]
        if len(rest) < 8:
            raise _BrokenFile(f"it ends before {what}")
        kind, size = struct.unpack_from(f"{self.order}II", rest)
        start, padded = 8, 8 + size
        if kind >> 16:  # a small element: its size, its kind and up to 4 bytes
            kind, size, start, padded = kind & 0xFFFF, kind >> 16, 4, 8
        elif kind != COMPRESSED:
            padded = 8 + -(-size // 8) * 8
        if kind not in kinds:
            raise _BrokenFile(f"{what} is stored as kind {kind}")
        if start + size > min(len(rest), padded):
            raise _BrokenFile(f"{what} has {size} bytes, {len(rest) - start} are left")
        self.place = min(self.place + padded, len(self.content))
        return kind, rest[start : start + size]


class _Variables:
    """Reads the variables of one file, within what a file may take of memory."""

    def __init__(self, order: str):
        self.order, self.bytes_left, self.values_left = order, MAX_BYTES, MAX_VALUES

    def read(self, content: memoryview) -> dict[str, MatValue]:
        """All of them."""
        elements, variables = _Elements(content, self.order), {}
        while elements.left:
            kind, inside = elements.take("a variable", MATRIX, COMPRESSED)
            if kind == COMPRESSED:
                packed = _Elements(self._unpacked(inside), self.order)
                _, inside = packed.take("a variable", MATRIX)
                _check_end(packed)
            name, value = self._variable(inside, depth=0)
            variables[name] = value
        if not variables:
            raise _BrokenFile("it holds no variable")
        return variables

    def _unpacked(self, content: memoryview) -> memoryview:
        stream = zlib.decompressobj()
        try:
            plain = stream.decompress(content, self.bytes_left + 1)
        except zlib.error as error:
            raise _BrokenFile(f"a variable cannot be decompressed ({error})") from error
        self._count(len(plain))
        if not stream.eof or stream.unused_data:
            raise _BrokenFile("a compressed variable is cut, or has bytes behind it")
        return memoryview(plain)

    def _count(self, size: int) -> None:
        """Refuses what unpacks to more than a file may."""
        self.bytes_left -= size
        if self.bytes_left < 0:
            raise _BrokenFile(f"it unpacks to more than {MAX_BYTES} bytes")

    def _variable(self, content: memoryview, depth: int) -> tuple[str, MatValue]:
        """Its name, empty inside others, and its value."""
        self.values_left -= 1
        if self.values_left < 0:
            raise _BrokenFile(f"it holds more than {MAX_VALUES} values")
        if depth > MAX_DEPTH:
            raise _BrokenFile(f"its cells and structs are more than {MAX_DEPTH} deep")
        if not content:
            return "", np.zeros((0, 0))
        elements = _Elements(content, self.order)
        flags = self._integers(elements, "a variable's flags", UINT32)
        if len(flags) != 2:
            raise _BrokenFile(f"a variable has {len(flags)} flags, not 2")
        kind, flags = flags[0] & 0xFF, flags[0] >> 8
        if kind in UNREAD:
            raise _BrokenFile(f"it holds {UNREAD[kind]}", "Save it without")
        shape = tuple(self._integers(elements, "a variable's size", INT32, UINT32))
        if not 2 <= len(shape) <= 32 or min(shape) < 0:
            raise _BrokenFile(f"a variable is of size {shape}")
        if math.prod(max(side, 1) for side in shape) > MAX_BYTES:
            raise _BrokenFile(f"a variable is of size {shape}, at most {MAX_BYTES} are read")
        name = _decoded(elements.take("a variable's name", INT8, UINT8, UTF8)[1], "ascii")
        value = self._value(elements, kind, flags, shape, depth)
        _check_end(elements)
        return name, value

    def _value(
        self, elements: _Elements, kind: int, flags: int, shape: tuple[int, ...], depth: int
    ) -> MatValue:
        count = math.prod(shape)
        if kind == CELL:
            _check_count(elements, count)
            return CellArray(shape, [self._inside(elements, depth) for _ in range(count)])
        if kind == STRUCT:
            fields = self._fields(elements)
            _check_count(elements, count * len(fields))
            rows = range(count if fields else 0)
            each = [{field: self._inside(elements, depth) for field in fields} for _ in rows]
            return StructArray(shape, fields, each)
        if kind == CHAR:
            return self._text(elements, shape, count)
        if kind not in NUMBERS:
            raise _BrokenFile(f"a variable is of kind {kind}")
        dtype = np.dtype(NUMBERS[kind])
        values = self._numbers(elements, dtype, count)
        if flags & COMPLEX:
            self._count(16 * count)
            values = values.astype(np.result_type(dtype, np.complex64))
            values.imag = self._numbers(elements, dtype, count)
        if flags & LOGICAL:
            values = values != 0
        return values.reshape(shape, order="F")

    def _inside(self, elements: _Elements, depth: int) -> MatValue:
        return self._variable(elements.take("a cell or field", MATRIX)[1], depth + 1)[1]

    def _integers(self, elements: _Elements, what: str, *kinds: int) -> list[int]:
        kind, content = elements.take(what, *kinds)
        if len(content) % 4:
            raise _BrokenFile(f"{what} has {len(content)} bytes")
        return np.frombuffer(content, self.order + STORED[kind]).tolist()

    def _fields(self, elements: _Elements) -> tuple[str, ...]:
        """The names of a struct's fields, each padded with zeros to one length."""
        lengths = self._integers(elements, "the length of field names", INT32)
        _, content = elements.take("the names of fields", INT8, UINT8, UTF8)
        if len(lengths) != 1 or lengths[0] < 1 or len(content) % lengths[0]:
            raise _BrokenFile(f"names of fields have {len(content)} bytes, each {lengths}")
        starts = range(0, len(content), lengths[0])
        names = [bytes(content[start : start + lengths[0]]).split(b"\0")[0] for start in starts]
        if len(set(names)) < len(names):
            raise _BrokenFile("a struct has two fields of one name")
        return tuple(_decoded(name, "ascii") for name in names)

    def _text(
        self, elements: _Elements, shape: tuple[int, ...], count: int
    ) -> str | Shaped[np.ndarray, "..."]:
        """MATLAB counts UTF-16 units, other writers characters."""
        kind, content = elements.take("text", *TEXT)
        self._count(4 * len(content))
        codec = TEXT[kind]
        wide = {"<": "-le", ">": "-be"}[self.order] if codec in ("utf-16", "utf-32") else ""
        text = _decoded(content, codec + wide)
        one_row = len(shape) == 2 and shape[0] <= 1
        units = len(text.encode("utf-16-le", "surrogatepass")) // 2
        if len(text) != count and not (one_row and units == count):
            raise _BrokenFile(f"text of size {shape} has {len(text)} characters")
        if one_row:
            return text
        return np.array(list(text), "<U1").reshape(shape, order="F")

    def _numbers(
        self, elements: _Elements, dtype: np.dtype, count: int
    ) -> Shaped[np.ndarray, " count"]:
        """So many, of whatever smaller type MATLAB chose to store them in."""
        kind, content = elements.take("numbers", *STORED)
        stored = np.dtype(self.order + STORED[kind])
        if len(content) != count * stored.itemsize:
            raise _BrokenFile(f"{count} numbers ({stored.name}) have {len(content)} bytes")
        self._count(count * dtype.itemsize)
        values = np.frombuffer(content, stored)
        if dtype.kind in "iu" and count:
            limits = np.iinfo(dtype)
            whole = stored.kind in "iu"
            if not whole or values.min() < limits.min or values.max() > limits.max:
                raise _BrokenFile(f"numbers stored as {stored.name} are no {dtype.name}")
        with np.errstate(over="ignore"):
            return values.astype(dtype)


def _decoded(content: memoryview | bytes, codec: str) -> str:
    try:
        return bytes(content).decode(codec)
    except UnicodeDecodeError as error:
        raise _BrokenFile(f"text is no {codec}") from error


def _check_count(elements: _Elements, count: int) -> None:
    """Each value takes 8 bytes at least."""
    if 8 * count > elements.left:
        raise _BrokenFile(f"{count} cells or fields in {elements.left} bytes")


def _check_end(elements: _Elements) -> None:
    if elements.left:
        raise _BrokenFile(f"{elements.left} bytes follow a variable, which has ended")
