"""A DuckDB file as the warehouse, opened only to look something up or to commit.

It takes one process at a time, so whoever finds it held waits. It is attached as ``warehouse``.
"""

import fcntl
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import duckdb
import tenacity

from pyops.errors import OperationError, PyopsError, TransientError
from pyops.failures import explained, of_lock
from pyops.interrupt import interruptible
from pyops.records import GateResult, Relation, Run, TableId
from pyops.sql import literal, qualified
from pyops.staging.file import Stage
from pyops.warehouse import bookkeeping
from pyops.warehouse.committing import Committing
from pyops.warehouse.protocol import CaptureState, Commit, TableState

_T = TypeVar("_T")
_Table = TypeVar("_Table", bound=TableId)
_log = logging.getLogger(__name__)
_HASTE = 0.5  # seconds: a run that failed has waited for the warehouse already, or is being stopped


@dataclass(frozen=True)
class AttachedFile:
    """The file, attached to a connection as ``warehouse``."""

    connection: duckdb.DuckDBPyConnection

    def name(self, relation: Relation) -> str:
        return qualified("warehouse", *relation)

    def columns(self, relation: Relation) -> dict[str, str]:
        return bookkeeping.columns_of(self.connection, relation)

    def compacted_lsn(self, table: TableId) -> int:
        return bookkeeping.compacted_lsn(self.connection, table)

    def log_key(self, table: TableId) -> tuple[str, ...]:
        return bookkeeping.log_keys(self.connection, table.source).get(table.name, ())

    def open_keys(self, table: TableId) -> str:
        return bookkeeping.open_keys(self.connection, table)

    def count_dead_letters(self, condition: str) -> int:
        return bookkeeping.count_dead_letters(self.connection, condition)


