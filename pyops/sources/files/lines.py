"""Text files as columns of lines, in chunks of bounded memory, without a loop over lines."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc

from pyops.errors import DataError

CHUNK_BYTES = 8 << 20
LONGEST = 64 << 20  # of one line or record, in bytes
_BATCH = 8192
_T = TypeVar("_T")

_BOM = b"\xef\xbb\xbf"
_FOREIGN = {  # the longer ones first: UTF-32's begins like UTF-16's
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


@dataclass(frozen=True)
class Refused:
    """What could not be parsed, its line in the file, and why."""

    line: int
    payload: str
    reason: str


@dataclass(frozen=True)
class Chunk:
    """Some lines, as ``line`` (BIGINT, from 1) and ``text`` (large_string); not UTF-8: refused."""

    table: pa.Table
    refused: list[Refused]


def chunks(path: Path, name: str) -> Iterator[Chunk]:
    """Reads UTF-8 text by lines."""
    hint = "is it really a file of lines?"
    for line, data, _ in blocks(path, name, lambda data: (None, data.rfind(b"\n") + 1), "line", hint=hint):
        texts = pc.split_pattern(pa.array([data[:-1]], pa.large_binary()), b"\n").flatten()
        table = pa.table({"line": pc.cumulative_sum(pa.repeat(1, len(texts)), start=line - 1), "text": texts})
        refused = unreadable(texts, table["line"])
        table = without(table, refused)
        yield Chunk(in_batches(table.set_column(1, "text", table["text"].cast(pa.large_string()))), refused)


def blocks(
    path: Path, name: str, read: Callable[[bytes], tuple[_T, int]], what: str, *, hint: str
) -> Iterator[tuple[int, bytes, _T]]:
    """Reads text by whole lines or records: the first line's number, the text, and what ``read`` found in it.

    It is given a text and says where the last whole record ends. Only at the end of a file may one be open.
    """
    rest, line = b"", 1
    with path.open("rb") as file:
        start = without_mark(file.read(4), name)
        while True:
            more = start + file.read(CHUNK_BYTES)
            start = b""
            data = rest + more
            if not more and data and not data.endswith(b"\n"):
                data += b"\n"
            end = 0
            if b"\n" in more or not more:
                found, end = read(data)
                end = end if more else len(data)
            if max(end if not rest else 0, len(data) - end) > LONGEST:
                raise DataError(f"{name}, line {line}: a {what} of more than {LONGEST >> 20} MB", hint=hint)
            if end:
                yield line, data[:end], found
                line += data.count(b"\n", 0, end)
            if not more:
                return
            rest = data[end:]


def without_mark(head: bytes, name: str) -> bytes:
    """A file's first bytes without UTF-8's byte order mark; another encoding's is a DataError."""
    for mark, encoding in _FOREIGN.items():
        if head.startswith(mark):
            raise DataError(
                f"{name} is {encoding}, not UTF-8", hint=f"convert it: iconv -f {encoding.replace('-', '')} -t UTF8"
            )
    return head.removeprefix(_BOM)


def unreadable(texts: pa.Array, numbers: pa.Array) -> list[Refused]:
    """Those of some lines or records that are not UTF-8."""
    try:
        texts.cast(pa.large_string())
    except pa.ArrowInvalid:  # now one by one
        pairs = zip(numbers.to_pylist(), texts.to_pylist(), strict=True)
        faults = [(line, text, encoding_fault(text)) for line, text in pairs]
        return [Refused(line, escaped(text).rstrip("\r\n"), fault) for line, text, fault in faults if fault]
    return []


def in_batches(table: pa.Table) -> pa.Table:
    """A table in parts that DuckDB's threads can share."""
    return pa.Table.from_batches(table.to_batches(max_chunksize=_BATCH), table.schema)


def escaped(data: bytes) -> str:
    r"""Bytes as text, with invalid UTF-8 as ``\xNN``."""
    return data.decode("utf-8", "backslashreplace")


def encoding_fault(data: bytes) -> str:
    """Where bytes are not UTF-8; empty if they are."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start + 1}: invalid UTF-8"
    return ""


def without(table: pa.Table, refused: list[Refused]) -> pa.Table:
    """The lines of a chunk that were not refused."""
    if not refused:
        return table
    lines = pa.array([item.line for item in refused], pa.int64())
    return table.filter(pc.invert(pc.is_in(table["line"], lines)))
