"""Files: which are found, and that their rows arrive as the texts that stand in them."""

import gzip
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pyops import Days
from pyops.errors import DataError, TransientError
from pyops.sources.files import lines
from pyops.sources.files.arrive import Arrived, arrive
from pyops.sources.files.find import Found, find
from pyops.sources.files.json_faults import find_fault
from tests.pyops.conftest import examples

SETTINGS = {"memory_limit": "160MB", "preserve_insertion_order": False}


class Lab:
    """A folder of files, and what of them arrived last."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.connection = duckdb.connect(folder / "stage.duckdb", config=SETTINGS)  # type: ignore[arg-type]

    def put(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def arrive(self, path: str, format_: str, *, day_column: str | None = None) -> Arrived:
        for old in ("arrived", "refused"):
            self.connection.execute(f"DROP TABLE IF EXISTS {old}")
        found = find(self.folder, path)
        options = {"format_": format_, "day_column": day_column, "hides": False}
        return arrive(self.connection, found, self.folder, **options)  # type: ignore[arg-type]

    def rows(self, what: str = "* EXCLUDE (_file, _line)") -> list[tuple[Any, ...]]:
        query = f"SELECT {what} FROM arrived ORDER BY _file, _line"
        return self.connection.execute(query).fetchall()

    @property
    def refused(self) -> list[tuple[str, int, str, str]]:
        return self.connection.execute("SELECT * FROM refused ORDER BY ALL").fetchall()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path)


@contextmanager
def pieces_of(size: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with monkeypatch.context() as patch:
        patch.setattr(lines, "CHUNK_BYTES", size)
        yield


# Finding


def names(found: Found) -> list[str]:
    return [file.name for file in found]


def test_files_are_found_in_the_order_of_their_names(lab: Lab) -> None:
    for name in ("b.csv", "a.csv", "c.txt", "deep/er/d.csv"):
        lab.put(name, "x\n")
    (lab.folder / "folder.csv").mkdir()
    assert names(find(lab.folder, "*.csv")) == ["a.csv", "b.csv"]
    everywhere = find(lab.folder, "**/*.csv")
    assert names(everywhere) == ["a.csv", "b.csv", "deep/er/d.csv"]
    assert (everywhere[0].size, everywhere[0].day) == (2, None)


DAILY = "{date}/e-{date}*.jsonl"


def test_date_in_a_path_is_the_day_of_a_file(lab: Lab) -> None:
    lab.put("2024-01-02/e-2024-01-02.jsonl", "")
    lab.put("2024-01-02/e-2024-01-02-late.jsonl", "")
    lab.put("2024-01-02/e-2024-01-03.jsonl", "")  # two days in one name are none
    lab.put("2024-01-0x/e-2024-01-0x.jsonl", "")
    found = find(lab.folder, DAILY)
    assert [file.day for file in found] == [date(2024, 1, 2)] * 2


def test_name_with_a_day_that_no_calendar_has_is_an_error(lab: Lab) -> None:
    lab.put("2024-02-30/e-2024-02-30.jsonl", "")
    with pytest.raises(DataError, match="invalid date '2024-02-30'"):
        find(lab.folder, DAILY)


def test_days_asked_for_are_found_and_those_that_are_missing_are_told(lab: Lab) -> None:
    """Behaviour 10."""
    for day in ("2024-01-01", "2024-01-03"):
        lab.put(f"{day}/e-{day}.jsonl", "")
    found = find(lab.folder, DAILY, Days.of("2024-01-01", "2024-01-04"))
    assert [file.day for file in found] == [date(2024, 1, 1), date(2024, 1, 3)]
    assert found.missing == (date(2024, 1, 2), date(2024, 1, 4))
    with pytest.raises(DataError, match=r"for 2024-01-02$"):
        find(lab.folder, DAILY, Days.of("2024-01-02", "2024-01-02"))
    with pytest.raises(DataError, match=r"for 2024-02-01 to 2024-02-03$"):
        find(lab.folder, DAILY, Days.of("2024-02-01", "2024-02-03"))


def test_pattern_that_matches_nothing_is_an_error_that_names_it(lab: Lab) -> None:
    with pytest.raises(DataError, match=r"no file matches in/\*\.csv$"):
        find(lab.folder, "in/*.csv")


# JSON


def test_columns_are_the_keys_in_the_order_they_appear(lab: Lab) -> None:
    lab.put("a.jsonl", '{"b": 1}\n{"a": true, "b": null}\n{}\n{"c": {"d": [1, "x"]}}\n')
    arrived = lab.arrive("a.jsonl", "jsonl")
    assert arrived == Arrived(dict.fromkeys("bac", "VARCHAR"), 4, 58, 0)
    assert lab.rows() == [("1", None, None), (None, "true", None), (None, None, None), (None, None, '{"d":[1,"x"]}')]
    assert [row[0] for row in lab.rows("_line")] == [1, 2, 3, 4]


def test_keys_of_any_shape_become_columns(lab: Lab) -> None:
    keys = ["a/b", "~", "~1", 'q"uote', "d.ot", "bl ank", "é", "'", "$", "*", "[0]", "\\", "1", "\n"]
    lab.put("a.jsonl", json.dumps({key: n for n, key in enumerate(keys)}))
    assert list(lab.arrive("a.jsonl", "jsonl").columns) == keys
    assert lab.rows() == [tuple(str(n) for n in range(len(keys)))]


@pytest.mark.parametrize("content", ['{"a": 1, "A": 2}\n', '{"a": 1}\n{"A": 2}\n'])
def test_keys_that_differ_by_case_only_are_an_error(lab: Lab, content: str) -> None:
    """Behaviour 44: DuckDB has one column for both."""
    lab.put("a.jsonl", content)
    with pytest.raises(DataError, match=r"column 'A' cannot be landed: a differs from it only by case"):
        lab.arrive("a.jsonl", "jsonl")


def test_object_that_has_a_key_twice_is_refused(lab: Lab) -> None:
    """Behaviour 37: none of the two values is chosen."""
    lab.put("a.jsonl", '{"a": 1}\n{"a": 2, "b": 2.50, "a": 3}\n{"": 1}\n')
    lab.arrive("a.jsonl", "jsonl")
    assert lab.rows() == [("1",)]
    assert lab.refused == [
        ("a.jsonl", 2, '{"a": 2, "b": 2.50, "a": 3}', "the key 'a' appears twice"),
        ("a.jsonl", 3, '{"": 1}', "the key '' cannot name a column"),
    ]


def test_too_many_columns_are_an_error(lab: Lab) -> None:
    lab.put("a.jsonl", json.dumps({f"k{n}": n for n in range(1700)}))
    with pytest.raises(DataError, match="more than 1600 columns"):
        lab.arrive("a.jsonl", "jsonl")


def test_numbers_arrive_with_the_digits_they_have(lab: Lab) -> None:
    """Behaviour 34: DuckDB would write 1.1, 100000.0, 0 and lose digits."""
    numbers = ["1.10", "1E5", "-0", "0.1", "1e400", "-1.50e-7", "3.14159265358979323846", "0.0",
               "123456789012345678901234567890", "1.0", "100", "0.00001", "1e-7"]  # fmt: skip
    fields = ", ".join(f'"c{n}": {number}' for n, number in enumerate(numbers))
    nested = "[" + ",".join(numbers) + "]"
    line = f'{{{fields}, "n": {nested}, "o": {{"x":{nested}}}, "s": "1.10, [1E5]"}}'
    expected = [(*numbers, nested, f'{{"x":{nested}}}', "1.10, [1E5]")]
    lab.put("a.jsonl", line)
    lab.arrive("a.jsonl", "jsonl")
    assert lab.rows() == expected
    lab.put("a.json", f"[{line}, {line}]")
    lab.arrive("a.json", "json")
    assert lab.rows() == expected * 2


def test_half_a_surrogate_pair_is_refused(lab: Lab) -> None:
    """Behaviour 34: it stands for no text, so it has no place in a column of texts."""
    content = [r'{"a": "\ud83d\ude00"}', r'{"a": "\ud83d"}', r'{"a": "x\ude00"}', r'{"a": "\\ud83d"}']
    lab.put("a.jsonl", "\n".join(content))
    lab.arrive("a.jsonl", "jsonl")
    assert lab.rows() == [("😀",), (r"\ud83d",)]
    half = "half a surrogate pair is not a character"
    assert lab.refused == [
        ("a.jsonl", 2, content[1], f"column 8, byte 8: {half}"),
        ("a.jsonl", 3, content[2], f"column 9, byte 9: {half}"),
    ]


def test_control_characters_of_texts_arrive(lab: Lab) -> None:
    """Behaviour 34: also those that mark numbers on their way."""
    texts = [chr(code) for code in range(32)] + ["\x01\x02", '"\x011.5"', '"\\u00011.5"']
    texts += ["".join(map(chr, range(32))), "\x011.50", '{"x": "\\u00011.50"}']
    content = "".join(
        f'{{"id": {n}.0, "a": {json.dumps(text)}, "b": [{json.dumps(text)}, 1.50]}}\n' for n, text in enumerate(texts)
    )
    lab.put("a.jsonl", content)
    lab.arrive("a.jsonl", "jsonl")
    for n, (number, text, nested) in enumerate(lab.rows()):
        assert (number, text) == (f"{n}.0", texts[n])
        assert json.loads(nested, parse_float=str) == [texts[n], "1.50"]


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.decimals(allow_nan=False, allow_infinity=False).map(float)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner, max_size=4)
    ),
    max_leaves=8,
)
KEYS = st.sampled_from(["a", "b", "c d", "e/~", "ü", '"', "1.5"])
NUMBER = st.from_regex(r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?", fullmatch=True)
_SPACES = st.sampled_from(["", " ", "\t", "  "])


@st.composite
def object_texts(draw: st.DrawFn) -> str:
    """An object as text: any value, numbers written in any way, blanks anywhere."""
    fields = draw(st.dictionaries(KEYS, JSON | st.tuples(NUMBER), max_size=5))
    escapes = draw(st.booleans())
    parts = []
    for key, value in fields.items():
        if isinstance(value, tuple):
            text = draw(st.sampled_from(["{}", "[{}]", '{{"x":{}}}', '[["y",{0}],{0}]']))
            written = text.format(value[0])
        else:
            written = json.dumps(value, ensure_ascii=escapes)
        blanks = [draw(_SPACES) for _ in range(3)]
        parts.append(f"{json.dumps(key)}{blanks[0]}:{blanks[1]}{written}{blanks[2]}")
    return "{" + ",".join(parts) + "}"


def exact(text: str) -> Any:
    """Parsed, every number as its text."""
    return json.loads(text, parse_float=lambda t: ("n", t), parse_int=lambda t: ("n", t))


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(object_texts(), min_size=1, max_size=12), st.sampled_from(["jsonl", "json"]))
def test_every_value_arrives_as_it_stands(lab: Lab, texts: list[str], format_: str) -> None:
    """Behaviour 34: as Python reads it, with numbers left as their texts."""
    content = "\n".join(texts) if format_ == "jsonl" else "[" + ", ".join(texts) + "]"
    lab.put(f"a.{format_}", content)
    arrived = lab.arrive(f"a.{format_}", format_)
    assert lab.refused == []
    columns = list(arrived.columns)
    for text, row in zip(texts, lab.rows("*"), strict=True):
        expected = exact(text)
        for column, value in zip(columns, row[2:], strict=True):
            wanted = expected.get(column)
            if isinstance(wanted, tuple):
                assert value == wanted[1]
            elif isinstance(wanted, bool):
                assert value == str(wanted).lower()
            elif isinstance(wanted, list | dict):
                assert exact(value) == wanted
            else:
                assert value == wanted


@settings(max_examples=examples(300))
@given(object_texts(), st.data())
def test_place_of_a_fault_is_found_wherever_a_text_is_spoilt(text: str, data: st.DataObject) -> None:
    """Behaviour 44: what Python refuses has a fault, what it takes has none."""
    if data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(text)))
        spoilt = data.draw(st.sampled_from(["", ",", '"', "}", "\\", "0", "1", "n", "\n", "-", "."]))
        text = text[:at] + spoilt + text[at + 1 :]
    try:
        json.loads(text, parse_constant=lambda _: json.loads(""))
    except ValueError:
        fault = find_fault(text)
        assert fault is not None
        assert 0 <= fault[0] <= len(text)
    else:
        assert find_fault(text) is None or "surrogate" in (find_fault(text) or (0, ""))[1]


# CSV

FIELD = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)


def csv_field(value: str | None, *, quoted: bool) -> str:
    if value is None:
        return ""
    if quoted or value == "" or any(character in value for character in '",\r\n'):
        return '"' + value.replace('"', '""') + '"'
    return value


@settings(max_examples=examples(60), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(FIELD, FIELD, FIELD), max_size=12),
    st.booleans(),
    st.sampled_from(["\n", "\r\n"]),
    st.sampled_from([1, 7, 50, 1 << 20]),
)
def test_every_record_arrives_however_its_file_is_cut(
    lab: Lab, records: list[tuple[str | None, ...]], quoted: bool, end: str, chunk: int
) -> None:
    """Behaviour 34: NULL and the empty text are told apart; the line is the record's first."""
    content, expected, line = f"a,b,c{end}", [], 2
    for record in records:
        text = ",".join(csv_field(field, quoted=quoted) for field in record)
        expected.append((line, *record))
        content += text + end
        line += text.count("\n") + 1
    lab.put("a.csv", content)
    with pytest.MonkeyPatch.context() as monkeypatch, pieces_of(chunk, monkeypatch):
        lab.arrive("a.csv", "csv")
    assert (lab.rows("* EXCLUDE _file"), lab.refused) == (expected, [])


