"""PostgreSQL, read with ADBC into Arrow."""

import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any
from urllib.parse import urlencode

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa

from pyops.errors import OperationError, PyopsError, TransientError
from pyops.failures import of_connection, of_query
from pyops.interrupt import interruptible
from pyops.records import TableId
from pyops.retry import ONCE, Policy, retrying

# What the text of a value looks like, and whether every row is there, must not depend on the
# settings of a role or a database; a policy that hides rows is an error, not a smaller table.
_SESSION = {
    "client_encoding": "UTF8", "DateStyle": "ISO, MDY", "IntervalStyle": "iso_8601",
    "TimeZone": "UTC", "extra_float_digits": "1", "bytea_output": "hex", "lc_monetary": "C",
    "search_path": "pg_catalog", "xmloption": "content", "row_security": "off",
    "default_transaction_read_only": "on", "application_name": "pyops",
}  # fmt: skip
# What would end a long copy, or the session that holds a lock meanwhile; not every version has all.
_NO_TIMEOUTS = """
SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN (
    'statement_timeout', 'transaction_timeout', 'idle_session_timeout',
    'idle_in_transaction_session_timeout'
)
"""
# Seconds, but for the last one, in milliseconds.
_PATIENCE = {
    "connect_timeout": 10, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}  # fmt: skip
_BATCH_BYTES = 4 << 20
LOCK_SECONDS = 60.0  # how long to wait for tables that somebody has locked


