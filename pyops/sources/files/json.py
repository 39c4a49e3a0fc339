"""JSON into columns of texts exactly as they are written, without a loop over rows.

DuckDB writes numbers its own way (1.10 becomes 1.1, -0 0): so every number it would rewrite is made
a string first, with a mark that is nowhere in the text, and the mark is removed afterwards.
"""

import random
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pyops.errors import DataError
from pyops.sources.files import json_faults
from pyops.sources.files.arrived import TAKEN, add_columns, registered
from pyops.sources.files.lines import (
    CHUNK_BYTES,
    LONGEST,
    Chunk,
    Refused,
    chunks,
    encoding_fault,
    escaped,
    without,
    without_mark,
)
from pyops.sql import identifier, json_pointer, literal
from pyops.staging import casts
from pyops.staging.memory import memory_for

_REWRITTEN = r"-?\d+(?:\.\d+(?:[eE][+-]?\d+)?|[eE][+-]?\d+)|-0"
# DuckDB writes a fraction as it stands if it is not tiny, does not end with 0 and has 15 digits at
# most: the shortest text of a double is that of its decimal then (IEEE 754, DBL_DIG).
_MAY_BE_REWRITTEN = (
    r"(?:^|[:,\[ \t\r\n])(?:-?\d+(?:\.\d+)?[eE]|-?\d+\.\d*0(?:[^\d]|$)"
    r"|-?\d+\.\d{8}|-?\d{8,}\.|-?0\.000|-0)"
)
_TOKENS = rf'("(?:[^"\\]|\\.)*")|({_REWRITTEN})'
NOT_BLANK = r"regexp_matches(text, '[^ \t\r\n]')"
# Escapes of control characters: each is written in one way only, so a search tells.
_MARKS = [f"\\u00{code:02d}" for code in (*range(1, 8), *range(10, 20))]


@dataclass
class Rows:
    """Lands rows of JSON in ``arrived``, whose columns are the keys met, none of ``taken``.

    Keys that cannot be columns beside the others are a DataError, or refuse their rows alone if ``refuses``.
    """

    connection: duckdb.DuckDBPyConnection
    columns: dict[str, str] = field(default_factory=dict)
    taken: Sequence[str] = TAKEN
    value: Callable[[str, str], str | None] = lambda key, text: text
    refuses: bool = False

    def land(
        self, table: pa.Table, name: str, *, mark: str = "", fields: Collection[str] = ()
    ) -> tuple[list[str], list[Refused]]:
        """Lands ``line``, ``text`` and further columns; returns keys and what was refused.

        ``fields`` are columns even if no row has them.
        """
        with registered(self.connection, table):
            refused = self._no_objects(mark)
        table = without(table, refused)
        with registered(self.connection, table):
            found = self.connection.execute(
                f"SELECT json_keys(text) AS keys FROM chunk WHERE {NOT_BLANK} GROUP BY keys ORDER BY min(line)"
            ).fetchall()
            shapes = [keys for (keys,) in found]
            common = self._fault([*fields], name)
            faults = {tuple(keys): fault for keys in shapes if (fault := common or self._fault(keys, name))}
            if faults:
                refused += self._misnamed(faults, mark)
                shapes = [keys for keys in shapes if tuple(keys) not in faults]
        table = without(table, refused)
        keys = list(dict.fromkeys(key for shape in shapes for key in shape))
        keys = [key for key in keys if self.value(key, "") is not None]
        self._add(keys, name)
        with registered(self.connection, table):
            self._insert(keys, name, mark, table)
        return keys, refused

    def _no_objects(self, mark: str) -> list[Refused]:
        is_object = r"regexp_matches(text, '^[ \t\r\n]*\{')"
        is_valid = "true" if mark else casts.is_json("text")
        found = self.connection.execute(
            f"SELECT line, {_unmarked('text', mark)}, {is_valid} FROM chunk"
            f" WHERE {NOT_BLANK} AND NOT ({is_object} AND {is_valid}) ORDER BY line"
        ).fetchall()
        return [
            Refused(line, text, _NO_OBJECT if valid else json_faults.describe(text, lines=False))
            for line, text, valid in found
        ]

    def _fault(self, keys: Sequence[str], name: str) -> str:
        """Why an object's keys cannot be columns; if ``refuses`` and they can, they are afterwards."""
        if (fault := _fault_of(keys)) or not self.refuses:
            return fault
        try:
            self._add([key for key in keys if self.value(key, "") is not None], name)
        except DataError as error:
            return str(error).removeprefix(f"{name}: ")
        return ""

    def _add(self, keys: Sequence[str], name: str) -> None:
        if new := {key: "VARCHAR" for key in keys if key not in self.columns}:
            add_columns(self.connection, self.columns, new, name, taken=self.taken)

    def _misnamed(self, faults: Mapping[tuple[str, ...], str], mark: str) -> list[Refused]:
        found = self.connection.execute(
            f"SELECT line, {_unmarked('text', mark)}, json_keys(text) FROM chunk"
            f" WHERE {NOT_BLANK} AND json_keys(text) IN (SELECT unnest(?)) ORDER BY line",
            [[list(keys) for keys in faults]],
        ).fetchall()
        return [Refused(line, text, faults[tuple(keys)]) for line, text, keys in found]

    def _insert(self, keys: list[str], name: str, mark: str, table: pa.Table) -> None:
        pointers = ", ".join(literal(json_pointer(key)) for key in keys)
        values = f"json_extract_string(text, [{pointers}])" if keys else "NULL"
        text = "text"
        if not mark:
            mark = free_mark(table)
            text = marked_if_needed("text", mark)
        selected = [
            f"{literal(name)} AS _file, line AS _line",
            *table.column_names[2:],
            *(
                f"{self.value(key, _value(f'v[{number}]', mark))} AS {identifier(key)}"
                for number, key in enumerate(keys, 1)
            ),
        ]
        self.connection.execute(
            f"INSERT INTO arrived BY NAME SELECT {', '.join(selected)}"
            f" FROM (SELECT * EXCLUDE (text), {values} AS v"
            f" FROM (SELECT * REPLACE ({text} AS text) FROM chunk WHERE {NOT_BLANK}))"
        )


