"""Files on their way into the warehouse: which are read, what they replace, how they are typed."""

import gzip
from pathlib import Path
from typing import Any

import pytest

from pyops import Days, extract
from pyops.errors import DataError, PyopsError, SchemaChangeError
from tests.pyops.conftest import Lab

DAILY: dict[str, Any] = {
    "path": "events/{date}.jsonl",
    "format": "jsonl",
    "mode": "partition",
    "partition_by": "day",
    "types": {"id": "BIGINT", "at": "TIMESTAMP"},
}
CSV: dict[str, Any] = {"path": "in/*.csv", "format": "csv", "mode": "full"}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, "")


def ids(lab: Lab) -> list[Any]:
    return [row[0] for row in lab.rows("SELECT id FROM raw.t ORDER BY id")]


def test_every_row_says_which_file_and_line_it_came_from(lab: Lab) -> None:
    lab.put("events/2024-01-01.jsonl", '{"id": 1, "at": "2024-01-01T10:00:00Z"}\n\n{"id": 2}\n')
    run = lab.extract_files({"t": DAILY})[0]
    assert (run.rows_read, run.rows_written) == (2, 2)
    found = lab.rows('SELECT id, "at"::VARCHAR, day::VARCHAR, _file, _line FROM raw.t ORDER BY id')
    assert found == [
        (1, "2024-01-01 10:00:00", "2024-01-01", "events/2024-01-01.jsonl", 1),
        (2, None, "2024-01-01", "events/2024-01-01.jsonl", 3),
    ]


def test_only_files_that_are_new_or_changed_are_read(lab: Lab) -> None:
    lab.put("events/2024-01-01.jsonl", '{"id": 1}\n{"id": 2}\n')
    lab.extract_files({"t": DAILY})
    assert lab.extract_files({"t": DAILY})[0].rows_read == 0
    lab.put("events/2024-01-02.jsonl", '{"id": 3}\n')
    assert lab.extract_files({"t": DAILY})[0].rows_read == 1
    lab.put("events/2024-01-01.jsonl", '{"id": 10}\n')
    run = lab.extract_files({"t": DAILY})[0]
    assert (run.rows_read, run.rows_deleted, ids(lab)) == (1, 2, [3, 10])
    statuses = lab.rows("SELECT status FROM pyops.runs")
    assert statuses == [("succeeded",)] * 4


def test_day_is_replaced_however_often_it_is_landed(lab: Lab) -> None:
    """Behaviour 10: rows of an earlier day in a later file belong to the file."""
    table = {**DAILY, "types": {"id": "BIGINT", "day": "DATE"}}
    lab.put("events/2024-01-01.jsonl", '{"id": 1, "day": "2024-01-01"}\n')
    late = '{"id": 2, "day": "2024-01-02"}\n{"id": 3, "day": "2024-01-01"}\n'
    lab.put("events/2024-01-02.jsonl", late)
    lab.extract_files({"t": table})
    for _ in range(2):
        lab.extract_files({"t": table}, days=Days.of("2024-01-02", "2024-01-02"))
    assert ids(lab) == [1, 2, 3]


def test_day_without_a_file_removes_nothing(lab: Lab) -> None:
    """Behaviour 10: only a file that is there can say that a day is empty."""
    path = lab.put("events/2024-01-01.jsonl", '{"id": 1}\n')
    lab.extract_files({"t": DAILY})
    path.unlink()
    with pytest.raises(DataError, match="2024-01-01"):
        lab.extract_files({"t": DAILY}, days=Days.of("2024-01-01", "2024-01-01"))
    assert ids(lab) == [1]
    path.write_text("")
    lab.extract_files({"t": DAILY}, days=Days.of("2024-01-01", "2024-01-01"))
    assert ids(lab) == []


def test_range_of_days_lands_those_that_have_a_file(lab: Lab) -> None:
    lab.put("events/2024-01-01.jsonl", '{"id": 1}\n')
    lab.put("events/2024-01-03.jsonl", '{"id": 3}\n')
    lab.put("events/2024-01-05.jsonl", '{"id": 5}\n')
    lab.extract_files({"t": DAILY}, days=Days.of("2024-01-01", "2024-01-04"))
    assert ids(lab) == [1, 3]


def test_text_without_a_declared_type_lands_exactly_as_it_stands(lab: Lab) -> None:
    """Behaviour 34: no leading zero, no digit and no empty text is lost."""
    lab.put("in/a.csv", 'zip,amount,note,empty\n01234,1.10,"a ""b"", c",""\n007,1e5,,\n')
    lab.extract_files({"t": CSV})
    found = lab.rows("SELECT zip, amount, note, empty FROM raw.t ORDER BY _line")
    assert found == [("01234", "1.10", 'a "b", c', ""), ("007", "1e5", None, None)]


