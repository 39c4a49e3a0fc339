"""Behaviour 29: Debezium's change events, from files into a log of changes."""

from __future__ import annotations

import base64
import csv
import functools
import gzip
import hashlib
import itertools
import json
import logging
import os
import random
import signal
import string
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyops.cdc.debezium.land import StagedEvents
from pyops.commands.cdc import capture
from pyops.commands.compact import compact
from pyops.commands.dlq import replay
from pyops.commands.snapshot import snapshot
from pyops.commands.status import status
from pyops.config.load import load
from pyops.errors import DataError, OperationError, SchemaChangeError, UsageError
from pyops.records import Run
from pyops.staging.file import Stage
from pyops.warehouse.committing import Committing
from pyops.warehouse.recording import Recording
from tests.pyops.change_log import current, events, ops
from tests.pyops.conftest import TEST_DATA, Lab, examples
from tests.pyops.test_faults import Project, at, die

SAMPLES = TEST_DATA / "debezium"
TABLE: dict[str, Any] = {"path": "*.jsonl*", "primary_key": ["id"]}
UNSENT = "__debezium_unavailable_value"


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A project of the test's own, without a database."""
    return Lab(tmp_path, "")


def land(lab: Lab, table: dict[str, Any] = TABLE, name: str = "t", **source: Any) -> list[Run]:
    """Lands the events of one table; an error is raised."""
    project = lab.configure_files({name: table}, type="debezium", **source)
    [done] = capture(project)
    if done.error is not None:
        raise done.error
    return list(done.runs)


def event(op: str, row: dict[str, Any] | None = None, *, lsn: int = 1, **other: Any) -> Any:
    """An event of PostgreSQL's connector; ``row`` is what ``op`` speaks of."""
    source = {"connector": "postgresql", "db": "app", "schema": "public", "table": "t"}
    source |= {"lsn": lsn, "txId": 7, "ts_ms": 1700000000123} | other.pop("source", {})
    before, after = (row, None) if op == "d" else (None, row)
    return {"op": op, "before": before, "after": after, "source": source, **other}


def lines(*documents: Any) -> str:
    """JSON lines; a text is a line as it stands."""
    return "".join((item if isinstance(item, str) else json.dumps(item)) + "\n" for item in documents)


def letters(lab: Lab, columns: str = "file, line, reason") -> list[tuple[Any, ...]]:
    """The open dead letters."""
    return lab.rows(f"SELECT {columns} FROM pyops.dead_letters WHERE status = 'open' ORDER BY file, line")


def enveloped(fields: Sequence[dict[str, Any]], payload: str) -> str:
    """An event as text, in an envelope whose schema has these columns."""
    row = {"type": "struct", "fields": list(fields), "optional": True}
    schema = {
        "type": "struct",
        "fields": [{**row, "field": "before"}, {**row, "field": "after"}],
        "name": "app.public.t.Envelope",
    }
    return f'{{"schema": {json.dumps(schema)}, "payload": {payload}}}'


def b64(data: bytes) -> str:
    """JSON's text of bytes as Connect writes them."""
    return json.dumps(base64.b64encode(data).decode())


# Every sample of the documentation

REFUSED = {  # of those that are no row changes, or say too little to be landed: why
    "changes_01": "it names no table",
    "cloudevents_01": "a CloudEvent",
    "cloudevents_02": "a CloudEvent",
    "cockroach_01": "an empty event",
    "cockroach_02": "it has no op",
    "cockroach_05": "it has no row",
    "flatten_01": "it names no table",
    "ldm_02": "it names no table",
    "mysql_01": "it has no op",
    "mysql_02": "a schema change event",
    "mysql_04": "it names no table",
    "mysql_05": "an empty event",
    "mysql_06": "it has no op",
    "notification_01": "a notification",
    "oracle_01": "it has no op",
    "oracle_03": "it has no op",
    "oracle_05": "it names no table",
    "oracle_06": "it has no op",
    "oracle_07": "it names no table",
    "oracle_08": "it names no table",
    "oracle_09": "it names no table",
    "pg_02": "it names no table",
    "pg_03": "an empty event",
    "pg_04": "it has no op",
    "serdes_01": "it names no table",
    "serdes_02": "it names no table",
    "sqlserver_01": "it has no op",
    "sqlserver_02": "a schema change event",
    "sqlserver_03": "it has no op",
    "sqlserver_04": "an empty event",
    "sqlserver_05": "it has no op",
    "sqlserver_10": "it names no table",
    "sqlserver_12": "a notification",
    "tut_create_01": "it has no op",
    "tut_delete_01": "it has no op",
    "tut_delete_03": "it has no op",
    "tut_restart_01": "the key of an event",
    "tut_update_01": "it has no op",
}
LANDED = {
    "cockroach_03": "c", "cockroach_04": "u", "mysql_07": "c", "mysql_08": "u", "mysql_09": "d",
    "mysql_10": "t", "oracle_10": "t", "pg_05": "c", "pg_06": "u", "pg_07": "d", "pg_08": "t",
    "sqlserver_06": "c", "sqlserver_07": "u", "sqlserver_08": "d", "tut_create_02": "r",
    "tut_delete_02": "d", "tut_restart_01": "cc", "tut_update_02": "u", "tz_01": "c", "tz_02": "c",
}  # fmt: skip
NOTHING = {
    "ldm_01": "messages (1)",
    "mysql_03": "transaction events (2)",
    "oracle_04": "transaction events (2)",
    "pg_01": "transaction events (2)",
    "pg_09": "messages (1)",
    "pg_10": "messages (1)",
    "sqlserver_09": "transaction events (2)",
    "tut_delete_04": "tombstones (1)",
}


def sample_files() -> list[str]:
    with (SAMPLES / "INDEX.tsv").open() as file:
        return [row["file"] for row in csv.DictReader(file, delimiter="\t")]


def documents(text: str) -> Iterator[Any]:
    """The JSON documents of a sample, which may be spread over lines."""
    decoder, position = json.JSONDecoder(), 0
    while position < len(text.rstrip()):
        document, position = decoder.raw_decode(text, position)
        yield document
        position += len(text[position:]) - len(text[position:].lstrip())


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, list[str]]:
    """Every sample landed in a table of its own name, and what was said of them."""
    lab, tables = Lab(tmp_path_factory.mktemp("samples"), ""), {}
    for file in sample_files():
        found = list(documents((SAMPLES / file).read_text()))
        sources = [(item.get("payload") or item).get("source") for item in found]
        named = {s["table"] for s in sources if isinstance(s, dict) and s.get("table")}
        lab.put(file, lines(*found))
        tables[file.partition(".")[0]] = {"path": file, "events_of": (named or {"t"}).pop()}
    with noted() as notes:
        [done] = capture(lab.configure_files(tables, type="debezium"))
    assert done.error is None
    return lab, notes


@pytest.mark.parametrize("name", [file.partition(".")[0] for file in sample_files()])
def test_every_sample_of_the_documentation_lands_or_is_refused_by_name(
    samples: tuple[Lab, list[str]], name: str
) -> None:
    """Behaviour 29."""
    lab, notes = samples
    found = lab.rows("SELECT reason FROM pyops.dead_letters WHERE table_name = ?", name)
    log = lab.rows("SELECT 1 FROM duckdb_tables() WHERE table_name = ?", f"{name}__changes")
    assert (ops(lab, name) if log else "") == LANDED.get(name, "")
    assert bool(found) == (name in REFUSED)
    assert all(REFUSED[name] in reason for (reason,) in found)
    said = [note for note in notes if note.startswith(f"web.{name}:")]
    assert [NOTHING[name] in note for note in said] == [True] * (name in NOTHING)
    assert name in {*REFUSED, *LANDED, *NOTHING}


