"""The work of `make run` on a fresh copy of the project, set-up aside: demo up, run, status.

Usage: python -m bench.run [--rounds N]
"""

import argparse
import shutil
from pathlib import Path

from bench.harness import PYOPS, REPOSITORY, Child, median, print_table, run, say, spread, temporary_folder

_COMMANDS = (("demo", "up"), ("run",), ("status",))
# What a run makes, and what set-up makes once; dbt_packages is set-up too, and is copied.
_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "target", "logs", "bench", "*.duckdb", "*.duckdb.wal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = [_round() for _ in range(parser.parse_args().rounds)]
    print(f"\nmake run, set-up aside; median of {len(rounds)} (smallest to largest)\n")
    rows = [
        [
            f"pyops {' '.join(command)}",
            spread([each[n].seconds for each in rounds]),
            f"{max(each[n].peak_mb for each in rounds):.0f}",
        ]
        for n, command in enumerate(_COMMANDS)
    ]
    totals = [sum(child.seconds for child in each) for each in rounds]
    print_table(["", "seconds", "peak MB"], [*rows, ["all", spread(totals), ""]])
    say(f"{median(totals):.1f} s")


def _round() -> list[Child]:
    with temporary_folder() as folder:
        project = folder / "project"
        shutil.copytree(REPOSITORY, project, ignore=_LEFT_OUT)
        try:
            return [_timed(command, project) for command in _COMMANDS]
        finally:
            run([PYOPS, "demo", "down", "--delete"], cwd=project)


def _timed(command: tuple[str, ...], project: Path) -> Child:
    # SHOP_DSN and PYOPS_WAREHOUSE of whoever runs this would lead elsewhere.
    child = run([PYOPS, *command], cwd=project, env={"SHOP_DSN": "", "PYOPS_WAREHOUSE": ""})
    say(f"  pyops {' '.join(command)} {child.seconds:.1f} s")
    return child


if __name__ == "__main__":
    main()
