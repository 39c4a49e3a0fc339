"""The shop's history: the UCI "Online Retail" invoices as four tables (see data/README.md)."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyops.errors import OperationError, UsageError

if TYPE_CHECKING:
    from adbc_driver_manager.dbapi import Connection, Cursor

TABLES = ("users", "products", "orders", "order_items")

_HERE = Path(__file__).parent


def find_data(project_dir: Path) -> Path:
    """The invoices: in the project's data/, or in the data/ beside this package."""
    name = "data/online_retail.parquet"
    for root in (project_dir, _HERE.parents[1]):
        if (root / name).is_file():
            return root / name
    raise UsageError(
        f"{name} is not in {project_dir}", hint="run this in a clone of the repository, or give one with --project-dir"
    )


def has_database(admin_dsn: str, name: str) -> bool:
    """Whether the server has a database of this name."""
    with closing(connect(admin_dsn)) as connection, closing(connection.cursor()) as cursor:
        return query(cursor, "select 1 from pg_database where datname = $1", name) != []


def create_database(admin_dsn: str, name: str) -> None:
    """Creates a database unless it exists."""
    if has_database(admin_dsn, name):
        return
    with closing(connect(admin_dsn, autocommit=True)) as connection, closing(connection.cursor()) as cursor:
        query(cursor, f'create database "{name}"')


def load(dsn: str, data: Path) -> bool:
    """Loads the invoices (Parquet) in one transaction; False if they were loaded before."""
    with closing(connect(dsn)) as connection, closing(connection.cursor()) as cursor:
        if _has_shop(cursor):
            return False
        for statement in _statements("tables.sql"):
            query(cursor, statement)
        _copy_history(cursor, data)
        for statement in _statements("keys.sql"):
            query(cursor, statement)
        connection.commit()
        return True


@dataclass(frozen=True)
class Summary:
    """PostgreSQL's version, such as `18.4`, and what is in the shop's database; days are UTC."""

    version: str
    size_bytes: int
    rows: dict[str, int]
    last_order_date: date


def summarize(dsn: str) -> Summary:
    """Counts the rows of the shop's tables and measures its database."""
    with closing(connect(dsn)) as connection, closing(connection.cursor()) as cursor:
        require_shop(cursor)
        counts = ", ".join(f"(select count(*) from {table})" for table in TABLES)
        rows = query(cursor, f"select {counts}")[0]
        version, size, last = query(
            cursor,
            "select current_setting('server_version'), pg_database_size(current_database()),"
            " (max(ordered_at) at time zone 'UTC')::date from orders",
        )[0]
        return Summary(
            version=version, size_bytes=size, rows=dict(zip(TABLES, rows, strict=True)), last_order_date=last
        )


def require_shop(cursor: Cursor) -> None:
    """Raises an OperationError unless the shop is in the database."""
    if not _has_shop(cursor):
        raise OperationError("the shop's tables are not in this database", hint="load them with: pyops demo up")


def _has_shop(cursor: Cursor) -> bool:
    # All tables or none: they are made and filled in one transaction.
    return query(cursor, "select to_regclass('public.order_items') is not null") == [(True,)]


def connect(dsn: str, *, autocommit: bool = False) -> Connection:
    """A new connection to a libpq URI."""
    import adbc_driver_postgresql.dbapi

    connection: Connection = adbc_driver_postgresql.dbapi.connect(dsn, autocommit=autocommit)
    return connection


def query(cursor: Cursor, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Runs one statement and returns its rows, if it has any."""
    # By default every query becomes a COPY, which a statement that writes cannot be.
    cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
    cursor.execute(statement, parameters or None)
    return cursor.fetchall() if cursor.description else []


def _copy_history(cursor: Cursor, data: Path) -> None:
    import duckdb

    with duckdb.connect() as history:
        history.from_parquet(str(data), file_row_number=True).create_view("source")
        history.execute((_HERE / "history.sql").read_text())
        for table in TABLES:
            # DuckDB's timestamps are in UTC and have no zone. COPY sends them as they are, and a
            # timestamptz is the same eight bytes: no session's time zone matters.
            rows = history.table(table).to_arrow_reader(100_000)
            cursor.adbc_ingest(table, rows, mode="append")


def _statements(name: str) -> list[str]:
    return (_HERE / name).read_text().rstrip(";\n").split(";\n")
