"""`make changes`: only what changed is built, beside production's warehouse, not in it."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest

from tests.pyops.dbt_runs import PROJECT, copy_project

BIN = Path(sys.executable).parent

CHANGE = (
    "'r' AS _op, 1 AS _generation, 1::BIGINT AS _lsn, row_number() OVER () AS _seq,"
    " NULL::BIGINT AS _xid, now()::TIMESTAMP AS _committed_at, []::VARCHAR[] AS _unchanged"
)
RAW = f"""
CREATE SCHEMA raw;
CREATE TABLE raw.users__changes AS
    SELECT {CHANGE}, id, 'hash' AS email, country, now()::TIMESTAMP AS created_at, now()::TIMESTAMP
        AS updated_at, 1::BIGINT AS _load_id, now()::TIMESTAMP AS _loaded_at
    FROM (VALUES (1::BIGINT, 'France'), (2::BIGINT, 'EIRE')) AS t (id, country);
CREATE TABLE raw.products AS
    SELECT 1::BIGINT AS id, '85123A' AS stock_code, 'WHITE HEART' AS description,
        2.550::DECIMAL(12, 3) AS unit_price, now()::TIMESTAMP AS created_at,
        now()::TIMESTAMP AS updated_at, 1::BIGINT AS _load_id, now()::TIMESTAMP AS _loaded_at;
CREATE TABLE raw.orders__changes AS
    SELECT {CHANGE}, id, 'I' || id AS invoice_no, 1::BIGINT AS user_id, 'France' AS country,
        'delivered' AS status, 255::BIGINT AS amount_cents,
        TIMESTAMP '2011-12-01 10:00' AS ordered_at, now()::TIMESTAMP AS created_at,
        now()::TIMESTAMP AS updated_at, id AS _load_id, now()::TIMESTAMP AS _loaded_at
    FROM range(1, 4) AS t (id);
CREATE TABLE raw.order_items AS
    SELECT id, id AS order_id, 1::BIGINT AS product_id, 1::INTEGER AS line_number,
        'WHITE HEART' AS description, 1::INTEGER AS quantity, 2.550::DECIMAL(12, 3) AS unit_price,
        now()::TIMESTAMP AS created_at, now()::TIMESTAMP AS updated_at, id AS _load_id,
        now()::TIMESTAMP AS _loaded_at
    FROM range(1, 4) AS t (id);
