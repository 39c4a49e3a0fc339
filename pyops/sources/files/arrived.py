"""The table ``arrived`` in a staging file: its columns, and the chunks on their way into it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from pyops.errors import DataError
from pyops.records import PLACE_COLUMNS, RESERVED_COLUMNS
from pyops.sql import identifier
from pyops.staging import memory
from pyops.staging.memory import memory_for

MOST_COLUMNS = 1600  # as in PostgreSQL: beyond, names are data
TAKEN = (*PLACE_COLUMNS, *RESERVED_COLUMNS)


def add_columns(
    connection: duckdb.DuckDBPyConnection,
    columns: dict[str, str],
    new: Mapping[str, str],
    name: str,
    *,
    taken: Sequence[str] = TAKEN,
) -> None:
    """Adds the new columns of a file to ``arrived`` and to ``columns``."""
    known = {column.lower(): column for column in columns}
    for column in new:
        other = known.setdefault(column.lower(), column)
        if other != column:
            raise DataError(
                f"{name}: {other!r} and {column!r} differ by case only, which DuckDB ignores",
                hint="rename one of them where the file is written",
            )
        if column.lower() in taken:
            raise DataError(
                f"{name}: pyops reserves the column name {column!r}",
                hint="rename it where the file is written",
            )
    if len(known) > MOST_COLUMNS:
        raise DataError(
            f"{name}: more than {MOST_COLUMNS} columns: are its names data?",
            hint="nest these names one level deeper: the nested object lands as JSON",
        )
    for column, type_ in new.items():
        connection.execute(f"ALTER TABLE arrived ADD COLUMN {identifier(column)} {type_}")
        columns[column] = type_


@contextmanager
def registered(connection: duckdb.DuckDBPyConnection, table: pa.Table) -> Iterator[None]:
    """Lets SQL read a table as ``chunk``, with the memory it takes to parse."""
    with memory.registered(connection, "chunk", table), memory_for(connection, table.nbytes):
        yield
