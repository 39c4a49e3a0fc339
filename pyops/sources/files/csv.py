"""CSV (RFC 4180) into columns of texts, without a loop over rows.

DuckDB's own reader loses a record whose quote is never closed, and counts records for lines.
"""

import re
from pathlib import Path

import duckdb
import pyarrow as pa

from pyops.errors import DataError
from pyops.sources.files.arrived import add_columns, registered
from pyops.sources.files.lines import Refused, chunks, without
from pyops.sql import identifier, literal

_FIELD = r',("(?:[^"]|"")*"|[^",\r\n]*)'
_RECORD = r'(?:,(?:"(?:[^"]|"")*"|[^",\r\n]*))*'
_HEADER = "the first line of a CSV file names its columns"


def land_csv(
    connection: duckdb.DuckDBPyConnection, columns: dict[str, str], path: Path, name: str
) -> tuple[list[str], list[Refused]]:
    """Lands a file in ``arrived``; an empty field is NULL without quotes, a text with them."""
    header: list[str] | None = None
    refused: list[Refused] = []
    for chunk in chunks(path, name, quoted=True):
        table = chunk.table
        refused += chunk.refused
        if header is None:
            header = _header(table, refused, name)
            new = {column: "VARCHAR" for column in header if column not in columns}
            add_columns(connection, columns, new, name)
            table = table.slice(1)
        for is_quoted in (False, True):
            with registered(connection, table):
                bad = _bad(connection, header, is_quoted=is_quoted)
            with registered(connection, without(table, bad)):
                _insert(connection, header, name, is_quoted=is_quoted)
            refused += bad
    if header is None:
        raise DataError(f"{name}: no header: the file is empty", hint=_HEADER)
    return header, refused


def _header(table: pa.Table, refused: list[Refused], name: str) -> list[str]:
    if refused and (not table.num_rows or refused[0].line < table["line"][0].as_py()):
        raise DataError(f"{name}, line {refused[0].line}: {refused[0].reason}", hint=_HEADER)
    line, text = table["line"][0].as_py(), table["text"][0].as_py().rstrip("\r\n")
    where = f"{name}, line {line}"
    if not re.fullmatch(_RECORD, "," + text):
        raise DataError(f"{where}: the header has a stray quote or carriage return", hint=_HEADER)
    names = [
        field[1:-1].replace('""', '"') if field.startswith('"') else field for field in re.findall(_FIELD, "," + text)
    ]
    for number, column in enumerate(names, 1):
        if not column.strip() or re.search(r"[\x00-\x1f]", column):
            raise DataError(f"{where}: column {number} of the header has no name", hint=_HEADER)
        if column in names[: number - 1]:
            raise DataError(f"{where}: the header has {column!r} twice", hint=_HEADER)
    return names


def _records(header: list[str], *, is_quoted: bool) -> str:
    """The SQL of the records of a chunk with or without quotes, split to fields ``f``."""
    split, has_quotes = "string_split(text, ',')", "NOT contains(text, '\"')"
    if is_quoted:
        split = f"regexp_extract_all(',' || text, {literal(_FIELD)}, 1)"
        has_quotes = "contains(text, '\"')"
    # In a file of one column, a blank line is a record: a NULL.
    skips_blank = " AND text <> ''" if len(header) > 1 else ""
    return f"SELECT line, text, {split} AS f FROM chunk WHERE {has_quotes}{skips_blank}"


def _bad(connection: duckdb.DuckDBPyConnection, header: list[str], *, is_quoted: bool) -> list[Refused]:
    is_record = f"regexp_full_match(',' || text, {literal(_RECORD)})"
    found = connection.execute(
        f"SELECT line, text, len(f), {is_record}"
        f" FROM ({_records(header, is_quoted=is_quoted)})"
        f" WHERE len(f) <> {len(header)} OR NOT {is_record} ORDER BY line"
    ).fetchall()
    return [
        Refused(line, text, _reason(text, fields, len(header), is_record=is_record))
        for line, text, fields, is_record in found
    ]


def _reason(text: str, fields: int, expected: int, *, is_record: bool) -> str:
    if is_record:
        return f"expected {expected} fields, found {fields}"
    if text.count('"') % 2:
        return "a quote is never closed"
    return "a field without quotes has a quote or a carriage return inside"


def _insert(connection: duckdb.DuckDBPyConnection, header: list[str], name: str, *, is_quoted: bool) -> None:
    fields = [f"nullif(f[{number}], '')" for number in range(1, len(header) + 1)]
    if is_quoted:
        fields = [
            f"CASE WHEN starts_with({f}, '\"') THEN replace({f}[2:-2], '\"\"', '\"') ELSE {f} END" for f in fields
        ]
    values = "".join(f", {field} AS {identifier(column)}" for field, column in zip(fields, header, strict=True))
    connection.execute(
        f"INSERT INTO arrived BY NAME SELECT {literal(name)} AS _file, line AS _line{values}"
        f" FROM ({_records(header, is_quoted=is_quoted)})"
    )
