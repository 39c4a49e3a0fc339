"""CSV (RFC 4180) into columns of texts, by the positions of its separators and quotes.

There is no loop over rows, and no regular expression: numpy tells the records that are well-formed from those
that are not. DuckDB's own reader loses a record whose quote is never closed, and counts records for lines.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

from pyops.errors import DataError
from pyops.sources.files.arrived import add_columns, registered
from pyops.sources.files.lines import Refused, blocks, escaped, in_batches, unreadable
from pyops.sql import identifier, literal

MOST_LINES = 1000  # of one record: beyond, its quote was left open
_COMMA, _QUOTE, _CR, _LF = b',"\r\n'
_HEADER = "the first line of a CSV file names its columns"

Array = np.ndarray[Any, np.dtype[Any]]


def _table(*characters: int) -> Array:
    return np.isin(np.arange(256), characters)


_BEFORE, _AFTER = _table(_COMMA, _LF, _QUOTE), _table(_COMMA, _LF, _CR, _QUOTE)  # around a text in quotes


def land_csv(
    connection: duckdb.DuckDBPyConnection, columns: dict[str, str], path: Path, name: str
) -> tuple[list[str], list[Refused]]:
    """Lands a file in ``arrived``; an empty field is NULL without quotes, a text with them."""
    header: list[str] | None = None
    refused: list[Refused] = []
    for records in _read(path, name):
        fields, lines, bad = records.split(len(header or ()) or records.widths[0])
        if header is None:
            if bad and bad[0].line == records.lines[0]:
                raise DataError(f"{name}, line {bad[0].line}: {bad[0].reason}", hint=_HEADER)
            header = _names(fields[: records.widths[0]].to_pylist(), f"{name}, line {records.lines[0]}")
            new = {column: "VARCHAR" for column in header if column not in columns}
            add_columns(connection, columns, new, name)
            fields, lines = fields[len(header) :], lines[1:]
        _insert(connection, header, fields, lines, name)
        refused += bad
    if header is None:
        raise DataError(f"{name}: no header: the file is empty", hint=_HEADER)
    return header, refused


def _names(fields: list[str | None], where: str) -> list[str]:
    names: list[str] = []
    for number, column in enumerate(fields, 1):
        if not column or not column.strip() or re.search(r"[\x00-\x1f]", column):
            raise DataError(f"{where}: column {number} of the header has no name", hint=_HEADER)
        if column in names:
            raise DataError(f"{where}: the header has {column!r} twice", hint=_HEADER)
        names.append(column)
    return names


def _insert(
    connection: duckdb.DuckDBPyConnection, header: list[str], fields: pa.StringArray, lines: Array, name: str
) -> None:
    width = len(header)
    columns = {f"c{n}": fields.take(pa.array(np.arange(n, len(fields), width))) for n in range(width)}
    values = "".join(f", c{n} AS {identifier(column)}" for n, column in enumerate(header))
    with registered(connection, in_batches(pa.table({"line": lines, **columns}))):
        connection.execute(
            f"INSERT INTO arrived BY NAME SELECT {literal(name)} AS _file, line AS _line{values} FROM chunk"
        )


def _read(path: Path, name: str) -> Iterator["_Records"]:
    for line, data, marks in blocks(path, name, _marks, "record", hint="is a quote left open?"):
        quotes, newlines = (places[: np.searchsorted(places, len(data))] for places in marks[:2])
        inside = marks[2][: len(data)]
        ends = ~inside[newlines]
        ends[-1] = True  # where the file ends, even if a quote is open
        lines = line + np.append(0, np.flatnonzero(ends) + 1)
        if len(endless := lines[:-1][np.diff(lines) > MOST_LINES]):
            raise DataError(
                f"{name}, line {endless[0]}: a quoted field goes on for more than {MOST_LINES:,} lines",
                hint="is its quote left open?",
            )
        yield _Records(data, lines[:-1], newlines[ends], quotes, inside)


def _marks(data: bytes) -> tuple[tuple[Array, Array, Array], int]:
    """Quotes, newlines, and whether a quote is open after each byte; and the end of the last whole record."""
    text = np.frombuffer(data, np.uint8)
    inside = text == _QUOTE
    quotes = np.flatnonzero(inside)
    if len(quotes):
        np.bitwise_xor.accumulate(inside.view(np.uint8), out=inside.view(np.uint8))
    newlines = np.flatnonzero(text == _LF)
    whole = newlines[~inside[newlines]]
    return (quotes, newlines, inside), int(whole[-1]) + 1 if len(whole) else 0


class _Records:
    """The records of a text: where each begins and ends, on which line, and how many fields it has."""

    def __init__(self, data: bytes, lines: Array, ends: Array, quotes: Array, inside: Array) -> None:
        self.lines = lines
        self._data, self._text = data, np.frombuffer(data, np.uint8)
        self._starts, self._ends = np.append(0, ends[:-1] + 1), ends
        self._quotes, self._inside = quotes, inside
        self._separates = self._text == _COMMA
        self._separates &= ~inside
        self._separates[ends] = True
        self._separators = np.flatnonzero(self._separates)
        self.widths = np.diff(np.searchsorted(self._separators, ends), prepend=-1)

    def split(self, width: int) -> tuple[pa.StringArray, Array, list[Refused]]:
        """The fields of the records that have so many, one after the other; those records' lines; the others."""
        opening, closing = self._quotes[0::2], self._quotes[1::2]
        returns, stray = self._carriage_returns()
        before, after = self._text[opening - 1], self._text[closing + 1]  # a newline is before the first byte
        wrong = np.concatenate([opening[~_BEFORE[before]], closing[~_AFTER[after]], stray])
        malformed = np.zeros(len(self.lines), bool)
        malformed[np.searchsorted(self._ends, wrong)] = True
        malformed[-1] |= len(self._quotes) % 2 == 1
        # In a file of one column, a blank line is a record: a NULL.
        blank = (self.widths == 1) & np.isin(self._text[self._starts], (_CR, _LF)) & ~malformed
        is_bad = malformed | (self.widths != width) & ~blank
        refused = self._refused(is_bad, malformed, width)
        is_good = ~is_bad if width == 1 else ~(is_bad | blank)
        is_good[np.searchsorted(self.lines, [item.line for item in refused])] = False

        kept = ~self._separates
        for removed in (returns, closing, opening[before != _QUOTE]):  # of a doubled quote, the second is kept
            kept[removed] = False
        begins = np.append(0, self._separators[:-1] + 1)
        sizes = np.add.reduceat(kept.view(np.uint8), begins, dtype=np.int32)
        is_text = (sizes > 0) | (self._text[begins] == _QUOTE)
        if not is_good.all():
            kept &= np.repeat(is_good, self._ends - self._starts + 1)
            of_good = np.repeat(is_good, self.widths)
            sizes, is_text = sizes[of_good], is_text[of_good]
        offsets = np.append(np.int32(0), np.cumsum(sizes, dtype=np.int32))
        validity = np.packbits(is_text, bitorder="little")
        buffers = [pa.py_buffer(buffer) for buffer in (validity, offsets, self._text[kept])]
        return pa.StringArray.from_buffers(len(sizes), buffers[1], buffers[2], buffers[0]), self.lines[is_good], refused

    def _carriage_returns(self) -> tuple[Array, Array]:
        """Those at the end of a record, which are left out, and those elsewhere outside quotes."""
        places = np.flatnonzero(self._text == _CR)
        places = places[~self._inside[places]]
        after = self._text[places + 1]
        ends_run = after != _CR
        run = np.cumsum(ends_run) - ends_run
        at_end = (after[ends_run] == _LF)[run]
        return places[at_end], places[~at_end]

    def _refused(self, is_bad: Array, malformed: Array, width: int) -> list[Refused]:
        offsets = pa.py_buffer(np.append(self._starts, len(self._data)))
        buffers = [None, offsets, pa.py_buffer(self._data)]
        records = pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(self.lines), buffers)
        refused = {item.line: item for item in unreadable(records, pa.array(self.lines))}
        for number in np.flatnonzero(is_bad):
            line, record = int(self.lines[number]), records[number].as_py()
            reason = f"expected {width} fields, found {self.widths[number]}"
            if malformed[number]:
                is_open = record.count(_QUOTE) % 2
                inside = "a field without quotes has a quote or a carriage return inside"
                reason = "a quote is never closed" if is_open else inside
            refused.setdefault(line, Refused(line, escaped(record).rstrip("\r\n"), reason))
        return sorted(refused.values(), key=lambda item: item.line)
