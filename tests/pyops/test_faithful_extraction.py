"""Ways to lose, double or alter rows in silence, by batch: each lands right, or is refused with a way out."""

from __future__ import annotations

import logging
import os
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pyops import DataError, Days, OperationError, UsageError, extract, publish, reconcile
from tests.pyops.conftest import Lab, Sql

MERGE: dict[str, Any] = {"mode": "incremental", "cursor": "at", "primary_key": ["id"]}
APPEND: dict[str, Any] = {"mode": "incremental", "cursor": "at", "write": "append"}
DAILY: dict[str, Any] = {"path": "in/{date}*.jsonl", "format": "jsonl", "mode": "partition", "partition_by": "day"}


def ids(lab: Lab) -> list[Any]:
    return [row[0] for row in lab.rows("SELECT id FROM raw.t ORDER BY id")]


def set_zone(sql: Sql, zone: str) -> None:
    [(database,)] = sql("SELECT current_database()::text")
    sql(f"ALTER DATABASE {database} SET timezone TO '{zone}'")


# Cursors


@pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo", "UTC", "Pacific/Kiritimati"])
def test_naive_cursor_follows_the_clock_of_its_source(lab: Lab, sql: Sql, zone: str) -> None:
    """Behaviour 50: a row of two hours ahead does not become the watermark, wherever the server is."""
    set_zone(sql, zone)
    now = f"(now() AT TIME ZONE '{zone}')"
    sql("CREATE TABLE t (id integer PRIMARY KEY, at timestamp)")
    sql(f"INSERT INTO t VALUES (1, {now} + interval '2 hours')")
    for _ in range(2):
        lab.extract({"t": MERGE})
    sql(f"INSERT INTO t VALUES (2, {now})")
    lab.extract({"t": MERGE})
    assert ids(lab) == [1, 2]


def test_append_of_a_naive_cursor_does_not_wait_for_another_time_zone(lab: Lab, sql: Sql) -> None:
    """Behaviour 50: in Tokyo it is nine hours later than in Greenwich."""
    set_zone(sql, "Asia/Tokyo")
    sql("CREATE TABLE t (id integer, at timestamp)")
    local = "(now() AT TIME ZONE 'Asia/Tokyo')"
    sql(f"INSERT INTO t VALUES (1, {local} - interval '2 seconds'), (2, {local} - interval '1 second')")
    for _ in range(2):
        lab.extract({"t": APPEND})
    assert ids(lab) == [1]  # the newest waits until nothing can come beside it


def test_an_hour_that_comes_twice_is_no_watermark_yet(lab: Lab, sql: Sql) -> None:
    """Behaviour 50: where summer time ends, a row may be dated an hour before one that was landed."""
    set_zone(sql, "Europe/Berlin")
    local = "(now() AT TIME ZONE 'Europe/Berlin')"
    sql("CREATE TABLE t (id integer PRIMARY KEY, at timestamp)")
    sql(f"INSERT INTO t VALUES (1, {local} - interval '3 hours'), (2, {local})")
    for _ in range(2):
        lab.extract({"t": {**MERGE, "lookback": "0s"}})
    sql(f"INSERT INTO t VALUES (3, {local} - interval '59 minutes')")
    lab.extract({"t": {**MERGE, "lookback": "0s"}})
    assert ids(lab) == [1, 2, 3]


def test_time_zone_of_a_table_wins_over_that_of_its_source(lab: Lab, sql: Sql) -> None:
    """Behaviour 50: an application may write another clock than the database's."""
    set_zone(sql, "UTC")
    sql("CREATE TABLE t (id integer PRIMARY KEY, at timestamp)")
    local = "(now() AT TIME ZONE 'America/New_York')"
    table = {**MERGE, "timezone": "America/New_York", "lookback": "0s"}
    sql(f"INSERT INTO t VALUES (1, {local} + interval '2 hours')")
    for _ in range(2):
        lab.extract({"t": table})
    sql(f"INSERT INTO t VALUES (2, {local})")
    lab.extract({"t": table})
    assert ids(lab) == [1, 2]