def test_one_column_has_a_null_for_each_blank_line(lab: Lab) -> None:
    lab.put("a.csv", 'a\n1\n\n""\n')
    lab.arrive("a.csv", "csv")
    assert lab.rows() == [("1",), (None,), ("",)]


def test_files_with_different_columns_are_put_together_by_name(lab: Lab) -> None:
    lab.put("1.csv", "a,b\n1,2\n")
    lab.put("2.csv", "c,a\n3,4\n")
    arrived = lab.arrive("*.csv", "csv")
    assert list(arrived.columns) == ["a", "b", "c"]
    assert lab.rows("*") == [("1.csv", 2, "1", "2", None), ("2.csv", 2, "4", None, "3")]


@settings(max_examples=examples(25), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 200))
def test_lines_arrive_however_their_file_is_cut(lab: Lab, chunk: int) -> None:
    """Behaviour 44: a refused line among them too."""
    good = [f'{{"id": {n}, "é": "{"x" * n}"}}' for n in range(20)]
    texts = [*good[:7], "", '{"id": ', *good[7:], '["\xff"]'.encode("latin-1").decode("latin-1")]
    content = b"\r\n".join(text.encode() for text in texts) + b"\n" + b'{"id": "\xff"}'
    lab.put("a.jsonl", b"\xef\xbb\xbf" + content)
    with pytest.MonkeyPatch.context() as monkeypatch, pieces_of(chunk, monkeypatch):
        arrived = lab.arrive("a.jsonl", "jsonl")
    assert (arrived.rows, [row[1] for row in lab.refused]) == (20, [9, 23, 24])
    assert [row[0] for row in lab.rows("_line")] == [*range(1, 8), *range(10, 23)]


