"""Which events of a load are new to a log, and their places in it: delivery is at least once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyops.records import CHANGE_COLUMNS, TableId
from pyops.sql import columns as listed
from pyops.sql import identifier
from pyops.warehouse.protocol import Attached
from pyops.warehouse.schema import common_type, compare

_COMPARED = ("_op", "_xid", "_committed_at", "_unchanged")


def new_rows(rows: str, columns: Mapping[str, str], log: Mapping[str, str], old: str) -> str:
    """The SELECT of the events in ``rows`` that are not in ``old``, with ``_seq``.

    Two are the same if position, operation and all values are equal. ``_seq`` is ``_order`` if
    there is one; else the events of an ``_lsn`` are numbered as they arrived, after those in the
    log, but the rows of a snapshot below 1 and before them.
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
    SELECT ordered.* EXCLUDE (_order, _is_ordered, {arrival}), CASE WHEN _is_ordered THEN _order
        WHEN _op = 'r' THEN low - row_number() OVER (
            PARTITION BY _lsn, _is_ordered, _op = 'r' ORDER BY _file DESC, _line DESC)
        ELSE high + row_number() OVER (
            PARTITION BY _lsn, _is_ordered, _op = 'r' ORDER BY {arrival}) END AS _seq
    FROM ordered JOIN taken USING (_lsn)
    """


@dataclass
class Numbering:
    """Finds the new events of a load, one version of their table after the other."""

    at: Attached
    table: TableId
    repeated: int = 0
    _staged: list[tuple[str, Mapping[str, str]]] = field(default_factory=list)

    def new_rows(self, rows: str, columns: Mapping[str, str]) -> str:
        """The SELECT of those of ``rows`` that are new, with ``_seq``."""
        log = self.at.columns(self.table.target)
        connection = self.at.connection
        [(count, first, last)] = connection.execute(f"SELECT count(*), min(_lsn), max(_lsn) FROM ({rows})").fetchall()
        # Folded events are not there to compare with, so nothing that old is taken again.
        rows = f"SELECT * FROM ({rows}) WHERE _lsn > {self.at.compacted_lsn(self.table)}"
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
            f"SELECT {', '.join(_cast(known, types))} FROM {name} WHERE {same_place}" for name, types in sources
        )
        if not sources:
            known, old = dict(columns), f"SELECT *, NULL::BIGINT AS _seq FROM ({rows}) LIMIT 0"
        staged = f"temp.new_{len(self._staged)}"
        connection.execute(f"CREATE TEMP TABLE {staged} AS {new_rows(rows, columns, known, old)}")
        self._staged.append((staged, columns))
        [(fresh,)] = connection.execute(f"SELECT count(*) FROM {staged}").fetchall()
        self.repeated += count - fresh
        return f"FROM {staged}"


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