@pytest.mark.parametrize("kind", ["integer", "text", "date", "numeric"])
def test_cursor_that_fell_below_its_bound_is_refused(lab: Lab, sql: Sql, kind: str) -> None:
    """Behaviour 51: no run would read the new rows; a full refresh does."""
    values = {"date": "'2024-01-0{}'"}.get(kind, "'{}'")
    sql(f"CREATE TABLE t (id integer PRIMARY KEY, at {kind})")
    for number in (1, 9):
        sql(f"INSERT INTO t VALUES ({number}, {values.format(number)})")
    for _ in range(2):
        lab.extract({"t": MERGE})
    sql("TRUNCATE t")
    assert lab.extract({"t": MERGE})[0].rows_read == 0  # an empty table has lost nothing
    sql(f"INSERT INTO t VALUES (1, {values.format(2)})")
    with pytest.raises(DataError, match="is below the watermark") as raised:
        lab.extract({"t": MERGE})
    assert raised.value.hint == "pyops extract src.t --full-refresh lands it anew"
    lab.extract({"t": MERGE}, full_refresh=True)
    assert ids(lab) == [1]


@pytest.mark.parametrize(("lookback", "kind"), [(5, "smallint"), (5, "bigint"), (1.5, "numeric"), (7, "numeric(8,2)")])
def test_lookback_of_numbers_ends_where_their_type_does(lab: Lab, sql: Sql, lookback: float, kind: str) -> None:
    """Behaviour 9."""
    least = {"smallint": -32768, "bigint": -(2**63)}.get(kind, -3)
    sql(f"CREATE TABLE t (id integer PRIMARY KEY, at {kind})")
    sql(f"INSERT INTO t VALUES (1, {least}), (2, {least} + 2)")
    table = {**MERGE, "lookback": lookback}
    for _ in range(2):
        assert lab.extract({"t": table})[0].rows_read > 0
    assert ids(lab) == [1, 2]


@pytest.mark.parametrize(
    ("kind", "older", "newer"),
    [
        ("numeric", "5", "1e27"),
        ("numeric", "-1e27", "-5"),
        ("numeric", "-0.5", "0"),
        ("numeric", "9.99", "10"),
        ("numeric", "1.15", "1.2"),
        ("numeric", "-1.2", "-1.15"),
        ("numeric", "1e30", "Infinity"),
        ("numeric", "-Infinity", "-1e30"),
        ("numeric", "Infinity", "NaN"),
        ("text", "10", "9"),
        ("text", "B", "a"),
    ],
)
def test_newest_of_equal_keys_is_that_by_the_cursors_own_type(
    lab: Lab, sql: Sql, kind: str, older: str, newer: str
) -> None:
    """Behaviour 52."""
    sql(f"CREATE TABLE t (id integer, at {kind}, v text)")
    sql(f"INSERT INTO t VALUES (1, '{older}', 'old'), (1, '{newer}', 'new')")
    lab.extract({"t": MERGE})
    assert lab.rows("SELECT v FROM raw.t") == [("new",)]


def test_equal_numbers_are_a_tie_however_they_are_written(lab: Lab, sql: Sql) -> None:
    """Behaviours 12 and 52."""
    sql("CREATE TABLE t (id integer, at numeric)")
    sql("INSERT INTO t VALUES (1, 1.10), (1, 1.1)")
    with pytest.raises(DataError, match="which of them is the newest cannot be known"):
        lab.extract({"t": MERGE})


# Keys


def test_key_that_is_not_unique_is_told_and_refused_beyond_a_few(
    lab: Lab, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 52: rows that share a key in one snapshot are no versions of each other."""
    sql("CREATE TABLE t (id integer, at integer)")
    sql("INSERT INTO t SELECT n, n FROM generate_series(1, 50) AS n")
    sql("INSERT INTO t VALUES (1, 100)")
    with caplog.at_level(logging.WARNING, "pyops"):
        lab.extract({"t": MERGE})
    assert "src.t: no unique index at the source covers its primary_key: rows may share it" in caplog.text
    found = reconcile(lab.configure({"t": MERGE}), "t")
    assert (found.source_rows, found.warehouse_rows, found.duplicates, found.is_equal) == (51, 50, 1, False)
    sql("INSERT INTO t SELECT 1, n FROM generate_series(200, 300) AS n")
    with pytest.raises(DataError, match=r"101 of \d+ rows share their primary_key \(id\) with a newer one"):
        lab.extract({"t": MERGE})


# What was landed where, and how


def test_another_target_and_back_again_loses_nothing(lab: Lab, sql: Sql) -> None:
    """A watermark belongs to what it fills."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, at integer)")
    sql("INSERT INTO t SELECT n, n FROM generate_series(1, 5) AS n")
    for target in ("raw.t", "raw.u", "raw.t"):
        for _ in range(2):
            sql("INSERT INTO t SELECT max(id) + 1, max(at) + 1 FROM t")
            lab.extract({"t": {**MERGE, "target": target}})
    assert ids(lab) == list(range(1, 12))


