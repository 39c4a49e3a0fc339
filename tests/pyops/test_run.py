"""The whole way: the sample shop from PostgreSQL through raw to the marts."""

import json
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from pyops.demo import events, traffic
from pyops.sql import literal
from tests.pyops.conftest import TEST_DATA, execute
from tests.pyops.dbt_runs import ask, copy_project

TOTALS = [
    ("fct_order_items", "count(*), sum(amount)"),
    ("fct_orders", "count(*), sum(amount)"),
    ("fct_daily_revenue", "count(*), sum(order_count + cancelled_order_count), sum(revenue)"),
    ("fct_daily_user_events", "sum(event_count)"),
    ("fct_user_cohorts", "sum(active_user_count) FILTER (month_number = 0)"),
    ("dim_users", "count(*)"),
    ("dim_products", "count(*)"),
]
BUILT = """
SELECT table_schema || '.' || table_name FROM information_schema.tables
WHERE table_schema IN ('intermediate', 'marts', 'snapshots', 'quality', 'seeds')
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop_dsn: str) -> Path:
    copy_project(tmp_path)
    events.write(shop_dsn, tmp_path / "data" / "events")
    monkeypatch.setenv("SHOP_DSN", shop_dsn)
    monkeypatch.setenv("PYOPS_WAREHOUSE", str(tmp_path / "warehouse.duckdb"))
    return tmp_path


def built(project: Path) -> dict[str, list[tuple[int, int]]]:
    """Every table that dbt has built: how many rows, and a sum over all that is in them."""
    names = [name for (name,) in ask(project, BUILT)]
    checksum = "SELECT count(*), sum(hash(built)::HUGEINT) FROM {} AS built"
    return {name: ask(project, checksum.format(name)) for name in names}


def run_all(project: Path) -> set[str]:
    """Runs `pyops run` and returns what became of dbt's nodes."""
    done = subprocess.run(
        [sys.executable, "-m", "pyops", "run", "--json"], cwd=project, stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == 0
    summary = json.loads(done.stdout)
    assert [table["status"] for table in summary["tables"]] == ["succeeded"] * 3
    [source] = summary["sources"]
    assert {run["status"] for run in source["runs"]} <= {"succeeded"}
    return set(summary["dbt"])


def test_shop_goes_from_postgres_to_the_mart_and_goes_on(project: Path, shop_dsn: str) -> None:
    """Behaviours 34 and 48: totals, days that follow, odd texts, and a run over no change.

    That last one by the library, and with a test that fails: which fails the run.
    """
    assert run_all(project) == {"success", "pass", "no-op"}, "exposures are no-ops"
    totals = "SELECT count(*), sum(quantity * unit_price) FROM raw.order_items"
    assert ask(project, totals) == [(541_909, Decimal("9747747.934"))]
    assert {mart: ask(project, f"SELECT {of} FROM marts.{mart}") for mart, of in TOTALS} == {
        "fct_order_items": [(541_909, Decimal("9747747.934"))],
        "fct_orders": [(25_900, Decimal("9747747.93"))],
        "fct_daily_revenue": [(374, 25_900, Decimal("9747747.93"))],
        "fct_daily_user_events": [(114_348,)],
        "fct_user_cohorts": [(4_339,)],
        "dim_users": [(4_372,)],
        "dim_products": [(4_070,)],
    }
    letters = "SELECT count(*) FROM pyops.dead_letters"
    assert ask(project, letters) == [(310,)], "as data/README.md says of malformed lines"

    traffic.commit_days(shop_dsn, days=2, seed=3)
    naughty = TEST_DATA / "blns" / "blns.json"
    strings = json.loads(naughty.read_text("utf-8"))
    values = ", ".join(f"({n}, {literal(text)})" for n, text in enumerate(strings))
    execute(
        shop_dsn,
        "INSERT INTO orders (id, invoice_no, country, status, amount_cents, ordered_at,"
        " created_at, updated_at) SELECT 1000000 + n, 'naughty ' || n, country, 'pending', 0,"
        " t.at, t.at, t.at FROM (SELECT max(updated_at) AS at FROM orders) AS t,"
        f" (VALUES {values}) AS v (n, country)",
    )
    assert run_all(project) == {"success", "pass", "no-op", "warn"}, "of unknown countries"
    landed = "SELECT country FROM marts.fct_orders WHERE order_id >= 1000000 ORDER BY order_id"
    assert [row[0] for row in ask(project, landed)] == strings
    source = execute(
        shop_dsn, "SELECT status, count(*), sum(amount_cents)::bigint, count(user_id) FROM orders GROUP BY 1 ORDER BY 1"
    )
    mart = (
        "SELECT status, count(*), sum(amount_cents)::BIGINT, count(user_id) FROM marts.fct_orders GROUP BY 1 ORDER BY 1"
    )
    assert ask(project, mart) == source

    before = built(project)
    assert len(before) == 21
    always = project / "tests" / "singular" / "assert_nothing.sql"
    always.write_text("select 1 as failing")
    program = (
        "import duckdb; from pathlib import Path; from pyops import load, run;"
        "summary = run(load(Path())); assert summary.exit_code == 1;"
        "assert summary.dbt['fail'] == 1;"
        # The library has let go of the warehouse.
        "duckdb.connect('warehouse.duckdb', config={'threads': 1}).close()"
    )
    subprocess.run([sys.executable, "-c", program], cwd=project, check=True)
    assert built(project) == before


def test_dbt_is_not_run_when_a_table_fails(project: Path, shop_dsn: str) -> None:
    execute(shop_dsn, "ALTER TABLE products RENAME TO gone")
    done = subprocess.run(
        [sys.executable, "-m", "pyops", "run"], cwd=project, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "2 tables landed, 1 failed" in done.stdout
    assert "dbt      not run" in done.stdout
    assert not (project / "target").exists()
