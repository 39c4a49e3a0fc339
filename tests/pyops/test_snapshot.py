"""The history of products: which changes make a version, and how versions follow each other."""

from pathlib import Path
from typing import Any

from tests.pyops.dbt_runs import ask, copy_project, run_dbt

LAND = """
    CREATE SCHEMA IF NOT EXISTS raw;
    CREATE OR REPLACE TABLE raw.products AS
    SELECT
        *,
        TIMESTAMP '2010-12-01' AS created_at,
        TIMESTAMP '2011-12-09' AS updated_at,
        {load_id}::BIGINT AS _load_id,
        now()::TIMESTAMP AS _loaded_at
    FROM (VALUES {rows}) AS products (id, stock_code, description, unit_price)
"""
MUG, BOX, HEART = "(1, '85123A', 'MUG', 2.550)", "(2, '71053', NULL, 3.390)", "(3, 'M', 'HEART', 1)"
DEARER_MUG, NAMED_BOX = MUG.replace("2.550", "2.551"), BOX.replace("NULL", "'BOX'")

VERSIONS = """
    SELECT product_id, concat_ws(' ', description, unit_price::FLOAT), is_deleted, valid_to IS NULL
    FROM snapshots.products_snapshot ORDER BY product_id, valid_from
"""
# Each version begins where the one before it ended, and lasts.
TORN = """
    SELECT * FROM (
        SELECT *, lag(valid_to) OVER (PARTITION BY product_id ORDER BY valid_from) AS last_valid_to
        FROM snapshots.products_snapshot
    )
    WHERE valid_from <> coalesce(last_valid_to, valid_from) OR valid_to <= valid_from
"""
CURRENT = """
    SELECT product_id, count(*) FILTER (WHERE valid_to IS NULL)
    FROM snapshots.products_snapshot GROUP BY product_id HAVING count(*) FILTER
    (WHERE valid_to IS NULL) <> 1
"""


class History:
    """Loads of `raw.products`, each followed by dbt, and the versions they make."""

    def __init__(self, folder: Path) -> None:
        copy_project(folder)
        self.folder = folder
        self.loads = 0

    def after(self, *products: str) -> list[tuple[Any, ...]]:
        """Lands these products in place of all, runs dbt, and returns the versions."""
        self.loads += 1
        ask(self.folder, LAND.format(load_id=self.loads, rows=", ".join(products)))
        results = run_dbt(self.folder, "--quiet", "build", "--select", "+products_snapshot")
        assert {node["status"] for node in results.values()} == {"success", "pass"}
        assert ask(self.folder, TORN) == []
        assert ask(self.folder, CURRENT) == []
        return ask(self.folder, VERSIONS)


def test_history_of_products(tmp_path: Path) -> None:
    """Behaviour 48, and the shop's `updated_at` is the same all the time."""
    history = History(tmp_path)
    first = [(1, "MUG 2.55", "False", True), (2, "3.39", "False", True), (3, "HEART 1.0", "False", True)]
    assert history.after(MUG, BOX, HEART) == first
    assert history.after(MUG, BOX, HEART) == first, "a load alone makes no version"

    changed = [
        (1, "MUG 2.55", "False", False),
        (1, "MUG 2.551", "False", True),
        (2, "3.39", "False", False),
        (2, "BOX 3.39", "False", True),
        (3, "HEART 1.0", "False", False),
        (3, "HEART 1.0", "True", True),
    ]
    assert history.after(DEARER_MUG, NAMED_BOX) == changed
    assert history.after(DEARER_MUG, NAMED_BOX) == changed
    assert history.after(DEARER_MUG, NAMED_BOX) == changed, "a deletion is recorded once"

    again = [
        (1, "MUG 2.55", "False", False),
        (1, "MUG 2.551", "False", False),
        (1, "MUG 2.55", "False", True),
        *changed[2:4],
        (3, "HEART 1.0", "False", False),
        (3, "HEART 1.0", "True", False),
        (3, "HEART 1.0", "False", True),
    ]
    assert history.after(MUG, NAMED_BOX, HEART) == again, "back as if nothing had happened"
    assert history.after(MUG, NAMED_BOX, HEART) == again
    loads = "SELECT DISTINCT _load_id FROM snapshots.products_snapshot ORDER BY 1"
    assert ask(tmp_path, loads) == [(1,), (3,), (6,)]
    types = "SELECT DISTINCT typeof(valid_from), typeof(valid_to) FROM snapshots.products_snapshot"
    assert ask(tmp_path, types) == [("TIMESTAMP", "TIMESTAMP")]
