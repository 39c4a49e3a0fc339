"""Erasure: nothing of a key is left anywhere, and everybody else is as before."""

from __future__ import annotations

import functools
import json
import signal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from typer.testing import CliRunner

from pyops import dead_letters, erase, extract, publish
from pyops.cli import app as cli
from pyops.commands.cdc import capture
from pyops.commands.erase import Erasure
from pyops.config.load import load
from pyops.errors import OperationError, UsageError
from pyops.staging.file import Stage
from pyops.warehouse.committing import Committing
from pyops.warehouse.duckdb import DuckDBWarehouse
from tests.pyops.change_log import at_source, current, events, ops
from tests.pyops.conftest import Lab, Sql
from tests.pyops.dbt_runs import put_manifest
from tests.pyops.test_faults import Project, at, die, halted, project, wait_for

__all__ = ["project"]  # a fixture

CDC: dict[str, dict[str, Any]] = {"t": {"mode": "cdc"}}
FULL: dict[str, dict[str, Any]] = {"t": {"mode": "full", "primary_key": "id"}}
MARY = "mary.queen@example.com"


def erased(lab: Lab, *key: str, **options: Any) -> Erasure:
    return erase(load(lab.directory), "t", key, **options)


def land(lab: Lab, tables: dict[str, dict[str, Any]], **source: Any) -> None:
    """Lands tables, by batch or by changes."""
    project = lab.configure(tables, **source)
    assert [item.error for item in extract(project) if item.error] == []
    assert [item.error for item in capture(project) if item.error] == []


def files(lab: Lab) -> bytes:
    """All that the project has, but what is in unused parts of the warehouse."""
    return b"".join(
        path.read_bytes() for path in lab.directory.rglob("*") if path.is_file() and path.name != "warehouse.duckdb"
    )


@pytest.fixture
def users(sql: Sql) -> None:
    sql("CREATE TABLE t (id integer PRIMARY KEY, email text, big text)")
    sql("ALTER TABLE t ALTER big SET STORAGE EXTERNAL")
    sql("INSERT INTO t SELECT n, 'user ' || n, repeat(n::text, 3000) FROM generate_series(1, 4) n")


# Raw


@pytest.mark.usefixtures("users")
def test_every_event_of_a_key_goes_old_values_too(lab: Lab, sql: Sql) -> None:
    sql("ALTER TABLE t REPLICA IDENTITY FULL")
    land(lab, CDC)
    sql("UPDATE t SET email = 'new' WHERE id = 2")
    sql("DELETE FROM t WHERE id IN (2, 3)")
    land(lab, CDC)
    loads = lab.rows("FROM pyops.loads")
    found = erased(lab, "2")
    assert (found.rows, found.dead_letters, found.staging_files) == ({"raw.t__changes": 3}, 0, 0)
    assert lab.rows("SELECT DISTINCT id FROM raw.t__changes ORDER BY id") == [(1,), (3,), (4,)]
    assert lab.rows("FROM pyops.loads") == loads
    run = "SELECT mode, status, rows_deleted FROM pyops.runs ORDER BY started_at DESC LIMIT 1"
    assert lab.rows(run) == [("erase", "succeeded", 3)]
    assert erased(lab, "2").is_empty


