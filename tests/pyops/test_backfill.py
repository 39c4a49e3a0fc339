"""Backfills: days of a range landed again one by one, through failures and kills."""

from __future__ import annotations

import functools
import json
import shutil
import signal
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from pyops import Backfill, Days, Project, backfill, extract
from pyops.errors import BusyError, UsageError
from tests.pyops.conftest import Lab, Sql
from tests.pyops.test_faults import Project as Processes
from tests.pyops.test_faults import at, die, project, wait_for

__all__ = ["project"]  # a fixture

FILES: dict[str, Any] = {"path": "in/{date}.jsonl", "format": "jsonl", "mode": "partition", "partition_by": "day"}
DAYS = Days.of("2024-01-01", "2024-01-05")
RANGE = ("--from", "2024-01-01", "--to", "2024-01-05")
UTF16 = '{"id": 3}\n'.encode("utf-16")


@pytest.fixture
def files(lab: Lab) -> Lab:
    """Five days of files, of which the third cannot be read."""
    lab.configure_files({"t": FILES})
    for day in range(1, 6):
        lab.put(f"in/2024-01-0{day}.jsonl", f'{{"id": {day}}}\n')
    lab.put("in/2024-01-03.jsonl", UTF16)
    return lab


def days_of(*numbers: int) -> tuple[date, ...]:
    return tuple(date(2024, 1, number) for number in numbers)


def run(lab: Lab, **options: Any) -> Backfill:
    return backfill(Project.load(lab.directory), "t", DAYS, **options)


def journals(lab: Lab) -> list[str]:
    return sorted(path.name for path in (lab.directory / ".pyops" / "backfills").glob("*"))


def test_day_that_fails_stops_no_other_and_is_landed_by_the_next_call_alone(files: Lab) -> None:
    first = run(files)
    assert first.landed == days_of(1, 2, 4, 5)
    [failed] = first.failed
    assert failed.day == date(2024, 1, 3)
    assert "2024-01-03.jsonl" in str(failed.error)
    loads = "SELECT count(*) FROM pyops.loads"
    assert files.rows(loads) == [(4,)]

    files.put("in/2024-01-03.jsonl", '{"id": 3}\n')
    again = run(files)

    assert (again.landed, again.failed, again.done_before) == (days_of(3), (), 4)
    assert files.rows(loads) == [(5,)]
    assert files.rows("SELECT id, day FROM raw.t ORDER BY id") == [
        (str(number), day) for number, day in enumerate(days_of(1, 2, 3, 4, 5), 1)
    ]
    assert journals(files) == []


def test_finished_range_asked_for_again_is_landed_again(files: Lab) -> None:
    files.put("in/2024-01-03.jsonl", '{"id": 3}\n')
    assert run(files).landed == days_of(1, 2, 3, 4, 5)
    files.put("in/2024-01-02.jsonl", '{"id": 22}\n')
    assert run(files).landed == days_of(1, 2, 3, 4, 5)
    assert files.rows("SELECT id FROM raw.t ORDER BY id") == [("1",), ("22",), ("3",), ("4",), ("5",)]


def test_force_begins_again(files: Lab) -> None:
    run(files)
    files.put("in/2024-01-02.jsonl", '{"id": 22}\n')
    assert run(files).landed == ()
    assert run(files, force=True).landed == days_of(1, 2, 4, 5)
    assert files.rows("SELECT id FROM raw.t ORDER BY id") == [("1",), ("22",), ("4",), ("5",)]
    assert run(files).done_before == 4, "the forced one is unfinished like any other"


def test_stop_on_error_tries_no_day_after_the_one_that_failed(files: Lab) -> None:
    stopped = run(files, stop_on_error=True)
    assert (stopped.landed, stopped.not_tried) == (days_of(1, 2), 2)
    assert [item.day for item in stopped.failed] == [date(2024, 1, 3)]


def test_another_range_has_a_progress_of_its_own(files: Lab) -> None:
    run(files)
    other = backfill(Project.load(files.directory), "web.t", Days.of("2024-01-01", "2024-01-02"))
    assert (other.landed, other.done_before) == (days_of(1, 2), 0)
    assert len(journals(files)) == 1


