"""Debezium's change events, from files into staging."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256

import pyarrow as pa
import pyarrow.compute as pc

from pyops.cdc.changelog import log_write
from pyops.cdc.debezium.dedupe import Numbering
from pyops.cdc.debezium.envelope import META, fields_of, lacking, parsed, without_unavailable
from pyops.config.project import Table
from pyops.records import CHANGE_COLUMNS
from pyops.sources.files import json_faults
from pyops.sources.files.arrive import REFUSED, reading, refuse
from pyops.sources.files.arrived import TAKEN
from pyops.sources.files.find import File
from pyops.sources.files.json import NOT_BLANK, Rows, free_mark
from pyops.sources.files.lines import Chunk, Refused, chunks, without
from pyops.sql import identifier
from pyops.staging import casts, memory
from pyops.staging.columns import DEAD_LETTER, ColumnMapping
from pyops.staging.connect_types import ConnectType, mapping_of, mapping_of_configured
from pyops.staging.file import Stage
from pyops.staging.postgres_types import hashed
from pyops.warehouse.protocol import Attached, ByFiles, Write

_INNER = {**META, "_version": "INTEGER", "_unavailable": "BOOLEAN"}
_TAKEN = (*TAKEN, *CHANGE_COLUMNS, *_INNER)
# To take events apart takes so many copies of their text (measured: lines of 10 MB); so few bytes at once, or one line.
_COPIES, _AT_ONCE = 45, 1 << 20


@dataclass
class StagedEvents:
    """Events on their way into a staging file; ``log`` has the types of the log's columns."""

    stage: Stage
    table: Table
    salt: str
    unavailable: Sequence[str]  # the texts that stand for a value that was not sent
    log: Mapping[str, str]
    lines: int = 0  # read
    kinds: Counter[str] = field(default_factory=Counter)  # how many of them were of which kind
    repeated: int = 0
    # The columns of rows with the same schema; the first are those of rows without one.
    _versions: list[dict[str, ConnectType | None]] = field(default_factory=lambda: [{}])
    _numbers: dict[str | None, int] = field(default_factory=dict)
    _width: memory.Width = field(default_factory=memory.Width)

    def __post_init__(self) -> None:
        connection = self.stage.connection
        columns = ", ".join(f"{name} {type_}" for name, type_ in _INNER.items())
        columns = columns.replace("VARCHAR[]", "VARCHAR[] DEFAULT []")
        connection.execute(f"CREATE TABLE arrived (_file VARCHAR, _line BIGINT, {columns})")
        connection.execute(REFUSED)
        self.rows = Rows(connection, taken=_TAKEN, value=self._value, refuses=True)

    def _value(self, name: str, text: str) -> str | None:
        """A value's expression, hashed before it is stored; None for a column to leave out."""
        config = self.table.config
        if not config.lands(name):
            return None
        return hashed(text, self.salt).convert if name in config.mask else text

    def read(self, found: Sequence[File]) -> None:
        """Stages the events of files, or none: a DataError, OperationError or TransientError."""
        for file in found:
            with reading(file, self.stage.scratch) as path:
                for chunk in chunks(path, file.name):
                    for part in _parts(chunk):
                        self._land(part, file)

    def _land(self, chunk: Chunk, file: File) -> None:
        config = self.table.debezium
        connection = self.stage.connection
        refused = [*chunk.refused]
        self._width.add(chunk.table.num_rows, chunk.table.nbytes)
        self._make_room(_COPIES * chunk.table.nbytes)
        with memory.registered(connection, "chunk", chunk.table):
            refused += [
                Refused(line, text, json_faults.describe(text, lines=False))
                for line, text in connection.execute(
                    f"SELECT line, text FROM chunk WHERE {NOT_BLANK} AND NOT {casts.is_json('text')}"
                ).fetchall()
            ]
        self.lines += len(refused)
        lines = without(chunk.table, refused)
        mark = free_mark(lines)
        query = parsed(
            mark,
            table=config.events_of or self.table.name,
            skips_others=config.events_of is not None,
            key=config.primary_key,
            unavailable=self.unavailable,
        )
        with memory.registered(connection, "chunk", lines):
            found = connection.sql(query).to_arrow_table()
            self.lines += found.num_rows
            refused += [
                Refused(*row)
                for row in connection.sql(
                    "SELECT line, chunk.text, fault FROM found JOIN chunk USING (line) WHERE fault IS NOT NULL"
                ).fetchall()
            ]
        is_row = pc.and_(pc.equal(found["kind"], "row"), pc.is_null(found["fault"]))
        counts = pc.value_counts(found.filter(pc.is_null(found["fault"]))["kind"])
        self.kinds.update({item["values"]: item["counts"] for item in counts.to_pylist()})
        rows = found.filter(is_row)
        for schema in pc.unique(rows["schema"]).to_pylist():
            is_its = pc.equal(rows["schema"], schema) if schema else pc.is_null(rows["schema"])
            refused += self._add(rows.filter(is_its), schema, file, mark)
        refuse(connection, file.name, refused, hides=config.hides_columns)

    def _make_room(self, more: int = 0) -> None:
        self.stage.make_room(memory.LEAST + memory.needed(len(self.rows.columns), self._width.widest) + more)

    def _add(self, rows: pa.Table, schema: str | None, file: File, mark: str) -> list[Refused]:
        """Stages rows of one schema; returns what has keys that cannot be columns."""
        number = self._number(schema)
        rows = rows.drop_columns(["schema", "kind", "fault"])
        version = pa.repeat(pa.scalar(number, pa.int32()), rows.num_rows)
        rows = rows.append_column("_version", version)
        keys, refused = self.rows.land(rows, file.name, mark=mark, fields=self._versions[number] if number else ())
        for key in keys:
            self._versions[number].setdefault(key, None)
        return refused

    def _number(self, schema: str | None) -> int:
        """The number of the version that rows of a schema belong to."""
        if schema not in self._numbers:
            fields: dict[str, ConnectType | None] = {
                name: type_ for name, type_ in fields_of(schema).items() if self._value(name, "") is not None
            }
            if fields not in self._versions:
                self._versions.append(fields)
            self._numbers[schema] = self._versions.index(fields) if fields else 0
        return self._numbers[schema]

    def writes(self, at: Attached, names: Sequence[str]) -> list[Write]:
        """What was staged of these files: one write for the refused, one for each version."""
        connection = self.stage.connection
        self._make_room()
        self._take_out_unavailable()
        refused = (
            "SELECT NULL AS key, NULL AS column_name, NULL AS value, reason, payload,"
            " _file AS file, _line AS line FROM refused"
        )
        writes = [
            log_write(
                *(self.table, {}, "SELECT 1 WHERE false"),
                dead_letters=refused,
                log="events",
                supersedes=ByFiles(tuple(names)),
            )
        ]
        numbering = Numbering(at, self.table, self.table.config.primary_key)
        staged = {}
        for number, version in enumerate(self._versions):
            if not connection.execute(f"SELECT 1 FROM arrived WHERE _version = {number} LIMIT 1").fetchone():
                continue
            mappings = self._mappings(version, has_schema=number > 0)
            meta = {"_file": "VARCHAR", "_line": "BIGINT", **META}
            meta_mappings = {name: ColumnMapping(type_, "", name) for name, type_ in meta.items()}
            name = f"changes_{number}"
            self.stage.add_arrived(
                name, mappings | meta_mappings, key=self.table.config.primary_key, where=f"_version = {number}"
            )
            staged[name] = {column: item.warehouse for column, item in mappings.items()}
        numbering.compare_with_copies(staged)
        for name, columns in staged.items():
            rows = f"SELECT * EXCLUDE (_fault), 1::INTEGER AS _generation FROM {name} WHERE _fault IS NULL"
            writes.append(
                log_write(
                    *(self.table, columns, numbering.new_rows(rows, columns)),
                    dead_letters=f"SELECT {DEAD_LETTER} FROM {name} WHERE _fault IS NOT NULL",
                    log="events",
                )
            )
        self.repeated = numbering.repeated
        return writes

    def _take_out_unavailable(self) -> None:
        hashes = [sha256((self.salt + text).encode()).hexdigest() for text in self.unavailable]
        masked = self.table.config.mask
        texts = {name: hashes if name in masked else self.unavailable for name in self.rows.columns}
        if not texts:
            return
        found = self.stage.connection.execute(lacking(texts)).fetchall()[0]
        texts = {name: item for (name, item), is_in in zip(texts.items(), found, strict=True) if is_in}
        if texts:
            self.stage.connection.execute(without_unavailable(texts))

    def _mappings(self, version: Mapping[str, ConnectType | None], *, has_schema: bool) -> dict[str, ColumnMapping]:
        config = self.table.debezium
        mappings = {}
        for name, type_ in version.items():
            if name not in config.mask and type_ is not None:
                mappings[name] = mapping_of(name, type_)
            elif name not in config.mask and name in config.types and not has_schema:
                mappings[name] = mapping_of_configured(name, config.types[name])
            else:  # as text, or hashed already
                mappings[name] = ColumnMapping("VARCHAR", "", identifier(name))
        if has_schema:
            return mappings
        # Without a schema, what an event lacks may still be there, as in a delete.
        here = {name.lower() for name in (*mappings, *CHANGE_COLUMNS)}
        for name, there in self.log.items():
            if name.lower() not in here and self._value(name, "") is not None:
                mappings[name] = ColumnMapping(there, "", f"NULL::{there}")
        return mappings


def _parts(chunk: Chunk) -> Iterator[Chunk]:
    """A chunk in parts that are parsed at once."""
    rows = chunk.table.num_rows
    step = max(1, rows * _AT_ONCE // max(chunk.table.nbytes, 1))
    for start in range(0, max(rows, 1), step):
        yield Chunk(chunk.table.slice(start, step), [] if start else chunk.refused)
