"""The project's own generic tests, in a project of their own that has nothing else."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.pyops.dbt_runs import PROJECT, ask, run_dbt

Node = dict[str, Any]


def make_project(folder: Path, models: dict[str, str], properties: dict[str, Any]) -> Path:
    """A project with the real macros, tests and hooks, and with other models."""
    for name in ("dbt_project.yml", "profiles.yml"):
        shutil.copy(PROJECT / name, folder)
    for name in ("macros", "tests/generic"):
        shutil.copytree(PROJECT / name, folder / name)
    (folder / "models").mkdir()
    shutil.copy(PROJECT / "models" / "_groups.yml", folder / "models")
    for name, sql in models.items():
        (folder / "models" / f"{name}.sql").write_text(sql)
    (folder / "models" / "models.yml").write_text(yaml.safe_dump(properties))
    return folder


def build(project: Path, *options: str) -> dict[str, str]:
    """Builds and tests a project; returns what did not succeed or pass."""
    results = run_dbt(project, "--quiet", "build", *options)
    statuses = {name: node["status"] for name, node in results.items()}
    return {name: status for name, status in statuses.items() if status not in ("pass", "success")}


def data_test(kind: str, name: str, config: Node | None = None, **arguments: Any) -> Node:
    return {kind: {"name": name, "config": config or {}, "arguments": arguments}}


def values(rows: str, columns: str = "id, part") -> str:
    return f"select * from (values {rows}) as cases ({columns})"


RATE_MODELS = {
    # 1 of 4 ids is null; 2 of 8 rows repeat (1, 'a'), and (null, 'b') twice repeats nothing.
    "nulls": values("(1, 'a'), (2, null), (3, null), (null, null)"),
    "keys": values("(1, 'a'), (1, 'a'), (1, 'a'), (1, 'b'), (2, 'a'), (null, 'b'), (null, 'b'), (3, 'c')"),
    # A floating-point 0.07 of 100 is more than 7.
    "hundred": "select case when range >= 7 then range end as id from range(100)",
    "no_rows": f"{values('(1, null)')} where false",
    "all_null": values("(null, null), (null, null)"),
}
COLUMN: Node = {"column_name": "id"}
PAIR: Node = {"combination_of_columns": ["id", "part"]}
RATE_TESTS = {
    "nulls": [
        data_test("null_rate_below", "null_rate_at_the_threshold", threshold=0.25, **COLUMN),
        data_test("null_rate_below", "null_rate_under_it", threshold=0.2500001, **COLUMN),
        data_test("null_rate_below", "null_rate_over_it", threshold=0.2, **COLUMN),
        data_test(
            "null_rate_below",
            "null_rate_of_what_where_leaves",
            config={"where": "id is not null"},
            threshold=0.01,
            **COLUMN,
        ),
    ],
    "keys": [
        data_test("duplicate_rate_below", "pair_rate_at_the_threshold", threshold=0.25, **PAIR),
        data_test("duplicate_rate_below", "pair_rate_under_it", threshold=0.26, **PAIR),
        # 3 of 8 repeat the id 1; the null ids repeat nothing.
        data_test("duplicate_rate_below", "id_rate_at_the_threshold", threshold=0.375, **COLUMN),
        data_test("duplicate_rate_below", "id_rate_under_it", threshold=0.4, **COLUMN),
    ],
    "hundred": [data_test("null_rate_below", "null_rate_is_exact", threshold=0.07, **COLUMN)],
    "no_rows": [
        data_test("null_rate_below", "null_rate_of_no_rows", threshold=0.01, **COLUMN),
        data_test("duplicate_rate_below", "pair_rate_of_no_rows", threshold=0.01, **PAIR),
    ],
    "all_null": [
        data_test("null_rate_below", "null_rate_where_all_are_null", threshold=1, **COLUMN),
        data_test("duplicate_rate_below", "id_rate_where_all_are_null", threshold=0.01, **COLUMN),
    ],
}


def test_rates_are_below_their_thresholds(tmp_path: Path) -> None:
    models = [{"name": name, "data_tests": tests} for name, tests in RATE_TESTS.items()]
    project = make_project(tmp_path, RATE_MODELS, {"models": models})
    assert build(project) == {
        "null_rate_at_the_threshold": "fail",
        "null_rate_over_it": "fail",
        "null_rate_is_exact": "fail",
        "null_rate_where_all_are_null": "fail",
        "pair_rate_at_the_threshold": "fail",
        "id_rate_at_the_threshold": "fail",
    }

    def found(test: str) -> list[tuple[Any, ...]]:
        return [tuple(map(float, row)) for row in ask(project, f"FROM test_failures.{test}")]

    assert found("null_rate_over_it") == [(4, 1, 0.25, 0.2)]
    assert found("null_rate_where_all_are_null") == [(2, 2, 1, 1)]
    assert found("pair_rate_at_the_threshold") == [(8, 2, 0.25, 0.25)]
    assert found("id_rate_at_the_threshold") == [(8, 3, 0.375, 0.375)]
    assert ask(project, "FROM duckdb_tables() WHERE schema_name = 'quality'") == []


@pytest.mark.parametrize(
    ("test", "message"),
    [
        (data_test("null_rate_below", "t", threshold=0, **COLUMN), "use not_null"),
        (data_test("duplicate_rate_below", "t", threshold=0.1), "under one column, or"),
        (
            data_test("row_count_change_within", "t", min_change=0.5, max_change=0.1),
            "min_change 0.5 is more than max_change 0.1",
        ),
    ],
)
def test_arguments_that_cannot_be_meant_are_refused_when_dbt_parses(tmp_path: Path, test: Node, message: str) -> None:
    models = [{"name": "nulls", "data_tests": [test]}]
    project = make_project(tmp_path, RATE_MODELS, {"models": models})
    with pytest.raises(AssertionError, match=message):
        run_dbt(project, "parse", "--target", "lint")


class Counted:
    """A project whose tables have as many rows as they are given, and its invocations."""

    TABLES = ("steady", "grown", "overgrown", "shrunk", "dwindled", "filled", "watched")

    def __init__(self, folder: Path) -> None:
        def within(name: str, least: float, most: float, config: Node | None = None) -> Node:
            kind = "row_count_change_within"
            return data_test(kind, name, config, min_change=least, max_change=most)

        tests: dict[str, list[Node]] = {name: [within(name, -0.01, 0.5)] for name in self.TABLES}
        tests["steady"] = [within("steady", 0, 0)]
        tests["watched"] = [within("watched", -0.5, 0.5), within("watched_closely", 0, 0.01, {"severity": "warn"})]
        even = "range % 2 = 0 and 'it''s' <> ''"
        tests["overgrown"].append(within("overgrown_even", 0, 0, {"where": even}))
        tables = [{"name": name, "data_tests": tests[name]} for name in self.TABLES]
        model = {"name": "modelled", "data_tests": [within("modelled", -0.01, 0.49)]}
        self.project = make_project(
            folder,
            {"modelled": "select * from {{ source('raw', 'grown') }}"},
            {"models": [model], "sources": [{"name": "raw", "schema": "raw", "tables": tables}]},
        )

    def fill(self, **counts: int) -> None:
        """Gives tables a number of rows each."""
        for table, count in counts.items():
            query = f"CREATE OR REPLACE TABLE raw.{table} AS FROM range({count})"
            ask(self.project, f"CREATE SCHEMA IF NOT EXISTS raw; {query}")

    def kept(self) -> dict[str, list[int]]:
        """The counts that were kept, of each table in the order they were kept in."""
        found: dict[str, list[int]] = {}
        query = "SELECT counted, row_count FROM quality.row_counts ORDER BY run_started_at"
        for counted, count in ask(self.project, query):
            found.setdefault(counted, []).append(count)
        return found

    def found(self, test: str) -> list[tuple[float, ...]]:
        """What a test that failed has stored."""
        rows = ask(self.project, f"FROM test_failures.{test}")
        return [tuple(map(float, row)) for row in rows]


def test_row_count_is_compared_with_the_last_that_passed(tmp_path: Path) -> None:
    """Behaviour 48: a run over no change keeps nothing."""
    counted = Counted(tmp_path)
    counted.fill(**{**dict.fromkeys(Counted.TABLES, 100), "filled": 0})
    assert build(counted.project) == {}, "a first count passes"
    first = counted.kept()
    assert first == {
        **{f"raw.{name}": [100] for name in Counted.TABLES if name != "filled"},
        "raw.filled": [0],
        "raw.overgrown where range % 2 = 0 and 'it''s' <> ''": [50],
        "main.modelled": [100],
    }
    assert build(counted.project) == {}
    assert counted.kept() == first

    counted.fill(grown=150, overgrown=151, shrunk=99, dwindled=98, filled=7, watched=120)
    failed = {
        "overgrown": "fail",
        "overgrown_even": "fail",
        "dwindled": "fail",
        "modelled": "fail",
        "watched_closely": "warn",
    }
    assert build(counted.project) == failed, "150 and 99 are at their bounds, and within"
    assert counted.found("overgrown") == [(100, 151, 0.51, -0.01, 0.5)]
    assert counted.found("overgrown_even") == [(50, 76, 0.52, 0, 0)]
    assert counted.found("dwindled") == [(100, 98, -0.02, -0.01, 0.5)]
    kept = counted.kept()
    changed = {"raw.grown": [100, 150], "raw.shrunk": [100, 99], "raw.filled": [0, 7]}
    assert kept == {**first, **changed}

    assert build(counted.project) == failed, "the alarm keeps ringing"
    assert counted.kept() == kept

    accept = ("--select", "source:raw.overgrown", "--vars", "{accept_row_counts: true}")
    assert build(counted.project, *accept) == {}
    del failed["overgrown"], failed["overgrown_even"]
    counted.fill(watched=100)  # mended
    del failed["watched_closely"]
    assert build(counted.project) == failed
    kept["raw.overgrown"].append(151)
    kept["raw.overgrown where range % 2 = 0 and 'it''s' <> ''"].append(76)
    assert counted.kept() == kept


def test_row_counts_need_no_database_to_compile(tmp_path: Path) -> None:
    results = run_dbt(Counted(tmp_path).project, "compile", "--target", "lint")
    assert {node["status"] for node in results.values()} == {"success"}
    assert not (tmp_path / "warehouse.duckdb").exists()
