"""The staging file: one DuckDB file for each load, where rows are typed before anybody sees them.

It holds the tables ``rows`` (typed), ``dead_letters`` (rows with a value that has no faithful
place) and ``run`` (whose it is). While the run lives, DuckDB's lock keeps other processes out of
its file; so a file that can be opened belongs to a run that was killed.
"""

import fcntl
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import duckdb
import pyarrow as pa

from pyops.errors import DataError, OperationError, PyopsError, TransientError
from pyops.failures import explained
from pyops.interrupt import interruptible, interruptions
from pyops.records import Run
from pyops.sql import columns as listed
from pyops.sql import identifier, literal
from pyops.staging.postgres_types import ColumnMapping
from pyops.staging.prefetch import Prefetch

# Enough for what is not read from a database; more would only be kept, not used.
_LEAST_MEMORY = 160_000_000
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": f"{_LEAST_MEMORY}B",
    # Each fills row groups of its own, so memory would follow the number of cores.
    "threads": 2,
    "preserve_insertion_order": False,
}
# The memory DuckDB needs for rows that stream in, in bytes: for the blocks each column is writing,
# and for some copies of as many rows as it takes at once (measured: 10 MB values; 1,500 columns).
_MEMORY = 80_000_000
_MEMORY_OF_COLUMN = 2_000_000
_ROWS_AT_ONCE = 2048
_COPIES = 3
_MOST_COPIES = 20


_T = TypeVar("_T")


@dataclass(frozen=True)
class Staged:
    """What arrived in a staging file: counts of rows, and bytes as Arrow has them."""

    rows_read: int
    bytes_read: int


