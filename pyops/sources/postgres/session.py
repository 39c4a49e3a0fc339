"""PostgreSQL, read with ADBC into Arrow."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Self

import adbc_driver_manager
import adbc_driver_postgresql.dbapi as adbc
import pyarrow as pa
import tenacity

from pyops.errors import OperationError, PyopsError, TransientError
from pyops.failures import of_connection, of_query
from pyops.interrupt import interruptible
from pyops.sql import identifier, qualified
from pyops.staging.postgres_types import PostgresType

# What the text of a value looks like, and whether every row is there, must not depend on the
# settings of a role or a database.
_SESSION = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "iso_8601",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lc_monetary": "C",
    "search_path": "pg_catalog",
    "xmloption": "content",
    "row_security": "off",  # a policy that hides rows is an error, not a smaller table
    "default_transaction_read_only": "on",
    "application_name": "pyops",
}
# What would end a long copy, or the session that holds a lock meanwhile; not every version has all.
_NO_TIMEOUTS = """
SELECT set_config(name, '0', false) FROM pg_settings WHERE name IN (
    'statement_timeout', 'transaction_timeout', 'idle_session_timeout',
    'idle_in_transaction_session_timeout'
)
"""
_BATCH_BYTES = 4 << 20

_ATTRIBUTES = """
    SELECT a.attnum, a.attname::text, a.atttypid AS oid, a.atttypmod AS modifier
    FROM pg_attribute AS a
    WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
"""
_GIVEN = """
    SELECT given.attnum, ''::text, given.oid, given.modifier
    FROM unnest($1::oid[], $2::integer[]) WITH ORDINALITY AS given (oid, modifier, attnum)
"""
_COLUMNS = """
WITH RECURSIVE bases (attnum, attname, oid, modifier) AS (
    {of}
    UNION ALL
    SELECT b.attnum, b.attname, t.typbasetype, t.typtypmod
    FROM bases AS b
    JOIN pg_type AS t ON t.oid = b.oid AND t.typtype = 'd'
), elements AS (
    SELECT b.attnum, e.oid
    FROM bases AS b
    JOIN pg_type AS e ON e.typarray = b.oid
    UNION ALL
    SELECT e.attnum, t.typbasetype
    FROM elements AS e
    JOIN pg_type AS t ON t.oid = e.oid AND t.typtype = 'd'
)
SELECT
    b.attnum::integer,
    b.attname,
    CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN t.typname ELSE '' END::text,
    b.modifier,
    CASE
        WHEN e.oid IS NULL OR e.typdelim <> ',' THEN NULL
        WHEN e.typnamespace = 'pg_catalog'::regnamespace THEN e.typname
        ELSE ''
    END::text,
    format_type(t.oid, NULL)
FROM bases AS b
JOIN pg_type AS t ON t.oid = b.oid AND t.typtype <> 'd'
LEFT JOIN (elements JOIN pg_type AS e ON e.oid = elements.oid AND e.typtype <> 'd') USING (attnum)
ORDER BY b.attnum
"""

# Locks first, prepared transactions second: a transaction on its way from one to the other is in
# both for a moment, and so is missed by neither.
_VIRTUAL_TRANSACTIONS = """
SELECT DISTINCT 'v' || l.virtualxid
FROM pg_locks AS l
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.granted AND l.mode = 'ExclusiveLock'
    AND l.pid <> pg_backend_pid()
    AND (a.datid IS NULL OR a.datid = (
        SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()
    ))
"""
_PREPARED_TRANSACTIONS = """
SELECT 'p' || transaction::text FROM pg_prepared_xacts WHERE database = current_database()
"""


@dataclass(frozen=True)
class Column:
    """A column as the catalog has it; ``sql_type`` is its base type's name for a cast."""

    name: str
    type: PostgresType
    sql_type: str


@dataclass(frozen=True)
class Relation:
    """A table, view or foreign table; ``estimated_rows`` is the planner's guess, -1 for none."""

    schema: str
    name: str
    columns: tuple[Column, ...]
    estimated_rows: int

    @property
    def qualified(self) -> str:
        """The quoted name."""
        return qualified(self.schema, self.name)

    def column(self, name: str) -> Column | None:
        """The column of this name."""
        return next((c for c in self.columns if c.name == name), None)


