"""The shop's web events: daily files derived from its orders, as data/README.md describes."""

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

# In every file's gzip header, as the original's name: only such files are ever removed.
_MADE_BY = "events made up by pyops demo"

# Credit notes, adjustments and stock corrections (without a value) are not visits.
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
    """How many files were written, and how many lines."""

    files: int
    lines: int


def folder_of(project_dir: Path) -> Path:
    """The folder of a project's files of events."""
    return project_dir.resolve() / "data" / "events"


def write(dsn: str, folder: Path) -> Written:
    """Writes `<date>.jsonl.gz` for each day with orders and without a file, whole or not at all."""
    with closing(connect(dsn)) as connection, closing(connection.cursor()) as cursor:
        require_shop(cursor)
        days = [day for (day,) in query(cursor, _DAYS)]
        missing = [day for day in days if not _path(folder, day).exists()]
        if not missing:
            return Written(files=0, lines=0)
        # The first file also has the late events of the day before.
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
            f"cannot write events to {folder}: {error.strerror}",
            hint="make room or give write access, then run: pyops demo up",
        ) from error
    return Written(files=len(texts), lines=sum(text.count("\n") for _, text in texts))


def remove(folder: Path) -> None:
    """Removes the files that `write` wrote, and the folder if nothing else is in it."""
    for path in folder.glob("*.jsonl.gz*"):
        with path.open("rb") as file:
            is_ours = _MADE_BY.encode() in file.read(64)
        if is_ours:
            path.unlink()
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _texts(orders: pa.Table, items: pa.Table, *, days: list[date], missing: set[date]) -> list[tuple[date, str]]:
    """The text of each missing day's file."""
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
    with fresh.open("wb") as file, gzip.GzipFile(_MADE_BY, "wb", compresslevel=6, fileobj=file, mtime=0) as packed:
        packed.write(text.encode())
    fresh.rename(path)
