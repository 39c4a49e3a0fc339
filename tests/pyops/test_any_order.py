"""Models built in parts, in any order: a whole build afterwards ends in a full refresh."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from random import Random
from typing import Any

import duckdb
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.pyops.conftest import examples
from tests.pyops.dbt_runs import Parsed

STAMPS = "_op VARCHAR, _generation INTEGER, _lsn BIGINT, _seq BIGINT, _xid BIGINT, _committed_at TIMESTAMP"
LANDED = "_load_id BIGINT, _loaded_at TIMESTAMP"
AT = "created_at TIMESTAMP, updated_at TIMESTAMP"
RAW = f"""
    CREATE OR REPLACE SCHEMA raw;
    CREATE TABLE raw.orders__changes (
        id BIGINT, invoice_no VARCHAR, user_id BIGINT, country VARCHAR, status VARCHAR, amount_cents BIGINT,
        ordered_at TIMESTAMP, {AT}, {STAMPS}, _unchanged VARCHAR[], {LANDED});
    CREATE TABLE raw.users__changes (
        id BIGINT, email VARCHAR, country VARCHAR, {AT}, {STAMPS}, _unchanged VARCHAR[], {LANDED});
    CREATE TABLE raw.order_items (
        id BIGINT, order_id BIGINT, product_id BIGINT, line_number INTEGER, description VARCHAR, quantity INTEGER,
        unit_price DECIMAL(12,3), {AT}, {LANDED});
    CREATE TABLE raw.products (
        id BIGINT, stock_code VARCHAR, description VARCHAR, unit_price DECIMAL(12,3), {AT}, {LANDED});
    CREATE TABLE raw.events (
        event_date DATE, event_id VARCHAR, event_type VARCHAR, user_id BIGINT, session_id VARCHAR, order_id BIGINT,
        stock_code VARCHAR, event_at TIMESTAMP, amount DECIMAL(12,2), page JSON, _file VARCHAR, _line BIGINT,
        {LANDED});
