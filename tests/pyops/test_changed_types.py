"""A column's type changes at the source: what is built in steps follows, or says what to do."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.pyops.change_models import EMPTY_LOG, ChangeModels
from tests.pyops.dbt_runs import ask

# By column: its type, the one it gets, a value before, and one that only the new type holds.
CHANGES: dict[str, tuple[str, str, Any, Any]] = {
    "price": ("DECIMAL(10,2)", "DECIMAL(12,4)", Decimal("1.23"), Decimal("1.2345")),
    "weight": ("FLOAT", "DOUBLE", 0.5, 0.1),
    "pieces": ("INTEGER", "BIGINT", 7, 2**40),
    "code": ("INTEGER", "VARCHAR", 12, "12a"),
}
LOG = "source('raw', 'log')"
IN_STEPS = "config(materialized='incremental', incremental_strategy=replace_rows(), unique_key="
MODELS = {
    "t": f"{{{{ {IN_STEPS}'id') }}}} {{{{ apply_changes({LOG}, 'id', {list(CHANGES)}) }}}}",
    "t_history": (f"{{{{ {IN_STEPS}['id', 'valid_from']) }}}} {{{{ keep_history({LOG}, 'id', {list(CHANGES)}) }}}}"),
    "fact": (
        f"{{{{ {IN_STEPS}'id', on_schema_change='append_new_columns') }}}} select * from {{{{ ref('t') }}}}"
        " {% if is_incremental() %} where {{ arrived_since_last_run() }} {% endif %}"
    ),
}
SNAPSHOT = (
    "snapshots: [{name: versions, relation: ref('t'),"
    f" config: {{unique_key: id, strategy: check, check_cols: [{', '.join(CHANGES)}]}}}}]"
)
STAMPS = "1, {load}, 0, 1, TIMESTAMP '2020-01-01' + to_hours({load}), []::VARCHAR[], {load}, TIMESTAMP '2020-01-01'"
NAMES = "_generation, _lsn, _seq, _xid, _committed_at, _unchanged, _load_id, _loaded_at"


@pytest.fixture
def models(tmp_path: Path) -> ChangeModels:
    """Models of every kind that is built in steps, built once before any type has changed."""
    made = ChangeModels.made_in(tmp_path)
    for name, text in MODELS.items():
        (tmp_path / "models" / f"{name}.sql").write_text(text, "utf-8")
    (tmp_path / "snapshots").mkdir()
    (tmp_path / "snapshots" / "versions.yml").write_text(SNAPSHOT, "utf-8")
    columns = ", ".join(f"{name} {old}" for name, (old, *_) in CHANGES.items())
    ask(tmp_path, f"CREATE SCHEMA raw; {EMPTY_LOG.replace('v INTEGER, big VARCHAR', columns)}")
    land(tmp_path, 1, **{name: value for name, (_, _, value, _) in CHANGES.items()})
    made.dbt("build")
    return made


def land(folder: Path, load: int, **values: Any) -> None:
    """Appends an insert of a row to the log."""
    columns = ", ".join(values)
    bound = ", ".join("?" * len(values))
    with duckdb.connect(folder / "warehouse.duckdb") as connection:
        connection.execute(
            f"INSERT INTO raw.log (id, {columns}, _op, {NAMES})"
            f" VALUES ({load}, {bound}, 'c', {STAMPS.format(load=load)})",
            list(values.values()),
        )


def test_state_history_facts_and_snapshots_follow_a_type_that_changed(models: ChangeModels) -> None:
    """Behaviours 27, 46: nothing is rounded to the type that the source had before."""
    for name, (_, new, _, _) in CHANGES.items():
        ask(models.folder, f"ALTER TABLE raw.log ALTER {name} TYPE {new}")
    land(models.folder, 2, **{name: value for name, (*_, value) in CHANGES.items()})
    models.dbt("build")
    columns = ", ".join(CHANGES)
    log = ask(models.folder, f"SELECT {columns} FROM raw.log ORDER BY id")
    assert log[1] == tuple(value for *_, value in CHANGES.values())
    types = [(name, new) for name, (_, new, _, _) in CHANGES.items()]
    for table in (*MODELS, "versions"):
        assert ask(models.folder, f"SELECT {columns} FROM {table} ORDER BY id") == log, table
        described = f"SELECT column_name, column_type FROM (DESCRIBE {table}) WHERE column_name IN {tuple(CHANGES)}"
        assert ask(models.folder, described) == types, table


def test_type_that_cannot_hold_what_is_there_stops_the_build_and_names_the_way_out(models: ChangeModels) -> None:
    """Behaviour 46: a model that casts to less than its table has."""
    fact = models.folder / "models" / "fact.sql"
    narrow = fact.read_text().replace("select *", "select * replace (price::decimal(10, 1) as price)")
    kept = narrow.replace("unique_key=", "full_refresh=false, unique_key=")
    for text, way_out in (
        (kept, "cast the column to DECIMAL(10,2) in the model that it reads"),
        (narrow, "dbt build --full-refresh --select fact+"),
    ):
        fact.write_text(text, "utf-8")
        with pytest.raises(AssertionError, match="Compilation Error") as failed:
            models.dbt("build", "--select", "fact")
        said = " ".join(str(failed.value).split())
        assert "fact: column price is DECIMAL(10,2) in the table and DECIMAL(10,1)" in said
        assert way_out in said
        assert ask(models.folder, "SELECT price FROM fact") == [(Decimal("1.23"),)]
    models.dbt("build", "--full-refresh", "--select", "fact+")
    assert ask(models.folder, "SELECT price FROM fact") == [(Decimal("1.2"),)]
