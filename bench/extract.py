"""A whole table: `pyops extract` beside COPY to nowhere and beside dlt, on the same server.

Usage: python -m bench.extract [--rows N] [--large N] [--rounds N] [--dlt-rounds N]
"""

import argparse
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness import (
    PYOPS,
    REPOSITORY,
    LockWatch,
    median,
    print_table,
    psql,
    run,
    running_server,
    say,
    spread,
    temporary_folder,
)
from pyops.demo.server import Server

_TABLE = """
CREATE TABLE {table} AS
SELECT
    n::bigint AS id,
    (hashint8(n) & 1048575)::bigint AS customer_id,
    date '2015-01-01' + (n % 3650)::int AS ordered_on,
    ((hashint8(n + 1) & 134217727) / 100.0)::numeric(12, 2) AS amount,
    ((hashint8(n + 2) & 2147483647) / 10000.0 - 100000)::numeric(18, 4) AS balance,
    'order ' || n || ' of ' || substr(md5(n::text), 1, 12) AS note,
    jsonb_build_object(
        'channel', (ARRAY['web', 'shop', 'app'])[1 + n % 3], 'lines', n % 17, 'gift', n % 5 = 0
    ) AS details,
    timestamptz '2015-01-01 00:00+00' + n * interval '97 seconds' AS created_at,
    timestamptz '2015-01-01 00:00+00' + n * interval '97.000013 seconds' AS updated_at
FROM generate_series(1, {rows}) AS n
"""

_CONFIG = """
sources:
  bench:
    type: postgres
    dsn: {dsn}
    tables:
      {table}: {{mode: full}}
"""


@dataclass
class Figures:
    """What was measured of one way to read a table, round by round."""

    seconds: list[float] = field(default_factory=list)
    peak_mb: list[float] = field(default_factory=list)
    locked: list[float] = field(default_factory=list)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3_000_000)
    parser.add_argument("--large", type=int, default=9_000_000, help="for memory alone; 0: not")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dlt-rounds", type=int, default=2)
    options = parser.parse_args()
    with temporary_folder() as folder, running_server(folder) as server:
        _measure(server, folder, options)


def _measure(server: Server, folder: Path, options: argparse.Namespace) -> None:
    for table, rows in [("t", options.rows), ("large", options.large)]:
        if rows:
            say(f"making a table of {rows:,} rows")
            psql(server, _TABLE.format(table=table, rows=rows), f"VACUUM (FREEZE, ANALYZE) {table}")
    copy, pyops = Figures(), Figures()
    dlt = {backend: Figures() for backend in ("connectorx", "pyarrow")}
    _copy(server, "t")  # warms the caches
    for number in range(1, options.rounds + 1):
        say(f"round {number}")
        copy.seconds.append(_copy(server, "t"))
        _pyops(server, "t", folder / "project", pyops)
        if number <= options.dlt_rounds:
            for backend, figures in dlt.items():
                _dlt(server, "t", folder / "dlt", backend, figures)
    floor = median(copy.seconds)

    def row(name: str, figures: Figures) -> list[str]:
        ratio = f"{median(figures.seconds) / floor:.2f}"
        peak = f"{max(figures.peak_mb):.0f}" if figures.peak_mb else "-"
        return [name, spread(figures.seconds), ratio, peak]

    ways = {"COPY to nowhere": copy, "pyops extract": pyops}
    ways |= {f"dlt, {backend}": figures for backend, figures in dlt.items() if figures.seconds}
    print(f"\n{options.rows:,} rows, 9 columns; median of {options.rounds} (smallest to largest)\n")
    head = ["", "seconds", "x COPY", "peak MB"]
    print_table(head, [row(name, figures) for name, figures in ways.items()])
    print(f"\nwarehouse locked: {spread(pyops.locked)} s, {median(pyops.locked) / floor:.2f} x COPY")
    if options.large:
        say("the large table")
        large = Figures()
        _pyops(server, "large", folder / "project", large)
        print(f"{options.large:,} rows: {large.seconds[0]:.1f} s, peak {large.peak_mb[0]:.0f} MB")


def _copy(server: Server, table: str) -> float:
    return psql(server, f"COPY {table} TO STDOUT (FORMAT binary)").seconds


def _pyops(server: Server, table: str, project: Path, figures: Figures) -> None:
    shutil.rmtree(project, ignore_errors=True)
    project.mkdir()
    (project / "pyops.yml").write_text(_CONFIG.format(dsn=server.dsn(), table=table))
    with LockWatch(project / "warehouse.duckdb") as watch:
        child = run([PYOPS, "extract", "--json", "--project-dir", project])
    result = json.loads(child.stdout)["tables"][0]
    locked = f"locked {watch.seconds:.2f} s ({result['locked_seconds']:.2f} recorded)"
    say(f"  pyops {child.seconds:.2f} s, {locked}, {child.peak_mb:.0f} MB")
    figures.seconds.append(child.seconds)
    figures.peak_mb.append(child.peak_mb)
    figures.locked.append(watch.seconds)


def _dlt(server: Server, table: str, folder: Path, backend: str, figures: Figures) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    python = REPOSITORY / "bench" / ".venv" / "bin" / "python"
    script = REPOSITORY / "bench" / "dlt_extract.py"
    child = run([python, script, backend, server.dsn(), table, folder], cwd=folder)
    say(f"  dlt {backend} {child.seconds:.2f} s, {child.peak_mb:.0f} MB")
    figures.seconds.append(child.seconds)
    figures.peak_mb.append(child.peak_mb)


if __name__ == "__main__":
    main()