@contextmanager
def noted() -> Iterator[list[str]]:
    """What is logged meanwhile."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("pyops")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_values_and_position_of_a_sample_are_those_of_the_documentation(lab: Lab) -> None:
    """Behaviour 29: the create event of PostgreSQL's connector, with its schema."""
    lab.put("x.jsonl", lines(*documents((SAMPLES / "pg_05.json").read_text())))
    land(lab, {"path": "x.jsonl", "primary_key": "id"}, name="customers")
    assert lab.rows(
        "SELECT * EXCLUDE (_load_id, _loaded_at, _committed_at), _committed_at::VARCHAR FROM raw.customers__changes"
    ) == [
        (*(1, "Anne", "Kretchmar", "annek@noanswer.org", "c", 1, 24023128, 1, 555), *([], "2019-05-28 08:58:24.863123"))
    ]


# Encodings

TIME, DATA, CONNECT = "io.debezium.time.", "io.debezium.data.", "org.apache.kafka.connect.data."


def case(  # noqa: PLR0917 (a table of cases)
    base: str, name: str, value: str, warehouse: str, text: str | None, configured: str | None = None, **parameters: str
) -> Any:
    """A value as it stands in JSON, and its type and text in the warehouse; None: a dead letter."""
    field = {"type": base, "optional": True, "name": name or None, "parameters": parameters or None}
    return pytest.param(
        {key: item for key, item in field.items() if item is not None},
        value,
        warehouse,
        text,
        configured or name,
        id=f"{name.rpartition('.')[2] or base} {value[:24]}",
    )


def decimal(value: str, text: str | None, scale: int, precision: int | None = None) -> Any:
    parameters = {"scale": str(scale)}
    parameters |= {"connect.decimal.precision": str(precision)} if precision else {}
    return case(
        "bytes", f"{CONNECT}Decimal", value, f"DECIMAL({precision or 38},{scale})", text,
        f"{CONNECT}Decimal({precision or 38},{scale})", **parameters,
    )  # fmt: skip