@dataclass
class Stage:
    """An open staging file; a context manager that deletes it at the end.

    A signal leaves it to whoever records the run as cancelled: should the process be killed before
    that, the file tells of it.
    """

    path: Path
    connection: duckdb.DuckDBPyConnection
    columns: dict[str, str] = field(default_factory=dict)
    kept: bool = False
    _memory: int = _LEAST_MEMORY
    _widths: dict[str, "_Width"] = field(default_factory=dict)

    @classmethod
    def create(cls, directory: Path, run: Run) -> Self:
        """Makes the staging file of a run.

        Raises:
            OperationError: It cannot be written.
        """
        path = directory / f"{run.run_id}.duckdb"
        with explained(path):
            directory.mkdir(parents=True, exist_ok=True)
            try:
                with _locked(directory):
                    connection = duckdb.connect(str(path), config=_SETTINGS)
                connection.execute(
                    "CREATE TABLE run AS SELECT ? AS run, NULL::VARCHAR AS load, '' AS memory",
                    [run.to_json()],
                )
                connection.execute("CHECKPOINT")
            except BaseException:
                _delete(path)
                raise
        return cls(path, connection)

    @classmethod
    def reopen(cls, path: Path) -> tuple[Self, Run, str]:
        """Opens a staging file that was kept.

        Returns:
            It, its run, and what ``keep`` was told of the load.

        Raises:
            TransientError: Another process has it open.
        """
        with explained(path):
            try:
                connection = duckdb.connect(path, config=_SETTINGS)
            except duckdb.IOException as error:
                if "Could not set lock" in str(error):
                    raise TransientError(
                        f"{path.name} is open in another process", hint="wait for that one"
                    ) from None
                raise
        run, load, memory = connection.execute("SELECT run, load, memory FROM run").fetchall()[0]
        connection.execute(f"SET memory_limit = {literal(memory)}")
        described = connection.execute("DESCRIBE rows").fetchall()
        columns = {name: type_ for name, type_, *_ in described if name != "_fault"}
        return cls(path, connection, columns, kept=True), Run.from_json(run), load

    def keep(self, run: Run, load: str) -> None:
        """Leaves the file for another command, with the run so far and what is to be loaded."""
        self.connection.execute(
            "UPDATE run SET run = ?, load = ?, memory = current_setting('memory_limit')",
            [run.to_json(), load],
        )
        self.connection.execute("CHECKPOINT")
        self.kept = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
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
    ) -> Staged:
        """Types what arrives and sorts out the dead letters, reading and writing side by side.

        Args:
            schema: The Arrow schema of the batches.
            batches: What arrives.
            mappings: How each column is landed, in the order of the target.
            key: Columns that identify a row; a NULL in one makes the row a dead letter.
            cancel: Stops the reading from another thread.
            progress: Told the number of rows and bytes read so far, batch by batch.

        Raises:
            PyopsError: What the reading failed with.
            OperationError: The file cannot be written.
        """
        self.columns = {name: mapping.warehouse for name, mapping in mappings.items()}
        settings = self.connection.cursor()

        def make_room(width: int) -> None:
            settings.execute(f"SET memory_limit = '{_memory(len(mappings), width)}B'")

        make_room(0)
        prefetched = _Prefetched(batches, progress, make_room)

        def land() -> None:
            # The warehouse is to be small; texts that are deleted at once are not worth the time.
            self.connection.execute("SET disabled_compression_methods = 'dict_fsst,zstd,fsst'")
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
        return Staged(prefetched.rows, prefetched.bytes)

    def fill_from_tables(
        self, mappings: Mapping[str, ColumnMapping], *, key: tuple[str, ...]
    ) -> None:
        """Types the rows of the table ``arrived``; those of ``refused`` are dead letters.

        Raises:
            OperationError: The file cannot be written.
        """
        self.columns = {name: mapping.warehouse for name, mapping in mappings.items()}
        self._execute(f"CREATE TABLE rows AS {typed(mappings, key)}")
        self._sort_out_faults()
        self._execute(
            "INSERT INTO dead_letters (reason, payload, file, line)"
            " SELECT reason, payload, _file, _line FROM refused"
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
        """Types further rows into a temporary table; what is wrong with a row is in ``_fault``.

        Args:
            table: The table, which is kept in memory as far as it fits; made if it is not there.
            arrived: The rows.
            mappings: How each column is landed, in the order of the table.
            key: Columns that describe a row in its dead letter.
            where: The DuckDB condition for the rows to take.
            size: How many bytes they have.

        Raises:
            OperationError: The file cannot be written.
        """
        width = self._widths.setdefault(table, _Width())
        width.add(len(arrived), size)
        self._allow(_memory(len(mappings), width.widest))
        self.connection.register("arrived", arrived)
        try:
            while True:
                try:
                    self.add_arrived(table, mappings, key=key, where=where)
                    break
                except OperationError as error:  # the JSON of a dead letter takes many copies
                    is_too_little = isinstance(error.__cause__, duckdb.OutOfMemoryException)
                    if not is_too_little or self._memory > _MEMORY + _MOST_COPIES * size:
                        raise
                    self._allow(2 * self._memory)
        finally:
            self.connection.unregister("arrived")

    def add_arrived(
        self, table: str, mappings: Mapping[str, ColumnMapping], *, key: tuple[str, ...], where: str
    ) -> None:
        """The same with rows of the table ``arrived``."""
        name = identifier(table)
        select = typed(mappings, key, required=False, where=where)
        self._execute(f"CREATE TEMP TABLE IF NOT EXISTS {name} AS {select} LIMIT 0")
        self._execute(f"INSERT INTO {name} {select}")

    def make_room(self, columns: int) -> None:
        """Lets DuckDB take what rows of so many columns need."""
        self._allow(_LEAST_MEMORY + _MEMORY_OF_COLUMN * columns)

    def _allow(self, memory: int) -> None:
        """Lets DuckDB have so many bytes, if it has not."""
        if memory > self._memory:
            self._execute(f"SET memory_limit = '{memory}B'")
            self._memory = memory

    def _sort_out_faults(self) -> None:
        self._execute(
            f"CREATE TABLE dead_letters AS SELECT {DEAD_LETTER} FROM rows WHERE _fault IS NOT NULL"
        )
        if self.dead_letters:
            self._execute("DELETE FROM rows WHERE _fault IS NOT NULL")

    @property
    def dead_letters(self) -> int:
        """How many rows are dead letters."""
        return self._number("SELECT count(*) FROM dead_letters")

    def reject(self, condition: str, column: str, reason: str, *, key: tuple[str, ...]) -> None:
        """Makes dead letters of the typed rows that meet a condition."""
        raw = {name: _raw_text(name, type_) for name, type_ in self.columns.items()}
        value = raw.get(column, "NULL")
        file, line = ("_file", "_line") if "_file" in raw else ("NULL", "NULL")
        self._execute(
            f"INSERT INTO dead_letters SELECT {_json({name: raw[name] for name in key})},"
            f" {literal(column)}, {value}, {literal(reason)}, {_json(raw)}, {file}, {line}"
            f" FROM rows WHERE {condition}"
        )
        self._execute(f"DELETE FROM rows WHERE {condition}")

    def null_count(self, column: str) -> int:
        """How many rows have NULL in a column."""
        return self._number(f"SELECT count(*) FROM rows WHERE {identifier(column)} IS NULL")

    def keep_newest(self, key: tuple[str, ...], newest_by: str | None, *, table: str) -> int:
        """Leaves one row for each key: the one with the largest cursor.

        Returns:
            How many older rows of a key were left out.

        Raises:
            DataError: Two rows of a key with equal cursors, or no cursor to tell them apart.
        """
        keys = listed(key)
        total, distinct = self._execute(f"SELECT count(*), count(DISTINCT ({keys},)) FROM rows")
        if total == distinct:
            return 0
        if newest_by is not None:
            order = identifier(newest_by)
            if self.columns[newest_by] == "VARCHAR":  # an unbounded numeric; texts become NULL
                order = f"TRY_CAST({order} AS DECIMAL(38,12)) DESC NULLS LAST, {order}"
            self._execute(
                "CREATE OR REPLACE TABLE rows AS SELECT * FROM rows QUALIFY"
                f" rank() OVER (PARTITION BY {keys} ORDER BY {order} DESC NULLS LAST) = 1"
            )
        left = self._number("SELECT count(*) FROM rows")
        if left > distinct:
            names = ", ".join(key)
            newest = f" and equal {newest_by}" if newest_by else ""
            raise DataError(
                f"{table}: {left - distinct} rows have the same primary key ({names}){newest} as"
                " another row: which of them is the newest cannot be known",
                hint="name the columns that do identify a row in `primary_key`",
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


def sweep(directory: Path) -> list[tuple[Path, Run | None]]:
    """Finds the staging files of runs that were killed, and the run if it can be read.

    The caller records those runs, then deletes the files with ``discard``.
    """
    return [(path, run) for path, run in _idle(directory) if not run or run.status == "running"]


def kept(directory: Path) -> list[tuple[Path, Run]]:
    """Finds the staging files that wait for another command, the newest first."""
    found = [(path, run) for path, run in _idle(directory) if run and run.status != "running"]
    return found[::-1]


def busy(directory: Path) -> list[Path]:
    """Finds the staging files of runs that are under way, whatever they hold."""
    return sorted(set(directory.glob("*.duckdb")) - {path for path, _ in _idle(directory)})


def _idle(directory: Path) -> list[tuple[Path, Run | None]]:
    """The staging files that no process has open, the oldest first."""
    if not directory.exists():
        return []
    idle: list[tuple[Path, Run | None]] = []
    with _locked(directory), interruptions():
        for path in sorted(directory.glob("*.duckdb")):
            try:
                with duckdb.connect(str(path)) as connection:
                    row = connection.execute("SELECT run FROM run").fetchone()
            except duckdb.Error as error:
                if "Could not set lock" not in str(error):
                    idle.append((path, None))  # killed while it was made
            else:
                idle.append((path, Run.from_json(row[0]) if row else None))
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


# ``_fault`` is a list of these: to write a struct's columns of nothing but NULLs takes longer than
# to write one of the rows' own.
_FAULT = ("key", "column_name", "value", "reason", "payload", "file", "line")
DEAD_LETTER = ", ".join(  # the columns of a dead letter, from a row's fault
    f"_fault[{n}]{'::BIGINT' * (name == 'line')} AS {name}" for n, name in enumerate(_FAULT, 1)
)


def typed(
    mappings: Mapping[str, ColumnMapping],
    key: tuple[str, ...],
    *,
    required: bool = True,
    where: str = "true",
) -> str:
    """The SELECT that types each column and describes the first fault of a row in ``_fault``.

    Args:
        mappings: How each column is landed, in order.
        key: The columns that describe a row in its dead letter.
        required: Whether a NULL in one of them is a fault.
        where: The condition for the rows to take, of what arrived.
    """
    raw = {
        name: mapping.text or _raw_text(name, mapping.warehouse)
        for name, mapping in mappings.items()
    }
    mark = "_"  # in front of the names of converted columns, so that they are no other's
    while any(name.startswith(mark) for name in mappings):
        mark += "_"
    converted = {name: identifier(f"{mark}{n}") for n, name in enumerate(mappings)}
    faults = []  # column, reason, condition
    for name, mapping in mappings.items():
        column = identifier(name)
        if mapping.fault:
            condition = f"{column} IS NOT NULL AND {converted[name]} IS NULL"
            faults.append((name, mapping.fault, condition))
        if required and name in key:
            faults.append((name, "a primary key cannot be NULL", f"{column} IS NULL"))
    columns = ", ".join(f"{converted[name]} AS {identifier(name)}" for name in mappings)
    conversions = ", ".join(f"{item.convert} AS {converted[n]}" for n, item in mappings.items())
    arrived = f"(SELECT *, {conversions} FROM arrived WHERE {where})"
    if not faults:
        return f"SELECT {columns}, NULL::VARCHAR[] AS _fault FROM {arrived}"
    # The fault's number first, what it stands for second: the statement grows with the columns,
    # not with their square.
    numbers = " ".join(f"WHEN {fault[2]} THEN {n}" for n, fault in enumerate(faults, 1))
    described = {
        "column_name": f"[{', '.join(literal(fault[0]) for fault in faults)}][_fault]",
        "value": f"[{', '.join(raw[fault[0]] for fault in faults)}][_fault]",
        "reason": f"[{', '.join(literal(fault[1]) for fault in faults)}][_fault]",
        "key": _json({name: raw[name] for name in key}),
        "payload": _json(raw),
        "file": "_file" if "_file" in mappings else "NULL",
        "line": "_line::VARCHAR" if "_file" in mappings else "NULL",
    }
    values = ", ".join(described[name] for name in _FAULT)
    fault = f"CASE WHEN _fault IS NOT NULL THEN [{values}] END"
    numbered = f"SELECT *, CASE {numbers} END AS _fault FROM {arrived}"
    return f"SELECT {columns}, {fault} AS _fault FROM ({numbered})"


def _raw_text(name: str, type_: str) -> str:
    column = identifier(name)
    if type_ == "BLOB":
        return rf"'\x' || lower(hex({column}))"
    return f"{column}::VARCHAR"


def _struct(values: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{literal(name)}: {text}" for name, text in values.items()) + "}"


def _json(values: Mapping[str, str]) -> str:
    return f"to_json({_struct(values)})::VARCHAR" if values else "NULL::VARCHAR"


def _memory(columns: int, width: int) -> int:
    """The bytes DuckDB needs for so many columns, and rows at once that have so many bytes."""
    return _MEMORY + _MEMORY_OF_COLUMN * columns + _COPIES * width


class _Width:
    """How many bytes the widest rows have that DuckDB takes at once."""

    def __init__(self) -> None:
        self.widest = 0
        self._recent: deque[tuple[int, int]] = deque()  # rows and bytes of the last parts
        self._rows = self._size = 0

    def add(self, rows: int, size: int) -> bool:
        """Looks at the next rows; returns whether they are wider than any before."""
        self._recent.append((rows, size))
        self._rows, self._size = self._rows + rows, self._size + size
        while self._rows - self._recent[0][0] >= _ROWS_AT_ONCE:
            first = self._recent.popleft()
            self._rows, self._size = self._rows - first[0], self._size - first[1]
        width = self._size * _ROWS_AT_ONCE // max(self._rows, _ROWS_AT_ONCE)
        is_wider = width > self.widest
        self.widest = max(self.widest, width)
        return is_wider


class _Prefetched(Prefetch[pa.RecordBatch]):
    """Batches that are read ahead, and counted.

    Before wider rows than any before are handed on, ``widened`` is told how many bytes as many of
    them as DuckDB takes at once may have.
    """

    def __init__(
        self,
        batches: Iterator[pa.RecordBatch],
        progress: Callable[[int, int], None],
        widened: Callable[[int], None],
    ) -> None:
        super().__init__(self._measured(batches))
        self.rows = 0
        self.bytes = 0
        self._progress = progress
        self._widened = widened

    def _measured(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        width = _Width()
        for batch in batches:
            if width.add(batch.num_rows, batch.nbytes):
                self._widened(width.widest)
            yield batch

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        for batch in super().__iter__():
            self.rows += batch.num_rows
            self.bytes += batch.nbytes
            self._progress(self.rows, self.bytes)
            yield batch
