"""Where each table stands, from the warehouse; what holds a watermark back, from the source."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import duckdb

from pyops.config.project import Project, Table
from pyops.errors import PyopsError
from pyops.sources.postgres import session as postgres
from pyops.sql import qualified
from pyops.warehouse.duckdb import Warehouse, bookkeeping_exists


@dataclass(frozen=True)
class TableStatus:
    """One table's state.

    Attributes:
        table: Its name, ``source.table``.
        mode: How it is landed.
        target: Where it lands.
        rows: What is there; None if nothing was landed yet.
        last_status: How the last run ended; None if there was none.
        last_finished_at: When, naive UTC.
        last_loaded_at: When a run last published it, naive UTC.
        last_rows_written: What the last run wrote.
        last_error: Why it failed.
        watermark: Everything below it has been read, as the source's text.
        held_back_by: The transactions at the source that keep the watermark from moving, with
            their process where it could be found out.
        dead_letters: Rows that could not be landed, and still cannot.
    """

    table: str
    mode: str
    target: str
    rows: int | None = None
    last_status: str | None = None
    last_finished_at: datetime | None = None
    last_loaded_at: datetime | None = None
    last_rows_written: int | None = None
    last_error: str | None = None
    watermark: str | None = None
    held_back_by: tuple[str, ...] = ()
    dead_letters: int = 0


def status(project: Project) -> list[TableStatus]:
    """Looks up every configured table.

    Raises:
        PyopsError: The warehouse cannot be opened.
    """
    tables = project.tables()
    warehouse = Warehouse.of(project)
    if not warehouse.path.exists():
        return [_status(table) for table in tables]
    states = warehouse.states(tables)
    holders = {
        source: _holders(project, source)
        for source in {t.source for t, state in states.items() if state.watermark.waiting_for}
    }
    with warehouse.opened(read_only=True) as connection:
        if not bookkeeping_exists(connection):
            return [_status(table) for table in tables]
        return [
            _status(
                table,
                **_looked_up(connection, table, landed=bool(states[table].columns)),
                watermark=states[table].watermark.bound,
                held_back_by=tuple(
                    holders[table.source].get(name, name)
                    for name in sorted(states[table].watermark.waiting_for)
                ),
            )
            for table in tables
        ]


def _status(table: Table, **known: Any) -> TableStatus:
    return TableStatus(str(table), table.config.mode, ".".join(table.target), **known)


def _looked_up(
    connection: duckdb.DuckDBPyConnection, table: Table, *, landed: bool
) -> dict[str, Any]:
    who = [table.source, table.name]

    def row(statement: str, *parameters: object) -> tuple[Any, ...]:
        found = connection.execute(statement, list(parameters)).fetchone()
        return found or (None,) * 10

    state, finished, written, error = row(
        "SELECT status, finished_at, rows_written, error FROM pyops.runs"
        " WHERE source = ? AND (table_name = ? OR table_name IS NULL AND mode = ?)"
        " ORDER BY started_at DESC LIMIT 1",
        *(*who, "cdc" if table.config.mode == "cdc" else None),
    )[:4]
    where = "WHERE source = ? AND table_name = ?"
    (loaded,) = row(f"SELECT max(loaded_at) FROM pyops.loads {where}", *who)
    is_open = " AND status = 'open'" * bookkeeping_exists(connection, table="gate_results")
    (dead,) = row(f"SELECT count(*) FROM pyops.dead_letters {where}{is_open}", *who)
    rows = row(f"SELECT count(*) FROM {qualified(*table.target)}")[0] if landed else None
    return {
        "rows": rows,
        "last_status": state,
        "last_finished_at": finished,
        "last_loaded_at": loaded,
        "last_rows_written": written,
        "last_error": error,
        "dead_letters": dead,
    }


def _holders(project: Project, source: str) -> Mapping[str, str]:
    """Describes the open transactions of a source, if it can be reached."""
    try:
        with postgres.connect(project.dsn(source), attempts=1) as session:
            return session.transaction_owners()
    except PyopsError:  # the source may be down while its warehouse is looked at
        return {}