def twos(number: int) -> str:
    """A number as Java's BigInteger.toByteArray has it, in base64."""
    return b64(number.to_bytes((number + (number < 0)).bit_length() // 8 + 1, "big", signed=True))


BIG = 10**38 - 1
CASES = [
    case("boolean", "", "true", "BOOLEAN", "true", "BOOLEAN"),
    case("int8", "", "-128", "SMALLINT", "-128", "SMALLINT"),
    case("int16", "", "32767", "SMALLINT", "32767", "SMALLINT"),
    case("int16", "", "32768", "SMALLINT", None, "SMALLINT"),
    case("int32", "", "-2147483648", "INTEGER", "-2147483648", "INTEGER"),
    case("int64", "", "9007199254740993", "BIGINT", "9007199254740993", "BIGINT"),
    case("int64", "", "9223372036854775807", "BIGINT", "9223372036854775807", "BIGINT"),
    case("int64", "", "9223372036854775808", "BIGINT", None, "BIGINT"),
    case("float", "", "1.1", "FLOAT", "1.1", "FLOAT"),
    case("float32", "", "1.5E3", "FLOAT", "1500.0", "FLOAT"),
    case("double", "", "0.1", "DOUBLE", "0.1", "DOUBLE"),
    case("double", "", '"NaN"', "DOUBLE", "nan", "DOUBLE"),
    case("float64", "", "1e400", "DOUBLE", None, "DOUBLE"),
    case("string", "", '"Zo\\u00eb \\ud83d\\ude00"', "VARCHAR", "Zoë 😀", "VARCHAR"),
    case("string", "", '""', "VARCHAR", "", "VARCHAR"),
    case("string", "", '"12345678901234567890.123456789"', "VARCHAR",
         "12345678901234567890.123456789", "VARCHAR"),
    case("bytes", "", b64(b"\0\xff"), "BLOB", "\\x00\\xFF", "bytes"),
    case("bytes", "", '""', "BLOB", "", "bytes"),
    case("bytes", "", '"no base64"', "BLOB", None, "bytes"),
    case("array", "", "[1.10, null, 9007199254740993]", "JSON", "[1.10,null,9007199254740993]",
         "JSON"),
    case("map", "", '{"a": "1"}', "JSON", '{"a":"1"}', "JSON"),
    case("struct", "", '{"a": {"b": 1}}', "JSON", '{"a":{"b":1}}', "JSON"),
    decimal(twos(12345), "123.45", 2, 10),
    decimal(twos(-1), "-0.01", 2, 10),
    decimal(twos(0), "0.00", 2, 10),
    decimal(twos(128), "1.28", 2),
    decimal(twos(-128), "-1.28", 2),
    decimal(twos(2**63), "9223372036854775808", 0),
    decimal(twos(BIG), str(BIG), 0),
    decimal(twos(-BIG), str(-BIG), 0),
    decimal(twos(BIG), "." + "9" * 38, 38, 38),
    decimal(twos(BIG + 1), None, 0),
    decimal(twos(2**200), None, 2),
    decimal(twos(10**6), None, 2, 5),
    decimal('"?"', None, 2, 5),
    decimal('""', None, 2, 5),
    case("string", "", '"99.99"', "VARCHAR", "99.99", "VARCHAR"),
    case("struct", f"{DATA}VariableScaleDecimal", f'{{"scale": 3, "value": {twos(-1005)}}}',
         "VARCHAR", "-1.005"),
    case("struct", f"{DATA}VariableScaleDecimal", f'{{"scale": 0, "value": {twos(7)}}}',
         "VARCHAR", "7"),
    case("struct", f"{DATA}VariableScaleDecimal", f'{{"scale": -2, "value": {twos(7)}}}',
         "VARCHAR", "700"),
    case("struct", f"{DATA}VariableScaleDecimal", f'{{"scale": 0, "value": {twos(2**130)}}}',
         "VARCHAR", None),
    case("int32", f"{TIME}Date", "19000", "DATE", "2022-01-08"),
    case("int32", f"{CONNECT}Date", "-1", "DATE", "1969-12-31"),
    case("int32", f"{TIME}Date", "-719163", "DATE", None),
    case("int32", f"{TIME}Time", "45296789", "TIME", "12:34:56.789"),
    case("int32", f"{CONNECT}Time", "0", "TIME", "00:00:00"),
    case("int64", f"{TIME}MicroTime", "45296789012", "TIME", "12:34:56.789012"),
    case("int64", f"{TIME}MicroTime", "86400000000", "TIME", "24:00:00"),
    case("int64", f"{TIME}MicroTime", "-1", "TIME", None),
    case("int64", f"{TIME}NanoTime", "45296789012345", "TIME_NS", "12:34:56.789012345"),
    case("int64", f"{TIME}NanoTime", "86400000000001", "TIME_NS", None),
    case("int64", f"{TIME}Timestamp", "1700000000123", "TIMESTAMP", "2023-11-14 22:13:20.123"),
    case("int64", f"{CONNECT}Timestamp", "-1", "TIMESTAMP", "1969-12-31 23:59:59.999"),
    case("int64", f"{TIME}MicroTimestamp", "1529507596945104", "TIMESTAMP",
         "2018-06-20 15:13:16.945104"),
    case("int64", f"{TIME}MicroTimestamp", "9223372036825200000", "TIMESTAMP", "infinity"),
    case("int64", f"{TIME}MicroTimestamp", "-9223372036832400000", "TIMESTAMP", "-infinity"),
    case("int64", f"{TIME}MicroTimestamp", "-62135596800000001", "TIMESTAMP", None),
    case("int64", f"{TIME}NanoTimestamp", "1529507596945104123", "TIMESTAMP_NS",
         "2018-06-20 15:13:16.945104123"),
    case("int64", f"{TIME}NanoTimestamp", "1.5", "TIMESTAMP_NS", None),
    case("string", f"{TIME}ZonedTimestamp", '"2018-06-20T13:37:03.123456Z"', "TIMESTAMP",
         "2018-06-20 13:37:03.123456"),
    case("string", f"{TIME}ZonedTimestamp", '"2018-06-20T13:37:03+02:00"', "TIMESTAMP",
         "2018-06-20 11:37:03"),
    case("string", f"{TIME}ZonedTimestamp", '"2018-06-20T13:37:03.1234567Z"', "TIMESTAMP", None),
    case("string", f"{TIME}ZonedTime", '"10:34:56.5Z"', "VARCHAR", "10:34:56.5Z"),
    case("string", f"{TIME}IsoDate", '"2017-09-15Z"', "DATE", "2017-09-15"),
    case("string", f"{TIME}IsoTime", '"10:00:00.123Z"', "TIME", "10:00:00.123"),
    case("string", f"{TIME}IsoTimestamp", '"2021-02-01T10:00:00.123456Z"', "TIMESTAMP",
         "2021-02-01 10:00:00.123456"),
    case("int32", f"{TIME}Year", "2024", "INTEGER", "2024"),
    case("string", f"{TIME}Interval", '"P1Y2M3DT4H5M6.78S"', "VARCHAR", "P1Y2M3DT4H5M6.78S"),
    case("int64", f"{TIME}MicroDuration", "-37091106780000", "BIGINT", "-37091106780000"),
    case("string", f"{DATA}Json", '"{\\"a\\": 1.10}"', "VARCHAR", '{"a": 1.10}'),
    case("string", f"{DATA}Xml", '"<a/>"', "VARCHAR", "<a/>"),
    case("string", f"{DATA}Enum", '"new"', "VARCHAR", "new", allowed="new,old"),
    case("string", f"{DATA}EnumSet", '"a,b"', "VARCHAR", "a,b", allowed="a,b,c"),
    case("string", f"{DATA}Uuid", '"5f8a1c2e-3b4d-4e6f-8a9b-1c2d3e4f5a6b"', "UUID",
         "5f8a1c2e-3b4d-4e6f-8a9b-1c2d3e4f5a6b"),
    case("string", f"{DATA}Uuid", '"5f8a1c2e"', "UUID", None),
    case("bytes", f"{DATA}Bits", b64(b"\x05\x02"), "VARCHAR", "1000000101", f"{DATA}Bits(10)",
         length="10"),
    case("struct", f"{DATA}geometry.Point", '{"x": 1.50, "y": 2, "wkb": "AQ==", "srid": null}',
         "JSON", '{"x":1.50,"y":2,"wkb":"AQ==","srid":null}'),
]  # fmt: skip


@pytest.fixture(scope="module", params=[True, False], ids=["schema", "no schema"])
def encoded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    """Every case landed as a column of its own, and each that has no place also as a line."""
    lab = Lab(tmp_path_factory.mktemp("encodings"), "")
    cases = [item.values for item in CASES]
    values = [value if text is not None else "null" for _, value, _, text, _ in cases]
    rows = [values]
    for number, (_, value, _, text, _) in enumerate(cases):
        if text is None:
            rows.append(["null"] * number + [value] + ["null"] * (len(cases) - number - 1))
    payloads = []
    for lsn, row in enumerate(rows, 1):
        fields = [f'"v{number}": {value}' for number, value in enumerate(row)]
        whole = f'{{"id": {lsn}, {", ".join(fields)}}}'
        payloads.append(json.dumps(event("c", {"R": 1}, lsn=lsn)).replace('{"R": 1}', whole))
    types = {f"v{number}": configured for number, (*_, configured) in enumerate(cases)}
    if request.param:
        schema = [{**field, "field": f"v{number}"} for number, (field, *_) in enumerate(cases)]
        payloads = [enveloped([{"type": "int32", "field": "id"}, *schema], p) for p in payloads]
    lab.put("x.jsonl", lines(*payloads))
    land(lab, TABLE if request.param else TABLE | {"types": {"id": "INTEGER", **types}})
    return lab


@pytest.mark.parametrize(
    ("number", "case"), [pytest.param(number, item.values, id=str(item.id)) for number, item in enumerate(CASES)]
)
def test_every_encoding_lands_exactly_or_is_a_dead_letter(encoded: Lab, number: int, case: tuple[Any, ...]) -> None:
    """Behaviour 29."""
    _, _, warehouse, text, _ = case
    [landed] = encoded.rows(f"SELECT typeof(v{number}), v{number}::VARCHAR FROM raw.t__changes")
    assert landed == (warehouse, text)
    found = encoded.rows("SELECT file, status FROM pyops.dead_letters WHERE column_name = ?", f"v{number}")
    assert found == [("x.jsonl", "open")] * (text is None)


def test_column_that_nobody_gives_a_type_lands_as_the_text_that_stands_there(lab: Lab) -> None:
    row = '{"id": 1, "a": 1.10, "b": "x", "c": [1e5, {"d": 123456789012345678901}], "e": null}'
    lab.put("x.jsonl", lines(json.dumps(event("c", {"R": 1})).replace('{"R": 1}', row)))
    land(lab)
    [found] = events(lab, "t")
    expected = {"id": "1", "a": "1.10", "b": "x", "e": None}
    assert found.row == expected | {"c": '[1e5,{"d":123456789012345678901}]'}


# What a line may be

ROW = {"id": 1, "v": "x"}
SHAPES = {
    "the event alone": event("c", ROW),
    "an envelope": {"schema": {"type": "struct"}, "payload": event("c", ROW)},
    "key and value": {"key": {"id": 1}, "value": event("c", ROW)},
    "key and value in envelopes": {
        "key": {"schema": {}, "payload": {"id": 1}},
        "value": {"schema": {}, "payload": event("c", ROW)},
    },
    "as kcat writes it": {
        "topic": "app.public.t",
        "offset": 0,
        "key": json.dumps({"id": 1}),
        "payload": json.dumps(event("c", ROW)),
    },
    "an envelope in a string": {"value": json.dumps({"schema": None, "payload": event("c", ROW)})},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_events_are_taken_from_every_documented_shape_of_a_line(lab: Lab, shape: str) -> None:
    """Behaviour 29."""
    lab.put("x.jsonl", lines(SHAPES[shape]))
    land(lab, TABLE | {"types": {"id": "BIGINT"}})
    [found] = events(lab, "t")
    assert (found.op, found.row, found.identity) == ("c", ROW, (1, 1, 1))


@pytest.mark.parametrize("schema", ["x", 1, [], {"fields": 1}, {"fields": [1, {"field": "after"}]}])
def test_schema_that_names_no_columns_is_none(lab: Lab, schema: Any) -> None:
    lab.put("x.jsonl", lines({"schema": schema, "payload": event("c", ROW)}))
    land(lab)
    assert events(lab, "t")[0].row == {"id": "1", "v": "x"}


def test_numbers_in_a_string_of_json_keep_their_digits(lab: Lab) -> None:
    payload = json.dumps(event("c", {"id": 1, "v": 0})).replace('"v": 0', '"v": 1.10')
    lab.put("x.jsonl", lines({"value": payload}))
    land(lab)
    assert lab.rows("SELECT v FROM raw.t__changes") == [("1.10",)]


def test_delete_without_its_row_is_known_by_the_key_beside_it(lab: Lab) -> None:
    lab.put(
        "x.jsonl",
        lines(
            {"key": {"id": 1}, "value": event("c", ROW, lsn=1)},
            {"key": {"id": 1}, "value": event("d", None, lsn=2)},
            {"key": {"id": 1}, "value": None},
        ),
    )
    [run] = land(lab)
    assert (ops(lab, "t"), current(lab, "t")) == ("cd", [])
    assert (run.rows_read, run.rows_written, run.rows_dead_lettered) == (3, 2, 0)


def test_what_has_nothing_to_land_is_counted(lab: Lab) -> None:
    """Behaviour 29: tombstones, heartbeats, transactions, messages."""
    lab.put(
        "x.jsonl",
        lines(
            "null",
            {"schema": None, "payload": None},
            {"key": {"id": 1}, "value": None},
            {"ts_ms": 1},
            {"schema": {"name": "Heartbeat"}, "payload": {"ts_ms": 1}},
            {"status": "BEGIN", "id": "571:1", "event_count": None, "ts_ms": 1},
            {"status": "END", "id": "571:1", "event_count": 1, "ts_ms": 1},
            event("m", message={"prefix": "a", "content": "Yg=="}),
        ),
    )
    project = lab.configure_files({"t": TABLE}, type="debezium")
    with noted() as notes:
        [done] = capture(project)
    assert [(run.rows_read, run.rows_written) for run in done.runs] == [(8, 0)]
    assert notes == ["web.t: nothing to land in tombstones (3), heartbeats (2), transaction events (2), messages (1)"]
    assert letters(lab) == []


def test_what_cannot_be_landed_is_a_dead_letter_with_its_line_and_the_rest_lands(lab: Lab) -> None:
    """Behaviours 29 and 37."""
    lab.put(
        "x.jsonl",
        lines(
            event("c", {"id": 1}, lsn=1),
            '{"op": "c", ',
            event("q", {"id": 2}, lsn=2),
            event("c", {"id": 3}, lsn=3, source={"table": "orders"}),
            event("c", {"id": 4}, source={"lsn": None}),
            event("c", None, lsn=5),
            event("c", {"id": None}, lsn=6),
            event("u", {"id": 8}, lsn=7) | {"before": {"id": 7}},
            event("c", {"_id": 1}, source={"connector": "mongodb", "collection": "t"}),
            "[1]",
            {"value": "no json"},
            event("c", {"id": 9}, lsn=9),
        ).encode()
        + b'{"op": "\xff"}\n',
    )
    [run] = land(lab)
    assert [(line, reason) for _, line, reason in letters(lab)] == [
        (2, "column 13, byte 13: expecting property name enclosed in double quotes"),
        (3, "invalid op: expected r, c, u, d, t or m"),
        (4, "an event of app.public.orders, not of t"),
        (5, "it has no position in the source: expected lsn, file and pos, change_lsn, scn or"
            " ts_ms"),
        (6, "it has no row: expected after or, for a d, before or a key"),
        (7, "a primary key cannot be NULL"),
        (8, "it changes the key: expected two events, d and c, not one u"),
        (9, "an event of MongoDB, whose documents are not rows"),
        (10, "valid JSON, but not an event"),
        (11, "its value is a string that is not JSON"),
        (13, "byte 9: invalid UTF-8"),
    ]  # fmt: skip
    assert [item.row["id"] for item in events(lab, "t")] == ["1", "9"]
    assert (run.rows_read, run.rows_written, run.rows_dead_lettered) == (13, 2, 11)
    assert letters(lab, "payload")[0] == ('{"op": "c", ',)


def test_events_of_other_tables_are_left_out_if_the_configuration_names_its_own(lab: Lab) -> None:
    lab.put(
        "x.jsonl",
        lines(
            event("c", {"id": 1}, lsn=1),
            event("c", {"id": 2}, lsn=2, source={"schema": "audit"}),
            event("c", {"id": 3}, lsn=3, source={"table": "at"}),
        ),
    )
    [run] = land(lab, TABLE | {"events_of": "public.t"}, name="things")
    assert [item.row["id"] for item in events(lab, "things")] == ["1"]
    assert (run.rows_read, run.rows_written, run.rows_dead_lettered) == (3, 1, 0)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (gzip.compress(lines(event("c", ROW)).encode())[:-9], "the file ends too early"),
        (b"\x1f\x8b nonsense", "the file is damaged"),
        ("x".encode("utf-16"), "is UTF-16, not UTF-8"),
    ],
)
def test_file_that_cannot_be_read_lands_nothing(lab: Lab, content: bytes, said: str) -> None:
    lab.put("a.jsonl", lines(event("c", ROW)))
    lab.put("b.jsonl.gz" if content[0] == 0x1F else "b.jsonl", content)
    with pytest.raises(DataError, match=said):
        land(lab)
    assert lab.rows("SELECT 1 FROM duckdb_tables() WHERE table_name = 't__changes'") == []
    assert lab.rows("SELECT status FROM pyops.runs") == [("failed",)]


# Order and repeats


@pytest.mark.parametrize(
    ("source", "position", "at"),
    [
        ({"lsn": 46523128}, 46523128, "2023-11-14 22:13:20.123"),
        ({"file": "mysql-bin.000003", "pos": 484, "ts_us": 1700000000123456},
         3 * 2**32 + 484, "2023-11-14 22:13:20.123456"),
        ({"change_lsn": "00000027:00000ac0:0002", "commit_lsn": "00000027:00000ac0:0007"},
         0x27 * 2**40 + 0xAC0 * 2**16 + 2, "2023-11-14 22:13:20.123"),
        ({"change_lsn": None, "commit_lsn": "00000027:00000ac0:0007"},
         0x27 * 2**40 + 0xAC0 * 2**16 + 7, "2023-11-14 22:13:20.123"),
        ({"scn": "2122185", "txId": "6.28.807"}, 2122185, "2023-11-14 22:13:20.123"),
        ({"ts_ns": 1700000000123456789}, 1700000000123456789, "2023-11-14 22:13:20.123456"),
        ({}, 1700000000123000000, "2023-11-14 22:13:20.123"),
    ],
    ids=["lsn", "binlog", "change_lsn", "commit_lsn", "scn", "ts_ns", "ts_ms"],
)  # fmt: skip
def test_position_is_the_source_s_own(lab: Lab, source: dict[str, Any], position: int, at: str) -> None:
    """Behaviour 29: ts_ns above 2^53 keeps every digit."""
    one = event("c", ROW)
    one["source"] = {"table": "t", "ts_ms": 1700000000123, "txId": 9, **source}
    lab.put("x.jsonl", lines(one))
    land(lab)
    xid = 9 if "scn" not in source else None
    assert lab.rows("SELECT _lsn, _seq, _xid, _committed_at::VARCHAR FROM raw.t__changes") == [(position, 1, xid, at)]


def test_order_is_the_transaction_s_where_it_says_so_and_that_of_arrival_else(lab: Lab) -> None:
    """Behaviour 16: COPY of 3 equal rows is 3 events, and their repetition none."""
    copied = [event("c", {"v": 1}, lsn=5, transaction={"id": "7:5", "total_order": n}) for n in (3, 1, 2)]
    snapshot = [event("r", {"v": n}, lsn=5) for n in (1, 2)]
    pair = [event("d", {"v": 4}, lsn=6), event("c", {"v": 5}, lsn=6)]
    lab.put("a.jsonl", lines(*snapshot, *copied, *pair))
    lab.put("b.jsonl", lines(*copied[1:], *pair))
    table = {"path": "*.jsonl"}
    land(lab, table)
    lab.put("c.jsonl", lines(*snapshot, event("r", {"v": 3}, lsn=5), *copied, *pair))
    [run] = land(lab, table)
    assert (run.rows_read, run.rows_written, run.rows_unchanged) == (8, 1, 7)
    found = [(item.op, *item.identity[1:], item.row["v"]) for item in events(lab, "t")]
    assert found == [
        ("r", 5, -2, "3"), ("r", 5, -1, "1"), ("r", 5, 0, "2"),
        ("c", 5, 1, "1"), ("c", 5, 2, "1"), ("c", 5, 3, "1"),
        ("d", 6, 1, "4"), ("c", 6, 2, "5"),
    ]  # fmt: skip


def test_file_is_read_once_and_again_when_it_has_grown(lab: Lab) -> None:
    path = lab.put("x.jsonl", lines(event("c", ROW, lsn=1), "{"))
    assert [run.rows_written for run in land(lab)] == [1]
    assert land(lab) == []
    first = letters(lab)
    path.write_text(lines(event("c", ROW, lsn=1), "{", event("u", ROW, lsn=2)))
    [run] = land(lab)
    assert (run.rows_read, run.rows_written, run.rows_unchanged) == (3, 1, 1)
    assert (ops(lab, "t"), letters(lab)) == ("cu", first)
    path.unlink()
    assert land(lab) == []


def test_what_was_folded_does_not_come_back_when_its_file_is_read_again(lab: Lab) -> None:
    """Behaviour 29: not even where the file with the delete is not read again."""
    table = TABLE | {"retention": "1d"}
    path = lab.put("x1.jsonl", created := lines(*(event("c", {"id": n}, lsn=n) for n in (1, 2))))
    lab.put("x2.jsonl", lines(event("d", {"id": 1}, lsn=3)))
    land(lab, table | {"path": "x*.jsonl"})
    project = lab.configure_files({"t": table | {"path": "x*.jsonl"}}, type="debezium")
    [done] = compact(project, now=datetime(2100, 1, 1))
    assert done.error is None
    assert ops(lab, "t") == "r"
    path.write_text(created + lines(event("c", {"id": 3}, lsn=9)))
    [run] = land(lab, table | {"path": "x*.jsonl"})
    assert (run.rows_read, run.rows_written, run.rows_unchanged) == (3, 1, 2)
    assert [row["id"] for row in current(lab, "t")] == ["2", "3"]


def test_what_the_configuration_now_allows_lands_when_the_file_is_touched(lab: Lab) -> None:
    path = lab.put("x.jsonl", lines(event("c", {"id": "x"}, lsn=1), event("c", {"id": 2}, lsn=2)))
    land(lab, TABLE | {"types": {"id": "INTEGER"}})
    assert [item.row["id"] for item in events(lab, "t")] == [2]
    os.utime(path, (1, 1))
    land(lab)
    assert [item.row["id"] for item in events(lab, "t")] == ["x", "2"]
    assert letters(lab) == []


KEYS = st.integers(1, 3)
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "put", "partial", "move", "delete", "truncate", "copy", "noise"]), KEYS, KEYS),
    min_size=1,
    max_size=14,
)


