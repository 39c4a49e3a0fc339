"""JSON into columns of texts that are what stands in the file, with no loop over rows.

DuckDB extracts the values, but writes numbers its own way (1.10 becomes 1.1, 1E5 100000.0, -0 0).
So every number it would rewrite becomes a string first, with a mark in front that no string of the
text has; behind the extraction the mark goes, and nested numbers become numbers again.
"""

import random
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pyops.errors import DataError
from pyops.records import PLACE_COLUMNS, RESERVED_COLUMNS
from pyops.sources.files import json_faults
from pyops.sources.files.lines import (
    CHUNK_BYTES,
    LONGEST,
    Refused,
    encoding_fault,
    escaped,
    without,
    without_mark,
)
from pyops.sql import identifier, literal
from pyops.staging import casts

MOST_COLUMNS = 1600  # as in PostgreSQL: beyond, names are data
PLACE = (*PLACE_COLUMNS, *RESERVED_COLUMNS)

_REWRITTEN = r"-?\d+(?:\.\d+(?:[eE][+-]?\d+)?|[eE][+-]?\d+)|-0"
# DuckDB writes a fraction as it stands if it is not tiny, does not end with 0 and has 15 digits at
# most: the shortest text of a double is that of its decimal then (IEEE 754, DBL_DIG).
_MAY_BE_REWRITTEN = (
    r"(?:^|[:,\[ \t\r\n])(?:-?\d+(?:\.\d+)?[eE]|-?\d+\.\d*0(?:[^\d]|$)"
    r"|-?\d+\.\d{8}|-?\d{8,}\.|-?0\.000|-0)"
)
_TOKENS = rf'("(?:[^"\\]|\\.)*")|({_REWRITTEN})'
NOT_BLANK = r"regexp_matches(text, '[^ \t\r\n]')"
_MARKS = [f"\\u00{code:02d}" for code in (*range(1, 8), *range(10, 20))]  # no other way to write


@dataclass
class Rows:
    """Lands rows of JSON in the table ``arrived`` of a staging file.

    Attributes:
        connection: The staging file.
        columns: The keys met so far, in order of their first appearance.
        taken: Names that no key may have.
        value: Says by what expression a key's value lands, given its text's; None to leave it out.
    """

    connection: duckdb.DuckDBPyConnection
    columns: dict[str, str] = field(default_factory=dict)
    taken: Sequence[str] = PLACE
    value: Callable[[str, str], str | None] = lambda key, text: text

    def land(
        self, table: pa.Table, name: str, *, mark: str = ""
    ) -> tuple[list[str], list[Refused]]:
        """Lands some rows.

        Args:
            table: ``line`` (BIGINT) and ``text`` (large_string): a text of JSON each, or blank;
                further columns are columns of ``arrived`` too.
            name: The file's name.
            mark: The mark of numbers, if they have one already; then every text is JSON.

        Returns:
            The keys of these rows, in order; and the rows that are no objects, or have keys
            that can be no columns.

        Raises:
            DataError: There are two keys that differ by case only.
        """
        with self._registered(table), room(self.connection, table.nbytes):
            refused = self._refused(checked=bool(mark), mark=mark)
        table = without(table, refused)
        with self._registered(table), room(self.connection, table.nbytes):
            shapes = self._shapes()
            if bad := [keys for keys, _ in shapes if _fault_of(keys)]:
                refused += self._misnamed(bad, mark)
                shapes = [(keys, line) for keys, line in shapes if keys not in bad]
        table = without(table, refused)
        keys = list(dict.fromkeys(key for shape, _ in shapes for key in shape))
        keys = [key for key in keys if self.value(key, "") is not None]
        self._add(keys, name)
        with self._registered(table), room(self.connection, table.nbytes):
            self._insert(keys, name, mark, table)
        return keys, refused

    @contextmanager
    def _registered(self, table: pa.Table) -> Iterator[None]:
        self.connection.register("chunk", table)
        try:
            yield
        finally:
            self.connection.unregister("chunk")

    def _refused(self, *, checked: bool, mark: str) -> list[Refused]:
        is_object = r"regexp_matches(text, '^[ \t\r\n]*\{')"
        condition = is_object if checked else f"{is_object} AND {casts.is_json('text')}"
        found = self.connection.execute(
            f"SELECT line, {_unmarked('text', mark) if mark else 'text'}, {is_object},"
            f" {'true' if checked else casts.is_json('text')}"
            f" FROM chunk WHERE {NOT_BLANK} AND NOT ({condition}) ORDER BY line"
        ).fetchall()
        return [
            Refused(
                line,
                payload,
                "it is JSON, but not an object"
                if is_valid
                else json_faults.describe(payload, lines=False),
            )
            for line, payload, _, is_valid in found
        ]

    def _shapes(self) -> list[tuple[list[str], int]]:
        return self.connection.execute(
            "SELECT json_keys(text) AS keys, min(line) AS line FROM chunk"
            f" WHERE {NOT_BLANK} GROUP BY keys ORDER BY line"
        ).fetchall()

    def _misnamed(self, shapes: list[list[str]], mark: str) -> list[Refused]:
        found = self.connection.execute(
            f"SELECT line, {_unmarked('text', mark) if mark else 'text'}, json_keys(text)"
            f" FROM chunk WHERE {NOT_BLANK} AND json_keys(text) IN (SELECT unnest(?))"
            " ORDER BY line",
            [shapes],
        ).fetchall()
        return [Refused(line, payload, _fault_of(keys)) for line, payload, keys in found]

    def _add(self, keys: Iterable[str], name: str) -> None:
        new = [key for key in keys if key not in self.columns]
        types = dict.fromkeys(new, "VARCHAR")
        add_columns(self.connection, self.columns, types, name, taken=self.taken)

    def _insert(self, keys: list[str], name: str, mark: str, table: pa.Table) -> None:
        pointers = ", ".join(literal(_pointer(key)) for key in keys)
        values = f"json_extract_string(text, [{pointers}])" if keys else "NULL"
        text = "text"
        if not mark:
            mark = free_mark(table)
            text = marked_if_needed("text", mark)
        others = table.column_names[2:]
        columns = "".join(
            f", {self.value(key, _value(f'v[{number}]', mark))} AS {identifier(key)}"
            for number, key in enumerate(keys, 1)
        )
        self.connection.execute(
            f"INSERT INTO arrived BY NAME SELECT {literal(name)} AS _file, line AS _line"
            f"{''.join(f', {other}' for other in others)}{columns}"
            f" FROM (SELECT * EXCLUDE (text), {values} AS v"
            f" FROM (SELECT * REPLACE ({text} AS text) FROM chunk WHERE {NOT_BLANK}))"
        )


