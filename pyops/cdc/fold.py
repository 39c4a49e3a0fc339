"""Folding a change log: which events say what a row holds, and where a value is that was not sent.

A *life* of a key begins with an ``r`` or ``c`` and ends with a ``d`` or a ``t``. A value that was
not sent is the last one that was within the life; where a ``c`` lacks one, its row had another key
before, and the life goes on in that of the ``d`` right before it. Everything is done by DuckDB in
temporary tables of bare numbers, which may spill; only rows that are rewritten are read whole.

Each statement works on ``temp.events``, a row for each event: ``n``, its number in the log's order;
``life``, the number of the event its life begins with; ``is_last``, whether its key has no later
one; ``is_partial``, whether something was not sent.
"""

from collections.abc import Sequence

import duckdb

from pyops.sql import identifier, literal

_IDENTITY = "_generation, _lsn, _seq"
_EVENTS = """
CREATE OR REPLACE TEMP TABLE events AS
WITH numbered AS (
    SELECT
        row_number() OVER place AS n, sum((_op = 't')::INTEGER) OVER place AS _segment,
        _generation, _lsn, _seq, _op, len(_unchanged) > 0 AS is_partial, {keys}
    FROM {log}
    WHERE {where}
    WINDOW place AS (ORDER BY _generation, _lsn, _seq)
)
SELECT
    n, _generation, _lsn, _seq, _op, is_partial,
    {has_key} AS has_key,
    coalesce(
        greatest(
            max(CASE WHEN _op IN ('r', 'c') THEN n END) OVER upto,
            max(CASE WHEN _op = 'd' THEN n END) OVER before
        ),
        min(n) OVER upto
    ) AS life,
    lead(n) OVER same IS NULL AS is_last
FROM numbered
WHERE _op <> 't'
WINDOW
    same AS (PARTITION BY _segment, {names} ORDER BY n),
    upto AS (PARTITION BY _segment, {names} ORDER BY n ROWS UNBOUNDED PRECEDING),
    before AS (
        PARTITION BY _segment, {names} ORDER BY n
        ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
    )
"""
# A key that was changed: the `c` of the new one, and the `d` of the old one right before it.
MOVES = """
    temp.events AS c JOIN temp.events AS d
    ON d.n = c.n - 1 AND d._op = 'd' AND c._op = 'c' AND c.is_partial
    AND d._generation = c._generation AND d._lsn = c._lsn AND d._seq = c._seq - 1
"""
_ORIGINS = """
CREATE OR REPLACE TEMP TABLE origins AS
WITH RECURSIVE moves AS MATERIALIZED (SELECT c.life AS life, d.life AS earlier FROM {moves}),
lives AS (
    SELECT n AS root, picked.life
    FROM temp.picked AS picked JOIN temp.events AS events USING (n)
    WHERE events.is_partial
    UNION ALL
    SELECT lives.root, moves.earlier FROM lives JOIN moves USING (life)
)
SELECT lives.root, {origins}
FROM lives JOIN temp.events AS events USING (life) JOIN {log} AS log USING ({identity})
WHERE events._op <> 'd'
GROUP BY lives.root
"""
_PICKED_ROWS = """
CREATE OR REPLACE TEMP TABLE rewritten AS
SELECT log.* REPLACE ({op} AS _op)
FROM temp.picked AS picked
JOIN temp.events AS events USING (n)
JOIN {log} AS log USING ({identity})
"""
_VALUES = """
CREATE OR REPLACE TEMP TABLE found AS
SELECT root._generation, root._lsn, root._seq, log.{column} AS value
FROM temp.origins AS origins
JOIN temp.events AS root ON root.n = origins.root
JOIN temp.events AS origin ON origin.n = origins.{origin}
JOIN {log} AS log ON log._generation = origin._generation
    AND log._lsn = origin._lsn AND log._seq = origin._seq
"""
_COMPLETED = """
CREATE OR REPLACE TEMP TABLE rewritten AS
SELECT rewritten.* REPLACE (
    CASE WHEN list_contains(rewritten._unchanged, {name}) THEN found.value
    ELSE rewritten.{column} END AS {column}
)
FROM temp.rewritten AS rewritten LEFT JOIN temp.found AS found USING ({identity})
"""


def number_events(
    connection: duckdb.DuckDBPyConnection,
    log: str,
    key: Sequence[str],
    *,
    where: str = "true",
) -> None:
    """Makes ``temp.events`` of the events of a log.

    Args:
        connection: Has the log.
        log: The log's qualified name.
        key: The columns that identify a row.
        where: The condition for the events to take; they are to go on without a gap.
    """
    names = [f"_key{n}" for n in range(len(key))]
    connection.execute(
        _EVENTS.format(
            log=log,
            where=where,
            keys=", ".join(f"{identifier(k)} AS {n}" for k, n in zip(key, names, strict=True)),
            names=", ".join(names),
            has_key=" AND ".join(f"{name} IS NOT NULL" for name in names),
        )
    )


def rewrite(
    connection: duckdb.DuckDBPyConnection, log: str, picked: str, *, op: str = "log._op"
) -> int:
    """Makes ``temp.rewritten``: rows of the log with every value that they were not sent.

    Args:
        connection: Has the log and ``temp.events``.
        log: The log's qualified name.
        picked: The SELECT of the rows: ``n``, and the ``life`` to look for values in first.
        op: The expression of their ``_op``.

    Returns:
        How many there are.
    """
    connection.execute(f"CREATE OR REPLACE TEMP TABLE picked AS {picked}")
    lacking = connection.execute(
        "SELECT DISTINCT unnest(log._unchanged) FROM temp.picked AS picked"
        " JOIN temp.events AS events USING (n)"
        f" JOIN {log} AS log USING ({_IDENTITY}) WHERE events.is_partial ORDER BY 1"
    ).fetchall()
    row = connection.execute(_PICKED_ROWS.format(log=log, identity=_IDENTITY, op=op)).fetchone()
    if lacking:
        origins = ", ".join(
            f"max(events.n) FILTER (NOT list_contains(log._unchanged, {literal(name)})) AS from_{n}"
            for n, (name,) in enumerate(lacking)
        )
        connection.execute(
            _ORIGINS.format(moves=MOVES, log=log, identity=_IDENTITY, origins=origins)
        )
    for number, (name,) in enumerate(lacking):  # one after the other: a join of wide rows at once
        column = identifier(name)
        connection.execute(_VALUES.format(log=log, column=column, origin=f"from_{number}"))
        connection.execute(_COMPLETED.format(identity=_IDENTITY, name=literal(name), column=column))
    return int(row[0]) if row else 0


def insert_rewritten(connection: duckdb.DuckDBPyConnection, log: str) -> None:
    """Adds the rows of ``temp.rewritten`` to the log, with nothing that was not sent."""
    connection.execute(
        f"INSERT INTO {log} BY NAME SELECT * REPLACE ([]::VARCHAR[] AS _unchanged)"
        " FROM temp.rewritten"
    )
