"""Lands PostgreSQL, files and APIs in an embedded DuckDB warehouse, for dbt to model.

from pathlib import Path
from pyops import extract, load

for item in extract(load(Path("."))):
    print(item.table, item.run.status, item.run.rows_written)
"""

from pyops.config import Project, Table, load
from pyops.erasure import Erasure, erase
from pyops.errors import (
    DataError,
    OperationError,
    PyopsError,
    SchemaChangeError,
    TransientError,
    UsageError,
)
from pyops.extraction import Extraction, Listener, extract
from pyops.letters import DeadLetter, dead_letters, purge, replay
from pyops.overview import TableStatus, status
from pyops.pipeline import Summary, run
from pyops.plan import Days
from pyops.reconciliation import Reconciliation, reconcile
from pyops.replication import Capture, capture, follow, snapshot
from pyops.retention import Compaction, compact
from pyops.runs import Run
from pyops.slots import SlotStatus, slot_status
from pyops.steps import publish, validate

__all__ = [
    "Capture",
    "Compaction",
    "DataError",
    "Days",
    "DeadLetter",
    "Erasure",
    "Extraction",
    "Listener",
    "OperationError",
    "Project",
    "PyopsError",
    "Reconciliation",
    "Run",
    "SchemaChangeError",
    "SlotStatus",
    "Summary",
    "Table",
    "TableStatus",
    "TransientError",
    "UsageError",
    "capture",
    "compact",
    "dead_letters",
    "erase",
    "extract",
    "follow",
    "load",
    "publish",
    "purge",
    "reconcile",
    "replay",
    "run",
    "slot_status",
    "snapshot",
    "status",
    "validate",
]