def add_columns(
    connection: duckdb.DuckDBPyConnection,
    columns: dict[str, str],
    new: dict[str, str],
    name: str,
    *,
    taken: Sequence[str] = PLACE,
) -> None:
    """Adds columns to ``arrived``.

    Raises:
        DataError: Two names differ by case only, one is taken by pyops, or there are too many.
    """
    known = {column.lower(): column for column in columns}
    for column in new:
        other = known.setdefault(column.lower(), column)
        if other != column:
            raise DataError(
                f"{name}: {other!r} and {column!r} differ by case only; a table has room for one",
                hint="rename one of them where the file is written",
            )
        if column.lower() in taken:
            raise DataError(
                f"{name}: {column!r} is the name of a column of pyops's own",
                hint="rename it where the file is written",
            )
    if len(known) > MOST_COLUMNS:
        raise DataError(
            f"{name}: more than {MOST_COLUMNS} columns: are its names data?",
            hint="nest what has many names one level deeper: it lands as JSON",
        )
    for column, type_ in new.items():
        connection.execute(f"ALTER TABLE arrived ADD COLUMN {identifier(column)} {type_}")
        columns[column] = type_


def land_document(rows: Rows, path: Path, name: str) -> tuple[list[str], list[Refused]]:
    """Lands a file that is one JSON document: an object is a row, an array has one an element.

    Raises:
        DataError: It is UTF-16 or UTF-32, larger than 64 MB, or has keys that differ by case only.
    """
    size = path.stat().st_size
    if size > LONGEST:
        raise DataError(
            f"{name}: as one JSON document it is too large: more than {LONGEST >> 20} MB",
            hint="write one object a line, with format: jsonl",
        )
    raw = path.read_bytes()
    data = without_mark(raw, name)
    skipped = len(raw) - len(data)
    if fault := encoding_fault(raw):
        return [], [Refused(1, escaped(data), fault)]
    text = data.decode()
    connection = rows.connection
    with room(connection, size):
        valid = connection.execute(
            f"SELECT {casts.is_json('t')} FROM (SELECT ? AS t)", [text]
        ).fetchall()[0][0]
        if not valid:
            return [], [Refused(1, text, json_faults.describe(text, skipped=skipped))]
        kind = text.lstrip(" \t\r\n")[0]
        if kind not in "[{":
            return [], [Refused(1, text, "it is JSON, but not an object")]
        mark = _free_mark_in(data)
        elements = "json_extract(text, '$[*]')" if kind == "[" else "[text]"
        # Not unnested there: of one long list that takes time as its square.
        found = connection.sql(
            f"SELECT {elements}::VARCHAR[] AS elements"
            f" FROM (SELECT {marked('t', mark)} AS text FROM (SELECT ? AS t))",
            params=[text],
        ).to_arrow_table()
    of_rows = found["elements"].combine_chunks().flatten()
    table = pa.table({"line": pc.cumulative_sum(pa.repeat(1, len(of_rows))), "text": of_rows})
    keys: dict[str, None] = {}
    refused: list[Refused] = []
    for part in _parts(table):
        some, more = rows.land(part, name, mark=mark)
        keys |= dict.fromkeys(some)
        refused += more
    return list(keys), refused