class Session(AbstractContextManager["Session"]):
    """One connection with pinned settings, for one thread; errors are those of ``explained``."""

    def __init__(self, connection: adbc.Connection) -> None:
        self._connection = connection
        self._reading: adbc.Cursor | None = None
        self._lock = threading.Lock()  # nothing is cancelled while it is being closed

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.cancel()
        self._end_reading()
        self._connection.close()

    def query(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Runs a statement of few rows, and returns them."""
        with explained(), self._connection.cursor() as cursor:
            # By default every query becomes a COPY, which takes no parameters.
            cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})

            def run() -> list[tuple[Any, ...]]:
                cursor.execute(statement, parameters or None)
                return cursor.fetchall() if cursor.description else []

            return interruptible(run, cancel=cursor.adbc_cancel)

    @contextmanager
    def snapshot(self, locked: Sequence[str] = ()) -> Iterator[dict[str, PyopsError]]:
        """A read-only transaction whose queries all see the database at one moment: its start.

        TRUNCATE and a rewriting ALTER TABLE are not MVCC-safe: a table they meet between the snapshot and
        its read looks empty (PostgreSQL manual, 13.6 Caveats). So the tables in ``locked`` (quoted names)
        and their partitions are locked against them, before the snapshot is taken. Gives those that could
        not be locked, each with its error.
        """
        refused = self._lock_tables(locked)
        self.query("SELECT pg_current_snapshot()::text")
        try:
            yield refused
        finally:
            if self._reading is None:  # otherwise closing the connection ends it
                with suppress(PyopsError):  # a connection that broke has no transaction any more
                    self.query("ROLLBACK")

    def _lock_tables(self, names: Sequence[str]) -> dict[str, PyopsError]:
        """Begins the transaction with its locks; in the end one by one, if not all can be had.

        Who waits for one lock while holding others may stand in somebody's way: so all are given back
        before PostgreSQL looks for a deadlock (after a second), and taken again a little later.
        """
        deadline, refused = time.monotonic() + LOCK_SECONDS, dict[str, PyopsError]()
        while True:
            self.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            self.query("SET LOCAL lock_timeout = '500ms'")
            try:
                if names:
                    self.query(f"LOCK TABLE {', '.join(names)} IN ACCESS SHARE MODE")
            except TransientError:
                if time.monotonic() > deadline:
                    break
            except PyopsError:
                break
            else:
                return {}
            self.query("ROLLBACK")
            time.sleep(random.uniform(0.05, 0.5))
        self.query("ROLLBACK")
        self.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        self.query("SET LOCAL lock_timeout = '500ms'")
        for name in names:
            try:
                with self.savepoint():
                    self.query(f"LOCK TABLE {name} IN ACCESS SHARE MODE")
            except PyopsError as error:
                refused[name] = error
        return refused

    @contextmanager
    def savepoint(self) -> Iterator[None]:
        """Keeps a failure inside from spoiling the surrounding snapshot."""
        self.query("SAVEPOINT pyops")
        try:
            yield
        except Exception:
            self.cancel()
            self._end_reading()
            with suppress(PyopsError):  # whoever uses a broken connection next will learn of it
                self.query("ROLLBACK TO SAVEPOINT pyops")
            raise
        with suppress(PyopsError):  # what was done inside is done
            self.query("RELEASE SAVEPOINT pyops")

    def read(self, statement: str, *, batch_bytes: int | None = None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Runs a query of many rows; gives schema and batches. Numeric is text, times are naive."""
        cursor = self._reading = self._connection.cursor()

        def begin() -> pa.RecordBatchReader:
            cursor.execute(statement)
            return cursor.fetch_record_batch()

        with explained():
            option = {"adbc.postgresql.batch_size_hint_bytes": str(batch_bytes or _BATCH_BYTES)}
            cursor.adbc_statement.set_options(**option)
            reader = interruptible(begin, cancel=cursor.adbc_cancel)
        schema = pa.schema([_plain(field) for field in reader.schema])

        def batches() -> Iterator[pa.RecordBatch]:
            while True:
                with explained():
                    try:
                        batch = reader.read_next_batch()
                    except StopIteration:
                        break
                yield _relabelled(batch, schema)
            reader.close()
            self._end_reading()

        return schema, batches()

    def cancel(self) -> None:
        """Stops what ``read`` is reading; may be called from another thread."""
        with self._lock:
            if self._reading is not None:
                with suppress(adbc_driver_manager.Error):  # nothing runs, or nobody is there
                    self._reading.adbc_cancel()

    def _end_reading(self) -> None:
        with self._lock:
            if self._reading is not None:
                self._reading.close()
                self._reading = None

    def bind(self, **values: str) -> None:
        """Binds ``current_setting('pyops.<name>')``: a COPY takes no parameters."""
        self.set({f"pyops.{name}": value for name, value in values.items()})

    def set(self, settings: Mapping[str, str]) -> None:
        if settings:
            calls = ", ".join(f"set_config(${2 * i + 1}, ${2 * i + 2}, false)" for i in range(len(settings)))
            self.query(f"SELECT {calls}", *(word for pair in settings.items() for word in pair))


def unlockable(table: TableId, error: PyopsError) -> PyopsError:
    """The error of a table that could not be locked before it is read."""
    if not isinstance(error, TransientError):
        return error
    return TransientError(
        f"{table} is locked by another session", hint="run it again once that has ended; see pg_locks"
    )


def connect(dsn: str, *, name: str = "", policy: Policy = ONCE, sleep: Callable[[float], None] = time.sleep) -> Session:
    """Connects and pins the session's settings; a source that does not answer is tried again."""
    return retrying(policy, name or "source", sleep)(_connected, dsn)


def _connected(dsn: str) -> Session:
    session = _connect(dsn)
    try:
        encoding = session.query("SHOW server_encoding")[0][0]
        if isinstance(encoding, bytes):  # the driver knows types by their functions' plain names
            raise OperationError(
                "quote_all_identifiers is on at the source, and so the driver knows no types",
                hint="ALTER ROLE <user> SET quote_all_identifiers = off;",
            )
        session.set(_SESSION)
        session.query(_NO_TIMEOUTS)
        if encoding == "SQL_ASCII":
            raise OperationError(
                "the source's encoding is SQL_ASCII: nobody knows what its text means",
                hint="convert the database to UTF8, or read it through one that is",
            )
    except BaseException:
        session.close()
        raise
    return session


def _connect(dsn: str) -> Session:
    try:
        return Session(interruptible(lambda: adbc.connect(with_timeouts(dsn), autocommit=True), cancel=None))
    except adbc_driver_manager.Error as error:
        raise of_connection(str(error), dsn) from None


def with_timeouts(dsn: str) -> str:
    """A DSN by which a server that falls silent is given up; what it says itself holds (manual, 34.1.2)."""
    missing = {name: value for name, value in _PATIENCE.items() if name not in dsn}
    if re.match("postgres(ql)?://", dsn):
        return dsn + ("&" if "?" in dsn else "?") + urlencode(missing) if missing else dsn
    return f"{dsn} {' '.join(f'{name}={value}' for name, value in missing.items())}"


@contextmanager
def explained() -> Iterator[None]:
    """Turns the driver's errors into pyops's own, by SQLSTATE."""
    try:
        yield
    except (adbc_driver_manager.Error, OSError, pa.ArrowInvalid) as error:
        raise of_query(getattr(error, "sqlstate", None) or "", str(error)) from None


def _plain(field: pa.Field) -> pa.Field:
    """A field without what DuckDB would not read: opaque types and time zones."""
    type_ = field.type
    if isinstance(type_, pa.BaseExtensionType) and type_.extension_name != "arrow.uuid":
        type_ = type_.storage_type
    if pa.types.is_timestamp(type_):
        type_ = pa.timestamp("us")  # PostgreSQL's are UTC already
    return pa.field(field.name, type_)


def _relabelled(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    arrays = []
    for array, type_ in zip(batch.columns, schema.types, strict=True):
        relabelled = array
        if isinstance(array, pa.ExtensionArray) and array.type != type_:
            relabelled = array.storage
        arrays.append(relabelled if relabelled.type == type_ else relabelled.view(type_))
    return pa.record_batch(arrays, schema=schema)
