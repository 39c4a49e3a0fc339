"""A thousand changed rows, found in ten million against in one million.

The rows are orders and their lines as the sample shop has them, so that both halves are measured
on the same tables: `pyops extract orders` as a whole process, and the nodes `int_order_revenue`
and `fct_orders` by dbt's own clock.

Usage: python -m bench.incremental [--small N] [--large N] [--changed N] [--rounds N]
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from bench.harness import PYOPS, dbt, median, print_table, psql, run, running_server, say, spread, temporary_folder
from pyops.demo.server import Server

# Each round's changes spread over the 50 minutes of an hour of its own, so that the watermark's
# lookback of 5 minutes finds only a few again; all of it is long ago, as a watermark does not
# follow the future.
_TABLE = """
CREATE TABLE orders AS
SELECT
    n::bigint AS id,
    (500000 + n)::text AS invoice_no,
    (1 + (hashint8(n) & 65535))::bigint AS user_id,
    (ARRAY['United Kingdom', 'Germany', 'France', 'EIRE', 'Spain'])[1 + n % 5] AS country,
    (ARRAY['shipped', 'delivered', 'cancelled'])[1 + n % 3] AS status,
    (hashint8(n + 1) & 262143)::bigint AS amount_cents,
    t AS ordered_at,
    t AS created_at,
    t + interval '3 days' AS updated_at
FROM (
    SELECT n, timestamptz '2015-01-01 00:00+00' + n * interval '17.000001 seconds' AS t
    FROM generate_series(1, {rows}) AS n
) AS numbered
"""
_KEYS = "ALTER TABLE orders ADD PRIMARY KEY (id)", "CREATE INDEX ON orders (updated_at)"
_LINES = """
CREATE TABLE order_items AS
SELECT
    id, id AS order_id, 1 AS line_number, 1 + id % 4000 AS product_id, 'a line' AS description,
    1 AS quantity, (amount_cents / 100.0)::numeric(12, 3) AS unit_price,
    created_at, updated_at
FROM orders
"""
_CHANGE = """
UPDATE orders SET
    status = 'pending',
    amount_cents = amount_cents + {number},
    updated_at = timestamptz '2024-01-01 00:00+00' + {number} * interval '1 hour'
        + (hashint8(id) & 2097151) / 2097152.0 * interval '50 minutes'
WHERE id IN (
    SELECT 1 + (hashint8extended(n, {number}) & 9223372036854775807) % {rows}
    FROM generate_series(1, {changed}) AS n
)
"""

_CONFIG = """
sources:
  shop:
    type: postgres
    dsn: {dsn}
    tables:
      orders: {{mode: incremental, cursor: updated_at, primary_key: [id]}}
      order_items: {{mode: full}}
"""

# The shop's orders are landed by changes; here they are by batch, and each row is its own copy.
_LOG = """
CREATE SCHEMA IF NOT EXISTS raw;
CREATE VIEW raw.orders__changes AS
SELECT
    *, 'r' AS _op, 1 AS _generation, _load_id AS _lsn, id AS _seq, NULL::BIGINT AS _xid,
    _loaded_at AS _committed_at, []::VARCHAR[] AS _unchanged
FROM raw.orders
"""
_KINDS = "--resource-type", "model", "--resource-type", "seed"
_NODES = "int_order_revenue", "fct_orders"


@dataclass
class Size:
    """One table with its warehouse, and what was measured on them."""

    rows: int
    folder: Path
    database: str
    extract_seconds: list[float] = field(default_factory=list)
    extract_mb: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)
    node_seconds: dict[str, list[float]] = field(default_factory=lambda: {n: [] for n in _NODES})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", type=int, default=1_000_000)
    parser.add_argument("--large", type=int, default=10_000_000)
    parser.add_argument("--changed", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    with temporary_folder() as folder, running_server(folder) as server:
        sizes = [_prepare(server, folder, rows) for rows in (options.small, options.large)]
        for number in range(1, options.rounds + 1):
            say(f"round {number}")
            # By turns first: whatever else the machine does meets both.
            for size in sizes if number % 2 else reversed(sizes):
                _round(server, size, number, options.changed)
    _report(sizes, options)


def _prepare(server: Server, folder: Path, rows: int) -> Size:
    size = Size(rows, folder / str(rows), f"orders_{rows}")
    say(f"making {rows:,} orders, landing and modelling them")
    psql(server, f"CREATE DATABASE {size.database}")
    statements = _TABLE.format(rows=rows), *_KEYS, _LINES, "VACUUM (FREEZE, ANALYZE) orders"
    psql(server, *statements, database=size.database)
    size.folder.mkdir()
    (size.folder / "pyops.yml").write_text(_CONFIG.format(dsn=server.dsn(size.database)))
    run([PYOPS, "extract", "--project-dir", size.folder])
    with duckdb.connect(size.folder / "warehouse.duckdb") as connection:
        connection.execute(_LOG)
    _dbt(size)
    return size


def _round(server: Server, size: Size, number: int, changed: int) -> None:
    change = _CHANGE.format(number=number, changed=changed, rows=size.rows)
    psql(server, change, "CHECKPOINT", database=size.database)
    seconds, peak_mb, table = _extract(size)
    size.extract_seconds.append(seconds)
    size.extract_mb.append(peak_mb)
    size.read.append(table["rows_read"])
    nodes = _dbt(size)
    for name in _NODES:
        size.node_seconds[name].append(nodes[name])
    say(
        f"  {size.rows:>10,} orders: {table['rows_read']} read, {table['rows_written']} written:"
        f" extract {seconds:.2f} s (locked {table['locked_seconds']:.2f} s),"
        + ", ".join(f" {name} {nodes[name]:.3f} s" for name in _NODES)
    )


def _extract(size: Size) -> tuple[float, float, dict[str, float]]:
    child = run([PYOPS, "extract", "orders", "--json", "--project-dir", size.folder])
    return child.seconds, child.peak_mb, json.loads(child.stdout)["tables"][0]


def _dbt(size: Size) -> dict[str, float]:
    """Builds ``fct_orders`` and what it stands on; the seconds dbt says each node took."""
    return dbt(size.folder, "build", "--select", "+fct_orders", *_KINDS)


def _report(sizes: Sequence[Size], options: argparse.Namespace) -> None:
    small, large = sizes
    print(f"\n{options.changed:,} changed rows; median of {options.rounds} rounds\n")
    rows = []
    for name, one, other in [
        ("pyops extract orders, whole process", small.extract_seconds, large.extract_seconds),
        *((f"{name}, execution_time", small.node_seconds[name], large.node_seconds[name]) for name in _NODES),
    ]:
        ratio = f"{median(other) / median(one):.2f}"
        rows.append([name, spread(one), spread(other), ratio])
    print_table(["seconds", f"in {small.rows:,}", f"in {large.rows:,}", "ratio"], rows)
    print(f"\nrows read: {median(small.read):.0f}, {median(large.read):.0f}")
    print(f"peak memory of extract: {max(small.extract_mb):.0f}, {max(large.extract_mb):.0f} MB")


if __name__ == "__main__":
    main()