def traffic(steps: list[tuple[str, int, int]]) -> tuple[list[Any], dict[int, dict[str, Any]]]:
    """The events of what was done to a table, and what it holds in the end."""
    rows: dict[int, dict[str, Any]] = {}
    found: list[Any] = []
    for number, (what, key, other) in enumerate(steps):
        lsn = 100 + number
        tell = functools.partial(event, lsn=lsn, source={"txId": lsn})
        if what in {"put", "copy"}:
            row = {"id": key, "big": f"big {number}", "v": number}
            found.append(tell("r" if what == "copy" else "u" if key in rows else "c", row))
            rows[key] = row
        elif what == "partial" and key in rows:
            rows[key] = rows[key] | {"v": number}
            found.append(tell("u", rows[key] | {"big": UNSENT}))
        elif what == "move" and key in rows and other not in rows:
            rows[other] = rows.pop(key) | {"id": other}
            found.append(tell("d", {"id": key}))
            found.append({"key": {"id": key}, "value": None})
            found.append(tell("c", rows[other] | {"big": UNSENT}))
        elif what == "delete" and key in rows:
            del rows[key]
            found += [tell("d", {"id": key}), "null"]
        elif what == "truncate":
            rows.clear()
            found.append(tell("t"))
        elif what == "noise":
            found += [{"ts_ms": number}, {"status": "BEGIN", "id": str(number), "ts_ms": 1}]
    return found, rows


