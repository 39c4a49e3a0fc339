"""The staging file: one DuckDB file for each load, where rows are typed before anybody sees them.

It holds ``rows`` (typed), ``dead_letters`` and ``run`` (whose it is). While the run lives, DuckDB's
lock keeps others out of its file; so a file that can be opened belongs to a run that was killed.
"""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

import duckdb

from pyops.errors import DataError, OperationError, PyopsError, TransientError
from pyops.failures import explained
from pyops.interrupt import interruptible, interruptions
from pyops.records import Run
from pyops.sql import columns as listed
from pyops.sql import identifier, literal
from pyops.staging import memory
from pyops.staging.columns import DEAD_LETTER, ColumnMapping, key_json, row_json, text_of, typed
from pyops.staging.prefetch import Batches

if TYPE_CHECKING:  # to look something up takes no Arrow: start-up time
    import pyarrow as pa

_T = TypeVar("_T")
# Older versions of rows are few in one snapshot; more of them are rows of their own.
_VERSIONS, _VERSIONS_RATE = 10, 0.1


@dataclass
class Stage(AbstractContextManager["Stage"]):
    """An open staging file, deleted at the end; a signal leaves it to whoever records the run."""

    path: Path
    connection: duckdb.DuckDBPyConnection
    columns: dict[str, str] = field(default_factory=dict)
    kept: bool = False
    _memory: int = memory.LEAST
    _widths: dict[str, memory.Width] = field(default_factory=dict)

    @classmethod
    def create(cls, directory: Path, run: Run) -> Self:
        path = directory / f"{run.run_id}.duckdb"
        with explained(path):
            directory.mkdir(parents=True, exist_ok=True)
            try:
                with _locked(directory):
                    connection = duckdb.connect(str(path), config=memory.SETTINGS)
                connection.execute(
                    "CREATE TABLE run AS SELECT ? AS run, NULL::VARCHAR AS load, '' AS memory", [run.to_json()]
                )
                connection.execute("CHECKPOINT")
            except BaseException:
                _delete(path)
                raise
        return cls(path, connection)

    @classmethod
    def reopen(cls, path: Path) -> tuple[Self, Run, str]:
        """Opens a staging file that was kept; also returns what ``keep`` was told."""
        with explained(path):
            try:
                connection = duckdb.connect(path, config=memory.SETTINGS)
            except duckdb.IOException as error:
                if "Could not set lock" in str(error):
                    raise TransientError(f"{path.name} is open in another process", hint="wait for that one") from None
                raise
        run, load, limit = connection.execute("SELECT run, load, memory FROM run").fetchall()[0]
        connection.execute(f"SET memory_limit = {literal(limit)}")
        described = connection.execute("DESCRIBE rows").fetchall()
        columns = {name: type_ for name, type_, *_ in described if name != "_fault"}
        return cls(path, connection, columns, kept=True), Run.from_json(run), load

    def keep(self, run: Run, load: str) -> None:
        """Leaves the file for another command, with the run so far and what is to be loaded."""
        self.connection.execute(
            "UPDATE run SET run = ?, load = ?, memory = current_setting('memory_limit')", [run.to_json(), load]
        )
        self.connection.execute("CHECKPOINT")
        self.kept = True

    def __exit__(self, kind: object, error: object, traceback: object) -> None:
        try:
            self.connection.close()
        finally:
            if not self.kept and not isinstance(error, KeyboardInterrupt):
                _delete(self.path)

    @property
    def scratch(self) -> Path:
        """A folder for what the load needs for a while; it goes with the file."""
        folder = self.path.with_name(self.path.name + ".tmp") / "scratch"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def fill(
        self,
        schema: pa.Schema,
        batches: Iterator[pa.RecordBatch],
        mappings: Mapping[str, ColumnMapping],
        *,
        key: tuple[str, ...],
        cancel: Callable[[], None] = lambda: None,
        progress: Callable[[int, int], None] = lambda rows, size: None,
    ) -> tuple[int, int]:
        """Types what arrives, sorts out dead letters; returns the numbers of rows and bytes."""
        self.columns = {name: mapping.warehouse for name, mapping in mappings.items()}
        settings = self.connection.cursor()

        def make_room(width: int) -> None:
            settings.execute(f"SET memory_limit = '{memory.needed(len(mappings), width)}B'")

        make_room(0)
        prefetched = Batches(batches, progress, make_room)

        def land() -> None:
            # The warehouse is to be small; texts that are deleted at once are not worth the time.
            self.connection.execute("SET disabled_compression_methods = 'dict_fsst,zstd,fsst'")
            import pyarrow as pa

            reader = pa.RecordBatchReader.from_batches(schema, prefetched)
            self.connection.register("arrived", reader)
            self.connection.execute(f"CREATE TABLE rows AS {typed(mappings, key)}")
            self.connection.execute("RESET disabled_compression_methods")

        try:
            self._run(land, cancel)
        except BaseException as error:
            # Looked at first: to be cancelled is one more failure of the reading.
            failure = prefetched.failure if isinstance(error, duckdb.Error | PyopsError) else None
            prefetched.stop(cancel)
            if failure is not None:
                raise failure from None
            raise
        finally:
            settings.close()
            self.connection.unregister("arrived")
        self._sort_out_faults()
        return prefetched.rows, prefetched.bytes

    def fill_from_tables(self, mappings: Mapping[str, ColumnMapping], *, key: tuple[str, ...]) -> None:
        """Types the rows of the table ``arrived``; those of ``refused`` are dead letters."""
        self.columns = {name: mapping.warehouse for name, mapping in mappings.items()}
        self._execute(f"CREATE TABLE rows AS {typed(mappings, key)}")
        self._sort_out_faults()
        self._execute(
            "INSERT INTO dead_letters (reason, payload, file, line) SELECT reason, payload, _file, _line FROM refused"
        )
        self._execute("DROP TABLE arrived")

    def add(
        self,
        table: str,
        arrived: pa.Table,
        mappings: Mapping[str, ColumnMapping],
        *,
        key: tuple[str, ...],
        where: str,
        size: int,
    ) -> None:
        """Types further rows into a temporary table; what is wrong with a row is in ``_fault``."""
        width = self._widths.setdefault(table, memory.Width())
        width.add(len(arrived), size)
        self.make_room(memory.needed(len(mappings), width.widest))
        with memory.registered(self.connection, "arrived", arrived):
            while True:
                try:
                    self.add_arrived(table, mappings, key=key, where=where)
                    break
                except OperationError as error:  # the JSON of a dead letter takes many copies
                    is_too_little = isinstance(error.__cause__, duckdb.OutOfMemoryException)
                    most = memory.FIXED + memory.MOST_COPIES * size
                    if not is_too_little or self._memory > most:
                        raise
                    self.make_room(2 * self._memory)

    def add_arrived(
        self, table: str, mappings: Mapping[str, ColumnMapping], *, key: tuple[str, ...], where: str
    ) -> None:
        """The same with rows of the table ``arrived``."""
        name = identifier(table)
        select = typed(mappings, key, required=False, where=where)
        self._execute(f"CREATE TEMP TABLE IF NOT EXISTS {name} AS {select} LIMIT 0")
        self._execute(f"INSERT INTO {name} {select}")

    def make_room(self, size: int) -> None:
        """Lets DuckDB have so many bytes, if it has not."""
        if size > self._memory:
            self._execute(f"SET memory_limit = '{size}B'")
            self._memory = size

    def _sort_out_faults(self) -> None:
        self._execute(f"CREATE TABLE dead_letters AS SELECT {DEAD_LETTER} FROM rows WHERE _fault IS NOT NULL")
        if self.dead_letters:
            self._execute("DELETE FROM rows WHERE _fault IS NOT NULL")

    @property
    def dead_letters(self) -> int:
        return self._number("SELECT count(*) FROM dead_letters")

    @property
    def refused_lines(self) -> int:
        """How many lines of files the dead letters that could not be parsed have beyond one each."""
        breaks = "len(payload) - len(replace(payload, chr(10), ''))"
        where = "column_name IS NULL AND file IS NOT NULL"
        return self._number(f"SELECT coalesce(sum({breaks}), 0)::BIGINT FROM dead_letters WHERE {where}")

    def reject(self, condition: str, column: str, reason: str, *, key: tuple[str, ...]) -> None:
        """Makes dead letters of the typed rows that meet a condition."""
        value = text_of(identifier(column), self.columns[column]) if column else "NULL"
        file, line = ("_file", "_line") if "_file" in self.columns else ("NULL", "NULL")
        self._execute(
            f"INSERT INTO dead_letters SELECT {key_json(self.columns, key)}, {literal(column)},"
            f" {value}, {literal(reason)}, {row_json(self.columns)}, {file}, {line}"
            f" FROM rows WHERE {condition}"
        )
        self._execute(f"DELETE FROM rows WHERE {condition}")

    def null_count(self, column: str) -> int:
        return self._number(f"SELECT count(*) FROM rows WHERE {identifier(column)} IS NULL")

    def keep_newest(self, key: tuple[str, ...], newest_by: str | None, *, table: str, order: str = "") -> int:
        """Leaves one row a key, that of the largest cursor; returns how many went."""
        keys = listed(key)
        total, distinct = self._execute(f"SELECT count(*), count(DISTINCT ({keys},)) FROM rows")
        if total == distinct:
            return 0
        if newest_by is not None:
            self._execute(
                "CREATE OR REPLACE TABLE rows AS SELECT * FROM rows QUALIFY"
                f" rank() OVER (PARTITION BY {keys}"
                f" ORDER BY {order or f'{identifier(newest_by)} DESC NULLS LAST'}) = 1"
            )
        if (left := self._number("SELECT count(*) FROM rows")) > distinct:
            raise _equal_keys(table, key, newest_by, left - distinct)
        if total - left > max(_VERSIONS, total * _VERSIONS_RATE):
            raise DataError(
                f"{table}: {total - left} of {total} rows share their primary_key ({', '.join(key)}) with a"
                " newer one: it does not identify a row",
                hint="name the columns that do in `primary_key`",
            )
        return int(total - left)

    def _execute(self, statement: str) -> tuple[int, ...]:
        """Runs a statement that may take long, and returns its first row."""
        return self._run(lambda: self.connection.execute(statement).fetchone()) or (0,)

    def _run(self, action: Callable[[], _T], cancel: Callable[[], None] = lambda: None) -> _T:
        def stop() -> None:
            cancel()
            self.connection.interrupt()

        with explained(self.path):
            return interruptible(action, cancel=stop)

    def _number(self, statement: str) -> int:
        return self._execute(statement)[0]


