"""A kind of source is a folder and a class of its keys: nothing else knows which there are."""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow as pa
import pytest

import pyops
from pyops.config.model import Config, SourceConfig, TableConfig
from pyops.config.project import Project, Table
from pyops.errors import PyopsError, UsageError
from pyops.sources.protocol import Plan, Progress, Request, Source, Staged, open_source
from pyops.staging.columns import ColumnMapping
from pyops.staging.file import Stage
from pyops.warehouse.protocol import Commit, TableState, Whole, Write
from tests.pyops.conftest import Lab, Sql

PACKAGE = Path(pyops.__file__ or "").parent


class Tables(Source):
    """A third kind: a table has as many rows as its name says."""

    def __init__(self, project: Project, name: str, attempts: int = 1) -> None:
        self.project = project

    def plan(self, states: Mapping[Table, TableState], request: Request) -> Sequence[Plan]:
        return [
            Plan(table, "swap", asks=f"count to {table.name}")
            if table.name.isdigit()
            else Plan(table, "swap", error=UsageError(f"{table}: not a number"))
            for table in states
        ]

    def stage(self, plan: Plan, stage: Stage, progress: Progress) -> Staged:
        batch = pa.record_batch({"n": pa.array(range(int(plan.table.name)))})
        rows, size = stage.fill(batch.schema, iter([batch]), {"n": ColumnMapping("BIGINT", "", "n")}, key=())
        write = Write(plan.table, stage.columns, Whole(swap=True))
        return Staged(Commit((write,)), rows, size)

    def compare(self, table: Table, state: TableState, stage: Stage) -> Staged:
        raise UsageError(f"{table}: numbers are what they are")


class Counted(SourceConfig):
    """Its keys."""

    type: str = "counted"
    tables: dict[str, TableConfig]


@pytest.fixture
def counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A project with a source of the third kind."""
    module: Any = ModuleType("pyops.sources.counted.read")
    module.Tables = Tables
    monkeypatch.setitem(sys.modules, "pyops.sources.counted", ModuleType("pyops.sources.counted"))
    monkeypatch.setitem(sys.modules, "pyops.sources.counted.read", module)
    tables = {name: TableConfig(mode="full") for name in ("3", "many")}
    source: Any = Counted(tables=tables, mask_salt="")
    return Project(tmp_path, Config.model_construct(sources={"numbers": source}))


def test_a_third_kind_of_source_is_extracted_checked_and_shown_like_the_others(counted: Project) -> None:
    three, many = pyops.extract(counted)
    assert (three.run.status, three.run.rows_written) == ("succeeded", 3)
    assert isinstance(many.error, UsageError)
    assert {table.table: table.rows for table in pyops.status(counted)} == {"numbers.3": 3, "numbers.many": None}
    [planned, _] = pyops.extract(counted, dry_run=True)
    assert planned.query == "count to 3"
    with open_source(counted, "numbers") as source:
        assert [str(table) for table in source.check(counted.tables())] == ["numbers.many"]
    with pytest.raises(UsageError, match="numbers are what they are"):
        pyops.reconcile(counted, "3")


def test_no_command_asks_which_kind_a_source_is() -> None:
    kinds = {"PostgresSource", "FilesSource", "DebeziumSource"}
    kinds |= {"PostgresTable", "FilesTable", "DebeziumTable"}
    for path in (PACKAGE / "commands").glob("*.py"):
        names = {n.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Name)}
        assert not names & kinds, path


def test_source_says_what_keeps_tables_from_being_read(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t (id bigint)")
    project = lab.configure({"t": {"mode": "full"}, "gone": {"mode": "full"}})
    with open_source(project, "src") as source:
        found = source.check(project.tables())
    assert {str(table): type(error) for table, error in found.items()} == {"src.gone": pyops.OperationError}
    assert all(isinstance(error, PyopsError) and error.hint for error in found.values())