# Partitions


def test_file_without_the_partition_column_gets_its_day(lab: Lab) -> None:
    lab.put("2024-01-01.jsonl", '{"id": 1}\n')
    lab.put("2024-01-02.jsonl", '{"id": 2, "day": "2024-01-01"}\n{"id": 3}\n')
    lab.put("2024-01-03.jsonl", "")
    arrived = lab.arrive("{date}.jsonl", "jsonl", day_column="day")
    assert arrived.columns == {"id": "VARCHAR", "day": "VARCHAR"}
    assert lab.rows() == [("1", "2024-01-01"), ("2", "2024-01-01"), ("3", None)]


def test_empty_file_of_a_day_has_its_column_all_the_same(lab: Lab) -> None:
    lab.put("2024-01-03.jsonl", "")
    arrived = lab.arrive("{date}.jsonl", "jsonl", day_column="day")
    assert (arrived.columns, arrived.rows) == ({"day": "VARCHAR"}, 0)


# Compression, changes


def test_compressed_files_leave_nothing_in_the_scratch_folder(lab: Lab) -> None:
    lab.put("1.jsonl.gz", gzip.compress(b'{"id": 1}\n'))
    lab.put("2.jsonl.gz", gzip.compress(b'{"id": 2}\n'))
    before = sorted({*os.listdir(lab.folder), "stage.duckdb.wal"})
    arrived = lab.arrive("*.gz", "jsonl")
    assert (arrived.rows, arrived.bytes) == (2, sum(p.stat().st_size for p in lab.folder.glob("*.gz")))
    assert sorted(os.listdir(lab.folder)) == before


