"""The stream of changes, chunk by chunk, on its way into staging."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow as pa

from pyops.cdc.changelog import META, log_write
from pyops.cdc.postgres.pgoutput import Changes, Relation
from pyops.config.project import Table
from pyops.errors import OperationError
from pyops.records import CHANGE_COLUMNS, RESERVED_COLUMNS, Captured, Offset
from pyops.sources.postgres.catalog import column_types
from pyops.sources.postgres.session import Session
from pyops.sql import columns as listed
from pyops.sql import identifier
from pyops.staging.columns import DEAD_LETTER, ColumnMapping
from pyops.staging.file import Stage
from pyops.staging.postgres_types import hashed, mapping_of_text
from pyops.warehouse.protocol import Write


@dataclass(frozen=True)
class _Version:
    """The staging table of one version of a relation."""

    name: str
    table: Table
    mappings: Mapping[str, ColumnMapping]


@dataclass
class StagedChanges:
    """Changes on their way into a staging file.

    ``tables`` are the captured ones by the oid of their relation; ``keys`` has the columns that
    identify a row by the table's name; a transaction before ``offset`` is a repetition; ``catalog``
    is a connection to look types up with.
    """

    stage: Stage
    tables: Mapping[int, tuple[Table, Captured]]
    keys: Mapping[str, tuple[str, ...]]
    offset: Offset
    catalog: Session
    salt: str
    events: int = 0
    _versions: dict[Relation, _Version] = field(default_factory=dict)

    def key(self, relation: Relation) -> tuple[str, ...]:
        """The columns that identify a row of a relation, for the decoder."""
        found = self.tables.get(relation.oid)
        return self.keys.get(found[0].name, ()) if found else ()

    def add(self, changes: Changes) -> None:
        """Stages changes; those that belong to no captured table are left out.

        Raises:
            OperationError: The file cannot be written, or a column's name cannot be landed.
        """
        relation = changes.relation
        if relation.oid not in self.tables:
            return
        version = self._versions.get(relation)
        if version is None:
            version = self._versions[relation] = self._version(relation)
        self.events += len(changes.op)
        names = [attribute.name for attribute in relation.attributes]
        generation = pa.repeat(pa.scalar(self.offset.generation, pa.int32()), len(changes.op))
        meta = [changes.op, generation, changes.lsn, changes.seq, changes.xid]
        arrays = [*meta, changes.committed_at, changes.unchanged, *changes.values]
        self.stage.add(
            version.name,
            pa.Table.from_arrays(arrays, names=[*CHANGE_COLUMNS, *names]),
            version.mappings,
            key=self.keys.get(version.table.name, ()),
            where=self._is_new(self.tables[relation.oid][1]),
            size=changes.bytes,
        )

    def _version(self, relation: Relation) -> _Version:
        table = self.tables[relation.oid][0]
        config = table.postgres
        attributes = [
            a
            for a in relation.attributes
            if a.name not in config.exclude and (not config.columns or a.name in config.columns)
        ]
        taken = {name.lower() for name in (*RESERVED_COLUMNS, *CHANGE_COLUMNS)}
        for attribute in attributes:
            if attribute.name.lower() in taken:
                raise OperationError(
                    f"{table}: column {attribute.name} cannot be landed: its name is pyops's own,"
                    " or differs from another's only by case",
                    hint=f"leave it out with exclude: [{attribute.name}]",
                )
            taken.add(attribute.name.lower())
        types = column_types(self.catalog, [(a.type_oid, a.modifier) for a in attributes])
        mappings = {
            a.name: hashed(identifier(a.name), self.salt)
            if a.name in config.mask
            else mapping_of_text(a.name, type_)
            for a, type_ in zip(attributes, types, strict=True)
        }
        return _Version(f"changes_{len(self._versions)}", table, META | mappings)

    def _leave_out_deletes_of_replaced_rows(self, version: _Version) -> None:
        """Drops deletes of a row whose key another row has taken before, in the same transaction.

        Where a key is checked late, rows can swap keys: 1 becomes 2, then the old 2 becomes 1. That
        second update deletes a row of key 2, but not the one that has the key now. Only a replica
        identity that is FULL allows for that, and it tells the one row from the other.
        """
        if not (key := self.keys.get(version.table.name, ())):
            return
        row = listed([name for name in version.mappings if name not in META])
        connection = self.stage.connection
        connection.execute(
            f"DELETE FROM {version.name} WHERE _op = 'd' AND (_lsn, _seq) IN ("
            f" SELECT (_lsn, _seq) FROM (SELECT _lsn, _seq, _op, ROW({row}) AS now,"
            f" lag(_op) OVER same AS op_before, lag(ROW({row})) OVER same AS before"
            f" FROM {version.name} WINDOW same AS (PARTITION BY _lsn, {listed(key)} ORDER BY _seq))"
            " WHERE _op = 'd' AND op_before IN ('c', 'u') AND now IS DISTINCT FROM before)"
        )

    def _is_new(self, captured: Captured) -> str:
        """The condition for changes that were neither landed before nor copied with the table.

        The stream's transaction ids have 32 bits; near a snapshot its own tell the others.
        """
        condition = f"_lsn >= {self.offset.lsn}"
        if captured.handoff_lsn <= self.offset.lsn:
            return condition
        _, xmax, in_progress = captured.snapshot.split(":")
        full = f"({xmax} + ((_xid - {xmax} + 2147483648) & 4294967295) - 2147483648)"
        still_open = f" OR {full} IN ({in_progress})" if in_progress else ""
        invisible = f"{full} >= {xmax}{still_open}"
        return f"{condition} AND (_lsn >= {captured.handoff_lsn} OR {invisible})"

    def writes(self) -> tuple[Write, ...]:
        """What was staged, a write for each version of each table."""
        for relation, version in self._versions.items():
            if relation.identity == "f":
                self._leave_out_deletes_of_replaced_rows(version)
        return tuple(
            log_write(
                version.table,
                {n: item.warehouse for n, item in version.mappings.items() if n not in META},
                f"SELECT * EXCLUDE (_fault) FROM {version.name} WHERE _fault IS NULL",
                dead_letters=f"SELECT {DEAD_LETTER} FROM {version.name} WHERE _fault IS NOT NULL",
                key=self.keys.get(version.table.name, ()),
                log="stream",
            )
            for version in self._versions.values()
        )