@pytest.mark.parametrize("change", [{"mask": ["v"]}, {"exclude": ["v"]}, {"columns": ["id", "at"]}])
def test_configuration_that_would_leave_landed_rows_as_they_are_is_refused(
    lab: Lab, sql: Sql, change: dict[str, Any]
) -> None:
    """Behaviour 58: until they are landed anew."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, at integer, v text)")
    sql("INSERT INTO t VALUES (1, 1, 'secret')")
    lab.extract({"t": MERGE})
    with pytest.raises(UsageError, match=f"src.t: {next(iter(change))} changed in pyops.yml since it was landed"):
        lab.extract({"t": {**MERGE, **change}})
    lab.extract({"t": {**MERGE, **change}}, full_refresh=True)
    assert "secret" not in str(lab.rows("SELECT * FROM raw.t"))
    lab.extract({"t": {**MERGE, **change}})


@pytest.mark.parametrize("mode", ["full", "partition"])
def test_masks_and_types_of_files_reach_the_rows_that_are_landed(tmp_path: Path, mode: str) -> None:
    """Behaviour 58: the files are read again, whichever days are asked for in between."""
    lab = Lab(tmp_path, "")
    table = DAILY if mode == "partition" else {"path": "in/*.jsonl", "format": "jsonl", "mode": "full"}
    for day in (1, 2):
        lab.put(f"in/2024-01-0{day}.jsonl", f'{{"id": "{day}", "v": "secret"}}\n')
    lab.extract_files({"t": table})
    changed = {"t": {**table, "mask": ["v"], **({"types": {"id": "INTEGER"}} if mode == "full" else {})}}
    if mode == "partition":
        lab.extract_files(changed, days=Days(date(2024, 1, 1), date(2024, 1, 1)))
    assert lab.extract_files(changed)[0].rows_read == 2
    assert lab.rows("SELECT id::INTEGER, v = 'secret' FROM raw.t ORDER BY id") == [(1, False), (2, False)]
    assert lab.extract_files(changed)[0].rows_read == 0


def test_table_that_pyops_did_not_make_is_left_alone_unless_adopted(lab: Lab, sql: Sql) -> None:
    """`raw` is a common name for a schema."""
    sql("CREATE TABLE t (id integer PRIMARY KEY)")
    sql("INSERT INTO t VALUES (1)")
    lab.write("CREATE SCHEMA raw")
    lab.write("CREATE TABLE raw.t AS SELECT 42 AS mine")
    with pytest.raises(OperationError, match=r"src\.t: raw\.t exists, and pyops did not make it"):
        lab.extract({"t": {"mode": "full"}})
    assert lab.rows("SELECT * FROM raw.t") == [(42,)]
    lab.extract({"t": {"mode": "full", "adopt": True}})
    assert ids(lab) == [1]


# Files


def test_file_that_goes_and_comes_back_is_landed_again(tmp_path: Path) -> None:
    """Behaviour 57: and while it is away, nothing is read twice."""
    lab = Lab(tmp_path, "")
    table = {"t": {"path": "in/*.csv", "format": "csv", "mode": "full", "types": {"id": "INTEGER"}}}
    lab.put("in/a.csv", "id\n1\n")
    there, away = lab.put("in/b.csv", "id\n2\n"), tmp_path / "b.csv"
    lab.extract_files(table)
    there.rename(away)
    assert [lab.extract_files(table)[0].rows_read for _ in range(2)] == [1, 0]
    assert ids(lab) == [1]
    away.rename(there)
    lab.extract_files(table)
    assert ids(lab) == [1, 2]


def test_file_that_was_replaced_by_one_of_the_same_size_and_time_is_read(tmp_path: Path) -> None:
    """Nobody can set the time of a file's change."""
    lab = Lab(tmp_path, "")
    table = {"t": {"path": "in/*.csv", "format": "csv", "mode": "full"}}
    for value in ("10.50", "10.60"):
        file = lab.put("in/a.csv", f"id,v\n1,{value}\n")
        os.utime(file, (1_700_000_000, 1_700_000_000))
        lab.extract_files(table)
    assert lab.rows("SELECT v FROM raw.t") == [("10.60",)]