CREATE TABLE raw.events (
    event_date DATE, event_id VARCHAR, event_type VARCHAR, user_id BIGINT, session_id VARCHAR,
    order_id BIGINT, stock_code VARCHAR, event_at TIMESTAMP, amount DECIMAL(12, 2), page JSON,
    _file VARCHAR, _line BIGINT, _load_id BIGINT, _loaded_at TIMESTAMP
);
"""


@dataclass(frozen=True)
class Branch:
    """A copy of the project, beside the folder `production` that main's build left."""

    directory: Path

    @property
    def warehouse(self) -> Path:
        return self.directory / "production" / "prod.duckdb"

    def dbt(self, *arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return self._run([str(BIN / "dbt"), *arguments], environment)

    def make_changes(self) -> set[str]:
        """Runs the target and returns the names of the models it built."""
        command = ["make", "--old-file=setup", f"BIN={BIN}", "changes", "STATE=production"]
        done = self._run(command, {"PYOPS_WAREHOUSE": "production/prod.duckdb"})
        assert done.returncode == 0, done.stdout + done.stderr
        results = json.loads((self.directory / "target/changes/run_results.json").read_text())
        models = [node["unique_id"].split(".") for node in results["results"]]
        return {name for kind, _, name, *_ in models if kind in {"model", "seed", "snapshot"}}

    def edit(self, model: str, old: str, new: str) -> None:
        path = self.directory / "models" / model
        text = path.read_text("utf-8")
        assert old in text
        path.write_text(text.replace(old, new), "utf-8")

    def built(self) -> set[str]:
        """The tables and views of the project's layers that are in the file of its own."""
        with duckdb.connect(self.directory / "target" / "ci.duckdb", read_only=True) as connection:
            rows = connection.execute(
                "SELECT table_name FROM information_schema.tables WHERE table_catalog = 'ci'"
                " AND table_schema IN ('raw', 'staging', 'intermediate', 'marts', 'seeds')"
            ).fetchall()
        return {name for (name,) in rows}

    def _run(self, command: list[str], environment: dict[str, str]) -> "subprocess.CompletedProcess[str]":
        inherited = {name: value for name, value in os.environ.items() if "PYOPS" not in name}
        return subprocess.run(
            command, cwd=self.directory, env={**inherited, **environment}, capture_output=True, text=True, check=False
        )


@pytest.fixture(scope="module")
def main(tmp_path_factory: pytest.TempPathFactory) -> Branch:
    """What is built of the project as it stands, by the target `prod`."""
    branch = Branch(tmp_path_factory.mktemp("main"))
    copy_project(branch.directory)
    shutil.copy(PROJECT / "Makefile", branch.directory)
    branch.warehouse.parent.mkdir()
    with duckdb.connect(branch.warehouse) as connection:
        connection.execute(RAW)
    done = branch.dbt("build", "--target", "prod", PYOPS_WAREHOUSE=str(branch.warehouse))
    assert done.returncode == 0, done.stdout
    shutil.move(branch.directory / "target" / "manifest.json", branch.warehouse.parent)
    return branch


@pytest.fixture
def branch(main: Branch, tmp_path: Path) -> Branch:
    shutil.copytree(main.directory, tmp_path / "branch")
    return Branch(tmp_path / "branch")


@pytest.fixture
def unchanged(branch: Branch) -> Callable[[], bool]:
    """Tells whether production's file is what it was, to the byte."""
    before = branch.warehouse.read_bytes()
    return lambda: branch.warehouse.read_bytes() == before


def test_nothing_is_built_where_nothing_changed(branch: Branch) -> None:
    """Another target, file and variables are no change."""
    assert branch.make_changes() == set()


def test_a_changed_model_and_what_follows_from_it_are_built_on_production(
    branch: Branch, unchanged: Callable[[], bool]
) -> None:
    branch.edit("staging/shop/stg_users.sql", "email as", "upper(email) as")
    assert branch.make_changes() == {"stg_users", "dim_users"}
    assert branch.built() == {"stg_users", "dim_users"}
    assert unchanged()
    with duckdb.connect(branch.warehouse, read_only=True) as connection:
        connection.execute(f"ATTACH '{branch.directory}/target/ci.duckdb' AS ci (READ_ONLY)")
        query = "SELECT user_id, email_hash, order_count FROM {}.marts.dim_users ORDER BY 1"
        assert connection.execute(query.format("ci")).fetchall() == [(1, "HASH", 3), (2, "HASH", 0)]
        assert connection.execute(query.format("prod")).fetchall() == [(1, "hash", 3), (2, "hash", 0)]


def test_a_changed_incremental_model_is_built_whole_however_often(
    branch: Branch, unchanged: Callable[[], bool]
) -> None:
    branch.edit("marts/fct_order_items.sql", "with order_items as", "-- Changed.\nwith order_items as")
    for _ in range(2):
        assert branch.make_changes() == {"fct_order_items"}
    assert unchanged()
    with duckdb.connect(branch.directory / "target" / "ci.duckdb") as connection:
        assert connection.execute("SELECT count(*) FROM marts.fct_order_items").fetchall() == [(3,)]


def test_production_has_to_be_named(branch: Branch) -> None:
    done = branch.dbt("parse", "--target", "prod")
    assert done.returncode == 2
    assert "'PYOPS_WAREHOUSE'" in done.stdout


def test_where_productions_manifest_is_has_to_be_said(branch: Branch) -> None:
    command = ["make", "--old-file=setup", "changes"]
    done = subprocess.run(command, cwd=branch.directory, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "make changes STATE=folder" in done.stderr
