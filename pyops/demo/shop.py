"""The shop's history: the UCI "Online Retail" invoices as four tables in PostgreSQL.

What becomes of every oddity of the data is stated in data/README.md.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyops.errors import OperationError, UsageError

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection, Cursor

TABLES = ("users", "products", "orders", "order_items")

_HERE = Path(__file__).parent


def find_data(project_dir: Path) -> Path:
    """The invoices: in the project's data/, or in the data/ beside this package.

    Raises:
        UsageError: they are in neither.
    """
    name = "data/online_retail.parquet"
    for root in (project_dir, _HERE.parents[1]):
        if (root / name).is_file():
            return root / name
    raise UsageError(
        f"{name} is not in {project_dir}",
        hint="run this in a clone of the project's repository, or name one with --project-dir",
    )


def load(dsn: str, data: Path) -> bool:
    """Loads the history into a database, in one transaction, unless it is there already.

    Args:
        dsn: libpq URI of the database.
        data: the Parquet file of the invoices.

    Returns:
        Whether it was loaded now; False where the tables were there.
    """
    with closing(connect(dsn)) as connection, closing(connection.cursor()) as cursor:
        # There can be no part of them: they are made and filled in one transaction.
        if query(cursor, "select to_regclass('public.order_items') is not null") == [(True,)]:
            return False
        for statement in _statements("tables.sql"):
            query(cursor, statement)
        _copy_history(cursor, data)
        for statement in _statements("keys.sql"):
            query(cursor, statement)
        connection.commit()
        return True


def count_rows(dsn: str) -> dict[str, int]:
    """The number of rows of each of the shop's tables.

    Raises:
        OperationError: the shop is not in this database.
    """
    with closing(connect(dsn)) as connection, closing(connection.cursor()) as cursor:
        require_shop(cursor)
        counts = ", ".join(f"(select count(*) from {table})" for table in TABLES)
        return dict(zip(TABLES, query(cursor, f"select {counts}")[0], strict=True))


def require_shop(cursor: Cursor) -> None:
    """Raises an OperationError where the shop's tables are not in the database."""
    if query(cursor, "select to_regclass('public.order_items') is not null") != [(True,)]:
        raise OperationError(
            "the shop's tables are not in this database", hint="load them with: pyops demo up"
        )


def connect(dsn: str) -> Connection:
    """A new connection, outside autocommit."""
    import adbc_driver_postgresql.dbapi  # noqa: PLC0415

    connection: Connection = adbc_driver_postgresql.dbapi.connect(dsn)
    return connection


def query(cursor: Cursor, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Runs one statement and returns its rows, if it has any."""
    # By default every query becomes a COPY, which a statement that writes cannot be.
    cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
    cursor.execute(statement, parameters or None)
    return cursor.fetchall() if cursor.description else []


def _copy_history(cursor: Cursor, data: Path) -> None:
    import duckdb  # noqa: PLC0415

    with duckdb.connect() as history:
        history.from_parquet(str(data), file_row_number=True).create_view("source")
        history.execute((_HERE / "history.sql").read_text())
        for table in TABLES:
            # DuckDB's timestamps are in UTC and have no zone. COPY sends them as they are, and a
            # timestamptz is the same eight bytes: no session's time zone comes into it.
            rows = history.table(table).to_arrow_reader(100_000)
            cursor.adbc_ingest(table, rows, mode="append")


def _statements(name: str) -> list[str]:
    return (_HERE / name).read_text().rstrip(";\n").split(";\n")
