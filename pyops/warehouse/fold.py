"""Folding a change log: which events tell what a row holds, and which one has an unsent value.

A *life* of a key begins with ``r`` or ``c`` and ends with ``d`` or ``t``. An unsent value is the last one
sent within the life; where a ``c`` lacks one, its row had another key before: the life goes on in that of
the ``d`` right before it. Temporary tables of numbers say so; only rewritten rows are read whole.
``temp.events`` has a row an event: ``n``, its number in the log's order; ``life``, that of its life's
first event; ``is_last``, whether its key has no later one; ``is_partial``, whether a value was not sent;
``from_0`` ..., the number of the event that has an unsent column's value.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import duckdb

from pyops.sql import identifier, literal

_IDENTITY = "_generation, _lsn, _seq"
_EVENTS = """
CREATE OR REPLACE TEMP TABLE events AS
WITH numbered AS (
    SELECT
        row_number() OVER place AS n, sum((_op = 't')::INTEGER) OVER place AS _segment,
        _generation, _lsn, _seq, _op, len(_unchanged) > 0 AS is_partial,
        {keys} {unsent}
    FROM {log}
    WHERE {where}
    WINDOW place AS (ORDER BY _generation, _lsn, _seq)
), lives AS (
    SELECT
        *,
        coalesce(
            greatest(
                max(CASE WHEN _op IN ('r', 'c') THEN n END) OVER upto,
                max(CASE WHEN _op = 'd' THEN n END) OVER before
            ),
            min(n) OVER upto
        ) AS life,
        lead(n) OVER same IS NULL AS is_last
        {sent}
    FROM numbered
    WHERE _op <> 't'
    WINDOW
        same AS (PARTITION BY _segment, {names} ORDER BY n),
        upto AS (PARTITION BY _segment, {names} ORDER BY n ROWS UNBOUNDED PRECEDING),
        before AS (
            PARTITION BY _segment, {names} ORDER BY n
            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        )
)
SELECT
    n, _generation, _lsn, _seq, _op, is_partial, life, is_last, {has_key} AS has_key {origins}
FROM lives
"""
# A changed key: the `c` of the new one, and the `d` of the old one right before it.
MOVES = """
    temp.events AS c JOIN temp.events AS d
    ON d.n = c.n - 1 AND d._op = 'd' AND c._op = 'c' AND c.is_partial
    AND d._generation = c._generation AND d._lsn = c._lsn AND d._seq = c._seq - 1
"""
# Few rows: those whose values are in another key's life.
_EARLIER = """
CREATE OR REPLACE TEMP TABLE earlier AS
WITH RECURSIVE moves AS MATERIALIZED (
    SELECT c.n AS start, d.life AS before, {d_origins} FROM {moves}
), lives AS (
    SELECT n AS root, life, {origins} FROM temp.picked JOIN temp.events USING (n)
    WHERE is_partial AND ({is_unknown})
    UNION ALL
    SELECT lives.root, moves.before, {m_origins} FROM lives JOIN moves ON moves.start = lives.life
)
SELECT root, {latest} FROM lives GROUP BY root
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
FROM temp.picked AS picked
JOIN temp.events AS root ON root.n = picked.n AND root.is_partial
LEFT JOIN temp.earlier AS earlier ON earlier.root = picked.n
JOIN temp.events AS origin ON origin.n = coalesce(root.{origin}, earlier.{origin})
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


@dataclass(frozen=True)
class Fold:
    """A log whose events are in ``temp.events``, and the columns that are ever unsent."""

    connection: duckdb.DuckDBPyConnection
    log: str
    unsent: tuple[str, ...]

    def rewrite(self, picked: str, *, op: str = "log._op") -> None:
        """Makes ``temp.rewritten``: the picked events (a SELECT of ``n``) with all their values."""
        run = self.connection.execute
        run(f"CREATE OR REPLACE TEMP TABLE picked AS {picked}")
        run(_PICKED_ROWS.format(log=self.log, identity=_IDENTITY, op=op))
        origins = [f"from_{n}" for n in range(len(self.unsent))]
        if origins:
            run(
                _EARLIER.format(
                    moves=MOVES,
                    origins=", ".join(origins),
                    d_origins=", ".join(f"d.{name}" for name in origins),
                    m_origins=", ".join(f"moves.{name}" for name in origins),
                    is_unknown=" OR ".join(f"{name} IS NULL" for name in origins),
                    latest=", ".join(f"max({name}) AS {name}" for name in origins),
                )
            )
        for name, origin in zip(self.unsent, origins, strict=True):
            column = identifier(name)  # one after the other: one join of wide rows at a time
            run(_VALUES.format(log=self.log, column=column, origin=origin))
            run(_COMPLETED.format(identity=_IDENTITY, name=literal(name), column=column))

    @property
    def rewritten(self) -> str:
        """The SELECT of the rewritten rows, in which nothing is unsent."""
        return "SELECT * REPLACE ([]::VARCHAR[] AS _unchanged) FROM temp.rewritten"


def number_events(connection: duckdb.DuckDBPyConnection, log: str, key: Sequence[str], *, where: str = "true") -> Fold:
    """Makes ``temp.events`` of those events of a log, without a gap, that meet a condition."""
    found = connection.execute(f"SELECT DISTINCT unnest(_unchanged) FROM {log} WHERE {where} ORDER BY 1").fetchall()
    unsent = tuple(name for (name,) in found)
    names = [f"_key{n}" for n in range(len(key))]
    lacks = [f"list_contains(_unchanged, {literal(name)})" for name in unsent]
    sent = "max(CASE WHEN NOT _unsent{0} AND _op <> 'd' THEN n END) OVER upto AS _from{0}"
    origin = "CASE WHEN _from{0} >= life THEN _from{0} END AS from_{0}"
    connection.execute(
        _EVENTS.format(
            log=log,
            where=where,
            keys=", ".join(f"{identifier(k)} AS {n}" for k, n in zip(key, names, strict=True)),
            names=", ".join(names),
            has_key=" AND ".join(f"{name} IS NOT NULL" for name in names),
            unsent="".join(f", {lack} AS _unsent{n}" for n, lack in enumerate(lacks)),
            sent="".join(", " + sent.format(n) for n in range(len(unsent))),
            origins="".join(", " + origin.format(n) for n in range(len(unsent))),
        )
    )
    return Fold(connection, log, unsent)
