"""Change logs, ``raw.<table>__changes``: what every change has, and how it is written."""

from collections.abc import Mapping

from pyops.config.project import Table
from pyops.records import CHANGE_COLUMNS
from pyops.sql import identifier
from pyops.staging.columns import ColumnMapping
from pyops.warehouse.protocol import Append, ByKey, LogPart, Scope, Write

META = {name: ColumnMapping(type_, "", identifier(name)) for name, type_ in CHANGE_COLUMNS.items()}


def log_write(
    table: Table,
    columns: Mapping[str, str],
    rows: str,
    *,
    dead_letters: str,
    log: LogPart,
    key: tuple[str, ...] = (),
    supersedes: Scope | None = None,
) -> Write:
    """Rows to append to a table's log; dead letters of keys that changed since are superseded."""
    evolves = table.config.on_schema_change == "evolve"
    superseded = supersedes or ByKey(key if columns.keys() >= set(key) else ())
    return Write(table, columns, Append(), rows, dead_letters, key, superseded, evolves, log=log)