@pytest.mark.usefixtures("users")
def test_a_row_that_had_the_key_before_keeps_what_it_was_not_sent(lab: Lab, sql: Sql) -> None:
    """Behaviours 18 and 19: 1 becomes 2, becomes 5, becomes 6; 2 is erased, the row lives on."""
    sql("DELETE FROM t WHERE id = 2")
    land(lab, CDC)
    sql("UPDATE t SET id = 2 WHERE id = 1")
    sql("UPDATE t SET email = 'as 2' WHERE id = 2")
    sql("UPDATE t SET id = 5 WHERE id = 2")
    sql("TRUNCATE t")
    sql("INSERT INTO t VALUES (2, 'another', repeat('z', 3000)), (7, '', '')")
    sql("DELETE FROM t WHERE id = 7")
    sql("UPDATE t SET id = 5 WHERE id = 2")
    sql("UPDATE t SET id = 6 WHERE id = 5")
    land(lab, CDC)
    before = lab.rows("SELECT _load_id, _lsn, _seq FROM raw.t__changes WHERE id <> 2 ORDER BY ALL")
    assert erased(lab, "2").rows == {"raw.t__changes": 5}
    assert ops(lab, "t") == "rrrdctcdcdc"
    assert [tuple(row.values()) for row in current(lab, "t")] == at_source(lab.dsn, "t", "id, email, big")
    completed = [e for e in events(lab, "t") if e.op == "c" and e.row["id"] == 5]
    assert [(e.row["email"], e.row["big"][:2], e.unchanged) for e in completed] == [
        ("as 2", "11", ()), ("another", "zz", ())
    ]  # fmt: skip
    after = lab.rows("SELECT _load_id, _lsn, _seq FROM raw.t__changes WHERE id <> 2 ORDER BY ALL")
    assert after == before


def test_composite_keys_are_given_in_their_order_and_typed(lab: Lab, sql: Sql) -> None:
    sql('CREATE TABLE t (day date, v text, "it\'s" text, PRIMARY KEY ("it\'s", day))')
    sql("INSERT INTO t VALUES ('2024-01-01', 'x', 'a'), ('2024-01-02', 'y', 'a')")
    land(lab, CDC)
    with pytest.raises(UsageError, match="its key has 2 values, and 1 given") as error:
        erased(lab, "a")
    assert error.value.hint == "give --key once for each of: it's, day"
    with pytest.raises(UsageError) as error:
        erased(lab, "2024-01-02", "a")
    assert str(error.value) == "src.t: the value given for day is no DATE"
    assert erased(lab, "a", "2024-1-2").rows == {"raw.t__changes": 1}
    assert lab.rows("SELECT v FROM raw.t__changes") == [("x",)]


@pytest.mark.parametrize("mode", ["cdc", "full"])
def test_a_masked_key_is_given_in_clear(lab: Lab, sql: Sql, mode: str) -> None:
    sql("CREATE TABLE t (email text PRIMARY KEY, v integer)")
    sql(f"INSERT INTO t VALUES ('{MARY}', 1), ('other', 2)")
    tables = {"t": {"mode": mode, "mask": "email", "primary_key": "email"}}
    land(lab, tables, mask_salt="it's salt")
    assert sum(erased(lab, MARY).rows.values()) == 1
    assert erased(lab, MARY).is_empty
    assert not erased(lab, "other").is_empty


@pytest.mark.usefixtures("users")
def test_what_a_table_has_left_by_batch_goes_with_its_log(lab: Lab) -> None:
    """Behaviour 30a."""
    land(lab, {"t": {"mode": "full"}})
    land(lab, CDC)
    assert erased(lab, "1").rows == {"raw.t__changes": 1, "raw.t": 1}


@pytest.mark.usefixtures("users")
def test_a_table_without_a_key_or_that_is_not_there(lab: Lab) -> None:
    lab.configure({"t": {"mode": "full"}})
    assert erased(lab, "1").is_empty
    land(lab, {"t": {"mode": "full"}})
    with pytest.raises(UsageError, match="no key is known") as error:
        erased(lab, "1")
    assert error.value.hint == "set primary_key in pyops.yml"
    lab.configure({"t": {"mode": "full", "primary_key": "nr"}})
    with pytest.raises(OperationError, match=r"raw\.t has no column nr"):
        erased(lab, "1")


# Dead letters, staging files, the file itself


