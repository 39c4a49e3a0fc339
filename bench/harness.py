"""What the benchmarks share: a server of their own, children that are timed, tables of figures."""

import fcntl
import json
import os
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pyops.demo.server import Server

REPOSITORY = Path(__file__).resolve().parent.parent
PYOPS = str(Path(sys.executable).with_name("pyops"))
DBT = str(Path(sys.executable).with_name("dbt"))

# The same for everything that is measured. Nothing that is written here has to survive.
_SETTINGS = {"fsync": "off", "full_page_writes": "off", "max_wal_size": "8GB"}
_FLOCK = "hhqqi4x"  # struct flock of 64-bit Linux: type, whence, start, length, pid


@dataclass(frozen=True)
class Child:
    """A process that has ended: its wall time, its peak memory in MB, and what it printed."""

    seconds: float
    peak_mb: float
    stdout: str


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    keep_stdout: bool = True,
) -> Child:
    """Runs a command to its end, start-up included.

    Args:
        command: The program and its arguments.
        cwd: Where it runs.
        env: Variables added to this process's own.
        keep_stdout: Whether what it prints is kept; otherwise it goes to /dev/null.
    """
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        began = time.monotonic()
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=stdout if keep_stdout else subprocess.DEVNULL,
            stderr=stderr,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        stdout.seek(0)
        stderr.seek(0)
        if process.returncode != 0:
            said = (stdout.read() + stderr.read())[-4000:]
            raise SystemExit(f"{' '.join(map(str, command))} failed:\n{said}")
        return Child(seconds, usage.ru_maxrss * 1024 / 1e6, stdout.read())


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder that a server run by another user may enter, and that is deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="pyops-bench-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """A PostgreSQL server that is gone at the end."""
    server = Server(folder / "data")
    try:
        server.start(_SETTINGS)
        yield server
    finally:
        server.remove()


def dbt(folder: Path, *arguments: str) -> dict[str, float]:
    """Runs this project's dbt on a folder's `warehouse.duckdb`.

    Returns:
        The seconds dbt says each node took, by its name.
    """
    target = folder / "target"
    folders: list[str | Path] = ["--project-dir", REPOSITORY, "--profiles-dir", REPOSITORY]
    folders += ["--target-path", target, "--log-path", target]
    run([DBT, *arguments, *folders], env={"PYOPS_WAREHOUSE": str(folder / "warehouse.duckdb")})
    results = json.loads((target / "run_results.json").read_text())["results"]
    return {node["unique_id"].split(".")[-1]: float(node["execution_time"]) for node in results}


def psql(server: Server, *statements: str, database: str = "postgres") -> Child:
    """Runs statements one after another; what they return goes nowhere."""
    program = server.bin_path / "psql"
    options = ["--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1"]
    commands = [f"--command={statement}" for statement in statements]
    return run([program, *options, *commands, server.dsn(database)], keep_stdout=False)


class LockWatch:
    """Measures from outside how long other processes hold DuckDB's lock on a file.

    Asks the kernel every few milliseconds, and takes no lock itself.
    """

    def __init__(self, path: Path) -> None:
        self.seconds = 0.0
        self._path = path
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> "LockWatch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        then, was_locked = time.monotonic(), False
        while not self._ended.wait(0.004):
            now, locked = time.monotonic(), self._is_locked()
            if locked and was_locked:
                self.seconds += now - then
            then, was_locked = now, locked

    def _is_locked(self) -> bool:
        try:
            with self._path.open("rb") as file:
                question = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
                answer = fcntl.fcntl(file, fcntl.F_GETLK, question)
        except FileNotFoundError:
            return False
        return bool(struct.unpack(_FLOCK, answer)[0] != fcntl.F_UNLCK)


def median(values: Sequence[float]) -> float:
    """The median, or nothing at all where there are no values."""
    return statistics.median(values) if values else float("nan")


def spread(values: Sequence[float], digits: int = 2) -> str:
    """A median with the smallest and the largest value."""
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def say(message: str) -> None:
    """Tells what goes on, beside the figures."""
    print(message, file=sys.stderr, flush=True)


def print_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a Markdown table."""
    print(f"| {' | '.join(head)} |")
    print(f"| {' | '.join('---' for _ in head)} |")
    for row in rows:
        print(f"| {' | '.join(row)} |")