"""
LOADS = ("changes", "lines", "events", "products", "gone", "lookup")
STATUSES = ("pending", "shipped", "delivered", "cancelled")
START = "TIMESTAMP '2011-01-01'"


@dataclass
class Shop:
    """A shop whose tables change at random, and what of it has landed in `raw`."""

    chance: Random
    orders: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    lines: dict[int, tuple[Any, ...]] = field(default_factory=dict)
    logged: list[tuple[str, str, int, tuple[Any, ...]]] = field(default_factory=list)
    changed_lines: set[int] = field(default_factory=set)
    load: int = 0
    lsn: int = 0
    hours: int = 0

    def happen(self) -> None:
        """Something that the application does."""
        order = self.chance.randint(1, 12)
        other = self.chance.randint(1, 12)
        row = (self.chance.choice([None, 1, 2, 3]), self.chance.choice(STATUSES), self.chance.randint(-300, 900))
        match self.chance.choice(["order", "order", "line", "line", "move", "rename", "delete", "user"]):
            case "order":
                self._log("orders", "u" if order in self.orders else "c", order, row)
                self.orders[order] = row
            case "line":
                self._line(self.chance.randint(1, 30), order)
            case "move" if self.lines:
                self._line(self.chance.choice(sorted(self.lines)), other)
            case "rename" if order in self.orders and other not in self.orders:
                self.orders[other] = self.orders.pop(order)
                self._log("orders", "d", order, (None, None, None))
                self._log("orders", "c", other, self.orders[other])
                for line in [line for line, (of, *_) in self.lines.items() if of == order]:
                    self._line(line, other)
            case "delete" if order in self.orders:
                del self.orders[order]
                self._log("orders", "d", order, (None, None, None))
            case "user":
                country = self.chance.choice(["France", "EIRE", "Nowhere"])
                self._log("users", self.chance.choice("crud"), self.chance.randint(1, 3), (country,))

    def _line(self, line: int, order: int) -> None:
        self.lines[line] = order, self.chance.randint(1, 3), self.chance.randint(-2, 9)
        self.changed_lines.add(line)

    def _log(self, table: str, op: str, key: int, row: tuple[Any, ...]) -> None:
        self.hours += self.chance.choice([0, 0, 1, 5, -1])  # a clock may stand still or go back
        self.logged.append((table, op, key, (*row, self.hours)))

    def land(self, raw: duckdb.DuckDBPyConnection, kind: str) -> None:
        """One load: of changes, lines, a file, the catalogue, of what reconciling finds, of a lookup."""
        self.load += 1
        landed = f"{self.load}, {START} + to_hours({self.load})"
        match kind:
            case "changes":
                for table, op, key, (*row, hours) in self.logged:
                    self.lsn += 1
                    columns = (
                        f"?, 'i', ?, 'EIRE', ?, ?, {START} + to_days(?::INT % 40)" if table == "orders" else "?, 'e', ?"
                    )
                    values = [key, *row, key] if table == "orders" else [key, *row]
                    raw.execute(
                        f"INSERT INTO raw.{table}__changes SELECT {columns}, {START}, {START}, '{op}', 1, {self.lsn},"
                        f" 0, 1, {START} + to_hours({hours}), [], {landed}",
                        values,
                    )
                self.logged.clear()
            case "lines":
                for line in self.changed_lines:
                    order, product, quantity = self.lines[line]
                    raw.execute(f"DELETE FROM raw.order_items WHERE id = {line}")
                    raw.execute(
                        f"INSERT INTO raw.order_items SELECT {line}, {order}, {product}, 1, 'd', {quantity}, 0.125,"
                        f" {START}, {START}, {landed}"
                    )
                self.changed_lines.clear()
            case "events":
                day, count = self.chance.randint(0, 3), self.chance.randint(0, 6)
                raw.execute(f"DELETE FROM raw.events WHERE _file = 'f{day}'")
                raw.execute(
                    f"INSERT INTO raw.events SELECT DATE '2011-01-01' + {day}, 'e' || n % 4, 'view', n % 2, 's', NULL,"
                    f" NULL, {START} + to_hours(n * {self.chance.randint(1, 6)}) + to_days({day}), n, '{{}}', 'f{day}',"
                    f" n, {landed} FROM range({count}) AS r (n)"
                )
            case "gone":
                for line in list(self.lines):
                    if self.chance.random() < 0.2:
                        del self.lines[line]
                        self.changed_lines.discard(line)
                        raw.execute(f"DELETE FROM raw.order_items WHERE id = {line}")
            case "products":
                price = self.chance.randint(1, 9)
                raw.execute(
                    "CREATE OR REPLACE TABLE raw.products AS SELECT n AS id, 'p' || n AS stock_code, 'd' AS description"
                    f", {price}::DECIMAL(12,3) AS unit_price, {START} AS created_at, {START} AS updated_at,"
                    f" {self.load}::BIGINT AS _load_id, {START} AS _loaded_at FROM range(1, 4) AS r (n)"
                )
            case "lookup":
                status = self.chance.choice(STATUSES)
                raw.execute(f"UPDATE seeds.order_statuses SET is_final = NOT is_final WHERE status = '{status}'")


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Parsed:
    """The project, built on empty tables; a copy of that warehouse is `empty.duckdb`."""
    made = Parsed(tmp_path_factory.mktemp("parsed"))
    with duckdb.connect(made.warehouse) as raw:
        raw.execute(RAW)
    made.invoke("seed")
    made.invoke("run")
    shutil.copy(made.warehouse, made.folder / "empty.duckdb")
    return made


def some_models(chance: Random, models: list[str]) -> list[str]:
    """Arguments that build some of the models: named ones, what is below or above one, or until dbt is killed."""
    match chance.choice(["named", "below", "above", "killed"]):
        case "named":
            selected = chance.sample(models, chance.randint(1, 6))
        case "below":
            selected = [f"{chance.choice(models)}+"]
        case "above":
            selected = [f"+{chance.choice(models)}"]
        case "killed":  # each model is one transaction
            selected = models[: chance.randint(1, len(models))]
    return ["--select", *selected, *chance.choice([[], ["--full-refresh"]])]


@settings(max_examples=examples(3), phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, 2**32))
def test_any_part_of_the_models_in_any_order_and_then_a_whole_build_is_a_full_refresh(
    parsed: Parsed, seed: int
) -> None:
    """Behaviours 46, 70: orders re-assigned, renamed, deleted, lines moved, days sent again, lookups changed."""
    chance = Random(seed)
    shutil.copy(parsed.folder / "empty.duckdb", parsed.warehouse)
    shop = Shop(chance)
    for number in range(chance.randint(4, 7)):
        with duckdb.connect(parsed.warehouse) as raw:
            for _ in range(chance.randint(2, 6) if number else 60):
                shop.happen()
            for load in LOADS[:4] if not number else chance.sample(LOADS, chance.randint(1, 4)):
                shop.land(raw, load)
        if not number or chance.random() < 0.3:
            parsed.invoke("run")
            assert parsed.stale() == []
        else:
            parsed.invoke("run", *some_models(chance, list(parsed.queries)))
    parsed.invoke("run")
    assert parsed.stale() == []