@pytest.mark.parametrize("mode", ["cdc", "full"])
def test_dead_letters_go_and_their_mirror(lab: Lab, sql: Sql, mode: str) -> None:
    """Behaviour 37: found by the key, or by the row where the load knew no key."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, email text, n numeric(5,2))")
    table: dict[str, Any] = {"mode": mode, "mask": "email"}
    if mode == "full":
        table["max_dead_letter_rate"] = 1
    for number in range(2):
        sql(f"INSERT INTO t VALUES ({number}, '{MARY}', 'NaN'), ({number + 10}, 'x{number}', 'NaN')")
        project = lab.configure({"t": table}, mask_salt="s")
        text = (lab.directory / "pyops.yml").read_text()
        lab.put("pyops.yml", text + "dead_letters: {path: letters/all.jsonl}\n")
        project = load(lab.directory)
        assert [item.error for item in extract(project) if item.error] == []
        assert [item.error for item in capture(project) if item.error] == []
    assert MARY.encode() not in files(lab), "what is masked is hashed in dead letters too"
    letters = dead_letters(project, everything=True)
    mirror = lab.directory / "letters" / "all.jsonl"
    assert len(letters) == len(mirror.read_text().splitlines()) > 2
    lab.put("pyops.yml", (lab.directory / "pyops.yml").read_text().replace(
        f"mode: {mode}", f"mode: {mode}\n        primary_key: id"))  # fmt: skip
    assert erased(lab, "10").dead_letters == sum('"id":"10"' in x.payload for x in letters)
    left = [x for x in letters if '"id":"10"' not in x.payload]
    assert dead_letters(load(lab.directory), everything=True) == left
    assert [json.loads(line)["letter_id"] for line in mirror.read_text().splitlines()] == [
        letter.letter_id for letter in left
    ]


def test_letters_whose_key_cannot_be_read_are_told_of(lab: Lab) -> None:
    lab.put("data/a.jsonl", '{"id": 1, "v": "x"}\n{"id": 2, "v":\n{"id": "no number", "v": "y"}\n')
    table = {"path": "data/a.jsonl", "format": "jsonl", "mode": "full", "primary_key": "id",
             "types": {"id": "BIGINT"}, "max_dead_letter_rate": 1}  # fmt: skip
    lab.extract_files({"t": table})
    found = erased(lab, "1")
    assert (found.rows, found.unreadable_letters) == ({"raw.t": 1}, 1)


@pytest.mark.usefixtures("users")
def test_staging_files_that_hold_the_key_are_deleted(lab: Lab, sql: Sql) -> None:
    """Behaviour 38: kept for a look after a gate, or staged for another command."""
    sql("CREATE TABLE u AS SELECT * FROM t")
    land(lab, {**FULL, "u": FULL["t"]})
    project = lab.configure({"t": {**FULL["t"], "gates": {"min_rows": 100}}, "u": FULL["t"]})
    assert extract(project, ["t"])[0].error is not None
    assert extract(project, ["u"], stage_only=True)[0].error is None
    staging = lab.directory / ".pyops" / "staging"
    assert erased(lab, "1", dry_run=True).staging_files == 1
    assert len(list(staging.glob("*.duckdb"))) == 2
    found = erased(lab, "1")
    assert (found.rows, found.staging_files) == ({"raw.t": 1}, 1)
    assert len(list(staging.glob("*.duckdb"))) == 1
    assert publish(project, ["u"])[0].error is None


@pytest.mark.usefixtures("users")
def test_a_run_that_is_under_way_holds_it_up(project: Project) -> None:
    """It may have read the key, and would land it behind the erasure."""
    project.set_up(FULL)
    assert project.extract_by_command()[0] == 0
    with halted(project, Stage, "fill"):
        code, output = project.start("t", "--key", "1", command="erase").end()
        assert (code, "a run is under way" in output) == (75, True)
    wait_for(lambda: project.staged() == set(), "the run ends")
    code, output = project.start("t", "--key", "1", command="erase").end()
    assert (code, "src.t: 1 rows of raw.t" in output) == (0, True)


@pytest.mark.usefixtures("users")
def test_killed_anywhere_the_same_command_again_ends_the_same(project: Project, sql: Sql) -> None:
    """Behaviour 35: all of it is there, or none; dead letters, mirror and staging files too."""
    sql("ALTER TABLE t ADD COLUMN n numeric(5,2)")
    project.set_up({"t": {**CDC["t"], "retention": "0s"}})
    text = (project.directory / "pyops.yml").read_text()
    project.put("pyops.yml", text + "dead_letters: {path: letters.jsonl}\n")
    assert project.start(command="cdc").end()[0] == 0
    mirror = project.directory / "letters.jsonl"
    for number, (name, moment) in enumerate(MOMENTS.items(), 1):
        sql(f"INSERT INTO t VALUES ({number}00, 'x', repeat('y', 3000)), ({number}01, 'z', '')")
        sql(f"INSERT INTO t VALUES ({number}02, 'x', '', 'NaN')")
        sql(f"UPDATE t SET id = {number}03 WHERE id = {number}00")
        assert project.start(command="cdc").end()[0] == 0
        for command, *arguments in ERASING:
            given = [argument.format(number) for argument in arguments]
            owner, function, is_behind = moment
            hook = functools.partial(at, owner, function, die, after=is_behind)
            code, _ = project.start(*given, hook=hook, command=command).end()
            assert code == -signal.SIGKILL, name
            code, output = project.start(*given, command=command).end()
            assert code == 0, output
        assert ops(project, "t") == "r" * (4 + 2 * number), name
        found = [tuple(row.values())[:3] for row in current(project, "t")]
        there = at_source(project.dsn, "t", "id, email, big")
        landed = [row for row in there if row[0] < 100 or row[0] % 100 != 2]  # without the NaN
        assert found == landed, name
        assert mirror.read_text() == "", name
        assert project.staged() == set()
    assert {status for _, status in project.runs()} == {"succeeded", "killed"}


ERASING = [("erase", "t", "--key", "{}00"), ("erase", "t", "--key", "{}02"), ("compact",)]
# Where it may be killed: the owner, a function, and whether behind it.
MOMENTS: dict[str, tuple[Any, str, bool]] = {
    "staging file made": (Stage, "create", True),
    "before COMMIT": (Committing, "_ended", True),
    "after COMMIT": (DuckDBWarehouse, "_write_mirror", False),
    "mirror written": (DuckDBWarehouse, "_write_mirror", True),
}


def test_the_files_bytes_keep_a_value_until_it_is_copied(lab: Lab, sql: Sql) -> None:
    """What docs/retention.md says: a deleted value stays in the file until the file is copied."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, email text)")
    sql(f"INSERT INTO t SELECT n, '{MARY}' || n FROM generate_series(1, 3) AS n")
    land(lab, CDC)
    marker, path = f"{MARY}2".encode(), lab.directory / "warehouse.duckdb"
    assert marker in path.read_bytes()
    assert erased(lab, "2").rows == {"raw.t__changes": 1}
    assert not path.with_name("warehouse.duckdb.wal").exists()
    assert marker in path.read_bytes()
    documented = (Path(__file__).parents[2] / "docs" / "retention.md").read_text("utf-8")
    (statements,) = [block for block in documented.split("```sql\n")[1:] if "COPY FROM DATABASE" in block]
    with duckdb.connect() as connection, pytest.MonkeyPatch.context() as patch:
        patch.chdir(lab.directory)
        connection.execute(statements.partition("```")[0])
    copy = lab.directory / "copied.duckdb"
    assert marker not in copy.read_bytes()
    copy.rename(path)
    sql("UPDATE t SET email = 'goes on' WHERE id = 1")
    land(lab, CDC)
    assert current(lab, "t")[0]["email"] == "goes on"


