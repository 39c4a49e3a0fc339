"""Ten thousand changes applied by dbt: to tables of two sizes, and behind logs of two lengths.

The models are the shop's own, `base_shop__orders` and `int_orders_history`, on made-up logs of its
orders; the seconds are those dbt gives for each node.

Usage: python -m bench.changes [--changes N] [--rounds N]
"""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from bench.harness import dbt, median, print_table, say, spread, temporary_folder

_NODES = "base_shop__orders", "int_orders_history"
# One node at a time, so that each has the machine to itself.
_RUN = ["run", "--threads", "1", "--select", "stg_order_changes", *_NODES]
_ORDER = """
    n AS id, (500000 + n)::VARCHAR AS invoice_no, (hash(n) % 65536)::BIGINT AS user_id,
    ['United Kingdom', 'Germany', 'France'][1 + n % 3] AS country,
    ['shipped', 'delivered'][1 + n % 2] AS status,
    (hash(n + 1) % 262144)::BIGINT AS amount_cents,
    TIMESTAMP '2015-01-01' + n * INTERVAL 17 SECOND AS ordered_at, ordered_at AS created_at
"""
# Every order is copied once, and then touched as often as makes the log as long as it is to be.
_LOG = """
CREATE SCHEMA raw;
CREATE TABLE raw.orders__changes AS
SELECT
    {order}, created_at AS updated_at,
    CASE age WHEN 0 THEN 'r' ELSE 'u' END AS _op, 1 AS _generation, 10 + age AS _lsn, n AS _seq,
    NULL::BIGINT AS _xid, TIMESTAMP '2020-01-01' + age * INTERVAL 1 MINUTE AS _committed_at,
    []::VARCHAR[] AS _unchanged, 1 + age AS _load_id, TIMESTAMP '2020-01-01' AS _loaded_at
FROM range({rows}) AS numbers (n), range({length} // {rows}) AS ages (age)
ORDER BY age, n
"""
# Of ten changes seven update an order, two insert one and one deletes one, all over the table.
_CHANGES = """
INSERT INTO raw.orders__changes BY NAME
SELECT * REPLACE (CASE WHEN _op = 'd' THEN NULL ELSE status END AS status) FROM (
    SELECT
        {order}, TIMESTAMP '2024-01-01' + {round} * INTERVAL 1 HOUR AS updated_at,
        _op, 1 AS _generation, 1000000 + {round} AS _lsn, i AS _seq, 7 AS _xid,
        updated_at AS _committed_at, []::VARCHAR[] AS _unchanged,
        1000000 + {round} AS _load_id, TIMESTAMP '2024-01-01' AS _loaded_at
    FROM (
        SELECT
            i, ['u', 'u', 'u', 'u', 'u', 'u', 'u', 'd', 'c', 'c'][1 + i % 10] AS _op,
            CASE
                WHEN _op = 'c' THEN {rows} + {round} * {changes} + i
                ELSE (hash(i + {round} * {changes}) % {rows})::BIGINT
            END AS n
        FROM range({changes}) AS changes (i)
    )
)
"""


@dataclass
class Case:
    """A table of so many rows behind a log of such a length, and what was measured on them."""

    rows: int
    length: int
    folder: Path
    seconds: dict[str, list[float]] = field(default_factory=lambda: {n: [] for n in _NODES})

    def execute(self, statement: str, **values: int) -> None:
        """Runs a statement in its warehouse."""
        with duckdb.connect(self.folder / "warehouse.duckdb") as connection:
            values |= {"rows": self.rows, "length": self.length}
            connection.execute(statement.format(order=_ORDER, **values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--changes", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with temporary_folder() as folder:
        for title, shapes in (
            ("to a table of", [(1_000_000, 1_000_000), (10_000_000, 10_000_000)]),
            ("to 100,000 rows, behind a log of", [(100_000, 100_000), (100_000, 10_000_000)]),
        ):
            cases = [_prepare(folder, rows, length) for rows, length in shapes]
            for number in range(1, options.rounds + 1):
                say(f"round {number}")
                # By turns first: whatever else the machine does meets both.
                for case in cases if number % 2 else reversed(cases):
                    case.execute(_CHANGES, round=number, changes=options.changes)
                    nodes = dbt(case.folder, *_RUN)
                    for name in _NODES:
                        case.seconds[name].append(nodes[name])
            _report(f"{options.changes:,} changes applied {title}", cases)


def _prepare(folder: Path, rows: int, length: int) -> Case:
    case = Case(rows, length, folder / f"{rows}_{length}")
    case.folder.mkdir()
    say(f"making a table of {rows:,} orders with a log of {length:,} changes")
    case.execute(_LOG)
    nodes = dbt(case.folder, *_RUN)
    for name in _NODES:
        say(f"  {name}, built from nothing: {nodes[name]:.1f} s")
    return case


def _report(title: str, cases: list[Case]) -> None:
    print(f"\n{title}\n")
    one, other = cases
    print_table(
        ["seconds", f"{one.length:,}", f"{other.length:,}", "ratio"],
        [
            [
                name,
                spread(one.seconds[name]),
                spread(other.seconds[name]),
                f"{median(other.seconds[name]) / median(one.seconds[name]):.2f}",
            ]
            for name in _NODES
        ],
    )


if __name__ == "__main__":
    main()
