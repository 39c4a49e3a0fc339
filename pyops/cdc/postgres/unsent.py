"""Changes that lack a value because the change that set it is a dead letter.

PostgreSQL does not send a large value that an update leaves alone: it is what the row had before. Where the log lacks
that, the update is a dead letter as well, until the row is sent whole again, deleted or truncated.
"""

from collections.abc import Mapping, Sequence

import duckdb

from pyops.sql import literal
from pyops.staging.columns import key_json, row_json

_EVENTS = """
CREATE OR REPLACE TEMP TABLE told AS
WITH numbered AS (
    SELECT *, row_number() OVER (ORDER BY _lsn, _seq) AS n FROM ({events})
), before AS (
    SELECT
        *,
        max(CASE WHEN is_fault THEN n END) OVER earlier AS fault,
        CASE WHEN key IN (FROM temp.open_keys) THEN 0 ELSE -2 END AS open,
        max(CASE WHEN is_whole THEN n END) OVER earlier AS whole,
        max(CASE WHEN is_whole THEN n END) OVER (PARTITION BY key) AS last_whole,
        max(CASE WHEN _op = 't' THEN n END) OVER (ORDER BY n) AS cut,
        max(CASE WHEN _op = 't' THEN n END) OVER () AS last_cut
    FROM numbered
    WINDOW earlier AS (PARTITION BY key ORDER BY n ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)
)
SELECT
    *, coalesce(fault, open) > greatest(coalesce(whole, -1), coalesce(cut, -1)) AS lacks,
    n < greatest(coalesce(last_whole, -1), coalesce(last_cut, -1)) AS is_over
FROM before
"""
# A row that got another key lacks what it had under the old one: the ``d`` right before its ``c``.
_LACKING = """
SELECT u._lsn, u._seq FROM temp.told AS u
LEFT JOIN temp.told AS d ON d._op = 'd' AND u._op = 'c' AND d._lsn = u._lsn AND d._seq = u._seq - 1
WHERE NOT u.is_fault AND NOT u.is_whole AND CASE WHEN d.n IS NULL THEN u.lacks ELSE d.lacks END
"""
# The dead letters that a later change of the same chunk makes up for, by their places.
OVER = "CREATE OR REPLACE TEMP TABLE over (_lsn BIGINT, _seq BIGINT)"


def counts(connection: duckdb.DuckDBPyConnection, versions: Sequence[str]) -> tuple[int, int]:
    """How many staged changes are dead letters, and how many lack a value."""
    staged = " UNION ALL ".join(f"SELECT _fault, _unchanged FROM {name}" for name in versions)
    query = f"SELECT count(_fault), count(*) FILTER (WHERE len(_unchanged) > 0) FROM ({staged})"
    faults, unsent = connection.execute(query).fetchall()[0]
    return faults, unsent


def hold_back(
    connection: duckdb.DuckDBPyConnection, versions: Mapping[str, Mapping[str, str]], key: Sequence[str], table: str
) -> None:
    """Makes dead letters of staged changes whose unsent values the log lacks.

    ``versions`` are the staging tables of one table, each with the types of its columns; ``temp.open_keys`` has the
    keys of its open dead letters. The places of those that a later change makes up for are added to ``temp.over``.
    """
    events = " UNION ALL ".join(
        f"SELECT _lsn, _seq, _op, CASE WHEN _op <> 't' THEN coalesce(_fault[1], {key_json(columns, key)}) END AS key,"
        " _fault IS NOT NULL AS is_fault, _fault IS NULL AND len(_unchanged) = 0 AND _op <> 't' AS is_whole"
        f" FROM {name}"
        for name, columns in versions.items()
    )
    statement = _EVENTS.format(events=events)
    reason = literal(f"it leaves a value as it was that a dead letter before it has; pyops snapshot {table} copies it")
    held = True
    while held:  # what is held back now may hold back what follows under another key
        connection.execute(statement)
        connection.execute(f"CREATE OR REPLACE TEMP TABLE lacking AS {_LACKING}")
        held = bool(connection.execute("SELECT count(*) FROM temp.lacking").fetchall()[0][0])
        for name, columns in versions.items() if held else ():
            fault = f"[{key_json(columns, key)}, NULL, NULL, {reason}, {row_json(columns)}, NULL, NULL]"
            connection.execute(
                f"UPDATE {name} SET _fault = {fault} WHERE (_lsn, _seq) IN (SELECT (_lsn, _seq) FROM temp.lacking)"
            )
    connection.execute("INSERT INTO temp.over SELECT _lsn, _seq FROM temp.told WHERE is_fault AND is_over")
