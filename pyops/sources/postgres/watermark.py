"""Watermarks: up to which cursor value every row has been read. Pure functions.

A row's cursor is set when its transaction writes it; the row is visible when the transaction
commits, which may be long after rows with larger cursors were read. So the largest cursor seen at
one moment is a *candidate*; it becomes the *bound* once every transaction that was open at that
moment has ended, and a read that began after that went from the old bound. Transactions that began
later have larger cursors. No clock is compared, so integers, texts and times are all served.

A run therefore (1) notes the largest cursor in a snapshot, (2) notes the transactions open after
it, (3) notes the transactions open before the snapshot it reads in, and (4) reads from the bound.
If none of (2) is in (3), the candidate is the next run's bound. Where long transactions stay open,
the candidate and those that hold it back are kept, and the runs go on reading from the old bound.

What this cannot see are transactions of another server: on a replica, and for clocks set by
applications, ``lookback`` is the remedy.
"""

from pyops.records import Watermark


def still_open(noted: frozenset[str], now: frozenset[str]) -> frozenset[str]:
    """Which of the noted transactions may still be open, given those that are open now.

    A virtual transaction (``v...``) that is gone may have become any of the prepared ones
    (``p...``) that are there now.
    """
    remaining = noted & now
    if any(name.startswith("v") for name in noted - remaining):
        remaining |= {name for name in now if name.startswith("p")}
    return remaining


def advance(
    stored: Watermark, *, largest: str | None, noted: frozenset[str], now: frozenset[str]
) -> Watermark:
    """The watermark to store with a read from ``stored.bound``.

    ``largest`` is the largest cursor seen before the read, None if nothing was above the bound;
    ``noted`` the transactions open right after that, ``now`` those right before the snapshot.
    """
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