def _equal_keys(table: str, key: tuple[str, ...], newest_by: str | None, rows: int) -> DataError:
    newest = f" and equal {newest_by}" if newest_by else ""
    return DataError(
        f"{table}: {rows} rows have the same primary key ({', '.join(key)}){newest} as another row:"
        " which of them is the newest cannot be known",
        hint="name the columns that do identify a row in `primary_key`",
    )


def sweep(directory: Path) -> list[tuple[Path, Run | None]]:
    """Finds the staging files of killed runs, each with its run if it can be read."""
    return [(path, run) for path, run, _ in _idle(directory) if not run or run.status == "running"]


def kept(directory: Path) -> list[tuple[Path, Run, str]]:
    """Finds the staging files that wait for another command, with what is to be loaded; oldest first."""
    return [(path, run, load) for path, run, load in _idle(directory) if run and run.status != "running"]


def busy(directory: Path) -> list[Path]:
    """Finds the staging files of runs that are under way, whatever they hold."""
    return sorted(set(directory.glob("*.duckdb")) - {path for path, _, _ in _idle(directory)})


def _idle(directory: Path) -> list[tuple[Path, Run | None, str]]:
    """The staging files that no process has open, the oldest first."""
    if not directory.exists():
        return []
    idle: list[tuple[Path, Run | None, str]] = []
    with _locked(directory), interruptions():
        for path in sorted(directory.glob("*.duckdb")):
            try:
                with duckdb.connect(str(path)) as connection:
                    row = connection.execute("SELECT run, load FROM run").fetchone()
            except duckdb.Error as error:
                if "Could not set lock" not in str(error):
                    idle.append((path, None, ""))  # killed while it was made
            else:
                idle.append((path, Run.from_json(row[0]), row[1] or "") if row else (path, None, ""))
    return idle


def discard(directory: Path, files: list[Path]) -> None:
    """Deletes staging files that ``sweep`` or ``kept`` found."""
    if files:
        with _locked(directory):
            for path in files:
                _delete(path)


def _delete(path: Path) -> None:
    """Deletes a staging file; what hangs on it goes first, so that no orphan can be left."""
    shutil.rmtree(path.with_name(path.name + ".tmp"), ignore_errors=True)
    path.with_name(path.name + ".wal").unlink(missing_ok=True)
    path.unlink(missing_ok=True)


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keeps a sweep from opening the file another process is just making."""
    with (directory / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
