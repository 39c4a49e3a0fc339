"""Text files as columns of lines, in chunks of bounded memory, without a loop over lines."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pyops.errors import DataError

CHUNK_BYTES = 8 << 20
LONGEST = 64 << 20  # of one line or record, in bytes
MOST_LINES = 1000  # of one record: beyond, its quote was left open
_BATCH = 8192

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


def chunks(path: Path, name: str, *, quoted: bool) -> Iterator[Chunk]:
    """Reads UTF-8 text by lines or, if ``quoted``, by records, which go on within quotes."""
    what = "record" if quoted else "line"
    rest, line = b"", 1
    with path.open("rb") as file:
        start = without_mark(file.read(4), name)
        while True:
            read = start + file.read(CHUNK_BYTES)
            start = b""
            data = rest + read
            end = _last_end(data, quoted=quoted) if read else len(data)
            if max(end if not rest else 0, len(data) - end) > LONGEST:
                raise DataError(
                    f"{name}, line {line}: a {what} of more than {LONGEST >> 20} MB",
                    hint="is a quote left open?" if quoted else "is it really a file of lines?",
                )
            if end:
                yield _chunk(data[:end], line, name, quoted=quoted)
                line += data.count(b"\n", 0, end)
            if not read:
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


def _last_end(data: bytes, *, quoted: bool) -> int:
    """The end of the last line, or of the last one with an even number of quotes before it."""
    end = data.rfind(b"\n") + 1
    quotes = data.count(b'"', 0, end) if quoted else 0
    while end and quotes % 2:
        before = data.rfind(b"\n", 0, end - 1) + 1
        quotes -= data.count(b'"', before, end)
        end = before
    return end


def _chunk(data: bytes, first: int, name: str, *, quoted: bool) -> Chunk:
    whole = pa.array([data.removesuffix(b"\n")], pa.large_binary())
    texts = pc.split_pattern(whole, b"\n").flatten()
    numbers = pc.cumulative_sum(pa.repeat(1, len(texts)), start=first - 1)
    if quoted:
        texts, numbers = _joined(data, texts, numbers, name)
    refused: list[Refused] = []
    try:
        texts = texts.cast(pa.large_string())
    except pa.ArrowInvalid:  # some bytes are not UTF-8: now line by line
        readable = []
        for line, text in zip(numbers.to_pylist(), texts.to_pylist(), strict=True):
            fault = encoding_fault(text)
            readable.append(not fault)
            if fault:
                refused.append(Refused(line, escaped(text), fault))
        mask = pa.array(readable, pa.bool_())
        texts = texts.filter(mask).cast(pa.large_string())
        numbers = numbers.filter(mask)
    if quoted:
        texts = pc.ascii_rtrim(texts, "\r\n")
    table = pa.table({"line": numbers, "text": texts})
    batches = table.to_batches(max_chunksize=_BATCH)  # for DuckDB's threads
    return Chunk(pa.Table.from_batches(batches, table.schema), refused)


def _joined(data: bytes, texts: pa.Array, numbers: pa.Array, name: str) -> tuple[pa.Array, pa.Array]:
    """Lines joined to records: one that opens a quote goes on to the line that closes it."""
    odd = pc.bit_wise_and(pc.count_substring(texts, b'"').cast(pa.int64()), 1)
    if not pc.any(pc.equal(odd, 1)).as_py():
        return texts, numbers
    opened = pc.subtract(pc.cumulative_sum(odd), odd)  # quotes open before the line
    starts = pc.equal(pc.bit_wise_and(opened, 1), 0)
    ends = pa.concat_arrays([numbers.filter(starts), pa.array([numbers[-1].as_py() + 1], pa.int64())])
    spans = pc.pairwise_diff(ends).slice(1)
    if (longest := pc.index(pc.greater(spans, MOST_LINES), True).as_py()) >= 0:
        raise DataError(
            f"{name}, line {ends[longest].as_py()}: a quoted field goes on for more than {MOST_LINES:,} lines",
            hint="is its quote left open?",
        )
    lengths = pc.add(pc.binary_length(texts), 1)
    offsets = pc.subtract(pc.cumulative_sum(lengths), lengths).filter(starts)
    offsets = pa.concat_arrays([offsets.cast(pa.int64()), pa.array([len(data)], pa.int64())])
    records = pa.LargeBinaryArray.from_buffers(
        pa.large_binary(), len(offsets) - 1, [None, offsets.buffers()[1], pa.py_buffer(data)]
    )
    return records, numbers.filter(starts)


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
