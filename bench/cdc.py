"""Changes: `pyops cdc` beside `pg_recvlogical` of the same changes to nowhere.

Then the same rows in one transaction beside many, and few changes onto logs of two sizes.

Usage: python -m bench.cdc [--scale N] [--rounds N]
"""

import argparse
import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from bench.harness import PYOPS, Child, median, print_table, psql, run, running_server, say, spread, temporary_folder
from pyops.demo.server import Server
from pyops.sources.postgres import session as postgres

_TABLE = """
CREATE TABLE t (
    id bigint PRIMARY KEY, customer_id bigint, ordered_on date, amount numeric(12, 2),
    balance numeric(18, 4), note text, details jsonb, created_at timestamptz, updated_at timestamptz
)
"""
_ROWS = """
INSERT INTO t
SELECT
    n, hashint8(n) & 1048575, date '2015-01-01' + (n % 3650)::int,
    (hashint8(n + 1) & 134217727) / 100.0, (hashint8(n + 2) & 2147483647) / 10000.0 - 100000,
    'order ' || n || ' of ' || substr(md5(n::text), 1, 12),
    jsonb_build_object('channel', (ARRAY['web', 'shop', 'app'])[1 + n % 3], 'lines', n % 17),
    timestamptz '2015-01-01 00:00+00' + n * interval '97 seconds', now()
FROM generate_series({first}, {last}) AS n
"""
_CONFIG = """
sources:
  bench:
    type: postgres
    dsn: {dsn}
    tables:
      t: {{mode: cdc}}
"""
_SLOT = "pyops_bench"


@dataclass
class Figures:
    """What was measured of one way to read changes, round by round."""

    seconds: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)


