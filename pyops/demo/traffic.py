"""Further days in the shop: what a live application would have committed.

Every step of a day is one statement and one transaction, in steps/*.sql; the shop's clock is its
own, so `updated_at` rises from one transaction to the next and never depends on when this runs.
Chance is a hash of seed, day, step and row, so one seed on one state gives one outcome.
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
    """What was committed.

    Attributes:
        first_day: the first of the days.
        last_day: the last of them.
        transactions: how many there were.
        counts: how often each thing happened, such as `orders placed`.
    """

    first_day: date
    last_day: date
    transactions: int
    counts: dict[str, int]


def commit_days(
    dsn: str, *, days: int, seed: int, on_day: Callable[[date], None] = lambda day: None
) -> Traffic:
    """Commits the days after the last one in the database.

    Args:
        dsn: libpq URI of the shop's database.
        days: how many, at least one.
        seed: of the dice.
        on_day: called after each day, with it.

    Raises:
        OperationError: the shop is not in this database, or other traffic is on.
    """
    folder = Path(__file__).parent / "steps"
    steps = {name: (folder / f"{name}.sql").read_text() for _, name in _DAY}
    counts: Counter[str] = Counter()
    with closing(connect(dsn)) as connection, closing(connection.cursor()) as cursor:
        require_shop(cursor)
        # Held until this session ends: two clocks in one shop would contradict each other.
        lock = "select pg_try_advisory_lock(hashtext('pyops demo traffic'))"
        [(is_alone,)] = query(cursor, lock)
        if not is_alone:
            raise OperationError(
                "traffic is being committed to this shop already", hint="wait until it is done"
            )
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
    return Traffic(
        first_day=first, last_day=day, transactions=days * len(_DAY), counts=dict(counts)
    )


def _number(text: str) -> int:
    """A number that the text decides, of 62 bits: the steps add to it."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 2