def test_day_without_a_file_is_told_of_and_fails_only_where_no_day_has_one(files: Lab) -> None:
    (files.directory / "in/2024-01-03.jsonl").unlink()
    done = run(files)
    assert (done.landed, done.without_file, done.failed) == (days_of(1, 2, 4, 5), days_of(3), ())
    assert journals(files) == []
    shutil.rmtree(files.directory / "in")
    (files.directory / "in").mkdir()
    assert len(run(files).failed) == 5


def test_line_that_a_kill_has_cut_short_is_no_day_that_was_landed(files: Lab) -> None:
    run(files)
    [name] = journals(files)
    path = files.directory / ".pyops" / "backfills" / name
    path.write_text(path.read_text()[:-1])
    assert run(files).landed == days_of(5)
    assert run(files).landed == ()


@pytest.fixture
def events(project: Processes, sql: Sql) -> Processes:
    """An incremental table with two rows on each of five days, landed."""
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at timestamptz, n int)")
    sql("INSERT INTO t SELECT i, timestamptz '2024-01-01' + i * interval '12 hours', 1 FROM generate_series(0, 9) i")
    project.set_up({"t": {"mode": "incremental", "cursor": "at", "primary_key": ["id"]}})
    assert project.extract_by_command()[0] == 0
    return project


def test_killed_backfill_goes_on_where_it_was(events: Processes, sql: Sql) -> None:
    """Behaviours 8 and 35: neither the kill nor the backfill moves the watermark."""
    watermark = events.rows("SELECT * FROM pyops.watermarks")
    sql("UPDATE t SET n = 2")  # which the cursor does not tell of
    hook = functools.partial(at, "pyops.commands.backfill", "extract", die, call=3)
    command = events.start("t", *RANGE, hook=hook, command="backfill")
    assert command.end()[0] == -signal.SIGKILL
    held = "pg_stat_activity WHERE datname = current_database() AND application_name = 'pyops'"
    wait_for(lambda: sql(f"SELECT count(*) FROM {held}") == [(0,)], "the killed process's session ends")

    code, output = events.start("t", *RANGE, command="backfill").end()

    assert code == 0, output
    assert "2 days were landed before: 3 are left" in output
    assert "src.t: 2024-01-03 landed (1 of 3, about 0:00:0" in output, "published, but killed before it was noted"
    assert "days from 2024-01-01 to 2024-01-05: 3 landed, 2 landed before" in output
    assert events.rows("SELECT id, n FROM raw.t ORDER BY id") == sql("SELECT id, n FROM t ORDER BY id")
    assert events.rows("SELECT * FROM pyops.watermarks") == watermark


def test_two_at_once_of_one_range_are_one(files: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def meanwhile() -> None:
        with pytest.raises(BusyError, match="another process backfills 2024-01-01 to 2024-01-05"):
            run(files)

    monkeypatch.setattr("pyops.commands.backfill.extract", extract)  # put back after the test
    at("pyops.commands.backfill", "extract", meanwhile)
    assert run(files).landed == days_of(1, 2, 4, 5)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "full"}, "mode full has no days to choose from"),
        ({"mode": "cdc"}, "landed by mode cdc"),
        ({"mode": "incremental", "cursor": "at", "write": "append"}, "append would add the rows of those days again"),
        ({"mode": "incremental", "cursor": "id", "primary_key": ["id"]}, "id is no date and no timestamp"),
    ],
)
def test_table_without_days_to_choose_from_is_refused(
    lab: Lab, sql: Sql, settings: dict[str, Any], message: str
) -> None:
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at timestamptz)")
    lab.configure({"t": settings})
    with pytest.raises(UsageError, match=message):
        run(lab)
    assert journals(lab) == []


