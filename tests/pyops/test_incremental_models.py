"""Every incremental model holds what building it from nothing would, whatever came when."""

import gzip
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest
from dbt.cli.main import dbtRunner, dbtRunnerResult

from pyops.commands.cdc import capture
from pyops.commands.extract import extract
from pyops.config.load import load
from pyops.dbt import release
from pyops.demo import events
from tests.pyops.conftest import execute
from tests.pyops.dbt_runs import copy_project

INCREMENTAL = "config.materialized:incremental"
Lines = list[bytes]


@dataclass
class Shop:
    """A project on a shop whose days wait in the schema `history` until they happen."""

    folder: Path
    dsn: str
    clock: int = 0
    queries: dict[str, str] = field(default_factory=dict)

    def dbt(self, *arguments: str) -> Any:
        folder = str(self.folder)
        where = ["--project-dir", folder, "--profiles-dir", folder]
        quiet = ["--quiet", "--log-level-file", "none"]
        done: dbtRunnerResult = dbtRunner().invoke([*quiet, *arguments, *where])
        release()
        assert done.success, done.exception or done.result
        return done.result

    def compile(self) -> None:
        """Notes the query that makes each incremental model from nothing."""
        done = self.dbt("compile", "--full-refresh", "--select", INCREMENTAL)
        models = [r.node for r in done.results if r.node.resource_type == "model"]
        self.queries = {model.relation_name: model.compiled_code for model in models}

    def change(self, *statements: str) -> None:
        """Changes rows as the application does: it notes when."""
        self.clock += 1
        now = f"TIMESTAMPTZ '2012-01-01 00:00+00' + interval '{self.clock} hours'"
        for statement in statements:
            execute(self.dsn, statement.replace("NOW", now))

    def orders_of(self, day: int) -> None:
        """The orders of a day of December are committed."""
        on_day = f"ordered_at BETWEEN '2010-12-{day:02} 00:00+00' AND '2010-12-{day:02} 24:00+00'"
        ids = f"SELECT id FROM history.orders WHERE {on_day}"
        self.change(
            f"INSERT INTO orders SELECT * FROM history.orders WHERE {on_day} ON CONFLICT DO NOTHING",
            f"INSERT INTO order_items SELECT * FROM history.order_items WHERE order_id IN ({ids})"
            " ON CONFLICT DO NOTHING",
            f"UPDATE orders SET updated_at = NOW WHERE id IN ({ids})",
            f"UPDATE order_items SET updated_at = NOW WHERE order_id IN ({ids})",
        )

    def file_of(self, day: int, edit: Callable[[Lines], Lines] = lambda lines: lines) -> None:
        """The file of events of a day of December is there, perhaps another than before."""
        name = f"2010-12-{day:02}.jsonl.gz"
        lines = gzip.decompress((self.folder / "files" / name).read_bytes()).splitlines(True)
        target = self.folder / "data" / "events" / name
        target.parent.mkdir(exist_ok=True)
        target.write_bytes(gzip.compress(b"".join(edit(lines))))

    def land(self) -> None:
        """Lands what is new."""
        project = load(self.folder)
        assert [item.error for item in extract(project)] == [None] * 3
        assert [item.error for item in capture(project)] == [None]

    def run(self) -> None:
        """Lands what is new, builds the incremental models and holds each against its query."""
        self.land()
        self.dbt("run", "--select", f"+{INCREMENTAL}")
        with duckdb.connect(self.folder / "warehouse.duckdb", read_only=True) as connection:
            for name, query in self.queries.items():
                for one, other in ((f"FROM {name}", query), (query, f"FROM {name}")):
                    wrong = connection.sql(f"({one}) EXCEPT ALL ({other})").fetchall()
                    assert wrong == [], name

    def tables(self) -> dict[str, list[tuple[Any, ...]]]:
        with duckdb.connect(self.folder / "warehouse.duckdb", read_only=True) as connection:
            return {name: connection.sql(f"FROM {name} ORDER BY ALL").fetchall() for name in self.queries}


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shop_dsn: str) -> Shop:
    copy_project(tmp_path)
    monkeypatch.setenv("SHOP_DSN", shop_dsn)
    monkeypatch.setenv("PYOPS_WAREHOUSE", str(tmp_path / "warehouse.duckdb"))
    for statement in (
        "DELETE FROM order_items USING orders WHERE order_id = orders.id AND ordered_at >= '2010-12-09 00:00+00'",
        "DELETE FROM orders WHERE ordered_at >= '2010-12-09 00:00+00'",
    ):
        execute(shop_dsn, statement)
    events.write(shop_dsn, tmp_path / "files")
    for statement in (
        "CREATE SCHEMA history",
        *(
            statement
            for table in ("orders", "order_items")
            for statement in (
                f"ALTER TABLE {table} SET SCHEMA history",
                f"CREATE TABLE {table} (LIKE history.{table} INCLUDING ALL)",
            )
        ),
    ):
        execute(shop_dsn, statement)
    return Shop(tmp_path, shop_dsn)


CHANGES = (
    "UPDATE orders SET status = 'cancelled', updated_at = NOW WHERE id % 7 = 0",
    "DELETE FROM orders WHERE id % 19 = 0",
    "UPDATE orders SET id = id + 1000000, updated_at = NOW WHERE id % 89 = 0 AND id < 1000000",
    "UPDATE users SET country = 'France', updated_at = NOW WHERE id % 23 = 0",
    "DELETE FROM users WHERE id % 29 = 0",
    "UPDATE orders SET user_id = NULL, updated_at = NOW WHERE id % 11 = 0",
    "UPDATE orders SET ordered_at = '2010-12-04 12:00+00', updated_at = NOW WHERE id % 13 = 0",
    "UPDATE order_items SET quantity = quantity + 1, updated_at = NOW WHERE id % 97 = 0",
    # Lines are there before their orders.
    "INSERT INTO order_items SELECT * FROM history.order_items AS h WHERE order_id % 17 = 0"
    " AND NOT EXISTS (SELECT FROM order_items AS o WHERE o.id = h.id)",
)
FILES: tuple[Callable[[Lines], Lines], ...] = (
    lambda lines: lines,
    lambda lines: lines[::-1],
    lambda lines: lines[len(lines) // 2 :],
    lambda lines: lines[: len(lines) // 3] * 2,
)


def test_incremental_models_equal_a_full_refresh_after_every_load(shop: Shop) -> None:
    """Behaviour 46: days come in any order, late, repeated, changed, or not at all."""
    shop.dbt("seed")
    shop.file_of(2)
    shop.land()
    shop.compile()
    assert len(shop.queries) == 9
    chance = random.Random(1)
    for _ in range(5):
        for _ in range(chance.randint(0, 4)):
            day = chance.choice([1, 2, 3, 5, 6, 7, 8])
            match chance.choice(["orders", "file", "change"]):
                case "orders":
                    shop.orders_of(day)
                case "file":
                    shop.file_of(day, chance.choice(FILES))
                case "change":
                    shop.change(chance.choice(CHANGES))
        shop.run()

    # Two files in a row are emptied: what a day sent late went with the second.
    shop.file_of(2)
    shop.file_of(3)
    shop.run()
    shop.file_of(2, lambda lines: [])
    shop.file_of(3, lambda lines: [])
    shop.run()

    kept = shop.tables()
    assert all(kept.values())
    shop.dbt("run", "--full-refresh", "--select", INCREMENTAL)
    assert shop.tables() == kept
