"""CSV: what was written lands, however it was written and cut; what is malformed is refused, record by record."""

import csv
import io
import re
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyops.errors import DataError
from pyops.sources.files import lines
from pyops.sources.files.csv import land_csv
from tests.pyops.conftest import examples

Fields = list[str | None]
Rows = list[tuple[int, Fields]]
Refusals = list[tuple[int, str, str]]

CHUNKS = st.sampled_from([1, 3, 7, 50, 1 << 20])


def land(path: Path, content: bytes, *, chunk: int = 1 << 20) -> tuple[Rows, Refusals]:
    """Lands a file read in chunks of so many bytes: rows and refused records, each with its line."""
    path.write_bytes(content)
    with duckdb.connect() as connection, pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines, "CHUNK_BYTES", chunk)
        connection.execute("CREATE TABLE arrived (_file VARCHAR, _line BIGINT)")
        _, refused = land_csv(connection, {}, path, path.name)
        rows = connection.execute("SELECT * EXCLUDE (_file) FROM arrived ORDER BY _line").fetchall()
    return [(line, fields) for line, *fields in rows], sorted((r.line, r.payload, r.reason) for r in refused)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.csv"


# Every way in which Python's csv writes: its quoting, its line ends, and what of it is no plain text.
WRITERS: list[tuple[dict[str, Any], str]] = [
    ({"quoting": csv.QUOTE_MINIMAL, "lineterminator": "\r\n"}, ""),
    ({"quoting": csv.QUOTE_MINIMAL, "lineterminator": "\n"}, "\r"),
    ({"quoting": csv.QUOTE_ALL, "lineterminator": "\r\n"}, ""),
    ({"quoting": csv.QUOTE_ALL, "lineterminator": "\n"}, ""),
    ({"quoting": csv.QUOTE_NONNUMERIC, "lineterminator": "\n"}, ""),
    ({"quoting": csv.QUOTE_NONE, "lineterminator": "\n"}, ',"\r\n'),
]


@settings(max_examples=examples(100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data(), st.sampled_from(WRITERS), CHUNKS)
def test_table_lands_as_python_wrote_it_however_it_is_cut(
    path: Path, data: st.DataObject, writer: tuple[dict[str, Any], str], chunk: int
) -> None:
    """Behaviour 34."""
    style, unwritable = writer
    width = data.draw(st.integers(2 if style["quoting"] == csv.QUOTE_NONE else 1, 5))
    special = st.text(st.sampled_from([c for c in ',"\r\n aé' if c not in unwritable]), max_size=6)
    text = special | st.text(st.characters(exclude_categories=["Cs"], exclude_characters=unwritable), max_size=6)
    table = data.draw(st.lists(st.lists(text, min_size=width, max_size=width), max_size=10))
    file, expected = io.StringIO(newline=""), []
    out = csv.writer(file, **style)
    out.writerow([f"c{n}" for n in range(width)])
    for row in table:
        line = file.getvalue().count("\n") + 1
        quotes_empty = width == 1 or style["quoting"] in {csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC}
        expected.append((line, [value if value or quotes_empty else None for value in row]))
        out.writerow(row)
    assert land(path, file.getvalue().encode(), chunk=chunk) == (expected, [])


def records_of(text: str) -> list[tuple[int, str]]:
    """A record goes on to the first newline before which quotes are even in number."""
    records, line, first, record = [], 1, 1, ""
    for piece in re.findall(r"[^\n]*\n|[^\n]+$", text):
        record += piece
        line += 1
        if record.count('"') % 2 == 0:
            records.append((first, record.rstrip("\r\n")))
            first, record = line, ""
    return [*records, (first, record.rstrip("\r\n"))] if record else records


def fields_of(record: str) -> Fields | None:
    """One character after the other; None if it is malformed."""
    fields: Fields = []
    at = 0
    while True:
        if record[at : at + 1] == '"':
            value, at = "", at + 1
            while record[at : at + 1] not in {'"', ""} or record[at : at + 2] == '""':
                is_doubled = record[at : at + 2] == '""'
                value, at = value + record[at], at + 1 + is_doubled
            if at == len(record):
                return None
            fields.append(value)
            at += 1
        else:
            end = (record + ",").find(",", at)
            if '"' in record[at:end] or "\r" in record[at:end]:
                return None
            fields.append(record[at:end] or None)
            at = end
        if at == len(record):
            return fields
        if record[at] != ",":
            return None
        at += 1


def reference(text: str, width: int) -> tuple[Rows, Refusals]:
    rows: Rows = []
    refused: Refusals = []
    for line, record in records_of(text)[1:]:
        fields = fields_of(record)
        if fields is None:
            is_open = record.count('"') % 2
            inside = "a field without quotes has a quote or a carriage return inside"
            refused.append((line, record, "a quote is never closed" if is_open else inside))
        elif len(fields) == width:
            rows.append((line, fields))
        elif record:
            refused.append((line, record, f"expected {width} fields, found {len(fields)}"))
    return rows, refused


PIECES = st.sampled_from([*',"\r\nx', '"', '"', "\n", "\n", ",", '""', '"x"', "\r\n", '\n"', '",', 'é"', "xx,x\n"])


@settings(max_examples=examples(150), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(PIECES, max_size=40).map("".join), st.integers(1, 3), CHUNKS)
def test_malformed_records_are_those_that_an_obvious_parser_refuses(
    path: Path, text: str, width: int, chunk: int
) -> None:
    """Behaviour 44: with the same lines, payloads and reasons; and what it takes lands alike."""
    content = ",".join("abc"[:width]) + "\n" + text
    assert land(path, content.encode(), chunk=chunk) == reference(content, width)


@pytest.mark.parametrize("chunk", [1, 20, 1 << 20])
def test_bytes_that_are_not_utf_8_refuse_their_record_alone(path: Path, chunk: int) -> None:
    """Behaviour 44: also within quotes, and where the record is malformed besides."""
    rows, refused = land(path, b'a,b\n1,"x\n\xff"\n2,\xc3"\xa9"\r\n3,\xc3\xa9\n4\n', chunk=chunk)
    assert rows == [(5, ["3", "é"])]
    assert refused == [
        (2, '1,"x\n\\xff"', "byte 6: invalid UTF-8"),
        (4, '2,\\xc3"\\xa9"', "byte 3: invalid UTF-8"),
        (6, "4", "expected 2 fields, found 1"),
    ]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("closing", ['"', ""])
def test_quoted_field_has_a_thousand_lines_at_most(path: Path, end: str, closing: str) -> None:
    """Behaviour 44: what goes on has its quote left open, and the file fails by that line."""
    text = f"x{end}" * 999
    assert land(path, f'a,b{end}1,"{text}"{end}'.encode()) == ([(2, ["1", text])], [])
    bad = f'a,b{end}1,2{end}3,"{text}x{end}x{closing}'
    with pytest.raises(DataError, match=r"^a\.csv, line 3: a quoted field goes on for more than 1,000 lines$"):
        land(path, bad.encode())


def test_thousand_columns_land(path: Path) -> None:
    """Behaviour 44: and one field more or less is told."""
    header = ",".join(f"c{n}" for n in range(1000))
    fields = [f'{n},"' if n % 9 == 0 else str(n) for n in range(1000)]
    row = ",".join('"{}"'.format(f.replace('"', '""')) if '"' in f else f for f in fields)
    rows, refused = land(path, f"{header}\n{row}\n{row},\n{row}\n".encode())
    assert rows == [(2, fields), (4, fields)]
    assert [(line, reason) for line, _, reason in refused] == [(3, "expected 1000 fields, found 1001")]