def test_day_under_another_name_is_not_doubled(tmp_path: Path) -> None:
    """Behaviour 57: a day's files belong together; a key holds between those of several runs."""
    lab = Lab(tmp_path, "")
    file = lab.put("in/2024-01-01.jsonl", '{"id": 1}\n')
    lab.put("in/2024-01-02.jsonl", '{"id": 2}\n')
    lab.extract_files({"t": {**DAILY, "types": {"id": "INTEGER"}}})
    file.rename(tmp_path / "in/2024-01-01-late.jsonl")
    run = lab.extract_files({"t": {**DAILY, "types": {"id": "INTEGER"}}})[0]
    assert (run.rows_read, ids(lab)) == (1, [1, 2])
    lab.put("in/2024-01-01-more.jsonl", '{"id": 1}\n')
    with pytest.raises(DataError, match="the same primary key"):
        lab.extract_files({"t": {**DAILY, "types": {"id": "INTEGER"}, "primary_key": ["id"]}}, full_refresh=True)


def test_link_that_leads_nowhere_is_an_error_and_a_circle_of_links_is_followed_once(tmp_path: Path) -> None:
    """Behaviours 56 and 57."""
    lab = Lab(tmp_path, "")
    table = {"t": {"path": "in/**/*.csv", "format": "csv", "mode": "full", "types": {"id": "INTEGER"}}}
    lab.put("in/a.csv", "id\n1\n")
    (tmp_path / "in/again").symlink_to(tmp_path / "in")
    lab.extract_files(table)
    assert ids(lab) == [1]
    (tmp_path / "in/b.csv").symlink_to(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match=r"in/b\.csv cannot be read: a link that leads nowhere"):
        lab.extract_files(table)
    assert ids(lab) == [1]


def test_name_of_a_file_is_no_pattern_and_no_column(tmp_path: Path) -> None:
    """Behaviour 56: brackets are brackets, `dt=2024` is a folder."""
    lab = Lab(tmp_path, "")
    (tmp_path / "in/dt=2024").mkdir(parents=True)
    for number, name in enumerate(["s1.parquet", "s[1].parquet", "s*.parquet", "dt=2024/s?.parquet"], 1):
        pq.write_table(pa.table({"id": [number], "dt": ["own"]}), tmp_path / "in" / name)
    lab.extract_files({"t": {"path": "in/**/*.parquet", "format": "parquet", "mode": "full"}})
    assert lab.rows("SELECT id, dt FROM raw.t ORDER BY id") == [(n, "own") for n in (1, 2, 3, 4)]


def test_decimal_that_the_warehouse_cannot_hold_is_refused(tmp_path: Path) -> None:
    """Behaviour 59."""
    lab = Lab(tmp_path, "")
    (tmp_path / "in").mkdir()
    wide = pa.array([Decimal("1.01")], pa.decimal256(50, 2))
    pq.write_table(pa.table({"d": wide}), tmp_path / "in/a.parquet")
    with pytest.raises(DataError, match=r"column 'd' is decimal256\(50, 2\): the warehouse holds 38 digits"):
        lab.extract_files({"t": {"path": "in/*.parquet", "format": "parquet", "mode": "full"}})


# Dead letters