def test_partitions_of_postgres_are_landed_day_by_day(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t AS SELECT i AS id, date '2024-01-01' + i AS day FROM generate_series(0, 9) i")
    lab.configure({"t": {"mode": "partition", "partition_by": "day"}})
    assert len(run(lab).landed) == 5
    assert lab.rows("SELECT id FROM raw.t ORDER BY id") == [(number,) for number in range(5)]
    assert lab.rows("SELECT count(*), count(DISTINCT load_id) FROM pyops.loads") == [(5, 5)]


def test_warehouse_that_is_held_ends_the_call_at_that_day(files: Lab) -> None:
    """Behaviour 36: no later day would fare better."""
    (files.directory / "warehouse.duckdb").write_bytes(b"no warehouse at all" * 1000)
    done = run(files)
    assert [item.day for item in done.failed] == [date(2024, 1, 1)]
    assert done.not_tried == 4


def test_failed_days_are_listed_at_the_end_with_their_error(files: Lab, project: Processes) -> None:
    shutil.copytree(files.directory, project.directory, dirs_exist_ok=True)
    code, output = project.start("t", *RANGE, command="backfill").end()
    assert code == 1
    last = output.splitlines()[-4:]
    assert last[0] == "web.t: days from 2024-01-01 to 2024-01-05: 4 landed, 1 failed"
    assert last[1].startswith("  2024-01-03 failed: in/2024-01-03.jsonl")
    assert last[2].startswith("    fix: ")
    code, output = project.start("t", *RANGE, "--json", command="backfill").end()
    found = json.loads(output.splitlines()[-1])
    assert code == 1
    assert (found["table"], found["done_before"], found["failed"][0]["day"]) == ("web.t", 4, "2024-01-03")


DBT = {
    "dbt_project.yml": "name: small\nversion: 1.0.0\nprofile: small\nflags: {send_anonymous_usage_stats: false}\n",
    "profiles.yml": "small:\n  target: dev\n  outputs:\n"
    "    dev: {type: duckdb, path: \"{{ env_var('PYOPS_WAREHOUSE') }}\"}\n",
    "models/sources.yml": "sources: [{name: web, schema: raw, tables: [{name: t}, {name: other}]}]\n",
    "models/mine.sql": "select count(*) as rows_there from {{ source('web', 't') }}\n",
    "models/below.sql": "select rows_there from {{ ref('mine') }}\n",
    "models/others.sql": "select * from {{ source('web', 'other') }}\n",
}


def test_dbt_builds_what_depends_on_the_table_once_all_days_are_landed(files: Lab, project: Processes) -> None:
    for name, content in DBT.items():
        files.put(name, content)
    shutil.copytree(files.directory, project.directory, dirs_exist_ok=True)
    code, output = project.start("t", *RANGE, "--dbt", command="backfill").end()
    assert code == 1
    assert "Running with dbt" not in output
    Path(project.directory / "in/2024-01-03.jsonl").write_text('{"id": 3}\n')
    code, output = project.start("t", *RANGE, "--dbt", "--json", command="backfill").end()
    assert code == 0, output
    assert json.loads(output.splitlines()[-1])["dbt"] == {"success": 2}
    assert project.rows("SELECT rows_there FROM below") == [(5,)]


def test_dbt_that_fails_fails_the_backfill_and_is_tried_again_without_landing_a_day(
    files: Lab, project: Processes
) -> None:
    files.put("in/2024-01-03.jsonl", '{"id": 3}\n')
    for name, content in {**DBT, "models/mine.sql": "select gone from {{ source('web', 't') }}\n"}.items():
        files.put(name, content)
    shutil.copytree(files.directory, project.directory, dirs_exist_ok=True)
    assert project.start("t", *RANGE, "--dbt", command="backfill").end()[0] == 1
    (project.directory / "models/mine.sql").write_text(DBT["models/mine.sql"])
    code, output = project.start("t", *RANGE, "--dbt", "--json", command="backfill").end()
    found = json.loads(output.splitlines()[-1])
    assert (code, found["landed"], found["done_before"], found["dbt"]) == (0, [], 5, {"success": 2})


def test_without_a_dbt_project_dbt_is_refused_before_a_day_is_landed(files: Lab) -> None:
    with pytest.raises(UsageError, match="there is no dbt_project"):
        run(files, build=True)
    assert not (files.directory / "warehouse.duckdb").exists()