@settings(max_examples=examples(12))
@given(data=st.data(), steps=STEPS, has_schema=st.booleans())
def test_any_split_and_any_repetition_ends_in_the_same_state(
    data: st.DataObject, steps: list[tuple[str, int, int]], has_schema: bool
) -> None:
    """Behaviour 29: whatever file or run an event comes in, and however often."""
    found, rows = traffic([("put", 1, 1), *steps])
    fields: list[dict[str, Any]] = [
        {"type": "int32", "field": "id"},
        {"type": "string", "field": "big", "optional": True},
        {"type": "int64", "field": "v", "optional": True},
    ]
    if has_schema:
        found = [enveloped(fields, json.dumps(item)) if "op" in item else item for item in found]
    table = TABLE | {"types": {"id": "INTEGER", "v": "BIGINT"}}
    with labs() as (whole, split):
        whole.put("x.jsonl", lines(*found))
        land(whole, table)
        land_in_runs(split, table, found, data)
        expected = [rows[key] for key in sorted(rows)]
        assert current(whole, "t") == expected
        assert current(split, "t") == expected
        assert events(split, "t") == events(whole, "t")


def land_in_runs(lab: Lab, table: dict[str, Any], found: list[Any], data: st.DataObject) -> None:
    """Lands events in files and runs of any size, which begin before those before them ended."""
    end, number = 0, 0
    while end < len(found):
        for _ in range(data.draw(st.integers(1, 3), "files in a run")):
            start = data.draw(st.integers(0, end), "begins at")
            end = max(end, data.draw(st.integers(start, len(found)), "ends before"))
            end = len(found) if number > 5 else end
            content = lines(*found[start:end]).encode()
            packed = data.draw(st.booleans(), "packed")
            name = f"{number:03}.jsonl" + ".gz" * packed
            lab.put(name, gzip.compress(content) if packed else content)
            number += 1
        land(lab, table)


OPEN_STEPS = st.lists(
    st.tuples(
        st.sampled_from(["put", "put", "put", "delete", "move", "commit", "stream", "copy"]),
        st.integers(1, 2),  # the transaction
        KEYS,
    ),
    min_size=4,
    max_size=24,
)


class Server:
    """A PostgreSQL whose transactions overlap, as Debezium's connector sees it."""

    def __init__(self, *, tells_sequence: bool) -> None:
        self.tells_sequence = tells_sequence
        self.rows: dict[int, dict[str, Any]] = {}
        self.stream: list[Any] = []
        self.found: list[Any] | None = None  # none before the first copy
        self.open: dict[int, list[Any]] = {}
        self.lsn, self.xids = 100, 0
        self.last_commit: int | None = None

    def seen(self, transaction: int) -> dict[int, dict[str, Any]]:
        """The rows as a transaction sees them."""
        rows = dict(self.rows)
        for change in self.open.get(transaction, []):
            rows.pop((change["before"] or change["after"])["id"], None)
            if change["after"]:
                rows[change["after"]["id"]] = change["after"]
        return rows

    def do(self, what: str, transaction: int, key: int) -> None:
        self.lsn += 1
        locked = {
            (change["before"] or change["after"])["id"]
            for other, changes in self.open.items()
            for change in changes
            if other != transaction
        }
        rows = self.seen(transaction)
        if what == "put" and key not in locked:
            self.write(transaction, ("u" if key in rows else "c", {"id": key, "v": self.lsn, "big": f"{self.lsn}"}))
        elif what == "delete" and key not in locked and key in rows:
            self.write(transaction, ("d", rows[key]))
        elif what == "move" and not {key, key % 3 + 1} & locked and key in rows and key % 3 + 1 not in rows:
            self.write(transaction, ("d", rows[key]), ("c", rows[key] | {"id": key % 3 + 1}))
        elif what == "commit" and transaction in self.open:
            self.rows = rows
            for change in self.open.pop(transaction):
                if self.tells_sequence:
                    numbers = [self.last_commit and str(self.last_commit), str(change["source"]["lsn"])]
                    change["source"]["sequence"] = json.dumps(numbers)
                self.stream.append(change)
            self.last_commit = self.lsn
        elif what == "stream" and self.found is not None:
            self.found += self.sent()
        elif what == "copy":
            if self.found is None:
                self.found, self.stream, self.last_commit = [], [], None
            source = {"txId": 10_000 + self.lsn, "snapshot": "true"}
            self.found += [event("r", row, lsn=self.lsn, source=source) for row in self.rows.values()]

    def write(self, transaction: int, *changes: tuple[str, dict[str, Any]]) -> None:
        if transaction not in self.open:
            self.xids += 1
        xid = self.open[transaction][0]["source"]["txId"] if transaction in self.open else self.xids
        written = [event(op, row, lsn=self.lsn, source={"txId": xid}) for op, row in changes]
        self.open.setdefault(transaction, []).extend(written)

    def sent(self) -> list[Any]:
        """The committed changes that were not sent yet; a new key comes without its unchanged value."""
        sent, self.stream = self.stream, []
        for first, second in itertools.pairwise(sent):
            if first["op"] == "d" and second["source"]["lsn"] == first["source"]["lsn"]:
                second["after"] = second["after"] | {"big": UNSENT}
        return sent


