"""The table ``arrived`` in a staging file: its columns, and the chunks on their way into it."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from pyops.errors import DataError
from pyops.records import PLACE_COLUMNS, RESERVED_COLUMNS
from pyops.sql import identifier
from pyops.staging import memory
from pyops.staging.columns import clash
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
    if found := clash([*columns, *new], taken):
        raise DataError(
            f"{name}: column {found[0]!r} cannot be landed: {found[1]}", hint="rename it where it is written"
        )
    if len(columns) + len(new) > MOST_COLUMNS:
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