def test_equal_bad_lines_of_two_places_are_two_dead_letters(tmp_path: Path) -> None:
    """Behaviour 53: and one that is read again stays the one it is."""
    lab = Lab(tmp_path, "")
    table = {"t": {**DAILY, "max_dead_letter_rate": 0.9}}
    for day in ("2024-01-01", "2024-01-02"):
        lab.put(f"in/{day}.jsonl", '{"id": 1}\n{"id": \n{"id": \n')
        lab.extract_files(table)
    found = lab.rows("SELECT file, line FROM pyops.dead_letters WHERE status = 'open' ORDER BY ALL")
    assert found == [(f"in/2024-01-0{day}.jsonl", line) for day in (1, 2) for line in (2, 3)]
    (tmp_path / "in/2024-01-02.jsonl").touch()
    lab.extract_files(table)
    assert lab.rows("SELECT count(*), count(DISTINCT run_id) FROM pyops.dead_letters") == [(4, 2)]


def test_quote_that_is_left_open_fails_the_file_by_its_first_line(tmp_path: Path) -> None:
    """Behaviour 55."""
    lab = Lab(tmp_path, "")
    lines = [f"{n},{chr(34) * (n in (10, 4990))}text {n}\n" for n in range(5000)]
    lab.put("in/a.csv", "id,v\n" + "".join(lines))
    with pytest.raises(DataError, match=r"in/a\.csv, line 12: a quoted field goes on for more than 1,000 lines"):
        lab.extract_files({"t": {"path": "in/*.csv", "format": "csv", "mode": "full"}})


def test_rate_of_dead_letters_counts_the_lines_that_a_quote_swallowed(tmp_path: Path) -> None:
    """Behaviour 55: one record of 500 lines is more than one of a thousand rows."""
    lab = Lab(tmp_path, "")
    lines = [f"{n},{chr(34) * (n in (10, 510))}text {n}\n" for n in range(5000)]
    lab.put("in/a.csv", "id,v\n" + "".join(lines))
    [done] = extract(lab.configure_files({"t": {"path": "in/*.csv", "format": "csv", "mode": "full"}}))
    assert "10.020% of 5000 rows are dead letters; the limit is 1.000%" in str(done.error)


# Steps


def test_days_that_were_staged_apart_are_published_apart(tmp_path: Path) -> None:
    """Behaviour 69: each staged load is one of its own, chosen by its run or its day."""
    lab = Lab(tmp_path, "")
    table = {"t": {**DAILY, "types": {"id": "INTEGER"}}}
    runs = []
    for day in (1, 2, 3):
        lab.put(f"in/2024-01-0{day}.jsonl", f'{{"id": {day}}}\n')
        days = Days(date(2024, 1, day), date(2024, 1, day))
        runs += lab.extract_files(table, days=days, stage_only=True)
    project = lab.configure_files(table)
    publish(project, day=date(2024, 1, 2))
    assert ids(lab) == [2]
    publish(project, run_id=runs[0].run_id)
    assert ids(lab) == [1, 2]
    publish(project)
    assert ids(lab) == [1, 2, 3]
    assert publish(project) == []


def test_column_that_is_added_is_told_with_what_brings_its_earlier_values(
    lab: Lab, sql: Sql, caplog: pytest.LogCaptureFixture
) -> None:
    """ADD COLUMN ... DEFAULT fills rows at the source without touching them: no run reads them again."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, at integer)")
    sql("INSERT INTO t VALUES (1, 1), (2, 2)")
    lab.extract({"t": MERGE})
    sql("ALTER TABLE t ADD COLUMN v integer DEFAULT 7")
    with caplog.at_level(logging.INFO, "pyops"):
        lab.extract({"t": MERGE})
    assert (
        "src.t: column v INTEGER was added: NULL in rows that were landed before,"
        " which pyops extract src.t --full-refresh brings"
    ) in caplog.text
    assert lab.rows("SELECT v FROM raw.t ORDER BY id") == [(None,), (7,)]
    lab.extract({"t": MERGE}, full_refresh=True)
    assert lab.rows("SELECT v FROM raw.t ORDER BY id") == [(7,), (7,)]


@pytest.mark.parametrize("type_", ["DOUBLE", "FLOAT"])
def test_number_that_is_too_small_for_its_type_is_no_zero(tmp_path: Path, type_: str) -> None:
    """Behaviour 59: 1e-400 is a dead letter, 0e-400 is 0."""
    lab = Lab(tmp_path, "")
    lab.put("in/a.csv", "id,v\n1,1e-400\n2,0e-400\n3,0.0\n4,-10e-500\n5,5e-3\n")
    table = {"path": "in/*.csv", "format": "csv", "mode": "full", "types": {"v": type_}, "max_dead_letter_rate": 1}
    lab.extract_files({"t": table})
    assert lab.rows("SELECT id FROM raw.t ORDER BY id") == [("2",), ("3",), ("5",)]
    assert lab.rows("SELECT value FROM pyops.dead_letters ORDER BY line") == [("1e-400",), ("-10e-500",)]


def test_columns_that_pyops_needs_the_names_of_are_refused(lab: Lab, sql: Sql) -> None:
    """A column called _line is not the line of a file."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, _line integer)")
    with pytest.raises(OperationError, match="column _line cannot be landed: pyops reserves the name"):
        lab.extract({"t": {"mode": "full"}})
    lab.extract({"t": {"mode": "full", "exclude": ["_line"]}})


