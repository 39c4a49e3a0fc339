"""The whole way: the sample shop from PostgreSQL through raw to the marts."""

import json
import shutil
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest

from pyops.demo import events, traffic
from pyops.sql import literal
from tests.pyops.conftest import execute

PROJECT = Path(__file__).parents[2]
DBT = ["dbt_project.yml", "profiles.yml", "packages.yml", "pyops.yml", "models", "macros"]
FACTS = "SELECT * FROM marts.fct_orders ORDER BY order_id"


def copy_project(folder: Path) -> None:
    """Copies what of the project is needed to run it."""
    for name in [*DBT, "dbt_packages", "tests/singular", "data"]:
        copy = shutil.copytree if (PROJECT / name).is_dir() else shutil.copy
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        copy(PROJECT / name, folder / name)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop_dsn: str) -> Path:
    copy_project(tmp_path)
    shutil.rmtree(tmp_path / "data" / "events", ignore_errors=True)
    events.write(shop_dsn, tmp_path / "data" / "events")
    monkeypatch.setenv("SHOP_DSN", shop_dsn)
    monkeypatch.setenv("PYOPS_WAREHOUSE", str(tmp_path / "warehouse.duckdb"))
    return tmp_path


def ask(project: Path, query: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(project / "warehouse.duckdb") as connection:
        return connection.execute(query).fetchall()


def run_all(project: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pyops", "run", "--json"],
        cwd=project,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    summary = json.loads(done.stdout)
    assert [table["status"] for table in summary["tables"]] == ["succeeded"] * 5
    assert set(summary["dbt"]) == {"success", "pass"}


def test_shop_goes_from_postgres_to_the_mart_and_goes_on(project: Path, shop_dsn: str) -> None:
    """Behaviours 34 and 48: totals, days that follow, odd texts, and a run over no change."""
    run_all(project)
    totals = "SELECT count(*), sum(quantity * unit_price) FROM raw.order_items"
    assert ask(project, totals) == [(541_909, Decimal("9747747.934"))]
    facts = "SELECT count(*), sum(amount) FROM marts.fct_orders"
    assert ask(project, facts) == [(25_900, Decimal("9747747.93"))]
    letters = "SELECT count(*) FROM pyops.dead_letters"
    assert ask(project, letters) == [(310,)], "as data/README.md says of malformed lines"
    assert ask(project, "SELECT count(*) FROM staging.stg_events") == [(114_348,)]
    users = "SELECT count(*) FROM marts.dim_users"
    assert ask(project, users) == [(4_372,)]

    traffic.commit_days(shop_dsn, days=2, seed=3)
    naughty = PROJECT.parent / "shared" / "data" / "bad_input" / "blns" / "blns.json"
    strings = json.loads(naughty.read_text("utf-8"))
    values = ", ".join(f"({n}, {literal(text)})" for n, text in enumerate(strings))
    execute(
        shop_dsn,
        "INSERT INTO orders (id, invoice_no, country, status, amount_cents, ordered_at,"
        " created_at, updated_at) SELECT 1000000 + n, 'naughty ' || n, country, 'pending', 0,"
        " t.at, t.at, t.at FROM (SELECT max(updated_at) AS at FROM orders) AS t,"
        f" (VALUES {values}) AS v (n, country)",
    )
    run_all(project)
    landed = "SELECT country FROM marts.fct_orders WHERE order_id >= 1000000 ORDER BY order_id"
    assert [row[0] for row in ask(project, landed)] == strings
    source = execute(
        shop_dsn,
        "SELECT status, count(*), sum(amount_cents)::bigint, count(user_id) FROM orders"
        " GROUP BY 1 ORDER BY 1",
    )
    mart = (
        "SELECT status, count(*), sum(amount_cents)::BIGINT, count(user_id)"
        " FROM marts.fct_orders GROUP BY 1 ORDER BY 1"
    )
    assert ask(project, mart) == source

    before = ask(project, FACTS)
    run_all(project)
    assert ask(project, FACTS) == before


def test_library_lets_go_of_the_warehouse_and_a_failed_test_fails_the_run(project: Path) -> None:
    always = project / "tests" / "singular" / "assert_nothing.sql"
    always.write_text("select 1 as failing")
    program = (
        "import duckdb; from pathlib import Path; from pyops import load, run;"
        "summary = run(load(Path())); assert summary.exit_code == 1;"
        "assert summary.dbt['fail'] == 1;"
        "duckdb.connect('warehouse.duckdb', config={'threads': 1}).close()"
    )
    subprocess.run([sys.executable, "-c", program], cwd=project, check=True)


def test_dbt_is_not_run_when_a_table_fails(project: Path, shop_dsn: str) -> None:
    execute(shop_dsn, "ALTER TABLE products RENAME TO gone")
    done = subprocess.run(
        [sys.executable, "-m", "pyops", "run"],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "4 tables landed, 1 failed" in done.stdout
    assert "dbt      not run" in done.stdout
    assert not (project / "target").exists()
