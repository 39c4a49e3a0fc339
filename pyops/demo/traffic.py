"""Further days in the shop: what a live application would have committed.

Each step of a day is one statement (steps/*.sql) in one transaction. The shop has its own clock, so
`updated_at` rises with every transaction and never depends on when this runs. Chance is a hash of
seed, day, step and row: the same seed on the same state gives the same outcome.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from pyops.demo.shop import TABLES, connect, query, require_shop
from pyops.errors import OperationError

_DAY = (
    (8, "register_users"),
    (9, "place_orders"),
    (11, "place_orders"),
    (12, "move_orders"),
    (14, "place_orders"),
    (16, "place_orders"),
    (17, "change_prices"),
    (18, "change_users"),
    (19, "correct_items"),
    (20, "erase_users"),
    (21, "move_orders"),
)


@dataclass(frozen=True)
class Traffic:
    """The days committed, and how often each thing happened, such as `orders placed`."""

    first_day: date
    last_day: date
    transactions: int
    counts: dict[str, int]


def commit_days(dsn: str, *, days: int, seed: int, on_day: Callable[[date], None] = lambda day: None) -> Traffic:
    """Commits one or more days after the last one in the database; calls ``on_day`` after each."""
    folder = Path(__file__).parent / "steps"
    steps = {name: (folder / f"{name}.sql").read_text() for _, name in _DAY}
    counts: Counter[str] = Counter()
    with closing(connect(dsn)) as connection, closing(connection.cursor()) as cursor:
        require_shop(cursor)
        # Held until this session ends: two clocks in one shop would contradict each other.
        lock = "select pg_try_advisory_lock(hashtext('pyops demo traffic'))"
        [(is_alone,)] = query(cursor, lock)
        if not is_alone:
            raise OperationError("another process is committing traffic to this shop", hint="wait until it is done")
        latest = ", ".join(f"(select max(updated_at) from {table})" for table in TABLES)
        first = query(cursor, f"select greatest({latest})")[0][0].date() + timedelta(days=1)
        connection.commit()
        for day in (first + timedelta(days=n) for n in range(days)):
            for hour, name in _DAY:
                dice = _number(f"{seed} {day} {hour}")
                clock = datetime.combine(day, time(hour), UTC)
                counts.update(dict(query(cursor, steps[name], clock, dice)))
                connection.commit()
            on_day(day)
    return Traffic(first_day=first, last_day=day, transactions=days * len(_DAY), counts=dict(counts))


def _number(text: str) -> int:
    """A number of 62 bits made from a text: the steps add to it."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2