_NO_OBJECT = "valid JSON, but not an object"


def land_lines(
    connection: duckdb.DuckDBPyConnection, columns: dict[str, str], path: Path, name: str
) -> tuple[Collection[str], list[Refused]]:
    """Lands a file of JSON objects, one a line."""
    return _land(Rows(connection, columns), chunks(path, name), name)


def _land(rows: Rows, parts: Iterable[Chunk], name: str, *, mark: str = "") -> tuple[Collection[str], list[Refused]]:
    keys: set[str] = set()
    refused: list[Refused] = []
    for part in parts:
        some, more = rows.land(part.table, name, mark=mark)
        keys.update(some)
        refused += [*part.refused, *more]
    return keys, refused


def land_document(
    connection: duckdb.DuckDBPyConnection, columns: dict[str, str], path: Path, name: str
) -> tuple[Collection[str], list[Refused]]:
    """Lands a file that is one JSON document: an object is a row, an array has one an element."""
    size = path.stat().st_size
    if size > LONGEST:
        raise DataError(
            f"{name}: a JSON document of more than {LONGEST >> 20} MB",
            hint="write one object a line, with format: jsonl",
        )
    raw = path.read_bytes()
    data = without_mark(raw, name)
    if fault := encoding_fault(raw):
        return [], [Refused(1, escaped(data), fault)]
    text = data.decode()
    document = parse(connection, text, size)
    if document is None:
        return [], [Refused(1, text, json_faults.describe(text, skipped=len(raw) - len(data)))]
    if document.kind not in {"ARRAY", "OBJECT"}:
        return [], [Refused(1, text, _NO_OBJECT)]
    return land_elements(Rows(connection, columns), document, name)


