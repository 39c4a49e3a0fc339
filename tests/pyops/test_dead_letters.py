"""Dead letters: what fails a load, what is kept, and how rows come back."""

import json
from pathlib import Path
from typing import Any

import pytest

from pyops import dead_letters, purge, replay
from pyops.errors import GateError
from tests.pyops.conftest import Lab, Sql
from tests.pyops.test_cli import command

CSV: dict[str, Any] = {
    "path": "in/*.csv",
    "format": "csv",
    "mode": "full",
    "types": {"id": "BIGINT", "amount": "DECIMAL(8,2)"},
}
GOOD = "".join(f"{n},{n}.25\n" for n in range(1, 300))


@pytest.fixture
def files(tmp_path: Path) -> Lab:
    return Lab(tmp_path, "")


def open_letters(lab: Lab) -> list[tuple[Any, ...]]:
    return lab.rows("SELECT letter_id, value FROM pyops.dead_letters WHERE status = 'open'")


def test_too_many_dead_letters_fail_the_load(files: Lab) -> None:
    """Behaviour 37."""
    files.put("in/a.csv", "id,amount\n1,1\n2,n/a\n")
    with pytest.raises(GateError, match=r"50\.000% of 2 rows are dead letters") as caught:
        files.extract_files({"t": CSV})
    assert "n/a" not in str(caught.value)
    assert files.rows("SELECT count(*) FROM pyops.dead_letters") == [(0,)]
    assert files.rows("SELECT count(*) FROM duckdb_tables() WHERE schema_name = 'raw'") == [(0,)]
    run = files.extract_files({"t": {**CSV, "max_dead_letter_rate": 0.5}})[0]
    assert (run.rows_written, run.rows_dead_lettered) == (1, 1)


def test_line_that_cannot_be_parsed_is_kept_as_it_stands(files: Lab) -> None:
    """Behaviour 37."""
    lines = "".join(f'{{"id": {n}}}\n' for n in range(1, 200))
    files.put("in/a.jsonl", lines + '{"id": 200, "cut\n')
    table = {"path": "in/a.jsonl", "format": "jsonl", "mode": "full"}
    files.extract_files({"t": table})
    (letter,) = dead_letters(files.configure_files({"t": table}))
    assert (letter.file, letter.line) == ("in/a.jsonl", 200)
    assert letter.payload == '{"id": 200, "cut'
    assert letter.column_name is None


def test_replay_lands_what_the_configuration_now_allows_and_only_once(files: Lab) -> None:
    """Behaviour 37."""
    files.put("in/a.csv", "id,amount\n" + GOOD + "300,1.005\n301,n/a\n")
    files.extract_files({"t": CSV})
    assert [value for _, value in open_letters(files)] == ["1.005", "n/a"]
    mended = {**CSV, "types": {"id": "BIGINT", "amount": "DECIMAL(9,3)"}}
    project = files.configure_files({"t": mended})
    for expected in (1, 0):
        done = replay(project, "t")
        assert done.run.rows_written == expected
    landed = files.rows("SELECT amount::VARCHAR, _line FROM raw.t WHERE id >= 300")
    assert landed == [("1.005", 301)]
    assert [value for _, value in open_letters(files)] == ["n/a"]
    audit = files.rows(
        "SELECT mode, status, rows_read, rows_written FROM pyops.runs WHERE mode = 'replay' ORDER BY started_at"
    )
    assert audit == [("replay", "succeeded", 2, 1), ("replay", "succeeded", 1, 0)]


def test_replay_leaves_open_what_a_gate_still_takes_out(files: Lab) -> None:
    """Behaviour 37: a replay is gated like any load."""
    gates = {
        "max_null_rate": {"amount": {"threshold": 0, "on_fail": "dead_letter"}},
        "expect": {"known": {"check": "id < 900", "on_fail": "dead_letter"}},
    }
    files.put("in/a.csv", "id,amount\n" + GOOD + "300,\n900,1.00\n301,1.005\n")
    files.extract_files({"t": {**CSV, "gates": gates, "max_dead_letter_rate": 0.1}})
    mended = {**CSV, "types": {"id": "BIGINT", "amount": "DECIMAL(9,3)"}, "gates": gates}
    project = files.configure_files({"t": mended})
    for expected in (1, 0):
        assert replay(project, "t").run.rows_written == expected
        assert files.rows("SELECT id FROM raw.t WHERE id >= 300") == [(301,)]
        still = {letter.reason.split(":")[0] for letter in dead_letters(project)}
        assert still == {"it is NULL, above the gate's limit", "it breaks the expectation known"}