def test_file_that_changes_while_it_is_read_fails_the_run(lab: Lab) -> None:
    path = lab.put("a.jsonl", '{"id": 1}\n')
    found = find(lab.folder, "a.jsonl")
    path.write_text('{"id": 1}\n{"id": 2}\n')
    with pytest.raises(TransientError, match="changed while it was read"):
        arrive(lab.connection, found, lab.folder, format_="jsonl", day_column=None, hides=False)


# Parquet


def test_parquet_keeps_the_types_the_warehouse_has(lab: Lab) -> None:
    table = pa.table(
        {
            "i": pa.array([1, None], pa.int32()),
            "u": pa.array([2**64 - 1, None], pa.uint64()),
            "d": pa.array([Decimal("1.10"), None], pa.decimal128(12, 2)),
            "t": pa.array(["x", None]),
            "z": pa.array([0, None], pa.timestamp("us", tz="Europe/Berlin")),
            "ms": pa.array([1, None], pa.timestamp("ms")),
            "ns": pa.array([1, None], pa.timestamp("ns")),
            "l": pa.array([[Decimal("1.10")], None], pa.list_(pa.decimal128(12, 2))),
            "s": pa.array([{"a": 1, "b": "x"}, None]),
            "b": pa.array([b"\xff", None], pa.binary()),
            "e": pa.array(["k", None]).dictionary_encode(),
            "day": pa.array([date(2024, 1, 2), None]),
        }
    )
    pq.write_table(table, lab.folder / "a.parquet")
    arrived = lab.arrive("a.parquet", "parquet")
    assert arrived.columns == {
        "i": "INTEGER", "u": "DECIMAL(20,0)", "d": "DECIMAL(12,2)", "t": "VARCHAR",
        "z": "TIMESTAMP", "ms": "TIMESTAMP", "ns": "VARCHAR", "l": "JSON", "s": "JSON",
        "b": "BLOB", "e": "VARCHAR", "day": "DATE",
    }  # fmt: skip
    first, second = lab.rows("* REPLACE (z::VARCHAR AS z, ms::VARCHAR AS ms)")
    assert first[:2] == ("a.parquet", 1)
    assert first[2:] == (
        1, 2**64 - 1, Decimal("1.10"), "x", "1970-01-01 00:00:00", "1970-01-01 00:00:00.001",
        "1970-01-01 00:00:00.000000001", '["1.10"]', '{"a":1,"b":"x"}', b"\xff", "k",
        date(2024, 1, 2),
    )  # fmt: skip
    assert second == ("a.parquet", 2, *[None] * 12)