class Session:
    """One connection with pinned settings. Not for use by two threads at once.

    Every method raises what ``explained`` makes of the driver's errors.
    """

    def __init__(self, connection: adbc.Connection) -> None:
        self._connection = connection
        self._reading: adbc.Cursor | None = None
        self._lock = threading.Lock()  # nothing is cancelled while it is being closed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection, cancelling what it still reads."""
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

    def describe(self, schema: str, name: str) -> Relation:
        """Reads a table's columns from the catalog.

        Raises:
            OperationError: There is no such table, or no right to look at it.
        """
        found = self.query(
            "SELECT c.oid::bigint, c.reltuples::bigint,"
            " has_schema_privilege(n.oid, 'USAGE')"
            "  AND (has_table_privilege(c.oid, 'SELECT') OR has_any_column_privilege(c.oid,"
            " 'SELECT')) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = ANY ('{r,p,v,m,f}')",
            schema,
            name,
        )
        if not found:
            raise OperationError(
                f"there is no table {schema}.{name} at the source",
                hint="names are case-sensitive; `schema` in pyops.yml says where it is",
            )
        oid, rows, readable = found[0]
        if not readable:
            raise OperationError(
                f"the source's user may not read {schema}.{name}",
                hint=f"GRANT USAGE ON SCHEMA {identifier(schema)} TO <user>;"
                f" GRANT SELECT ON {qualified(schema, name)} TO <user>;",
            )
        columns = tuple(
            Column(column, PostgresType(type_, modifier, element), sql_type)
            for _, column, type_, modifier, element, sql_type in self.query(
                _COLUMNS.format(of=_ATTRIBUTES), oid
            )
        )
        return Relation(schema, name, columns, rows)

    def types(self, given: Sequence[tuple[int, int]]) -> list[PostgresType]:
        """Looks types up by oid and modifier; one that was dropped since has no name."""
        arrays = [f"{{{','.join(str(pair[i]) for pair in given)}}}" for i in (0, 1)]
        known = {
            number: PostgresType(type_, modifier, element)
            for number, _, type_, modifier, element, _ in self.query(
                _COLUMNS.format(of=_GIVEN), *arrays
            )
        }
        return [known.get(number, PostgresType("")) for number in range(1, len(given) + 1)]

    def open_transactions(self) -> frozenset[str]:
        """Every transaction of this database that is open now, prepared ones included.

        ``v`` and a virtual transaction id, or ``p`` and a prepared transaction's id. Needs no
        right beyond connecting (PostgreSQL manual, 53.13 pg_locks, 53.17 pg_prepared_xacts).
        """
        rows = [*self.query(_VIRTUAL_TRANSACTIONS), *self.query(_PREPARED_TRANSACTIONS)]
        return frozenset(row[0] for row in rows)

    def transaction_owners(self) -> dict[str, str]:
        """Describes the open transactions, by the names of ``open_transactions``."""
        virtual = self.query(
            "SELECT DISTINCT 'v' || virtualxid, pid FROM pg_locks WHERE locktype = 'virtualxid'"
            " AND granted AND mode = 'ExclusiveLock'"
        )
        prepared = self.query("SELECT 'p' || transaction::text, gid FROM pg_prepared_xacts")
        return {name: f"process {pid}" for name, pid in virtual} | {
            name: f"prepared transaction {gid!r}" for name, gid in prepared
        }

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        """A read-only transaction whose queries all see the database at one moment: its start."""
        self.query("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        self.query("SELECT pg_current_snapshot()::text")
        try:
            yield
        finally:
            if self._reading is None:  # otherwise closing the connection ends it
                with suppress(PyopsError):  # a connection that broke has no transaction any more
                    self.query("ROLLBACK")

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

    def read(
        self, statement: str, *, batch_bytes: int | None = None
    ) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
        """Runs a query of many rows.

        Returns:
            The schema and the batches, of about ``batch_bytes`` each, or 4 MB. Numeric is text;
            timestamps are naive.
        """
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
        """Binds values that a query reads with ``current_setting('pyops.<name>')``.

        A COPY takes no parameters; so values are neither pasted into it nor seen in its text.
        """
        self.set({f"pyops.{name}": value for name, value in values.items()})

    def set(self, settings: Mapping[str, str]) -> None:
        """Changes settings of the session."""
        if settings:
            calls = ", ".join(
                f"set_config(${2 * i + 1}, ${2 * i + 2}, false)" for i in range(len(settings))
            )
            self.query(f"SELECT {calls}", *(word for pair in settings.items() for word in pair))


def connect(
    dsn: str,
    *,
    name: str = "",
    attempts: int = 4,
    sleep: Callable[[float], None] = time.sleep,
    on_retry: Callable[[str], None] = lambda _: None,
) -> Session:
    """Connects and pins the session's settings; what is transient is tried again with backoff.

    Args:
        dsn: libpq's URI or keywords.
        attempts: How often to try at most.
        sleep: Waits for a number of seconds.
        on_retry: Told why another attempt is made.

    Raises:
        TransientError: No server answers, or not yet.
        OperationError: The server refuses; or no value it sends could be trusted.
    """

    def tell(state: tenacity.RetryCallState) -> None:
        on_retry(f"{state.outcome.exception() if state.outcome else ''}; trying again")

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(TransientError),
        wait=tenacity.wait_exponential_jitter(multiplier=0.3, max=10, jitter=0.2),
        stop=tenacity.stop_after_attempt(attempts),
        before_sleep=tell,
        sleep=sleep,
        reraise=True,
    )
    session = retrying(_connect, dsn)
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
        return Session(interruptible(lambda: adbc.connect(dsn, autocommit=True), cancel=None))
    except adbc_driver_manager.Error as error:
        raise of_connection(str(error), dsn) from None


@contextmanager
def explained() -> Iterator[None]:
    """Turns the driver's errors into pyops's own, by SQLSTATE.

    Raises:
        OperationError: See ``failures.of_query``.
    """
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
