"""A dbt project of two models, `t` and `t_history`, on a log of changes `raw.log`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest
from dbt.cli.main import dbtRunner

from pyops.dbt import release
from tests.pyops.dbt_runs import PROJECT

MACROS = [
    *("apply_changes", "keep_history", "resolve_changes", "changes_to_apply", "delete_truncated"),
    *("quoted", "arrived_since_last_run", "replace_rows", "is_unchanged", "box", "last_known"),
    *("process_schema_changes", "snapshot_merge_sql", "follow_types", "change_type"),
]
KEYS = {"t": "id", "t_history": "id, valid_from"}
FILES = {
    "dbt_project.yml": (
        "{name: pyops, version: '1.0', config-version: 2, profile: pyops, flags: {send_anonymous_usage_stats: false}}"
    ),
    "profiles.yml": (
        "pyops: {target: dev, outputs: {dev: {type: duckdb, threads: 1, settings: {TimeZone: UTC},"
        " path: \"{{ env_var('PYOPS_WAREHOUSE') }}\"}}}"
    ),
    "models/sources.yml": "sources: [{name: raw, tables: [{name: log}]}]",
    "models/t.sql": (
        "{{ config(materialized='incremental', incremental_strategy=replace_rows(),"
        " unique_key='id') }} {{ apply_changes(source('raw', 'log'), 'id', ['v', 'big']) }}"
    ),
    "models/t_history.sql": (
        "{{ config(materialized='incremental', incremental_strategy=replace_rows(),"
        " unique_key=['id', 'valid_from']) }}"
        " {{ keep_history(source('raw', 'log'), 'id', ['v', 'big']) }}"
    ),
}
EMPTY_LOG = """
CREATE OR REPLACE TABLE raw.log (
    id INTEGER, v INTEGER, big VARCHAR, _op VARCHAR, _generation INTEGER, _lsn BIGINT, _seq BIGINT,
    _xid BIGINT, _committed_at TIMESTAMP, _unchanged VARCHAR[], _load_id BIGINT,
    _loaded_at TIMESTAMP
)
"""


@dataclass
class ChangeModels:
    """The project, and the queries of its models: built from nothing, and after a run."""

    folder: Path
    whole: dict[str, str] = field(default_factory=dict, repr=False)
    since: dict[str, str] = field(default_factory=dict, repr=False)

    @classmethod
    def made_in(cls, folder: Path) -> ChangeModels:
        """Writes the project."""
        for name, text in FILES.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text, "utf-8")
        (folder / "macros").mkdir()
        for name in MACROS:
            shutil.copy(PROJECT / "macros" / f"{name}.sql", folder / "macros")
        return cls(folder)

    @property
    def warehouse(self) -> Path:
        """Its DuckDB file."""
        return self.folder / "warehouse.duckdb"

    def dbt(self, *arguments: str) -> Any:
        """Runs dbt in this process; a node that fails fails the test."""
        folder = str(self.folder)
        where = ["--project-dir", folder, "--profiles-dir", folder]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYOPS_WAREHOUSE", str(self.warehouse))
            done = dbtRunner().invoke(["--quiet", "--log-level-file", "none", *arguments, *where])
            release()
        assert done.success, done.exception or done.result
        return done.result

    def compile(self) -> None:
        """Notes the queries of both models; `raw.log` must be there."""
        self.whole = self.compiled("--full-refresh")
        self.dbt("run")
        self.since = self.compiled()
        assert self.since != self.whole

    def compiled(self, *options: str) -> dict[str, str]:
        """The query of each model; with ``--full-refresh``, that which makes it from nothing."""
        results = self.dbt("compile", *options).results
        return {result.node.name: result.node.compiled_code for result in results}


def apply(connection: duckdb.DuckDBPyConnection, queries: dict[str, str], *, anew: bool) -> None:
    """What dbt does with the queries: make the tables anew, or replace rows of them by key."""
    for name, key in KEYS.items():
        if anew:
            connection.execute(f"CREATE OR REPLACE TABLE {name} AS {queries[name]}")
        else:
            connection.execute(f"CREATE OR REPLACE TEMP TABLE new AS {queries[name]}")
            connection.execute(f"DELETE FROM {name} WHERE ({key}) IN (SELECT {key} FROM new)")
            connection.execute(f"INSERT INTO {name} FROM new")


def differences(connection: duckdb.DuckDBPyConnection, queries: dict[str, str]) -> list[Any]:
    """Rows that are in a model or in its query, and not in the other."""
    return [
        (name, connection.execute(f"({one}) EXCEPT ALL ({other})").fetchall())
        for name in KEYS
        for one, other in ((f"FROM {name}", queries[name]), (queries[name], f"FROM {name}"))
        if connection.execute(f"({one}) EXCEPT ALL ({other})").fetchall()
    ]
