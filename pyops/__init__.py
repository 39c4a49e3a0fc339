"""Lands PostgreSQL, files and APIs in an embedded DuckDB warehouse, for dbt to model.

from pathlib import Path
from pyops import extract, load

for item in extract(load(Path("."))):
    print(item.table, item.run.status, item.run.rows_written)
"""

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
    DataError,
    OperationError,
    PyopsError,
    SchemaChangeError,
    TransientError,
    UsageError,
)
from pyops.progress import Listener
from pyops.records import DeadLetter, Run

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
