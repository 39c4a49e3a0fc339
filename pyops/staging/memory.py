"""How much memory DuckDB gets for what is staged: as much as the widest rows need."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    import pyarrow as pa

# Enough for what is not read from a database; more would only be kept, not used.
LEAST = 160_000_000
SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": f"{LEAST}B",
    # Each fills row groups of its own, so memory would follow the number of cores.
    "threads": 2,
    "preserve_insertion_order": False,
    "autoinstall_known_extensions": False,
}
# The memory DuckDB needs for rows that stream in, in bytes: for the blocks each column is writing,
# and for some copies of as many rows as it takes at once (measured: 10 MB values; 1,500 columns).
FIXED = 80_000_000
OF_COLUMN = 2_000_000
_ROWS_AT_ONCE = 2048
_COPIES = 3
MOST_COPIES = 20
FOR_LOGS = 300_000_000  # to rewrite a change log; what needs more of it spills


def needed(columns: int, width: int) -> int:
    """The bytes DuckDB needs for so many columns, and rows at once that have so many bytes."""
    return FIXED + OF_COLUMN * columns + _COPIES * width


class Width:
    """How many bytes the widest rows have that DuckDB takes at once."""

    def __init__(self) -> None:
        self.widest = 0
        self._recent: deque[tuple[int, int]] = deque()  # rows and bytes of the last parts
        self._rows = self._size = 0

    def add(self, rows: int, size: int) -> bool:
        """Looks at the next rows; returns whether they are wider than any before."""
        self._recent.append((rows, size))
        self._rows, self._size = self._rows + rows, self._size + size
        while self._rows - self._recent[0][0] >= _ROWS_AT_ONCE:
            first = self._recent.popleft()
            self._rows, self._size = self._rows - first[0], self._size - first[1]
        width = self._size * _ROWS_AT_ONCE // max(self._rows, _ROWS_AT_ONCE)
        is_wider = width > self.widest
        self.widest = max(self.widest, width)
        return is_wider


@contextmanager
def registered(connection: duckdb.DuckDBPyConnection, name: str, table: pa.Table) -> Iterator[None]:
    """Lets SQL read an Arrow table by a name, for a while."""
    connection.register(name, table)
    try:
        yield
    finally:
        connection.unregister(name)


@contextmanager
def memory_for(connection: duckdb.DuckDBPyConnection, size: int) -> Iterator[None]:
    """Lets DuckDB take what parsing one long text needs: many times its size in bytes."""
    if size <= 16 << 20:
        yield
        return
    before = connection.execute("SELECT current_setting('memory_limit')").fetchall()[0][0]
    connection.execute(f"SET memory_limit = '{(256 << 20) + 20 * size}B'")
    try:
        yield
    finally:
        connection.execute(f"SET memory_limit = '{before}'")