@settings(max_examples=examples(15))
@given(data=st.data(), before=OPEN_STEPS, steps=OPEN_STEPS, tells_sequence=st.booleans())
def test_transactions_open_during_a_copy_end_as_at_the_source_in_any_split(
    data: st.DataObject, before: list[tuple[str, int, int]], steps: list[tuple[str, int, int]], *, tells_sequence: bool
) -> None:
    """Behaviour 29: a change is written before the copy and committed behind it."""
    server = Server(tells_sequence=tells_sequence)
    for step in [*before, ("copy", 0, 0), *steps, ("commit", 1, 0), ("commit", 2, 0), ("stream", 0, 0)]:
        server.do(*step)
    assert server.found is not None
    table = TABLE | {"types": {"id": "INTEGER", "v": "BIGINT"}}
    with labs() as (whole, split):
        expected = [server.rows[key] for key in sorted(server.rows)]
        if server.found:
            whole.put("x.jsonl", lines(*server.found))
            land(whole, table)
            assert current(whole, "t") == expected
            land_in_runs(split, table, server.found, data)
            assert current(split, "t") == expected
            assert len(events(split, "t")) == len(events(whole, "t")) == len(server.found)


def landed_in(lab: Lab, *runs: list[Any], **table: Any) -> list[dict[str, Any]]:
    """What a table holds after runs that found a file each."""
    for number, found in enumerate(runs):
        lab.put(f"{number}.jsonl", lines(*found))
        land(lab, TABLE | table)
    return current(lab, "t")


COPY = [event("r", {"id": n, "v": "copied"}, lsn=100, source={"txId": 9, "snapshot": "true"}) for n in (1, 2)]


def written(lsn: int, op: str, key: int, value: str = "", **source: Any) -> Any:
    """A change of the transaction 8, which was open during the copy."""
    return event(op, {"id": key, "v": value}, lsn=lsn, source={"txId": 8, **source})


@pytest.mark.parametrize("split", [1, 2, 3, 4, 5])
def test_change_written_before_a_copy_and_committed_behind_it_wins(lab: Lab, split: int) -> None:
    """Behaviour 29: also one that goes back to a value, and one at the copy's own position."""
    changes = [written(lsn, "u", 1, value) for lsn, value in ((90, "A"), (92, "B"), (94, "A"), (100, "C"), (104, "D"))]
    gone = written(96, "d", 2)
    found = [*COPY, *changes[:3], gone, *changes[3:]]
    again = [COPY, found]  # adds nothing
    assert landed_in(lab, found[: split + 1], found[split:], *again) == [{"id": "1", "v": "D"}]
    assert ops(lab, "t") == "rruuuduu"
    assert [item.row["v"] for item in events(lab, "t") if item.op == "u"] == ["A", "B", "A", "C", "D"]


def test_change_of_a_committed_transaction_is_known_by_its_sequence(lab: Lab) -> None:
    """Even where its file's name comes first."""
    behind = written(90, "u", 1, "new", sequence='["110","90"]')
    before = written(80, "u", 2, "old", txId=7, sequence='["70","80"]')
    assert landed_in(lab, [before, behind, *COPY]) == [{"id": "1", "v": "new"}, {"id": "2", "v": "copied"}]


def test_copy_stays_above_what_it_copied_when_that_is_read_again(lab: Lab) -> None:
    """Also with other values, by other types."""
    old, row = written(10, "c", 1, "1"), event("r", {"id": 1, "v": "2"}, lsn=100)
    expected = [{"id": "1", "v": "2"}]
    assert landed_in(lab, [old], [row], [old, row], [row, old]) == expected
    assert ops(lab, "t") == "cr"
    os.utime(lab.directory / "0.jsonl", (1, 1))
    land(lab, TABLE | {"types": {"v": "DECIMAL(4,1)"}})
    assert (ops(lab, "t"), current(lab, "t")) == ("ccr", expected)


def test_change_too_far_before_the_copy_it_replaces_fails_its_table(lab: Lab) -> None:
    far = event("r", {"id": 1}, lsn=2**60)
    with pytest.raises(DataError, match="bytes before the copied row that it replaces: too far"):
        landed_in(lab, [far, written(90, "u", 1)])


@pytest.mark.parametrize("split", range(6))
def test_rows_of_an_incremental_snapshot_land_by_their_place_in_the_stream(lab: Lab, split: int) -> None:
    """Behaviour 29: since 2.0 the connector gives them no LSN; the signals are events of another table."""
    part = {"snapshot": "incremental", "lsn": None, "txId": None, "sequence": '["98","95"]'}
    found = [
        event("u", {"id": 1, "v": "older"}, lsn=97),
        event("c", {"id": "x", "type": "snapshot-window-close"}, lsn=95, source={"table": "debezium_signal"}),
        *(event("r", {"id": n, "v": "read"}, source=part) for n in (1, 2, 3)),
        written(96, "u", 2, "newer", sequence='["98","96"]'),
        written(99, "u", 3, "newer", sequence='["98","99"]'),
    ]
    assert landed_in(lab, found[:split], found[split:], found, events_of="public.t") == [
        {"id": "1", "v": "read"},
        {"id": "2", "v": "newer"},
        {"id": "3", "v": "newer"},
    ]
    assert len(ops(lab, "t")) == 6
    assert letters(lab) == []


def test_row_of_an_incremental_snapshot_at_the_last_change_s_position_is_read_behind_it(lab: Lab) -> None:
    read = event("r", {"id": 1, "v": "read"}, lsn=100, source={"snapshot": "incremental"})
    assert landed_in(lab, [written(100, "u", 1, "older"), read]) == [{"id": "1", "v": "read"}]
    assert landed_in(lab, [written(101, "u", 1, "newer"), read]) == [{"id": "1", "v": "newer"}]


@contextmanager
def labs() -> Iterator[tuple[Lab, Lab]]:
    """Two projects for one example."""
    with TemporaryDirectory() as one, TemporaryDirectory() as two:
        yield Lab(Path(one), ""), Lab(Path(two), "")


# Values that were not sent, masks, columns that change

PLACEHOLDERS = {  # as Debezium's UnchangedToastedPlaceholder makes them
    UNSENT: {
        "text": UNSENT,
        "bytes": "X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==",
        "hex": UNSENT.encode().hex(),
        "texts": [UNSENT],
        "many_bytes": ["X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ=="],
        "uuids": [str(UUID(bytes=hashlib.md5(UNSENT.encode()).digest(), version=3))],
        "numbers": list(UNSENT.encode()),
        "fractions": [float(byte) for byte in UNSENT.encode()],
        "decimals": [json.loads(b64(bytes([byte]))) for byte in UNSENT.encode()],
        "any_decimals": [{"scale": 0, "value": json.loads(b64(bytes([byte])))} for byte in UNSENT.encode()],
        "hstore": {UNSENT: UNSENT},
        "hstore_as_json": f'{{"{UNSENT}":"{UNSENT}"}}',
    },
    'fehlt "hier" \u00e9': {
        "text": 'fehlt "hier" \u00e9',
        "bytes": "ZmVobHQgImhpZXIiIMOp",
        "hex": "6665686c742022686965722220c3a9",
        "texts": ['fehlt "hier" \u00e9'],
        "numbers": [102, 101, 104, 108, 116, 32, 34, 104, 105, 101, 114, 34, 32, -61, -87],
        "hstore": {'fehlt "hier" \u00e9': 'fehlt "hier" \u00e9'},
    },
}


