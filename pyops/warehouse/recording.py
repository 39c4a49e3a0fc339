"""The history of runs: every run becomes a row, whatever became of it and of its process."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import duckdb

from pyops.errors import PyopsError
from pyops.records import GateResult, Run, ended
from pyops.staging.file import Stage, discard, sweep
from pyops.warehouse.duckdb import BOOKKEEPING, Warehouse, catalog_of

_MEMORY = "SET memory_limit = '300MB'"  # what needs more of it spills
_HASTE = 0.5  # seconds: a run that failed has waited for the warehouse already, or is being stopped


class History:
    """Where runs are recorded.

    A run that was published is recorded by its publication. One that failed is recorded here, and
    left beside the staging files while the warehouse is not to be had. One that was killed leaves
    its staging file; the next command records both kinds.

    Args:
        warehouse: Holds the table ``pyops.runs``.
        staging: The folder of the staging files.
    """

    def __init__(self, warehouse: Warehouse, staging: Path) -> None:
        self.staging = staging
        self._warehouse = warehouse

    def record(self, *runs: Run, results: Sequence[GateResult] = ()) -> None:
        """Adds runs that were not published, and what the gates said of the only one of them."""
        try:
            self._warehouse.record(runs, results, lock_timeout=_HASTE)
        except PyopsError:
            # On a full disk there may be no room for a note: the failure itself is told anyway.
            with suppress(OSError):
                self.staging.mkdir(parents=True, exist_ok=True)
                for run in runs:
                    note = self.staging / f"{run.run_id}.json"
                    note.write_text(run.to_json(), "utf-8")

    def cancelled(self, run: Run) -> None:
        """Records a run that a signal has stopped, and then deletes its staging file."""
        self.record(ended(run, "cancelled", "it was stopped before it ended"))
        path = self.staging / f"{run.run_id}.duckdb"
        if path.exists():
            discard(self.staging, [path])

    @contextmanager
    def looking(self) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
        """The warehouse, read-only, and the quoted name of its catalog."""
        with self._warehouse.opened(read_only=True) as connection:
            connection.execute(_MEMORY)
            yield connection, catalog_of(connection)

    @contextmanager
    def changing(self, run: Run) -> Iterator[tuple[duckdb.DuckDBPyConnection, str]]:
        """The warehouse inside one transaction, which is committed at the end.

        A staging file tells of the run meanwhile, and holds what does not fit in memory.
        """
        with Stage.create(self.staging, run) as stage, self._warehouse.attached(stage.connection):
            connection = stage.connection
            connection.execute(_MEMORY)
            connection.execute(BOOKKEEPING.format(catalog="warehouse"))
            connection.execute("BEGIN")
            try:
                yield connection, "warehouse"
                connection.execute("COMMIT")
            except BaseException:
                with suppress(duckdb.Error):  # a commit that failed has ended the transaction
                    connection.execute("ROLLBACK")
                raise
            connection.execute("CHECKPOINT warehouse")
            self._warehouse.mirror_letters(connection, "warehouse")

    def settle(self) -> None:
        """Records what earlier processes could not, and deletes what they left.

        Raises:
            PyopsError: The warehouse cannot be written.
        """
        dead = sweep(self.staging)
        notes = sorted(self.staging.glob("*.json"))
        killed = [_killed(path, run) for path, run in dead]
        noted = [run for run in map(_noted, notes) if run is not None]
        self._warehouse.record([*killed, *noted])
        discard(self.staging, [path for path, _ in dead])
        for path in notes:
            path.unlink(missing_ok=True)


def _killed(path: Path, run: Run | None) -> Run:
    error = "the process was killed before it ended"
    if run is None:
        return Run(path.stem, None, None, None, None, "killed", None, error=error)
    return replace(run, status="killed", error=error)


def _noted(path: Path) -> Run | None:
    try:
        return Run.from_json(path.read_text("utf-8"))
    except FileNotFoundError:  # another process was quicker
        return None
    except (ValueError, TypeError, KeyError):  # cut short by whatever ended that process
        return Run(path.stem, None, None, None, None, "failed", None, error="its note is broken")
