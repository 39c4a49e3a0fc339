"""What `pyops cdc --follow` costs: a look that finds nothing, and one with a hundred changes.

CPU milliseconds of the process itself, from /proc, over many looks; start-up left out.

Usage: python -m bench.follow [--looks N] [--changes N]
"""

import argparse
import os
import subprocess
import time
from pathlib import Path

from bench.harness import PYOPS, print_table, psql, run, running_server, say, spread, temporary_folder

_INTERVAL = 0.5


def _milliseconds(pid: int) -> float:
    """The CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(map(int, fields[11:13])) * 1000 / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Runs the benchmark and prints its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--looks", type=int, default=40)
    parser.add_argument("--changes", type=int, default=100)
    given = parser.parse_args()
    with temporary_folder() as folder, running_server(folder) as server:
        psql(server, "CREATE TABLE t (id bigint PRIMARY KEY, v text)")
        (folder / "pyops.yml").write_text(
            "sources: {src: {type: postgres, dsn: '" + server.dsn() + "', tables: {t: {mode: cdc}}}}\n"
        )
        run([PYOPS, "cdc"], cwd=folder)
        command = [PYOPS, "cdc", "--follow", "--interval", f"{round(_INTERVAL * 1000)}ms"]
        follower = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
        try:
            time.sleep(4)
            say("idle")
            idle = _looks(follower.pid, given.looks)
            say(f"{given.changes} changes a look")
            busy = []
            for number in range(given.looks // 2):
                first = number * given.changes
                insert = f"INSERT INTO t SELECT n, 'x' FROM generate_series({first + 1},"
                psql(server, f"{insert} {first + given.changes}) AS n")
                busy += _looks(follower.pid, 2)
        finally:
            follower.terminate()
            follower.wait()
    # Two looks a transaction: one lands it, the other finds nothing.
    landing = [a + b for a, b in zip(busy[::2], busy[1::2], strict=True)]
    print_table(
        ["a look", "CPU milliseconds"],
        [["that finds nothing", spread([sum(idle) / len(idle)])], [f"with {given.changes} changes", spread(landing)]],
    )


def _looks(pid: int, count: int) -> list[float]:
    found = []
    for _ in range(count):
        before = _milliseconds(pid)
        time.sleep(_INTERVAL)
        found.append(_milliseconds(pid) - before)
    return found


if __name__ == "__main__":
    main()