def test_value_that_does_not_fit_its_declared_type_is_a_dead_letter(lab: Lab) -> None:
    """Behaviour 37: with file, line, column, value, reason and the whole row."""
    rows = "".join(f"{n},{n}.5\n" for n in range(200))
    lab.put("in/a.csv", "id,amount\n" + rows + "200,1.005\n")
    table = {**CSV, "types": {"id": "INTEGER", "amount": "DECIMAL(8,2)"}}
    run = lab.extract_files({"t": table})[0]
    assert (run.rows_written, run.rows_dead_lettered) == (200, 1)
    ((file, line, column, value, payload),) = lab.rows(
        "SELECT file, line, column_name, value, payload FROM pyops.dead_letters"
    )
    assert (file, line, column, value) == ("in/a.csv", 202, "amount", "1.005")
    assert '"amount":"1.005"' in payload


def test_truncated_file_lands_nothing_of_any_file(lab: Lab) -> None:
    """Behaviour 44."""
    table = {**DAILY, "path": "events/{date}.jsonl.gz"}
    packed = gzip.compress(b'{"id": 1}\n' * 5000)
    lab.put("events/2024-01-01.jsonl.gz", gzip.compress(b'{"id": 7}\n'))
    lab.extract_files({"t": table})
    lab.put("events/2024-01-01.jsonl.gz", gzip.compress(b'{"id": 8}\n'))
    lab.put("events/2024-01-02.jsonl.gz", packed[:-10])
    with pytest.raises(DataError, match=r"2024-01-02\.jsonl\.gz"):
        lab.extract_files({"t": table})
    assert ids(lab) == [7]
    lab.put("events/2024-01-02.jsonl.gz", packed)
    lab.extract_files({"t": table})
    assert len(ids(lab)) == 5001
    assert not list((lab.directory / ".pyops" / "staging").glob("*.duckdb*"))


def test_columns_that_come_and_go_are_followed(lab: Lab) -> None:
    lab.put("events/2024-01-01.jsonl", '{"id": 1, "a": "x"}\n')
    lab.extract_files({"t": DAILY})
    lab.put("events/2024-01-02.jsonl", '{"id": 2, "b": {"c": [1.10]}}\n')
    lab.extract_files({"t": DAILY})
    assert lab.rows("SELECT id, a, b FROM raw.t ORDER BY id") == [(1, "x", None), (2, None, '{"c":[1.10]}')]
    changes = lab.rows("SELECT kind, column_name FROM pyops.schema_changes")
    assert changes == [("added", "b")]


@pytest.mark.parametrize("line", ['{"id": 2, "a": "x", "b": 1}', '{"id": 2}'])
def test_columns_that_come_or_go_stop_a_table_with_a_contract(lab: Lab, line: str) -> None:
    table = {**DAILY, "on_schema_change": "fail"}
    lab.put("events/2024-01-01.jsonl", '{"id": 1, "at": null, "a": "x"}\n')
    lab.extract_files({"t": table})
    lab.put("events/2024-01-02.jsonl", line + "\n")
    with pytest.raises(SchemaChangeError, match="columns have changed"):
        lab.extract_files({"t": table})
    assert ids(lab) == [1]


def test_masked_and_excluded_columns_of_files_do_not_land(lab: Lab) -> None:
    """Behaviour 43."""
    lab.put("in/a.csv", "id,email,secret\n1,a@b.c,s3cret\n")
    table = {**CSV, "mask": ["email"], "exclude": ["secret"]}
    project = lab.configure_files({"t": table}, mask_salt="salt")
    assert [item.error for item in extract(project)] == [None]
    columns = lab.rows("SELECT * EXCLUDE (_load_id, _loaded_at, _file, _line) FROM raw.t")
    import hashlib

    assert columns == [("1", hashlib.sha256(b"salta@b.c").hexdigest())]
    stored = (lab.directory / "warehouse.duckdb").read_bytes()
    assert b"s3cret" not in stored


def test_full_refresh_reads_every_file(lab: Lab) -> None:
    lab.put("events/2024-01-01.jsonl", '{"id": 1}\n')
    lab.put("events/2024-01-02.jsonl", '{"id": 2}\n')
    lab.extract_files({"t": DAILY})
    lab.write("UPDATE raw.t SET id = 0")
    lab.extract_files({"t": DAILY}, full_refresh=True)
    assert ids(lab) == [1, 2]


def test_rows_of_a_key_are_merged(lab: Lab) -> None:
    table = {**CSV, "write": "merge", "primary_key": "id", "types": {"id": "BIGINT"}}
    lab.put("in/a.csv", "id,note\n1,old\n2,kept\n")
    lab.extract_files({"t": table})
    lab.put("in/a.csv", "id,note\n1,new\n")
    lab.extract_files({"t": table})
    assert lab.rows("SELECT id, note FROM raw.t ORDER BY id") == [(1, "new"), (2, "kept")]


def test_pattern_without_a_file_is_an_error_that_names_it(lab: Lab) -> None:
    with pytest.raises(PyopsError, match=r"in/\*\.csv"):
        lab.extract_files({"t": CSV})


def test_dry_run_of_files_writes_nothing(lab: Lab) -> None:
    """Behaviour 42."""
    lab.put("in/a.csv", "id\n1\n")
    project = lab.configure_files({"t": CSV})
    (done,) = extract(project, dry_run=True)
    assert (done.run.status, done.query) == ("planned", "read in/a.csv")
    assert sorted(path.name for path in lab.directory.iterdir()) == ["in", "pyops.yml"]
