"""Lands PostgreSQL, files and changes in a DuckDB warehouse, for dbt to model.

from pyops import Project, extract

for item in extract(Project.load(".")):
    item.raise_for_error()
    print(item.table, item.run.status, item.run.rows_written)

What is logged goes to the logger ``pyops``. Names are imported when they are first used.
"""

import logging
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pyops.circuit import BreakerStatus
    from pyops.commands.backfill import Backfill, backfill
    from pyops.commands.breaker import breaker_reset, breaker_status
    from pyops.commands.cdc import Capture, capture, follow
    from pyops.commands.compact import Compaction, compact
    from pyops.commands.dlq import dead_letters, purge, replay
    from pyops.commands.erase import Erasure, erase
    from pyops.commands.extract import Extraction, extract
    from pyops.commands.publish import publish
    from pyops.commands.reconcile import Reconciliation, reconcile
    from pyops.commands.run import Summary, run
    from pyops.commands.slot import SlotStatus, slot_status
    from pyops.commands.snapshot import snapshot
    from pyops.commands.status import TableStatus, status
    from pyops.commands.validate import validate
    from pyops.config.days import Days
    from pyops.config.load import load
    from pyops.config.project import Project, Table
    from pyops.errors import (
        BusyError,
        DataError,
        GateError,
        NoFileError,
        OperationError,
        PyopsError,
        SchemaChangeError,
        SourceError,
        TransientError,
        UsageError,
    )
    from pyops.progress import Listener
    from pyops.records import DeadLetter, GateResult, Run, TableId, Watermark

_NAMES = {
    "circuit": "BreakerStatus", "commands.backfill": "Backfill backfill",
    "commands.breaker": "breaker_reset breaker_status", "commands.cdc": "Capture capture follow",
    "commands.compact": "Compaction compact",
    "commands.dlq": "dead_letters purge replay", "commands.erase": "Erasure erase",
    "commands.extract": "Extraction extract", "commands.publish": "publish",
    "commands.reconcile": "Reconciliation reconcile", "commands.run": "Summary run",
    "commands.slot": "SlotStatus slot_status", "commands.snapshot": "snapshot",
    "commands.status": "TableStatus status", "commands.validate": "validate", "config.days": "Days",
    "config.load": "load", "config.project": "Project Table",
    "errors": "BusyError DataError GateError NoFileError OperationError PyopsError SchemaChangeError SourceError"
    " TransientError UsageError",
    "progress": "Listener", "records": "DeadLetter GateResult Run TableId Watermark",
}  # fmt: skip
_HOMES = {name: f"pyops.{module}" for module, names in _NAMES.items() for name in names.split()}

__all__ = [
    "Backfill", "BreakerStatus", "BusyError", "Capture", "Compaction", "DataError", "Days", "DeadLetter",
    "Erasure", "Extraction",
    "GateError", "GateResult", "Listener", "NoFileError", "OperationError", "Project", "PyopsError",
    "Reconciliation", "Run", "SchemaChangeError", "SlotStatus", "SourceError", "Summary", "Table", "TableId",
    "TableStatus", "TransientError", "UsageError", "Watermark", "backfill", "breaker_reset", "breaker_status",
    "capture", "compact",
    "dead_letters", "erase", "extract", "follow", "load", "publish", "purge", "reconcile",
    "replay", "run", "slot_status", "snapshot", "status", "validate",
]  # fmt: skip

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