def test_file_that_was_mended_supersedes_its_dead_letters(files: Lab) -> None:
    table = {**CSV, "path": "in/{date}.csv", "mode": "partition", "partition_by": "day"}
    files.put("in/2024-01-01.csv", "id,amount\n" + GOOD + "300,n/a\n")
    files.put("in/2024-01-02.csv", "id,amount\n" + GOOD + "300,none\n")
    files.extract_files({"t": table})
    assert len(open_letters(files)) == 2
    files.put("in/2024-01-01.csv", "id,amount\n" + GOOD + "300,3\n")
    files.extract_files({"t": table})
    assert [value for _, value in open_letters(files)] == ["none"]


def test_row_that_was_mended_at_the_source_supersedes_its_dead_letter(lab: Lab, sql: Sql) -> None:
    table = {"mode": "incremental", "cursor": "at", "primary_key": "id"}
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint, n numeric(6,2))")
    sql("INSERT INTO t SELECT i, i, 1 FROM generate_series(1, 200) AS i")
    sql("UPDATE t SET n = 'NaN' WHERE id = 200")
    for _ in range(2):
        lab.extract({"t": {**table, "max_dead_letter_rate": 1}})
    assert lab.rows("SELECT value, status FROM pyops.dead_letters") == [("NaN", "open")]
    sql("UPDATE t SET n = 2, at = 300 WHERE id = 200")
    lab.extract({"t": table})
    assert lab.rows("SELECT status FROM pyops.dead_letters") == [("superseded",)]
    assert lab.rows("SELECT n::VARCHAR FROM raw.t WHERE id = 200") == [("2.00",)]


def test_dead_letter_of_append_stays_open_while_newer_rows_arrive(lab: Lab, sql: Sql) -> None:
    table = {"mode": "incremental", "cursor": "at", "write": "append", "max_dead_letter_rate": 1}
    sql("CREATE TABLE t (id bigint, at bigint, n numeric(6,2))")
    sql("INSERT INTO t VALUES (1, 1, 'NaN'), (2, 2, 2)")
    lab.extract({"t": table})
    sql("INSERT INTO t VALUES (3, 3, 3)")
    lab.extract({"t": table})
    assert lab.rows("SELECT value, status FROM pyops.dead_letters") == [("NaN", "open")]


def test_replay_does_not_undo_a_newer_version_of_a_row(lab: Lab, sql: Sql) -> None:
    table = {"mode": "incremental", "cursor": "at", "primary_key": "id", "max_dead_letter_rate": 1}
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint, n numeric(6,2), note text)")
    sql("INSERT INTO t VALUES (1, 1, 1, 'first'), (2, 1, 'NaN', 'dead')")
    lab.extract({"t": table})
    sql("ALTER TABLE t ALTER n TYPE text")
    sql("UPDATE t SET at = 2, note = 'newer' WHERE id = 1")
    lab.extract({"t": table})
    lab.write("UPDATE pyops.dead_letters SET status = 'open'")
    lab.write('UPDATE pyops.dead_letters SET payload = replace(payload, \'"id":"2"\', \'"id":"1"\')')
    replay(lab.configure({"t": table}), "t")
    assert lab.rows("SELECT note FROM raw.t WHERE id = 1") == [("newer",)]


def test_commands_list_show_replay_and_purge(files: Lab) -> None:
    files.put("in/a.csv", "id,amount\n" + GOOD + "300,n/a\n")
    files.extract_files({"t": CSV})
    listed = command(files.directory, "dlq", "list")
    assert "in/a.csv:301" in listed.stdout
    assert " n/a" not in listed.stdout
    shown = command(files.directory, "dlq", "show", "1", "--json")
    (letter,) = json.loads(shown.stdout)["dead_letters"]
    assert (letter["value"], letter["line"]) == ("n/a", 301)
    done = command(files.directory, "dlq", "replay", "t", "--json")
    assert (done.returncode, json.loads(done.stdout)["rows_read"]) == (0, 1)
    assert "0 dead letters deleted" in command(files.directory, "dlq", "purge").stdout
    assert "1 dead letters deleted" in command(files.directory, "dlq", "purge", "--all").stdout
    assert json.loads(command(files.directory, "dlq", "list", "--json").stdout) == {"dead_letters": []}


def test_purge_leaves_open_letters_unless_told(files: Lab) -> None:
    files.put("in/a.csv", "id,amount\n" + GOOD + "300,n/a\n")
    files.extract_files({"t": CSV})
    project = files.configure_files({"t": CSV})
    assert purge(project) == 0
    assert len(dead_letters(project)) == 1
    assert purge(project, everything=True) == 1
