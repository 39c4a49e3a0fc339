"""What a change log says the table holds: a plain fold over its events, row by row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import duckdb

from pyops.records import CHANGE_COLUMNS
from tests.pyops.conftest import Lab, execute

OWN = (*CHANGE_COLUMNS, "_load_id", "_loaded_at")


@dataclass(frozen=True)
class Event:
    """One row of a change log."""

    op: str
    identity: tuple[int, int, int]
    unchanged: tuple[str, ...]
    row: dict[str, Any]


def events(lab: Lab, table: str, *, schema: str = "raw") -> list[Event]:
    """The events of a log in their order."""
    with duckdb.connect(lab.directory / "warehouse.duckdb", read_only=True) as connection:
        cursor = connection.execute(f'SELECT * FROM {schema}."{table}__changes" ORDER BY _generation, _lsn, _seq')
        names = [column[0] for column in cursor.description or ()]
        found = [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
    return [
        Event(
            row["_op"],
            (row["_generation"], row["_lsn"], row["_seq"]),
            tuple(row["_unchanged"]),
            {name: value for name, value in row.items() if name not in OWN},
        )
        for row in found
    ]


def ops(lab: Lab, table: str) -> str:
    """The operations of a log in their order, a letter each."""
    return "".join(event.op for event in events(lab, table))


def current(lab: Lab, table: str, key: tuple[str, ...] = ("id",)) -> list[dict[str, Any]]:
    """The rows that are alive behind the last event, by key."""
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    old: dict[str, Any] = {}
    seen = set()
    for event in events(lab, table):
        assert event.identity not in seen, f"an event is there twice: {event.identity}"
        seen.add(event.identity)
        where = tuple(event.row[name] for name in key)
        if event.op == "t":
            rows.clear()
        elif event.op == "d":
            old = rows.pop(where, {})
        else:
            before = old if event.op == "c" else rows.get(where, {})
            kept = {name: before[name] for name in event.unchanged}
            rows[where] = {**event.row, **kept}
    return [rows[where] for where in sorted(rows)]


def at_source(dsn: str, table: str, columns: str, order: str = "id") -> list[tuple[Any, ...]]:
    """The rows of a table at the source."""
    return execute(dsn, f"SELECT {columns} FROM {table} ORDER BY {order}")
