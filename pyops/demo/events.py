"""The shop's web events: daily files, made up around the orders that are in its database.

What is made of an order, and what is wrong with the files on purpose, is stated in data/README.md.
"""

from __future__ import annotations

import gzip
from contextlib import closing
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from pyops.demo.shop import connect, query, require_shop
from pyops.errors import OperationError

if TYPE_CHECKING:
    import pyarrow as pa
    from adbc_driver_manager.dbapi import Cursor

# In the header of every file, as gzip's name of the original: only such files are ever removed.
_MADE_BY = "events made up by pyops demo"

# Credit notes, adjustments and stock corrections (of no value) are nobody's visit.
_IS_VISIT = "invoice_no !~ '^[AC]' and amount_cents > 0"

_DAYS = f"""
select distinct (ordered_at at time zone 'UTC')::date from orders where {_IS_VISIT} order by 1
"""

_ORDERS = f"""
select id, user_id, amount_cents, ordered_at at time zone 'UTC' as ordered_at
from orders
where {_IS_VISIT}
    and ordered_at >= $1::date at time zone 'UTC'
    and ordered_at < ($2::date + 1) at time zone 'UTC'
"""

_ITEMS = f"""
select items.order_id, items.line_number, products.stock_code
from ({_ORDERS}) as visits
inner join order_items as items on visits.id = items.order_id
inner join products on items.product_id = products.id
where items.line_number <= 6 and products.stock_code ~ '^[0-9]'
"""


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        files: how many.
        lines: how many lines are in them.
    """

    files: int
    lines: int


def folder_of(project_dir: Path) -> Path:
    """Where a project's files of events are."""
    return project_dir.resolve() / "data" / "events"


def write(dsn: str, folder: Path) -> Written:
    """Writes the files of those days with orders that have none yet: `<date>.jsonl.gz`.

    A file appears whole or not at all, and one that is there is never touched.

    Args:
        dsn: libpq URI of the shop's database.
        folder: where to; it is made.

    Raises:
        OperationError: the shop is not in this database, or the folder cannot be written.
    """
    with closing(connect(dsn)) as connection, closing(connection.cursor()) as cursor:
        require_shop(cursor)
        days = [day for (day,) in query(cursor, _DAYS)]
        missing = [day for day in days if not _path(folder, day).exists()]
        if not missing:
            return Written(files=0, lines=0)
        # What the day before sent late is in the first of them.
        before = max((day for day in days if day < missing[0]), default=missing[0])
        orders = _fetch(cursor, _ORDERS, before, missing[-1])
        items = _fetch(cursor, _ITEMS, before, missing[-1])
    texts = _texts(orders, items, days=days, missing=set(missing))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for day, text in texts:
            _write_file(_path(folder, day), text)
    except OSError as error:
        raise OperationError(
            f"the events cannot be written to {folder}: {error.strerror}",
            hint="make room or give write access, then run: pyops demo up",
        ) from error
    return Written(files=len(texts), lines=sum(text.count("\n") for _, text in texts))


def remove(folder: Path) -> None:
    """Removes the files that `write` wrote; others stay, and then the folder does."""
    for path in folder.glob("*.jsonl.gz*"):
        with path.open("rb") as file:
            is_ours = _MADE_BY.encode() in file.read(64)
        if is_ours:
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _texts(
    orders: pa.Table, items: pa.Table, *, days: list[date], missing: set[date]
) -> list[tuple[date, str]]:
    """The text of the file of each missing day."""
    import duckdb
    import pyarrow as pa

    calendar = pa.table(
        {
            "day": days,
            "next_day": pa.array([*days[1:], None], pa.date32()),
            "is_missing": [day in missing for day in days],
        }
    )
    with duckdb.connect() as connection:
        connection.register("orders", orders).register("items", items).register("days", calendar)
        connection.execute((Path(__file__).parent / "events.sql").read_text())
        return connection.execute("select day, text from files order by day").fetchall()


def _fetch(cursor: Cursor, statement: str, *parameters: object) -> pa.Table:
    cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
    cursor.execute(statement, parameters)
    return cursor.fetch_arrow_table()


def _path(folder: Path, day: date) -> Path:
    return folder / f"{day}.jsonl.gz"


def _write_file(path: Path, text: str) -> None:
    fresh = path.with_name(path.name + ".new")
    # Without a time in the header, the same text gives the same bytes.
    with (
        fresh.open("wb") as file,
        gzip.GzipFile(_MADE_BY, "wb", compresslevel=6, fileobj=file, mtime=0) as packed,
    ):
        packed.write(text.encode())
    fresh.rename(path)