class Bench:
    """A server with a captured table, and a project whose position can be put back."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.project = folder / "project"
        self.project.mkdir()
        (self.project / "pyops.yml").write_text(_CONFIG.format(dsn=server.dsn()))
        self.kept = folder / "kept.duckdb"

    def copy_slot(self, source: str, target: str) -> None:
        """Makes a slot as another one is."""
        psql(
            self.server,
            f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = '{target}'",
            f"SELECT pg_copy_logical_replication_slot('{source}', '{target}')",
        )

    def keep(self) -> None:
        """Captures what is there, and keeps where that leaves slot and warehouse."""
        self.cdc()
        self.copy_slot(_SLOT, "kept")
        shutil.copy(self.project / "warehouse.duckdb", self.kept)

    def put_back(self) -> None:
        """Puts slot and warehouse back to where they were kept."""
        self.copy_slot("kept", _SLOT)
        shutil.copy(self.kept, self.project / "warehouse.duckdb")

    def cdc(self) -> Child:
        """Runs `pyops cdc`."""
        return run([PYOPS, "cdc", "--json", "--project-dir", self.project])

    def received(self) -> Child:
        """Runs `pg_recvlogical` over what was not captured yet, to nowhere."""
        self.copy_slot("kept", "received")
        with postgres.connect(self.server.dsn()) as session:
            [(end,)] = session.query("SELECT pg_current_wal_flush_lsn()::text")
        return run(
            [
                self.server.bin_path / "pg_recvlogical",
                *("-d", self.server.dsn(), "--slot", "received", "--start", "--no-loop"),
                *("--endpos", end, "-o", "proto_version=1", "-o", f"publication_names={_SLOT}"),
                *("--file", os.devnull),
            ]
        )

    def measure(self, changes: int, rounds: int) -> tuple[Figures, Figures]:
        """Both ways, `pg_recvlogical` first, side by side, round by round."""
        received, pyops = Figures(), Figures()
        for number in range(rounds + 1):
            floor = self.received()
            self.put_back()
            child = self.cdc()
            [done] = json.loads(child.stdout)["sources"]
            assert sum(r["rows_written"] for r in done["runs"]) == changes, done
            say(f"  {floor.seconds:.2f} s, pyops {child.seconds:.2f} s, {child.peak_mb:.0f} MB")
            if number:  # the first one warms the caches
                received.seconds.append(floor.seconds)
                pyops.seconds.append(child.seconds)
                pyops.peak_mb.append(child.peak_mb)
        return received, pyops


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=int, default=50_000, help="550,000 changes by default")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with temporary_folder() as folder, running_server(folder) as server:
        bench = Bench(server, folder)
        _mixed(bench, options.scale, options.rounds)
        _by_transactions(bench, options.scale * 20, options.rounds)
        _onto_a_log(bench, options.rounds)


def _mixed(bench: Bench, scale: int, rounds: int) -> None:
    """300 k updates, 200 k inserts and 50 k deletes, in transactions of 1,000 rows."""
    psql(bench.server, _TABLE, _ROWS.format(first=1, last=6 * scale), "VACUUM ANALYZE t")
    bench.keep()
    say("making changes")
    batch = max(scale // 50, 1)
    statements = [
        f"UPDATE t SET amount = amount + 1, updated_at = now() WHERE id > {first} AND id <= {first + batch}"
        for first in range(0, 6 * scale, batch)
    ]
    statements += [_ROWS.format(first=first + 1, last=first + batch) for first in range(6 * scale, 10 * scale, batch)]
    statements += [f"DELETE FROM t WHERE id > {first} AND id <= {first + batch}" for first in range(0, scale, batch)]
    psql(bench.server, *statements)
    received, pyops = bench.measure(11 * scale, rounds)
    ratio = median(pyops.seconds) / median(received.seconds)
    print(f"\n{11 * scale:,} changes of 9 columns; median of {rounds} (smallest to largest)\n")
    print_table(
        ["", "seconds", "x pg_recvlogical", "peak MB"],
        [
            ["pg_recvlogical to nowhere", spread(received.seconds), "1.00", "-"],
            ["pyops cdc", spread(pyops.seconds), f"{ratio:.2f}", f"{max(pyops.peak_mb):.0f}"],
        ],
    )


def _by_transactions(bench: Bench, rows: int, rounds: int) -> None:
    """As many inserted rows in a thousand transactions, and in one."""
    found = []
    for number, transactions in enumerate((1000, 1)):
        bench.keep()
        size = rows // transactions
        firsts = range((number + 1) * 10**9, (number + 1) * 10**9 + rows, size)
        psql(bench.server, *(_ROWS.format(first=n, last=n + size - 1) for n in firsts))
        say(f"{rows:,} rows in {transactions:,} transactions")
        received, pyops = bench.measure(rows, rounds)
        found.append(
            [
                *(f"{transactions:,}", spread(received.seconds), spread(pyops.seconds)),
                f"{median(pyops.seconds) / median(received.seconds):.2f}",
                f"{median(pyops.seconds) / rows * 1e6:.2f}",
                f"{max(pyops.peak_mb):.0f}",
            ]
        )
    print(f"\n{rows:,} rows inserted, in one transaction and in many\n")
    head = ["transactions", "pg_recvlogical, seconds", "pyops cdc, seconds"]
    print_table([*head, "x pg_recvlogical", "microseconds a row", "peak MB"], found)


def _onto_a_log(bench: Bench, rounds: int) -> None:
    """10,000 changes onto logs of two sizes."""
    bench.cdc()
    seconds: dict[int, list[float]] = {}
    shutil.copy(bench.project / "warehouse.duckdb", bench.kept)
    bench.copy_slot(_SLOT, "kept")
    psql(bench.server, "UPDATE t SET amount = amount + 1 WHERE id BETWEEN 100001 AND 110000")
    for size in (100_000, 10_000_000):
        say(f"making a log of {size:,} rows")
        made = bench.kept.with_name(f"{size}.duckdb")
        shutil.copy(bench.kept, made)
        with duckdb.connect(made) as connection:
            connection.execute(
                "CREATE TABLE few AS SELECT * FROM raw.t__changes LIMIT 100000;"
                " CREATE OR REPLACE TABLE raw.t__changes AS SELECT few.* REPLACE"
                f" (range AS _seq) FROM few, range({size // 100_000}); DROP TABLE few"
            )
            assert connection.execute("SELECT count(*) FROM raw.t__changes").fetchone() == (size,)
    for _ in range(rounds):
        for size in (100_000, 10_000_000):
            bench.copy_slot("kept", _SLOT)
            shutil.copy(bench.kept.with_name(f"{size}.duckdb"), bench.project / "warehouse.duckdb")
            seconds.setdefault(size, []).append(bench.cdc().seconds)
    print("\n10,000 changes onto a log\n")
    floor = median(seconds[100_000])
    print_table(
        ["rows in the log", "seconds", "x of 100,000"],
        [[f"{size:,}", spread(s), f"{median(s) / floor:.2f}"] for size, s in seconds.items()],
    )


if __name__ == "__main__":
    main()
