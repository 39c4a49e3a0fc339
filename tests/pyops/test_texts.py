"""Texts get their types strictly: what a cast would alter is a fault, and nothing else is."""

import math
import re
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyops.errors import UsageError
from pyops.staging.casts import check_type, mapping_of
from tests.pyops.conftest import examples

FAULT = "fault"


@pytest.fixture(scope="module")
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def typed(connection: duckdb.DuckDBPyConnection, text: str | None, type_: str) -> Any:
    """A text's value of a type; FAULT if the text has none."""
    item = mapping_of('a "b"', type_)
    shown = item.text or "'x'"
    found, was_null, kind = connection.execute(
        f'SELECT {item.convert}, {shown} IS NULL, typeof({item.convert}) FROM (SELECT ?::VARCHAR AS "a ""b""")', [text]
    ).fetchall()[0]
    assert kind == item.warehouse == type_
    return FAULT if found is None and not was_null and item.fault else found


GOOD: list[tuple[str, str, Any]] = [
    ("INTEGER", "0", 0),
    ("INTEGER", "-0", 0),
    ("INTEGER", "+7", 7),
    ("INTEGER", "007", 7),
    ("INTEGER", "-2147483648", -(2**31)),
    ("TINYINT", "127", 127),
    ("SMALLINT", "-32768", -32768),
    ("BIGINT", "9223372036854775807", 2**63 - 1),
    ("DECIMAL(5,2)", "1", Decimal("1.00")),
    ("DECIMAL(5,2)", "1.1", Decimal("1.10")),
    ("DECIMAL(5,2)", "-001.10000", Decimal("-1.10")),
    ("DECIMAL(5,2)", ".5", Decimal("0.50")),
    ("DECIMAL(5,2)", "1e2", Decimal("100.00")),
    ("DECIMAL(5,2)", "1.5E-1", Decimal("0.15")),
    ("DECIMAL(5,0)", "7.00", Decimal(7)),
    ("DECIMAL(38,38)", "0." + "1" * 38, Decimal("0." + "1" * 38)),
    ("DOUBLE", "1e5", 1e5),
    ("DOUBLE", "0.1", 0.1),
    ("DOUBLE", "inf", math.inf),
    ("DOUBLE", "-Infinity", -math.inf),
    ("FLOAT", "1.5", 1.5),
    ("BOOLEAN", "TRUE", True),
    ("BOOLEAN", "f", False),
    ("BOOLEAN", "1", True),
    ("DATE", "2024-02-29", date(2024, 2, 29)),
    ("DATE", "0001-01-01", date(1, 1, 1)),
    ("TIME", "23:59", time(23, 59)),
    ("TIME", "23:59:59.123456000", time(23, 59, 59, 123456)),
    ("TIMESTAMP", "2024-01-01", datetime(2024, 1, 1)),
    ("TIMESTAMP", "2024-01-01 10:00", datetime(2024, 1, 1, 10)),
    ("TIMESTAMP", "2024-01-01T10:00:00.5Z", datetime(2024, 1, 1, 10, 0, 0, 500000)),
    ("TIMESTAMP", "2024-01-01t10:00:00.1234560000z", datetime(2024, 1, 1, 10, 0, 0, 123456)),
    ("TIMESTAMP", "2024-01-01 00:30:00+01", datetime(2023, 12, 31, 23, 30)),
    ("TIMESTAMP", "2024-01-01T10:00:00-0530", datetime(2024, 1, 1, 15, 30)),
    ("UUID", "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
     uuid.UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")),
    ("JSON", '{"a": [1.10, "NaN,]"]}', '{"a": [1.10, "NaN,]"]}'),
    ("VARCHAR", " as it is ", " as it is "),
]  # fmt: skip

BAD = [
    ("INTEGER", ["1.0", "1.5", "1e3", " 1", "1 ", "", "x", "2147483648", "1_000", "0x1", "\u0661"]),
    ("DECIMAL(5,2)", ["1.005", "1000", "NaN", "inf", "1e-3", "1.5e400", "1,5", "", "1_0", "0x1"]),
    ("DECIMAL(5,0)", ["1.5", ".5"]),
    ("DOUBLE", ["1e400", "-1e400", "1_000", "1,5", "", "0x10", "infinit", " 1"]),
    ("FLOAT", ["1e39"]),
    ("BOOLEAN", ["yes", "no", "2", "", " true"]),
    ("DATE", ["2024-02-30", "2024-1-1", "20240101", "01.02.2024", "0000-01-01", "2024-01-01 ", "",
              "2024-01-01T00:00:00", "infinity", "12024-01-01"]),
    ("TIME", ["25:00:00", "23:59:60", "1:00", "10:00:00.1234567", "10:00:00Z", ""]),
    ("TIMESTAMP", ["2024-01-01T10:00:00.1234567", "2024-01-01 10:00:60", "2024-02-30 10:00",
                   "2024-01-01 10:00 +01", "2024-01-01 10:00:00+25:00", "1704103200", "",
                   "2024-01-01 10:00:00+01:99", "0001-01-01T00:00:00+01", "now", "infinity",
                   "2024-01-01 10:00:00 UTC", "2024-01-01 10:00:00 Europe/Berlin"]),
    ("UUID", ["{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", "a0eebc999c0b4ef8bb6d6bb9bd380a11", ""]),
    ("JSON", ["NaN", "[1,]", "{'a': 1}", "", "[-Infinity]", r'"\ud800"', "[1] x"]),
]  # fmt: skip


@pytest.mark.parametrize(("type_", "text", "value"), GOOD)
def test_text_that_says_a_value_gets_it(
    connection: duckdb.DuckDBPyConnection, type_: str, text: str, value: Any
) -> None:
    """Behaviour 34."""
    assert typed(connection, text, type_) == value
    assert typed(connection, None, type_) is None


@pytest.mark.parametrize(("type_", "texts"), BAD)
def test_text_that_a_cast_would_alter_is_a_fault(
    connection: duckdb.DuckDBPyConnection, type_: str, texts: list[str]
) -> None:
    """Behaviour 37: never a rounded, shifted, cut or missing value."""
    assert {text: typed(connection, text, type_) for text in texts} == dict.fromkeys(texts, FAULT)


@settings(max_examples=examples(300))
@given(
    st.decimals(allow_nan=False, allow_infinity=False, min_value=-(10**12), max_value=10**12)
    | st.decimals(places=2, min_value=-2000, max_value=2000),
    st.sampled_from(["{}", "{:f}", "{:e}", "{:E}"]),
)
def test_decimal_is_exact_or_a_fault(connection: duckdb.DuckDBPyConnection, number: Decimal, form: str) -> None:
    """Behaviour 34: however it is written."""
    text = form.format(number)
    found = typed(connection, text, "DECIMAL(5,2)")
    fits = abs(number) < 1000 and number == round(number, 2)
    assert found == number if fits and found != FAULT else found == FAULT
    if fits and "e" not in text.lower():
        assert found == number


@settings(max_examples=examples(200))
@given(
    st.datetimes(min_value=datetime(2, 1, 1), max_value=datetime(9998, 1, 1)),
    st.none() | st.integers(-15 * 60, 15 * 60),
    st.sampled_from("T "),
)
def test_timestamp_with_an_offset_is_the_same_moment_in_utc(
    connection: duckdb.DuckDBPyConnection, moment: datetime, offset: int | None, separator: str
) -> None:
    """Behaviour 34: DuckDB's own cast ignores the offset."""
    if offset is not None:
        moment = moment.replace(tzinfo=timezone(timedelta(minutes=offset)))
    expected = moment if offset is None else moment.astimezone(UTC).replace(tzinfo=None)
    assert typed(connection, moment.isoformat(separator), "TIMESTAMP") == expected


@settings(max_examples=examples(200))
@given(st.integers(-(2**40), 2**40))
def test_integer_is_exact_or_a_fault(connection: duckdb.DuckDBPyConnection, number: int) -> None:
    """Behaviour 34."""
    expected = number if -(2**31) <= number < 2**31 else FAULT
    assert typed(connection, str(number), "INTEGER") == expected


@settings(max_examples=examples(200))
@given(st.text(st.sampled_from("0123456789.eE+-:TZ nainf{}[],\"'_x"), max_size=12))
def test_any_text_is_a_value_or_a_fault_but_never_an_error(connection: duckdb.DuckDBPyConnection, text: str) -> None:
    """Behaviour 37."""
    for type_ in ("INTEGER", "DECIMAL(5,2)", "DECIMAL(9,0)", "DOUBLE", "FLOAT", "BOOLEAN", "DATE",
                  "TIME", "TIMESTAMP", "UUID", "JSON"):  # fmt: skip
        found = typed(connection, text, type_)
        if found != FAULT and type_.startswith("DECIMAL"):
            assert found == Decimal(text)


@pytest.mark.parametrize(
    ("name", "type_"),
    [
        ("int", "INTEGER"),
        ("Integer", "INTEGER"),
        ("int8", "BIGINT"),
        ("numeric( 12 , 2 )", "DECIMAL(12,2)"),
        ("decimal(9)", "DECIMAL(9,0)"),
        ("text", "VARCHAR"),
        ("double  precision", "DOUBLE"),
        ("timestamptz", "TIMESTAMP"),
        ("bool", "BOOLEAN"),
        ("json", "JSON"),
    ],
)
def test_type_has_the_name_that_duckdb_gives_it(name: str, type_: str) -> None:
    assert check_type(name) == type_


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("intt", "did you mean 'INTEGER'?"),
        ("timestmap", "did you mean 'TIMESTAMP'?"),
        ("decimal", "write DECIMAL(precision, scale)"),
        ("decimal(39,2)", "at most 38 digits"),
        ("decimal(2,3)", "at most 38 digits"),
        ("varchar(10)", "write VARCHAR"),
        ("int(3)", "did you mean 'INTEGER'?"),
        ("int); DROP TABLE x", "it is one of: TINYINT"),
        ("money", "it is one of: TINYINT"),
    ],
)
def test_unknown_type_is_refused_with_the_nearest_known_one(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match="is no type") as caught:
        check_type(name)
    assert re.search(re.escape(hint), caught.value.hint)