@dataclass(frozen=True)
class Document:
    """What a JSON document has where its rows are: one or many, or something else, by its JSON type.

    ``value`` is a text from another place, with the JSON type of what stands there; None for no such place.
    """

    kind: str | None
    elements: pa.Table  # ``line`` and ``text``, with marked numbers
    mark: str
    value: str | None
    value_kind: str | None


def parse(
    connection: duckdb.DuckDBPyConnection, text: str, size: int, *, at: str = "", value_at: str = ""
) -> Document | None:
    """Takes a JSON document of so many bytes apart, at a path (RFC 6901); None if it is no JSON."""
    with memory_for(connection, size):
        [(is_valid,)] = connection.execute(f"SELECT {casts.is_json('t')} FROM (SELECT ? AS t)", [text]).fetchall()
        if not is_valid:
            return None
        mark = next(mark for mark in _candidates() if mark not in text)
        node = f"json_extract(text, {literal(at)})" if at else "text"
        value = f"json_extract_string(text, {literal(value_at)})" if value_at else "NULL::VARCHAR"
        value_kind = f"json_type(text, {literal(value_at)})" if value_at else "NULL::VARCHAR"
        # Not unnested there: of one long list that takes time as its square.
        found = connection.sql(
            "SELECT json_type(node) AS kind, value_kind,"
            " CASE json_type(node) WHEN 'ARRAY' THEN json_extract(node, '$[*]')::VARCHAR[]"
            f" WHEN 'OBJECT' THEN [node::VARCHAR] ELSE [] END AS elements, {_value('value', mark)} AS value"
            f" FROM (SELECT {node} AS node, {value} AS value, {value_kind} AS value_kind"
            f" FROM (SELECT {marked('t', mark)} AS text FROM (SELECT ? AS t)))",
            params=[text],
        ).to_arrow_table()
    texts = found["elements"].combine_chunks().flatten()
    elements = pa.table({"line": pc.cumulative_sum(pa.repeat(1, len(texts))), "text": texts})
    [[kind], [value_kind], [value]] = (found[name].to_pylist() for name in ("kind", "value_kind", "value"))
    return Document(kind, elements, mark, value, value_kind)


def land_elements(rows: Rows, document: Document, name: str) -> tuple[Collection[str], list[Refused]]:
    """Lands what stood where a document has its rows."""
    table = document.elements
    step = max(1, int(table.num_rows * CHUNK_BYTES / max(table.nbytes, 1)))
    parts = (Chunk(table.slice(start, step), []) for start in range(0, table.num_rows, step))
    return _land(rows, parts, name, mark=document.mark)


def marked(text: str, mark: str) -> str:
    """The SQL that makes marked strings of the numbers that DuckDB would rewrite."""
    # 0x01 and 0x02 follow a string token and enclose a number. JSON holds neither, so those after
    # strings are removed, and those around numbers become quotes.
    tokens = f"regexp_replace({text}, {literal(_TOKENS)}, E'\\\\1\\x01\\\\2\\x02', 'g')"
    opened = f"replace(replace({tokens}, E'\\x01\\x02', ''), E'\\x01', {literal(chr(34) + mark)})"
    return f"replace({opened}, E'\\x02', '\"')"


def marked_if_needed(text: str, mark: str) -> str:
    """The same, for texts of which few have such numbers."""
    rewritten = f"regexp_matches({text}, '{_MAY_BE_REWRITTEN}')"
    return f"CASE WHEN {rewritten} THEN {marked(text, mark)} ELSE {text} END"


def _unmarked(value: str, mark: str) -> str:
    if not mark:
        return value
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
    texts = table["text"]
    return next(m for m in _candidates() if not pc.any(pc.match_substring(texts, m)).as_py())


def _candidates() -> Iterator[str]:
    yield from _MARKS
    while True:
        yield "".join(random.choices(_MARKS, k=6))


def _fault_of(keys: Sequence[str]) -> str:
    """Why an object's keys cannot be columns; empty if they can."""
    seen = set()
    for key in keys:
        if not key or "\0" in key:
            return f"the key {key!r} cannot name a column"
        if key in seen:
            return f"the key {key!r} appears twice"
        seen.add(key)
    return ""
