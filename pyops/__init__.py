"""Lands PostgreSQL, files and APIs in an embedded DuckDB warehouse, for dbt to model.

from pathlib import Path
from pyops import extract, load

for item in extract(load(Path("."))):
    print(item.table, item.run.status, item.run.rows_written)
"""

from pyops.config import Project, Table, load
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
from pyops.runs import Run
from pyops.steps import publish, validate

__all__ = [
    "DataError",
    "Days",
    "DeadLetter",
    "Extraction",
    "Listener",
    "OperationError",
    "Project",
    "PyopsError",
    "Reconciliation",
    "Run",
    "SchemaChangeError",
    "Summary",
    "Table",
    "TableStatus",
    "TransientError",
    "UsageError",
    "dead_letters",
    "extract",
    "load",
    "publish",
    "purge",
    "reconcile",
    "replay",
    "run",
    "status",
    "validate",
]