def test_rows_without_a_day_are_counted_in_a_run_of_days(lab: Lab, sql: Sql, caplog: pytest.LogCaptureFixture) -> None:
    """A row belongs to one load, or is named: no day has those."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, day date)")
    sql("INSERT INTO t VALUES (1, '2024-01-01'), (2, NULL)")
    table = {"t": {"mode": "partition", "partition_by": "day"}}
    with caplog.at_level(logging.WARNING, "pyops"):
        lab.extract(table, days=Days(date(2024, 1, 1), date(2024, 1, 1)))
    assert "src.t: 1 rows have no day: a run without days lands them" in caplog.text
    lab.extract(table)
    assert ids(lab) == [1, 2]


@pytest.mark.parametrize("other", ["A", "file_row_number", "_line"])
def test_names_of_parquet_that_cannot_stand_side_by_side_are_refused(tmp_path: Path, other: str) -> None:
    """Behaviour 59: DuckDB would call the second one A_1."""
    lab = Lab(tmp_path, "")
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"a": [1], other: [2]}), tmp_path / "in/a.parquet")
    with pytest.raises(DataError, match=f"column '{other}' cannot be landed"):
        lab.extract_files({"t": {"path": "in/*.parquet", "format": "parquet", "mode": "full"}})


def test_dates_before_the_year_1_are_refused_as_those_of_a_database_are(tmp_path: Path) -> None:
    """Behaviour 59."""
    lab = Lab(tmp_path, "")
    (tmp_path / "in").mkdir()
    pq.write_table(pa.table({"d": pa.array([-800_000, 0], pa.date32())}), tmp_path / "in/a.parquet")
    with pytest.raises(DataError, match=r"in/a\.parquet: a date is before the year 1"):
        lab.extract_files({"t": {"path": "in/*.parquet", "format": "parquet", "mode": "full"}})


def test_newer_load_of_files_takes_the_place_of_one_that_waits(tmp_path: Path) -> None:
    """Behaviour 69: both have the first file, so that one of them could never be published."""
    lab = Lab(tmp_path, "")
    table = {"t": {**DAILY, "types": {"id": "INTEGER"}}}
    for day in (1, 2):
        lab.put(f"in/2024-01-0{day}.jsonl", f'{{"id": {day}}}\n')
        lab.extract_files(table, stage_only=True)
    project = lab.configure_files(table)
    assert [item.error for item in publish(project)] == [None]
    assert (ids(lab), publish(project)) == ([1, 2], [])


def test_mask_reaches_a_day_that_was_landed_before_all_others(tmp_path: Path) -> None:
    """Behaviour 58: the first load of a table may be one of some days."""
    lab = Lab(tmp_path, "")
    for day in (1, 2):
        lab.put(f"in/2024-01-0{day}.jsonl", '{"v": "secret"}\n')
    lab.extract_files({"t": DAILY}, days=Days(date(2024, 1, 1), date(2024, 1, 1)))
    lab.extract_files({"t": {**DAILY, "mask": ["v"]}})
    assert lab.rows("SELECT count(*), count(*) FILTER (v = 'secret') FROM raw.t") == [(2, 0)]