def _parts(table: pa.Table) -> Iterator[pa.Table]:
    """A table of rows in parts of some MB."""
    step = max(1, int(table.num_rows * CHUNK_BYTES / max(table.nbytes, 1)))
    for start in range(0, table.num_rows, step):
        yield table.slice(start, step)


@contextmanager
def room(connection: duckdb.DuckDBPyConnection, size: int) -> Iterator[None]:
    """Lets DuckDB take what parsing one long text needs: many times its size."""
    if size <= CHUNK_BYTES * 2:
        yield
        return
    before = connection.execute("SELECT current_setting('memory_limit')").fetchall()[0][0]
    connection.execute(f"SET memory_limit = '{(256 << 20) + 20 * size}B'")
    try:
        yield
    finally:
        connection.execute(f"SET memory_limit = '{before}'")


def marked(text: str, mark: str) -> str:
    """The SQL that makes marked strings of the numbers that DuckDB would rewrite.

    Behind a string token come 0x01 and 0x02, around a number they stand on either side. JSON holds
    neither character; so what strings have of them goes, and what numbers have becomes quotes.
    """
    tokens = f"regexp_replace({text}, {literal(_TOKENS)}, E'\\\\1\\x01\\\\2\\x02', 'g')"
    opened = f"replace(replace({tokens}, E'\\x01\\x02', ''), E'\\x01', {literal(chr(34) + mark)})"
    return f"replace({opened}, E'\\x02', '\"')"


def marked_if_needed(text: str, mark: str) -> str:
    """The same, for texts of which few have such numbers."""
    rewritten = f"regexp_matches({text}, '{_MAY_BE_REWRITTEN}')"
    return f"CASE WHEN {rewritten} THEN {marked(text, mark)} ELSE {text} END"


def _unmarked(value: str, mark: str) -> str:
    escaped_mark = literal('"' + mark.replace("\\", "\\\\") + '([^"]*)"')
    return f"regexp_replace({value}, {escaped_mark}, '\\1', 'g')"


def _value(value: str, mark: str) -> str:
    """A value's text as it stood in the file: a number of its own, or numbers within."""
    plain = "".join(chr(int(code, 16)) for code in re.findall(r"u(....)", mark))
    start = "||".join(f"chr({ord(character)})" for character in plain)
    return (
        f"CASE WHEN starts_with({value}, {start}) THEN substr({value}, {len(plain) + 1})"
        f" WHEN contains({value}, {literal(mark)}) THEN {_unmarked(value, mark)} ELSE {value} END"
    )


def free_mark(table: pa.Table) -> str:
    """A mark for numbers that is in none of the texts of a chunk."""
    for mark in _candidates():
        found = pc.any(pc.match_substring(table["text"], mark)).as_py()
        if not found:
            return mark
    raise AssertionError("no text holds every sequence")


def _free_mark_in(data: bytes) -> str:
    return next(mark for mark in _candidates() if mark.encode() not in data)


def _candidates() -> Iterator[str]:
    """Escapes of control characters: each is written in one way only, so a search tells."""
    yield from _MARKS
    while True:
        yield "".join(random.choices(_MARKS, k=6))


def _pointer(key: str) -> str:
    return "/" + key.replace("~", "~0").replace("/", "~1")


def _fault_of(keys: list[str]) -> str:
    """Why an object's keys cannot be columns; empty if they can."""
    seen = set()
    for key in keys:
        if not key or "\0" in key:
            return f"the key {key!r} can be no column's name"
        if key in seen:
            return f"the key {key!r} is there twice"
        seen.add(key)
    return ""
