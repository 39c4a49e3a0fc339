"""Watermarks: up to which cursor value every row has been read. Pure functions.

A row becomes visible when its transaction commits, maybe long after rows with larger cursors were read. So the largest
cursor seen is a *candidate*, and the *bound* once every transaction that was open then has ended and a later read went
from the old bound. No clock is compared: integers, texts and times are served alike.

A run (1) notes the largest cursor in a snapshot, (2) the transactions open after it and (3) those open before the
snapshot it reads in, and (4) reads from the bound. If none of (2) is in (3), the candidate is the next bound;
otherwise it is kept, with those that hold it back. Transactions of another server (a replica) and clocks set by
applications are what ``lookback`` is for.
"""

from pyops.records import Watermark


def still_open(noted: frozenset[str], now: frozenset[str]) -> frozenset[str]:
    """Which of the noted transactions may still be open, given those that are open now."""
    remaining = noted & now
    # A virtual one that is gone may have become any of the prepared ones that are there now.
    if any(name.startswith("v") for name in noted - remaining):
        remaining |= {name for name in now if name.startswith("p")}
    return remaining


def advance(stored: Watermark, *, largest: str | None, noted: frozenset[str], now: frozenset[str]) -> Watermark:
    """The watermark to store after a read from ``stored.bound``; ``largest`` was seen before it."""
    bound = stored.bound
    if stored.candidate is not None:
        if waiting := still_open(stored.waiting_for, now):
            # The oldest candidate stays: its transactions only become fewer.
            return Watermark(bound, stored.candidate, waiting)
        bound = stored.candidate
    if largest is None or largest == bound:
        return Watermark(bound)
    if waiting := still_open(noted, now):
        return Watermark(bound, largest, waiting)
    return Watermark(largest)
