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
from pyops.extract import Extraction, Listener, extract
from pyops.plan import Days
from pyops.run import Summary, run
from pyops.runs import Run
from pyops.status import TableStatus, status

__all__ = [
    "DataError",
    "Days",
    "Extraction",
    "Listener",
    "OperationError",
    "Project",
    "PyopsError",
    "Run",
    "SchemaChangeError",
    "Summary",
    "Table",
    "TableStatus",
    "TransientError",
    "UsageError",
    "extract",
    "load",
    "run",
    "status",
]
