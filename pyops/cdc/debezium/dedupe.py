"""Which events of a load are new to a log, and their places in it: delivery is at least once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyops.errors import DataError
from pyops.records import CHANGE_COLUMNS, TableId
from pyops.sql import columns as listed
from pyops.sql import identifier
from pyops.warehouse.protocol import Attached
from pyops.warehouse.schema import common_type, compare

_COMPARED = ("_op", "_xid", "_committed_at", "_unchanged")
# ``_seq`` of a change that is placed above a copied row, at the copy's ``_lsn``: so much, less this many a byte
# between the two positions, and the change's number among those of its own position.
_ABOVE, _NUMBERS = 2**62, 2**16
_TX = "coalesce('x' || _xid, 'p' || _lsn)"
_IS_ABOVE, _FARTHEST = f"_seq > {_ABOVE // 2}", _ABOVE // 2 // _NUMBERS


def new_rows(rows: str, columns: Mapping[str, str], log: Mapping[str, str], old: str) -> str:
    """The SELECT of the events in ``rows`` that are not in ``old``, with their places.

    Two are the same if position, operation and all values are equal. ``_seq`` is ``_order`` if
    there is one; else the events of an ``_lsn`` are numbered as they arrived, after those in the
    log, but the rows of a snapshot below 1 and before them. ``_above`` is the position of a copy
    that the event goes above.
    """
    unmatched = {name.lower(): (name, type_) for name, type_ in log.items()}
    same = ["o._lsn = n._lsn", *(f"o.{name} IS NOT DISTINCT FROM n.{name}" for name in _COMPARED)]
    for name, new in columns.items():
        if name.lower() not in unmatched:
            same.append(f"n.{identifier(name)} IS NULL")
            continue
        column, type_ = unmatched.pop(name.lower())
        wide = "" if type_ == new else f"::{common_type(type_, new) or 'VARCHAR'}"
        same.append(f"o.{identifier(column)}{wide} IS NOT DISTINCT FROM n.{identifier(name)}{wide}")
    same += [f"o.{identifier(name)} IS NULL" for name, _ in unmatched.values()]
    is_old = " AND ".join(same)
    identity = listed(["_lsn", "_order", *_COMPARED, *columns])
    arrival = "_file, _line"
    return f"""
    WITH arrived AS (
        FROM ({rows})
        QUALIFY row_number() OVER (PARTITION BY {identity} ORDER BY {arrival}) = 1
    ),
    old AS ({old}),
    new AS (
        FROM arrived AS n WHERE _order IS NULL AND NOT EXISTS (FROM old AS o WHERE {is_old})
        UNION ALL
        FROM arrived AS n WHERE _order IS NOT NULL
            AND NOT EXISTS (FROM old AS o WHERE {is_old} AND o._seq = n._order)
    ),
    ordered AS (
        SELECT *, _order IS NOT NULL
            AND row_number() OVER (PARTITION BY _lsn, _order ORDER BY {arrival}) = 1
            AND (_lsn, _order) NOT IN (SELECT (_lsn, _seq) FROM old) AS _is_ordered
        FROM new
    ),
    taken AS (
        SELECT _lsn, least(min(_seq), 1) AS low, greatest(max(_seq), 0) AS high
        FROM (SELECT _lsn, _seq FROM old UNION ALL SELECT _lsn, _order FROM new)
        GROUP BY _lsn
    )
    SELECT * EXCLUDE (_above, _seq) REPLACE (coalesce(_above, _lsn) AS _lsn),
        _seq + CASE WHEN _above IS NULL THEN 0 ELSE {_ABOVE} - (_above - _lsn) * {_NUMBERS} END AS _seq
    FROM (
        SELECT ordered.* EXCLUDE (_order, _is_ordered, _since, _copied, {arrival}),
            CASE WHEN _is_ordered THEN _order
            WHEN _copied THEN low - row_number() OVER (
                PARTITION BY _lsn, _is_ordered, _copied ORDER BY _file DESC, _line DESC)
            ELSE high + row_number() OVER (
                PARTITION BY _lsn, _is_ordered, _copied ORDER BY {arrival}) END AS _seq
        FROM ordered JOIN taken USING (_lsn)
    )
    """


def above_copies(events: str, log: str) -> str:
    """The SELECT of transactions in ``events`` that were open during a copy (``_above``) in these or in the log.

    Debezium gives a change the LSN where it was written, and a copied row that where the copy began. A change is newer
    than the row, whatever these are, if the commit before it was behind the copy or if it arrived later; so is what
    follows it, since changes come in the order of commits. But what the log has from before the copy is repeated.
    """
    is_change = "_op NOT IN ('r', 't')"
    return f"""
    WITH events AS (SELECT *, {{f: _file, l: _line}} AS n FROM ({events})),
    log AS (FROM ({log}) WHERE _lsn >= (SELECT min(_lsn) FROM events WHERE {is_change})),
    copies AS (
        SELECT k, _lsn, max(reach) AS reach, min(n) AS n FROM (
            SELECT *, _lsn - (_op = 'r')::BIGINT AS reach, {{f: '', l: 0}} AS n FROM log
            WHERE _op = 'r' OR {_IS_ABOVE}
            UNION ALL BY NAME SELECT *, _lsn - 1 AS reach FROM events WHERE _op = 'r'
        ) WHERE reach >= (SELECT min(_lsn) FROM events WHERE {is_change}) GROUP BY k, _lsn
    ),
    changes AS (
        SELECT *, min(n) OVER (PARTITION BY _tx) AS first FROM events
        WHERE {is_change} AND _lsn <= (SELECT max(reach) FROM copies)
    ),
    newer AS (
        SELECT _tx, first, max(copy._lsn) AS _above, coalesce(bool_or(c._since >= copy._lsn), false) AS is_sure
        FROM changes AS c LEFT JOIN copies AS copy ON copy.k = c.k AND copy.reach >= c._lsn
            AND (copy.n < c.first OR c._since >= copy._lsn)
        GROUP BY _tx, first
    ),
    following AS (SELECT _tx, is_sure, max(_above) OVER (ORDER BY first) AS _above FROM newer)
    SELECT _tx, any_value(_above) AS _above, max(_above - c._lsn) AS distance
    FROM following JOIN changes AS c USING (_tx) WHERE c._lsn <= _above
    GROUP BY _tx HAVING bool_or(is_sure) OR NOT bool_or(EXISTS (
        FROM log AS b WHERE {is_change} AND NOT ({_IS_ABOVE}) AND b.k = c.k AND b._lsn >= c._lsn AND b._lsn < _above
    ))
    """


@dataclass
class Numbering:
    """Finds the new events of a load, one version of their table after the other."""

    at: Attached
    table: TableId
    key: tuple[str, ...]
    repeated: int = 0
    _has_above: bool = False
    _staged: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    def compare_with_copies(self, staged: Mapping[str, Mapping[str, str]]) -> None:
        """Looks at all events of a load, by table with its columns, for those that go above a copied row."""
        target = self.table.target
        k = ", ".join(f"{identifier(name)}::VARCHAR" for name in self.key)
        events = " UNION ALL ".join(
            f"SELECT [{k}] AS k, _op, _lsn, _since, {_TX} AS _tx, _file, _line FROM {name} WHERE _fault IS NULL"
            for name, columns in staged.items()
            if {*self.key} <= columns.keys()
        )
        self._has_above = bool(self.key and events)
        if not self._has_above:
            return
        log = "SELECT [''] AS k, '' AS _op, 0 AS _lsn, 0 AS _seq LIMIT 0"
        if {"_lsn", *map(str.lower, self.key)} <= {*map(str.lower, self.at.columns(target))}:
            log = f"SELECT [{k}] AS k, _op, _lsn, _seq FROM {self.at.name(target)}"
        self.at.connection.execute(f"CREATE TEMP TABLE above AS {above_copies(events, log)}")
        [(distance,)] = self.at.connection.execute("SELECT coalesce(max(distance), 0) FROM above").fetchall()
        if distance >= _FARTHEST:
            raise DataError(
                f"{self.table}: a change is {distance:,} bytes before the copied row that it replaces: too far",
                hint="land the events from that copy on under another `target`",
            )

    def new_rows(self, rows: str, columns: Mapping[str, str]) -> str:
        """The SELECT of those of ``rows`` that are new, with their places."""
        log = self.at.columns(self.table.target)
        connection = self.at.connection
        [(count, first, last)] = connection.execute(f"SELECT count(*), min(_lsn), max(_lsn) FROM ({rows})").fetchall()
        above = "NULL::BIGINT"
        if self._has_above:
            above = f"(SELECT a._above FROM above AS a WHERE a._tx = {_TX} AND a._above >= _lsn AND _op <> 'r')"
        # Folded events are not there to compare with, so nothing that old is taken again.
        folded = self.at.compacted_lsn(self.table)
        rows = (
            f"SELECT * REPLACE (CASE WHEN _above IS NULL THEN _order END AS _order)"
            f" FROM (SELECT *, {above} AS _above FROM ({rows})) WHERE coalesce(_above, _lsn) > {folded}"
        )
        if not count or (log and "_lsn" not in log):  # what is not a log is refused later
            return rows
        own = {*CHANGE_COLUMNS, "_load_id", "_loaded_at"}
        sources = [(name, types) for name, types in self._staged]
        if log:
            types = {name: type_ for name, type_ in log.items() if name not in own}
            sources.insert(0, (self.at.name(self.table.target), types))
        known: dict[str, str] = {}
        for _, more in sources:
            known = _evolved(known, more)
        same_place = f"_lsn BETWEEN {first} AND {last} AND _lsn IN (SELECT _lsn FROM ({rows}))"
        old = " UNION ALL BY NAME ".join(
            f"SELECT {', '.join(_cast(known, types))} FROM ({part}) WHERE {same_place}"
            for name, types in sources
            for part in _own_places(name)
        )
        if not sources:
            known, old = dict(columns), f"SELECT *, NULL::BIGINT AS _seq FROM ({rows}) LIMIT 0"
        staged = f"temp.new_{len(self._staged)}"
        connection.execute(f"CREATE TEMP TABLE {staged} AS {new_rows(rows, columns, known, old)}")
        self._staged.append((staged, columns))
        [(fresh,)] = connection.execute(f"SELECT count(*) FROM {staged}").fetchall()
        self.repeated += count - fresh
        return f"FROM {staged}"


def _own_places(name: str) -> tuple[str, str]:
    """The events of a log by their own positions: those where they are, and those that went above a copy."""
    distance = f"(({_ABOVE + _NUMBERS - 1} - _seq) // {_NUMBERS})"
    own = f"_lsn - {distance} AS _lsn, _seq - {_ABOVE} + {distance} * {_NUMBERS} AS _seq"
    return (f"FROM {name} WHERE NOT ({_IS_ABOVE})", f"SELECT * REPLACE ({own}) FROM {name} WHERE {_IS_ABOVE}")


def _evolved(log: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """The columns of a log after rows of other columns."""
    found = dict(log)
    for change in compare(log, more, keep=True, otherwise="VARCHAR"):
        if change.becomes:
            found[change.column] = change.becomes
    return found


def _cast(known: Mapping[str, str], types: Mapping[str, str]) -> list[str]:
    """The columns of one source of old events, in the log's types."""
    here = {name.lower() for name in types}
    own = [
        f"{identifier(name) if name.lower() in here else 'NULL'}::{type_} AS {identifier(name)}"
        for name, type_ in known.items()
    ]
    return [*CHANGE_COLUMNS, *own]