def test_parquet_files_with_different_types_meet_without_losing_a_digit(lab: Lab) -> None:
    pq.write_table(pa.table({"n": pa.array([1], pa.int16()), "x": [1.5]}), lab.folder / "1.parquet")
    second = pa.table({"x": pa.array([2**60 + 1]), "n": pa.array([2], pa.int64()), "y": ["a"]})
    pq.write_table(second, lab.folder / "2.parquet")
    pq.write_table(pa.table({"n": pa.array([3], pa.int8())}), lab.folder / "3.parquet")
    arrived = lab.arrive("*.parquet", "parquet")
    assert arrived.columns == {"n": "BIGINT", "x": "VARCHAR", "y": "VARCHAR"}
    assert lab.rows() == [(1, "1.5", None), (2, str(2**60 + 1), "a"), (3, None, None)]


def test_parquet_with_a_moment_beyond_the_warehouse_is_an_error_without_the_value(lab: Lab) -> None:
    """Behaviour 44: nothing wraps around, and no message quotes a row."""
    far = pa.table({"t": pa.array([2**62], pa.timestamp("ms"))})
    pq.write_table(far, lab.folder / "a.parquet")
    with pytest.raises(DataError, match=r"^a\.parquet: a timestamp or a decimal is beyond") as caught:
        lab.arrive("a.parquet", "parquet")
    assert str(2**62) not in str(caught.value)