class DuckDBWarehouse:
    """A DuckDB file that several processes take turns with."""

    def __init__(
        self,
        path: Path,
        *,
        lock_timeout: float = 60,  # seconds to wait for another process to release it
        mirror: Path | None = None,  # a JSON-lines file that mirrors the dead letters
        is_frozen: bool = False,  # nothing is ever written
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.path = path
        self._lock_timeout = lock_timeout
        self._mirror = mirror
        self._is_frozen = is_frozen
        self._sleep = sleep
        self._attached: AttachedFile | None = None

    def exists(self) -> bool:
        return self.path.exists()

    def dbt_environment(self) -> dict[str, str]:
        return {"PYOPS_WAREHOUSE": str(self.path.resolve())}

    @contextmanager
    def attached(
        self, stage: Stage | None = None, *, read_only: bool = True, lock_timeout: float | None = None
    ) -> Iterator[AttachedFile]:
        """Attaches the file; what is done inside another ``attached`` shares its connection."""
        if self._attached is not None:
            yield self._attached
            return
        connection = stage.connection if stage else self._in_memory()
        try:
            with explained(self.path):
                timeout = self._lock_timeout if lock_timeout is None else lock_timeout
                self._attach(connection, read_only=read_only, timeout=timeout)
                self._attached = AttachedFile(connection)
                try:
                    yield self._attached
                finally:
                    self._attached = None
                    # It ends with a checkpoint. If that fails, what was committed is committed.
                    with suppress(duckdb.Error):
                        connection.execute("DETACH warehouse")
        finally:
            if stage is None:
                connection.close()

    def _in_memory(self) -> duckdb.DuckDBPyConnection:
        spill = str(self.path.with_name(self.path.name + ".tmp"))
        return duckdb.connect(config={"memory_limit": "300MB", "temp_directory": spill})

    def _attach(self, connection: duckdb.DuckDBPyConnection, *, read_only: bool, timeout: float) -> None:
        if read_only and not self.exists():
            connection.execute("ATTACH ':memory:' AS warehouse")
            return
        self._try(connection, read_only=read_only, timeout=timeout)
        found = bookkeeping.version(connection)
        if read_only and 0 < found < bookkeeping.VERSION:
            if self._is_frozen:
                raise OperationError(
                    f"the warehouse {self.path} was made by an older pyops",
                    hint="pyops status brings its bookkeeping up to date",
                )
            connection.execute("DETACH warehouse")
            self._try(connection, read_only=False, timeout=timeout)
            bookkeeping.upgrade(connection)
        elif not read_only:
            bookkeeping.upgrade(connection)

    def _try(self, connection: duckdb.DuckDBPyConnection, *, read_only: bool, timeout: float) -> None:
        """Attaches the file, waiting for whoever holds it."""
        options = " (READ_ONLY)" if read_only else ""
        statement = f"ATTACH {literal(str(self.path))} AS warehouse{options}"

        def attempt() -> None:
            if not read_only:
                _make(self.path)
            try:
                connection.execute(statement)
            except duckdb.IOException as error:
                if (locked := of_lock(str(error), self.path)) is None:
                    raise
                raise locked from None

        def say(state: tenacity.RetryCallState) -> None:
            if state.attempt_number == 5 and state.outcome:
                _log.info("%s", state.outcome.exception())

        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(TransientError),
            wait=tenacity.wait_exponential_jitter(multiplier=0.02, max=1, jitter=0.05),
            stop=tenacity.stop_after_delay(timeout),
            before_sleep=say,
            sleep=self._sleep,
            reraise=True,
        )(attempt)

    def states(self, tables: Sequence[_Table]) -> dict[_Table, TableState]:
        with self.attached() as at:
            return {table: bookkeeping.table_state(at.connection, table) for table in tables}

    def capture_state(self, source: str) -> CaptureState:
        with self.attached() as at:
            return bookkeeping.capture_state(at.connection, source)

    def rows(self, record: type[_T], condition: str = "true", *, order: str = "1") -> list[_T]:
        with self.attached() as at:
            return bookkeeping.rows(at.connection, record, condition, order=order)

    def commit(self, stage: Stage | None, commit: Commit) -> Run | None:
        assert not self._is_frozen
        with self.attached(stage, read_only=False) as at:
            committing = Committing(at.connection, commit)
            run = interruptible(committing.run, cancel=at.connection.interrupt)
            self._write_mirror(at.connection)
        return run

    def record(self, runs: Sequence[Run], gates: Sequence[GateResult] = (), *, in_haste: bool = False) -> None:
        if runs:
            timeout = _HASTE if in_haste else None
            with self.attached(read_only=False, lock_timeout=timeout) as at:
                for run in runs:
                    bookkeeping.add_run(at.connection, run, gates)

    def _write_mirror(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Writes the dead letters to their JSON-lines file, replaced whole: a kill harms none."""
        if self._mirror is None:
            return
        new = self._mirror.with_name(self._mirror.name + ".new")
        try:
            with explained(self._mirror):
                new.parent.mkdir(parents=True, exist_ok=True)
                connection.execute(
                    f"COPY (FROM warehouse.pyops.dead_letters ORDER BY letter_id) TO {literal(str(new))} (FORMAT json)"
                )
                new.replace(self._mirror)
        except PyopsError as error:  # the commit is done; the next one writes it again
            _log.warning("the dead letters' mirror was not written: %s", error)


def _make(path: Path) -> None:
    """Makes the file unless it exists: whole, since half a DuckDB file can never be opened."""
    if path.exists():
        return
    if path.is_symlink():
        raise OperationError(
            f"the warehouse {path} is a link to {path.resolve()}, which is not there",
            hint="is its disk mounted? remove the link to begin a new warehouse",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        new = path.with_name(f"{path.name}.new")
        new.unlink(missing_ok=True)  # another one was cut short
        if not path.exists():
            try:
                duckdb.connect(str(new)).close()
                new.rename(path)
            finally:
                new.unlink(missing_ok=True)
    finally:
        os.close(folder)