@pytest.mark.parametrize("mask", [(), ("text", "bytes", "numbers", "hstore")], ids=["plain", "masked"])
@pytest.mark.parametrize("word", PLACEHOLDERS, ids=["default", "configured"])
def test_values_that_were_not_sent_are_named_and_null(lab: Lab, word: str, mask: tuple[str, ...]) -> None:
    """Behaviour 18: in every type's form, of any word."""
    unsent = PLACEHOLDERS[word]
    row = {"id": 1, **unsent, "near": f"{word}!", "none": None, "some": [*unsent["numbers"], 1]}
    lab.put("x.jsonl", lines(event("u", row, lsn=1), event("d", row, lsn=2)))
    land(lab, TABLE | {"types": {"bytes": "bytes"}, "mask": list(mask)}, unavailable_value=word)
    update, delete = events(lab, "t")
    assert set(update.unchanged) == set(unsent)
    assert all(update.row[name] is None for name in unsent)
    assert (update.row["near"], update.row["none"]) == (f"{word}!", None)
    assert update.row["some"] == json.dumps(row["some"]).replace(" ", "")
    assert (delete.unchanged, delete.row["text"]) == ((), None)


def test_word_of_another_connector_is_a_value(lab: Lab) -> None:
    lab.put("x.jsonl", lines(event("u", {"id": 1, "v": UNSENT})))
    land(lab, unavailable_value="__unsent")
    assert events(lab, "t")[0].row["v"] == UNSENT


