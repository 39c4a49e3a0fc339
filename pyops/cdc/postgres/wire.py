"""Bytes of PostgreSQL's protocol, many messages at once, with numpy; texts become Arrow views.

A view of up to 12 bytes holds them, a longer one points to them (Arrow columnar format, "Variable-
size Binary View Layout"); so no text is copied. Numbers on the wire are big-endian.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_PADDING = 16  # so that a view's 12 bytes can be read at the end of the buffer, too
_INLINE = 12
_LARGEST = 2**31 - 1 - _PADDING  # a view's offset has 31 bits
_MASKS = np.array([2 ** (8 * n) - 1 for n in range(9)], np.uint64)
_TEXT, _NULL, _UNSENT = (ord(letter) for letter in "tnu")


class CorruptBytesError(Exception):
    """Bytes that are not such a message; ``message`` is its number in the batch."""

    def __init__(self, problem: str, message: int) -> None:
        super().__init__(problem)
        self.message = message


@dataclass(frozen=True)
class Values:
    """The values of one column, one for each row: where their text is, if they have one."""

    begins: Ints
    lengths: Ints
    is_text: Bools
    is_unsent: Bools

    @classmethod
    def nothing(cls, rows: int) -> "Values":
        zeros, no = np.zeros(rows, np.int64), np.zeros(rows, np.bool_)
        return cls(zeros, zeros, no, no)

    def take(self, rows: Any) -> "Values":
        return Values(self.begins[rows], self.lengths[rows], self.is_text[rows], self.is_unsent[rows])

    def filled_from(self, other: "Values", rows: Ints) -> "Values":
        """With what was not sent taken from another row's value, for the rows it was known for."""
        chosen = self.is_unsent[rows] & ~other.is_unsent
        if not chosen.any():
            return self
        arrays = [array.copy() for array in vars(self).values()]
        for mine, theirs in zip(arrays, vars(other).values(), strict=True):
            mine[rows[chosen]] = theirs[chosen]
        return Values(*arrays)


def joined(first: Values, second: Values) -> Values:
    return Values(*(np.concatenate(pair) for pair in zip(vars(first).values(), vars(second).values(), strict=True)))


def split(messages: pa.Array) -> Iterator[pa.Array]:
    """Cuts a binary array into parts that views can point into."""
    if len(messages) > 1 and messages.nbytes > _LARGEST:
        half = len(messages) // 2
        yield from split(messages.slice(0, half))
        yield from split(messages.slice(half))
    else:
        yield messages


