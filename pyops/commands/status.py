"""``pyops status``: where each table stands, and what holds its watermark back."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pyops.commands.invocation import open_warehouse
from pyops.config.project import Project, Table
from pyops.errors import PyopsError
from pyops.sources.protocol import open_source
from pyops.warehouse.protocol import TableState


@dataclass(frozen=True)
class TableStatus:
    """One table's state, by its name ``source.table``; times are naive UTC."""

    table: str
    mode: str
    target: str
    rows: int | None = None  # None if nothing was landed yet
    last_status: str | None = None
    last_finished_at: datetime | None = None
    last_loaded_at: datetime | None = None
    last_rows_written: int | None = None
    last_error: str | None = None
    watermark: str | None = None  # everything below it has been read
    held_back_by: tuple[str, ...] = ()  # the transactions that keep it from moving
    dead_letters: int = 0  # open ones


def status(project: Project) -> list[TableStatus]:
    """Looks up every configured table."""
    states = open_warehouse(project).states(project.tables())
    waiting = {table.source for table, state in states.items() if state.watermark.waiting_for}
    holders = {source: _holders(project, source) for source in waiting}
    return [_status(table, states[table], holders.get(table.source, {})) for table in project.tables()]


def _status(table: Table, state: TableState, holders: Mapping[str, str]) -> TableStatus:
    names = ("status", "finished_at", "rows_written", "error")
    last: dict[str, Any] = {f"last_{name}": getattr(state.last_run, name, None) for name in names}
    return TableStatus(
        *(str(table), table.config.mode, ".".join(table.target), state.rows if state.columns else None),
        last_loaded_at=state.last_loaded_at,
        watermark=state.watermark.bound,
        held_back_by=tuple(holders.get(name, name) for name in sorted(state.watermark.waiting_for)),
        dead_letters=state.dead_letters,
        **last,
    )


def _holders(project: Project, source: str) -> Mapping[str, str]:
    """Describes what a source's watermarks wait for, if it can be reached."""
    try:
        with open_source(project, source) as opened:
            return opened.holders()
    except PyopsError:  # the source may be down while its warehouse is looked at
        return {}