def test_masked_value_is_hashed_before_anything_is_stored(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behaviour 43: not in the staging file either, nor in a dead letter."""
    secret = "mary.queen@example.com"
    staged: list[bytes] = []
    monkeypatch.setattr(Stage, "add_arrived", kept(staged, Stage.add_arrived))
    rows = [{"id": 1, "email": secret, "note": secret, "n": 1}, {"id": 2, "email": UNSENT, "n": 1}]
    rows.append({"id": 3, "email": secret, "note": secret, "n": "x"})
    lab.put("x.jsonl", lines(*(event("c", row, lsn=n) for n, row in enumerate(rows)), f'{{"e": "{secret}"'))
    table = TABLE | {"mask": ["email"], "exclude": ["note"], "types": {"n": "INTEGER"}}
    land(lab, table, mask_salt="pepper")
    hashed = hashlib.sha256(f"pepper{secret}".encode()).hexdigest()
    assert lab.rows("SELECT id, email, _unchanged FROM raw.t__changes ORDER BY id") == [
        ("1", hashed, []),
        ("2", None, ["email"]),
    ]
    names = lab.rows("SELECT column_name FROM duckdb_columns() WHERE table_name = 't__changes'")
    assert ("note",) not in names
    assert len(letters(lab)) == 2
    assert staged
    (lab.directory / "x.jsonl").unlink()
    content = b"".join(p.read_bytes() for p in lab.directory.rglob("*") if p.is_file())
    assert secret.encode() not in content + b"".join(staged)


def kept(contents: list[bytes], original: Any) -> Any:
    """A method of a staging file that notes first what the file holds."""

    def replacement(stage: Stage, *arguments: Any, **named: Any) -> Any:
        stage.connection.execute("CHECKPOINT")
        contents.append(stage.path.read_bytes())
        return original(stage, *arguments, **named)

    return replacement


def test_columns_that_change_are_followed_or_stop_everything(lab: Lab) -> None:
    """Behaviour 27."""
    old = [{"type": "int32", "field": "id"}, {"type": "int32", "field": "v"}]
    new = [{"type": "int64", "field": "id"}, {"type": "string", "field": "w"}]
    first = enveloped(old, json.dumps(event("c", {"id": 1, "v": 1}, lsn=1)))
    second = enveloped(new, json.dumps(event("c", {"id": 2**40, "w": "x"}, lsn=2)))
    lab.put("a.jsonl", lines(first))
    land(lab)
    lab.put("b.jsonl", lines(first, second))
    with pytest.raises(SchemaChangeError, match="column w VARCHAR was added"):
        land(lab, TABLE | {"on_schema_change": "fail"})
    assert ops(lab, "t") == "c"
    land(lab)
    lab.put("c.jsonl", lines(first, second))
    [run] = land(lab, TABLE | {"on_schema_change": "fail"})
    assert (run.rows_written, run.rows_unchanged) == (0, 2)
    assert [item.row for item in events(lab, "t")] == [{"id": 1, "v": 1, "w": None}, {"id": 2**40, "v": None, "w": "x"}]
    assert lab.rows("SELECT kind, column_name FROM pyops.schema_changes ORDER BY ALL") == [
        ("added", "w"),
        ("dropped", "v"),
        ("type_changed", "id"),
    ]


def test_events_of_several_schemas_land_in_one_run(lab: Lab) -> None:
    """An event is the same with another schema, and without one, if its values are."""
    one, two = [{"type": "int32", "field": "id"}], [{"type": "int64", "field": "id"}]
    payloads = [json.dumps(event("c", {"id": n}, lsn=n)) for n in (1, 2, 3)]
    mixed = [enveloped(one, payloads[0]), enveloped(two, payloads[1]), payloads[2]]
    lab.put("a.jsonl", lines(*mixed, enveloped(two, payloads[0]), enveloped(one, payloads[1])))
    [run] = land(lab, TABLE | {"types": {"id": "BIGINT"}})
    assert (run.rows_written, run.rows_unchanged) == (3, 2)
    assert [item.row["id"] for item in events(lab, "t")] == [1, 2, 3]


def test_log_that_begins_with_a_truncation_gets_its_columns_later(lab: Lab) -> None:
    lab.put("a.jsonl", lines(event("t", lsn=1)))
    land(lab)
    lab.put("b.jsonl", lines(event("t", lsn=1), event("c", ROW, lsn=2)))
    land(lab)
    assert ops(lab, "t") == "tc"


def test_table_that_is_no_log_is_left_alone(lab: Lab) -> None:
    lab.put("a.jsonl", lines(event("c", ROW)))
    lab.write("CREATE SCHEMA raw; CREATE TABLE raw.t__changes AS SELECT 1 AS id")
    with pytest.raises(OperationError, match="exists and is not a change log"):
        land(lab)


def test_delete_without_a_schema_drops_no_column(lab: Lab) -> None:
    lab.put("a.jsonl", lines(event("c", ROW, lsn=1)))
    land(lab)
    lab.put("b.jsonl", lines(event("d", {"id": 1}, lsn=2), event("t", lsn=3)))
    land(lab, TABLE | {"on_schema_change": "fail"})
    assert ops(lab, "t") == "cdt"
    assert lab.rows("SELECT * FROM pyops.schema_changes") == []


RESERVED = "column '_op' cannot be landed: pyops reserves the name"


def test_column_with_a_name_of_pyops_is_refused_and_can_be_left_out(lab: Lab) -> None:
    path = lab.put("a.jsonl", lines(event("c", {"id": 1, "_op": "x"}, lsn=1), event("c", {"id": 2}, lsn=2)))
    land(lab)
    assert [item.row for item in events(lab, "t")] == [{"id": "2"}]
    assert letters(lab, "reason, payload") == [(RESERVED, '{"id":1,"_op":"x"}')]
    os.utime(path, (1, 1))
    land(lab, TABLE | {"exclude": ["_op"]})
    assert [item.row["id"] for item in events(lab, "t")] == ["1", "2"]
    assert letters(lab) == []


ID: dict[str, Any] = {"type": "int32", "field": "id"}
AMOUNT: dict[str, Any] = {"type": "bytes", "name": f"{CONNECT}Decimal", "field": "amount", "parameters": {"scale": "2"}}
FLAGS: dict[str, Any] = {"type": "bytes", "name": f"{DATA}Bits", "field": "flags", "parameters": {"length": "9"}}
POISON: dict[
    str, tuple[list[dict[str, Any]], dict[str, Any], str | None]
] = {  # columns, their values, and what is said of the row; None: it lands
    "reserved": ([{"type": "string", "field": "_op"}], {"_op": "x"}, RESERVED),
    "by case": ([{"type": "string", "field": "ID"}], {"ID": "x"}, "column 'ID' cannot be landed: id differs"),
    "no name": ([{"type": "string", "field": ""}], {"": "x"}, "the key '' cannot name a column"),
    "no digits": ([AMOUNT | {"parameters": {"connect.decimal.precision": "0"}}], {"amount": "AA=="}, None),
    "far scale": (
        [{"type": "struct", "name": f"{DATA}VariableScaleDecimal", "field": "v"}],
        {"v": {"scale": -2_000_000_000, "value": "AQ=="}},
        "it is no scale with a number",
    ),
}


@pytest.mark.parametrize("schema", [True, False], ids=["schema", "no schema"])
@pytest.mark.parametrize("poison", POISON)
def test_row_that_cannot_be_landed_leaves_the_other_rows_and_tables_alone(
    lab: Lab, poison: str, *, schema: bool
) -> None:
    """Behaviour 37: of a file of several tables, one event can stop nothing but itself."""
    fields, row, said = POISON[poison]
    said = said if schema or poison != "far scale" else None  # which has no type then
    bad = event("c", {"id": 2, **row}, lsn=2)
    lab.put(
        "all.jsonl",
        lines(
            event("c", {"id": 1}, lsn=1),
            enveloped([ID, *fields], json.dumps(bad)) if schema else bad,
            event("c", {"id": 3}, lsn=3),
            event("c", {"id": 4}, lsn=4, source={"table": "orders"}),
        ),
    )
    table = {"path": "all.jsonl", "primary_key": "id"}
    tables = {"t": table | {"events_of": "public.t"}, "orders": table | {"events_of": "public.orders"}}
    [done] = capture(lab.configure_files(tables, type="debezium"))
    assert done.error is None
    assert [str(item.row["id"]) for item in events(lab, "t")] == (["1", "3"] if said else ["1", "2", "3"])
    assert [item.row["id"] for item in events(lab, "orders")] == ["4"]
    found = letters(lab, "table_name, line, reason")
    assert [(table, line) for table, line, _ in found] == [("t", 2)] * bool(said)
    assert all(reason.startswith(said or "?") for *_, reason in found)


def test_table_that_duckdb_refuses_leaves_the_other_tables_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    original = StagedEvents.writes

    def writes(events: StagedEvents, *arguments: Any) -> Any:
        if events.table.name == "t":
            events.stage.connection.execute("SELECT 'secret'::INTEGER")
        return original(events, *arguments)

    monkeypatch.setattr(StagedEvents, "writes", writes)
    lab.put("t.jsonl", lines(event("c", ROW)))
    lab.put("u.jsonl", lines(event("c", ROW, source={"table": "u"})))
    tables = {name: {"path": f"{name}.jsonl", "primary_key": "id"} for name in "tu"}
    [done] = capture(lab.configure_files(tables, type="debezium"))
    assert [run.status for run in done.runs] == ["failed", "succeeded"]
    assert str(done.error) == ("web.t: DuckDB cannot take its events (ConversionException); nothing of them is landed")
    assert ops(lab, "u") == "c"


@pytest.mark.parametrize("names", [("n", "h"), ("u", "s"), ("name", "token")])
def test_columns_may_have_any_name_beside_numbers_and_unsent_values(lab: Lab, names: tuple[str, str]) -> None:
    fields = [ID, AMOUNT, FLAGS, *({"type": "string", "field": name} for name in names)]
    row = {"id": 1, "amount": json.loads(twos(12345)), "flags": "", names[0]: "x", names[1]: UNSENT}
    lab.put("x.jsonl", lines(enveloped(fields, json.dumps(event("u", row)))))
    land(lab)
    [found] = events(lab, "t")
    expected = {"id": 1, "amount": Decimal("123.45"), "flags": "", names[0]: "x", names[1]: None}
    assert (found.row, found.unchanged) == (expected, (names[1],))


@pytest.mark.parametrize(
    ("count", "size"), [(700, 6_400), (2_000, 20_000), (30, 1_000_000)], ids=["6.4 kB", "20 kB", "1 MB"]
)
def test_wide_events_land_in_the_memory_that_the_widest_of_them_need(lab: Lab, count: int, size: int) -> None:
    """Behaviour 3."""
    text = "".join(random.Random(1).choices(string.ascii_letters, k=size))
    rows = ({"id": n, "doc": f"{n} {text}"} for n in range(count))
    lab.put("x.jsonl", lines(*(event("c", row, lsn=n) for n, row in enumerate(rows, 1))))
    [run] = land(lab)
    assert (run.rows_written, run.rows_dead_lettered) == (count, 0)
    found = lab.rows("SELECT count(*), min(length(doc)), max(length(doc)) FROM raw.t__changes")
    assert found == [(count, size + 2, size + 1 + len(str(count - 1)))]


# Running

MOMENTS: dict[str, tuple[Any, str]] = {
    "staging file made": (Stage, "create"),
    "events staged": (StagedEvents, "read"),
    "events typed": (StagedEvents, "writes"),
    "before COMMIT": (Committing, "_write"),
    "after COMMIT": (Recording, "commit"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_run_that_is_killed_and_run_again_leaves_the_log_of_one_that_was_not(tmp_path: Path, moment: str) -> None:
    """Behaviour 35."""
    project = Project(tmp_path / "project", "")
    project.put("a.jsonl", lines(*(event("c", {"id": n}, lsn=n) for n in range(9)), "{"))
    project.configure_files({"t": TABLE}, type="debezium")
    hook = functools.partial(at, *MOMENTS[moment], die)
    code, output = project.start(hook=hook, command="cdc").end()
    assert code == -signal.SIGKILL, output
    code, output = project.start(command="cdc").end()
    assert code == 0, output
    assert [item.identity for item in events(project, "t")] == [(1, n, 1) for n in range(9)]
    assert len(letters(project)) == 1
    assert project.staged() == set()
    statuses = [state for _, state in project.runs()]
    assert statuses == (["succeeded"] if moment == "after COMMIT" else ["killed", "succeeded"])


def test_status_shows_a_table_and_the_other_commands_say_what_they_cannot_do(lab: Lab) -> None:
    lab.put("a.jsonl", lines(event("c", ROW)))
    land(lab)
    project = load(lab.directory)
    [state] = status(project)
    assert (state.rows, state.mode, state.last_status) == (1, "cdc", "succeeded")
    with pytest.raises(UsageError, match="there is nothing to copy"):
        snapshot(project, "t")
    with pytest.raises(UsageError, match="cannot be put back"):
        replay(project, "t")


def test_path_without_files_is_an_error_until_something_was_landed(lab: Lab) -> None:
    with pytest.raises(DataError, match=r"no file matches \*.jsonl"):
        land(lab)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"types": {"v": "io.debezium.time.MicroTimestmp"}}, "is no type"),
        ({"types": {"v": f"{CONNECT}Decimal"}}, "how many digits"),
        ({"mode": "full"}, "it is one of: cdc"),
        ({"format": "jsonl"}, "unknown key"),
    ],
)
def test_configuration_is_checked(lab: Lab, table: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        lab.configure_files({"t": TABLE | table}, type="debezium")
    assert said in f"{error.value} {error.value.hint}"