class Buffer:
    """The messages of one batch, each from ``begins`` to ``ends``."""

    def __init__(self, messages: pa.Array) -> None:
        wide = pa.types.is_large_binary(messages.type)
        _, offsets, data = messages.buffers()
        all_offsets = np.frombuffer(offsets, np.int64 if wide else np.int32)
        mine = all_offsets[messages.offset : messages.offset + len(messages) + 1].astype(np.int64)
        first, last = int(mine[0]), int(mine[-1])
        self._bytes = np.zeros(last - first + _PADDING, np.uint8)
        if last > first:
            self._bytes[:-_PADDING] = np.frombuffer(data, np.uint8)[first:last]
        self._data = pa.py_buffer(self._bytes)
        self.begins, self.ends = mine[:-1] - first, mine[1:] - first
        if messages.null_count:
            raise CorruptBytesError("a message is NULL", int(np.argmax(messages.is_null())))

    def _numbers(self, kind: str, at: Ints) -> Any:
        """Numbers at any places; every byte of the buffer but the padding may be one's first."""
        width = np.dtype(kind).itemsize
        count = len(self._bytes) - width + 1
        return np.ndarray((count,), kind, self._bytes, strides=(1,))[at]

    def byte(self, at: Ints) -> npt.NDArray[np.uint8]:
        return self._bytes[at]

    def int16(self, at: Ints) -> Ints:
        return self._numbers(">i2", at).astype(np.int64)  # type: ignore[no-any-return]

    def int32(self, at: Ints) -> Ints:
        return self._numbers(">i4", at).astype(np.int64)  # type: ignore[no-any-return]

    def uint32(self, at: Ints) -> Ints:
        return self._numbers(">u4", at).astype(np.int64)  # type: ignore[no-any-return]

    def int64(self, at: Ints) -> Ints:
        return self._numbers(">i8", at).astype(np.int64)  # type: ignore[no-any-return]

    def tuples(self, messages: Ints, at: Ints, columns: int) -> tuple[list[Values], Ints]:
        """Splits TupleData at ``at`` by column: the values of each, and where each tuple ends."""
        ends = self.ends[messages]

        def want(is_fine: Bools, problem: str) -> None:
            if not is_fine.all():
                raise CorruptBytesError(problem, int(messages[np.argmin(is_fine)]))

        want(at + 2 <= ends, "it ends early")
        want(self.int16(at) == columns, f"it has not the {columns} columns of its relation")
        values = []
        at = at + 2
        for _ in range(columns):
            want(at < ends, "it ends early")
            kinds = self.byte(at)
            is_text = kinds == _TEXT
            want(is_text | (kinds == _NULL) | (kinds == _UNSENT), "a value is of an unknown kind")
            want(~is_text | (at + 5 <= ends), "it ends early")
            lengths = np.where(is_text, self.int32(np.where(is_text, at + 1, 0)), 0)
            want(lengths >= 0, "a value's length is negative")
            begins = at + 5
            at = np.where(is_text, begins + lengths, at + 1)
            want(at <= ends, "it ends early")
            values.append(Values(begins, lengths, is_text, kinds == _UNSENT))
        return values, at

    def texts(self, values: Values) -> pa.Array:
        """The values as string views, NULL where there is no text; pa.ArrowInvalid if not UTF-8."""
        begins = np.where(values.is_text, values.begins, 0)
        lengths = np.where(values.is_text, values.lengths, 0)
        views = np.empty(len(begins), [("length", "<u4"), ("low", "<u8"), ("high", "<u4")])
        low = self._numbers("<u8", begins)
        is_inline = lengths <= _INLINE
        views["length"] = lengths
        # A long one: 4 bytes of prefix, the buffer's number (0), the offset.
        views["low"] = np.where(is_inline, low & _MASKS[np.minimum(lengths, 8)], low & np.uint64(0xFFFFFFFF))
        high = self._numbers("<u4", np.minimum(begins + 8, len(self._bytes) - 4))
        inline = high & _MASKS[np.clip(lengths - 8, 0, 4)].astype(np.uint32)
        views["high"] = np.where(is_inline, inline, begins)
        validity = None
        if not values.is_text.all():
            validity = pa.py_buffer(np.packbits(values.is_text, bitorder="little"))
        buffers = [validity, pa.py_buffer(views), self._data]
        array = pa.Array.from_buffers(pa.string_view(), len(begins), buffers)
        array.validate(full=True)
        return array

    def differ(self, one: Values, other: Values) -> Bools:
        """Where two values are not the same; NULL is the same as NULL."""
        differ: Bools = (one.is_text != other.is_text) | (one.lengths != other.lengths)
        both = np.flatnonzero(one.is_text & other.is_text & ~differ)
        step = 0
        while len(both):
            left = one.lengths[both] - step
            both, left = both[left > 0], left[left > 0]
            mask = _MASKS[np.minimum(left, 8)]
            first = self._numbers("<u8", one.begins[both] + step) & mask
            unequal = first != self._numbers("<u8", other.begins[both] + step) & mask
            differ[both[unequal]] = True
            both = both[~unequal]
            step += 8
        return differ

    def reader(self, message: int) -> "Reader":
        """A reader of one message, behind its kind."""
        begin, end = int(self.begins[message]), int(self.ends[message])
        return Reader(self._bytes[begin:end].tobytes(), message)


class Reader:
    """Reads one message from its second byte on; one that ends early is a CorruptBytesError."""

    def __init__(self, content: bytes, message: int) -> None:
        self._content = content
        self._message = message
        self._at = 1

    def number(self, width: int, *, signed: bool = False) -> int:
        part = self._content[self._at : self._at + width]
        if len(part) < width:
            raise CorruptBytesError("it ends early", self._message)
        self._at += width
        return int.from_bytes(part, "big", signed=signed)

    def text(self) -> str:
        """The next text, up to a NUL."""
        end = self._content.find(b"\0", self._at)
        if end < 0:
            raise CorruptBytesError("it ends early", self._message)
        part, self._at = self._content[self._at : end], end + 1
        try:
            return part.decode("utf-8")
        except UnicodeDecodeError:
            raise CorruptBytesError("a name is not UTF-8", self._message) from None

    def skip(self, width: int) -> None:
        self.number(width)

    def end(self) -> None:
        """Makes sure that nothing is left."""
        if self._at != len(self._content):
            raise CorruptBytesError("there are bytes behind its end", self._message)