# What dbt has built


@pytest.mark.usefixtures("users")
def test_tagged_tables_of_dbt_are_purged_and_the_others_named(lab: Lab) -> None:
    land(lab, CDC)
    key = {"user_id": "src.t.id"}
    put_manifest(
        lab.directory,
        ("base", "view", "log", key),
        ("inc", "incremental", "base", key),
        ("text", "table", "inc", key),
        ("snap", "snapshot", "base", key),
        ("unbuilt", "incremental", "base", key),
        ("mart", "table", "inc", {}),
        ("seen", "view", "mart", {}),
        ("untagged", "snapshot", "seen", {}),
        ("kept", "incremental", "mart", {"full_refresh": False}),
    )
    lab.write("CREATE SCHEMA models; CREATE VIEW models.base AS SELECT id AS user_id FROM raw.t__changes")
    for name in ("inc", "snap", "mart"):
        lab.write(f"CREATE TABLE models.{name} AS FROM models.base")
    lab.write("CREATE TABLE models.text AS SELECT user_id::VARCHAR AS user_id FROM models.base")
    found = erased(lab, "2", dry_run=True)
    assert lab.rows("SELECT count(*) FROM models.inc") == [(4,)]
    assert found.rows == {"raw.t__changes": 1, "models.inc": 1, "models.snap": 1, "models.text": 1}
    assert found.rebuild == "dbt build --full-refresh --select mart unbuilt"
    assert found.by_hand == ("kept", "untagged")
    assert erased(lab, "2").rows == found.rows
    for name in ("inc", "snap", "text", "base"):
        assert lab.rows(f"SELECT count(*) FROM models.{name}") == [(3,)]


