"""What the warehouse knows of a captured source: ``pyops.cdc_offsets`` and ``pyops.cdc_tables``."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import duckdb

from pyops.config.project import Table
from pyops.records import Captured, Offset, utc_now
from pyops.warehouse.duckdb import BOOKKEEPING, Warehouse, bookkeeping_exists, catalog_of


@dataclass(frozen=True)
class State:
    """All that is known of a source's capture; ``offset`` is None before the first run.

    ``keys`` has the columns that identify a row of each log, of tables let go since too.
    """

    offset: Offset | None = None
    tables: Mapping[str, Captured] = field(default_factory=dict)
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


def read_state(warehouse: Warehouse, source: str) -> State:
    """Looks a source up; a warehouse that is not there knows nothing."""
    if not warehouse.path.exists():
        return State()
    with warehouse.opened(read_only=True) as connection:
        if not bookkeeping_exists(connection, table="cdc_tables"):
            return State()
        found = connection.execute(
            "SELECT source, generation, status, slot, system_id, timeline, publications, lsn,"
            " committed_at, caught_up_at FROM pyops.cdc_offsets WHERE source = ?",
            [source],
        ).fetchall()
        if not found:
            return State()
        offset = Offset(*found[0])
        tables = connection.execute(
            "SELECT table_name, generation, relation_oid, membership_oid, columns, snapshot,"
            " snapshot_lsn, handoff_lsn FROM pyops.cdc_tables WHERE source = ? AND generation = ?",
            [source, offset.generation],
        ).fetchall()
        keys = _keys(connection, catalog_of(connection), source)
    captured = [
        Captured(name, generation, oid, member, tuple(columns), seen, lsn, handoff)
        for name, generation, oid, member, columns, seen, lsn, handoff in tables
    ]
    return State(offset, {table.name: table for table in captured}, keys)


def log_key(connection: duckdb.DuckDBPyConnection, catalog: str, table: Table) -> tuple[str, ...]:
    """The columns that identify a row in a log: configured, or the source's when last captured."""
    return table.config.primary_key or _keys(connection, catalog, table.source).get(table.name, ())


def _keys(
    connection: duckdb.DuckDBPyConnection, catalog: str, source: str
) -> dict[str, tuple[str, ...]]:
    if not bookkeeping_exists(connection, catalog, "change_logs"):
        return {}
    found = connection.execute(
        f"SELECT table_name, key FROM {catalog}.pyops.change_logs WHERE source = ?", [source]
    ).fetchall()
    return {name: tuple(key) for name, key in found}


def store_keys(warehouse: Warehouse, source: str, keys: Mapping[str, tuple[str, ...]]) -> None:
    """Notes which columns identify a row of each table, for what must do without the source."""
    with warehouse.opened() as connection:
        catalog = catalog_of(connection)
        connection.execute(BOOKKEEPING.format(catalog=catalog))
        known = _keys(connection, catalog, source)
        logs = f"{catalog}.pyops.change_logs"
        for name, key in keys.items():
            statement = f"UPDATE {logs} SET key = ? WHERE source = ? AND table_name = ?"
            if name not in known:
                statement = f"INSERT INTO {logs} (key, source, table_name) VALUES (?, ?, ?)"
            connection.execute(statement, [list(key), source, name])


def store_compacted(
    connection: duckdb.DuckDBPyConnection,
    catalog: str,
    table: Table,
    key: tuple[str, ...],
    position: tuple[int, ...],
) -> None:
    """Notes up to which generation and LSN a log is folded: no event from before it can be there.

    It never falls: what was folded last may have left no row behind.
    """
    logs, who = f"{catalog}.pyops.change_logs", [table.source, table.name]
    found = connection.execute(
        f"DELETE FROM {logs} WHERE source = ? AND table_name = ?"
        " RETURNING coalesce(compacted_generation, 0), coalesce(compacted_lsn, 0)",
        who,
    ).fetchall()
    connection.execute(
        f"INSERT INTO {logs} VALUES (?, ?, ?, ?, ?)", [*who, list(key), *max([position, *found])]
    )


def compacted_lsn(connection: duckdb.DuckDBPyConnection, catalog: str, table: Table) -> int:
    """The LSN up to which a log is folded; -1 if it is not."""
    found = connection.execute(
        f"SELECT compacted_lsn FROM {catalog}.pyops.change_logs"
        " WHERE source = ? AND table_name = ? AND compacted_lsn IS NOT NULL",
        [table.source, table.name],
    ).fetchall()
    return int(found[0][0]) if found else -1


def store_offset(connection: duckdb.DuckDBPyConnection, catalog: str, offset: Offset) -> None:
    """Replaces what is known of a source's position."""
    connection.execute(f"DELETE FROM {catalog}.pyops.cdc_offsets WHERE source = ?", [offset.source])
    connection.execute(
        f"INSERT INTO {catalog}.pyops.cdc_offsets VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [*(*vars(offset).values(), utc_now())],
    )


def store_table(
    connection: duckdb.DuckDBPyConnection, catalog: str, source: str, table: Captured, load_id: int
) -> None:
    """Replaces what is known of a captured table."""
    forget_tables(connection, catalog, source, [table.name])
    connection.execute(
        f"INSERT INTO {catalog}.pyops.cdc_tables VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        [source, *(list(v) if isinstance(v, tuple) else v for v in vars(table).values()), load_id],
    )


def forget_tables(
    connection: duckdb.DuckDBPyConnection, catalog: str, source: str, names: list[str]
) -> None:
    """Forgets tables: whichever is still configured is copied anew by the next run."""
    connection.execute(
        f"DELETE FROM {catalog}.pyops.cdc_tables WHERE source = ?"
        " AND table_name IN (SELECT unnest(?))",
        [source, names],
    )