@pytest.mark.usefixtures("users")
def test_what_a_folded_log_has_no_more_is_not_refreshed(lab: Lab) -> None:
    """A full refresh would lose the history that the log has lost."""
    land(lab, {"t": {"mode": "cdc", "retention": "1d"}})
    put_manifest(lab.directory, ("history", "incremental", "log", {}), ("mart", "table", "history", {}))
    found = erased(lab, "2")
    assert (found.rebuild, found.by_hand) == ("dbt build --select mart", ("history",))


@pytest.mark.usefixtures("users")
def test_tags_that_lead_nowhere_stop_it(lab: Lab) -> None:
    land(lab, CDC)
    put_manifest(lab.directory, ("inc", "table", "log", {"id": "src.tt.id"}))
    with pytest.raises(OperationError, match=r"inc: pyops_key_of: src\.tt\.id is no column"):
        erased(lab, "2")
    put_manifest(lab.directory, ("inc", "table", "log", {"id": "src.t.email"}))
    with pytest.raises(OperationError, match=r"src\.t\.email is not in the key of src\.t \(id\)"):
        erased(lab, "2")
    put_manifest(lab.directory, ("inc", "table", "log", {"id": "src.t.id"}))
    lab.write("CREATE SCHEMA models; CREATE TABLE models.inc AS SELECT 2 AS another")
    with pytest.raises(OperationError, match=r"or are not in models\.inc"):
        erased(lab, "2")
    assert ops(lab, "t") == "rrrr"


# The command


@pytest.mark.usefixtures("users")
def test_nothing_of_the_key_is_shown_or_kept(lab: Lab) -> None:
    land(lab, CDC)
    where = ["--project-dir", str(lab.directory)]
    for arguments, code in (
        (["--key", "3", "--dry-run"], 0),
        (["--key", "3"], 0),
        (["--key", "3", "--json"], 0),
        (["--key", MARY], 1),
    ):
        outcome = CliRunner().invoke(cli.app, ["erase", "t", *arguments, *where])
        assert outcome.exit_code == code, outcome.output
        assert MARY not in outcome.output + str(outcome.exception)
        if arguments == ["--key", "3"]:
            assert "src.t: 1 rows of raw.t__changes" in outcome.stdout
    outcome = CliRunner().invoke(cli.app, ["erase", "t", "--key", "3", *where])
    assert outcome.stdout == "src.t: no rows found for this key\n"
    assert MARY.encode() not in files(lab) + (lab.directory / "warehouse.duckdb").read_bytes()
