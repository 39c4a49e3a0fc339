"""Debezium's change events, from files into the logs that ``pyops cdc`` fills.

A file is read once, and whole again if it has grown or changed; an event that is in the log
already adds nothing, whatever file or run it comes in.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import pyarrow as pa
import pyarrow.compute as pc

from pyops.cdc.changelog import Part, append
from pyops.cdc.debezium.envelope import (
    COUNTED,
    META,
    fields_of,
    lacking,
    parsed,
    without_unavailable,
)
from pyops.commands.extract import Listener
from pyops.config.project import Project, Table
from pyops.errors import DataError, PyopsError
from pyops.interrupt import interruptible
from pyops.records import CHANGE_COLUMNS, Run, ended
from pyops.sources.files import find as files
from pyops.sources.files import json_faults
from pyops.sources.files.find import File
from pyops.sources.files.json import (
    NOT_BLANK,
    PLACE,
    Rows,
    add_columns,
    free_mark,
    room,
)
from pyops.sources.files.lines import Chunk, Refused, chunks, without
from pyops.sql import identifier
from pyops.staging import casts
from pyops.staging.connect_types import ConnectType, mapping_of, mapping_of_configured
from pyops.staging.file import DEAD_LETTER, Stage
from pyops.staging.postgres_types import ColumnMapping, hashed
from pyops.warehouse.duckdb import TableState, Warehouse, store_files
from pyops.warehouse.recording import History

_INNER = {**META, "_version": "INTEGER", "_unavailable": "BOOLEAN"}
_TAKEN = (*PLACE, *CHANGE_COLUMNS, *_INNER)


def land(
    project: Project, table: Table, warehouse: Warehouse, history: History, listener: Listener
) -> tuple[Run | None, PyopsError | None]:
    """Lands the events of a table's new and changed files.

    Args:
        project: The project.
        table: The table.
        warehouse: Where to.
        history: Where a run that fails is recorded.
        listener: Told of progress.

    Returns:
        The run, None if there is no such file; and why it failed, if it did.
    """
    job = _Job(project, table, warehouse, history, listener)
    try:
        done = job.run()
    except PyopsError as error:
        run = ended(job.current, "failed", str(error))
        history.record(run)
        listener.finished(table, run, error)
        return run, error
    except KeyboardInterrupt:
        history.cancelled(job.current)
        raise
    except BaseException as error:
        history.record(ended(job.current, "failed", type(error).__name__))
        raise
    if done is not None:
        listener.finished(table, done, None)
    return done, None


@dataclass
class _Job:
    project: Project
    table: Table
    warehouse: Warehouse
    history: History
    listener: Listener

    def __post_init__(self) -> None:
        self.current = Run.begun(self.table.source, self.table.name, "cdc", "append")

    def run(self) -> Run | None:
        state = self.warehouse.states([self.table])[self.table]
        found = self._new_files(state)
        if not found:
            return None
        salt = self.project.config.sources[self.table.source].mask_salt
        with Stage.create(self.history.staging, self.current) as stage:
            events = _Events(stage, self.table, salt, state.columns)
            interruptible(lambda: events.read(found), cancel=stage.connection.interrupt)
            run = self.current = replace(
                self.current,
                rows_read=events.lines,
                bytes_read=sum(file.size for file in found),
            )
            signatures = [(file.name, file.size, file.mtime_ns) for file in found]
            parts = events.parts([file.name for file in found])
            done = append(
                self.warehouse,
                stage,
                parts,
                position=lambda connection, load_id: store_files(
                    connection, "warehouse", self.table, signatures, load_id
                ),
                run=run,
            )
        left = {kind: events.kinds[kind] for kind in COUNTED if events.kinds[kind]}
        if left:
            counts = ", ".join(f"{kind} ({count:,})" for kind, count in left.items())
            self.listener.note(f"{self.table}: nothing to land in {counts}")
        return done

    def _new_files(self, state: TableState) -> list[File]:
        try:
            found = files.find(self.project.directory, self.table.debezium)
        except DataError:
            if state.files:  # they were landed, and may go
                return []
            raise
        known = state.files
        return [file for file in found if known.get(file.name) != (file.size, file.mtime_ns)]


@dataclass
class _Events:
    """Events on their way into a staging file.

    Attributes:
        stage: The staging file.
        table: The table they are of.
        salt: What masked values are hashed with.
        log: The type of each column of the log, if there is one.
        lines: How many lines were read, blank ones left out.
        kinds: How many of them were of which kind.
    """

    stage: Stage
    table: Table
    salt: str
    log: Mapping[str, str]
    lines: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    # The columns of rows with the same schema; the first are those of rows without one.
    _versions: list[dict[str, ConnectType | None]] = field(default_factory=lambda: [{}])
    _numbers: dict[str | None, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        connection = self.stage.connection
        columns = ", ".join(f"{name} {type_}" for name, type_ in _INNER.items())
        columns = columns.replace("VARCHAR[]", "VARCHAR[] DEFAULT []")
        connection.execute(f"CREATE TABLE arrived (_file VARCHAR, _line BIGINT, {columns})")
        connection.execute(files.REFUSED)
        self.rows = Rows(connection, taken=_TAKEN, value=self._value)

    def _value(self, name: str, text: str) -> str | None:
        """A value's expression, hashed before it is stored; None for a column to leave out."""
        config = self.table.config
        if name in config.exclude or (config.columns and name not in config.columns):
            return None
        return hashed(text, self.salt).convert if name in config.mask else text

    def read(self, found: Sequence[File]) -> None:
        """Stages the events of files.

        Raises:
            DataError: A file is damaged, in another encoding, or names a column badly.
            OperationError: It cannot be read, or there is no room.
            TransientError: It was changed meanwhile.
        """
        for file in found:
            with files.reading(file, self.stage.scratch) as path:
                for chunk in chunks(path, file.name, quoted=False):
                    self._land(chunk, file)

    def _land(self, chunk: Chunk, file: File) -> None:
        config = self.table.debezium
        connection = self.stage.connection
        refused = [*chunk.refused]
        with self._registered(chunk.table):
            refused += [
                Refused(line, text, json_faults.describe(text, lines=False))
                for line, text in connection.execute(
                    f"SELECT line, text FROM chunk WHERE {NOT_BLANK}"
                    f" AND NOT {casts.is_json('text')}"
                ).fetchall()
            ]
        self.lines += len(refused)
        lines = without(chunk.table, refused)
        mark = free_mark(lines)
        query = parsed(
            mark,
            table=config.events_of or self.table.name,
            takes_its_own=config.events_of is not None,
            key=config.primary_key,
        )
        with self._registered(lines):
            found = connection.sql(query).to_arrow_table()
            self.lines += found.num_rows
            refused += [
                Refused(*row)
                for row in connection.sql(
                    "SELECT line, chunk.text, fault FROM found JOIN chunk USING (line)"
                    " WHERE fault IS NOT NULL"
                ).fetchall()
            ]
        is_row = pc.and_(pc.equal(found["kind"], "row"), pc.is_null(found["fault"]))
        counts = pc.value_counts(found.filter(pc.is_null(found["fault"]))["kind"])
        self.kinds.update({item["values"]: item["counts"] for item in counts.to_pylist()})
        rows = found.filter(is_row)
        for schema in pc.unique(rows["schema"]).to_pylist():
            is_its = pc.equal(rows["schema"], schema) if schema else pc.is_null(rows["schema"])
            refused += self._add(rows.filter(is_its), schema, file, mark)
        files.refuse(connection, file, refused, config)

    @contextmanager
    def _registered(self, table: pa.Table) -> Iterator[None]:
        connection = self.stage.connection
        connection.register("chunk", table)
        try:
            with room(connection, table.nbytes):
                yield
        finally:
            connection.unregister("chunk")

    def _add(self, rows: pa.Table, schema: str | None, file: File, mark: str) -> list[Refused]:
        """Stages rows of one schema; returns what has keys that cannot be columns."""
        number = self._number(schema, file)
        rows = rows.drop_columns(["schema", "kind", "fault"])
        version = pa.repeat(pa.scalar(number, pa.int32()), rows.num_rows)
        rows = rows.append_column("_version", version)
        keys, refused = self.rows.land(rows, file.name, mark=mark)
        for key in keys:
            self._versions[number].setdefault(key, None)
        return refused

    def _number(self, schema: str | None, file: File) -> int:
        """The number of the version that rows of a schema belong to."""
        if schema not in self._numbers:
            fields: dict[str, ConnectType | None] = {
                name: type_
                for name, type_ in fields_of(schema).items()
                if self._value(name, "") is not None
            }
            if fields not in self._versions:
                self._versions.append(fields)
                new = {name: "VARCHAR" for name in fields if name not in self.rows.columns}
                connection = self.stage.connection
                add_columns(connection, self.rows.columns, new, file.name, taken=_TAKEN)
            self._numbers[schema] = self._versions.index(fields) if fields else 0
        return self._numbers[schema]

    def parts(self, names: Sequence[str]) -> list[Part]:
        """What was staged of these files, a part for each version, and one for the refused."""
        connection = self.stage.connection
        self.stage.make_room(len(self.rows.columns))
        self._take_out_unavailable()
        refused = (
            "SELECT NULL AS key, NULL AS column_name, NULL AS value, reason, payload,"
            " _file AS file, _line AS line FROM refused"
        )
        parts = [Part(self.table, {}, "SELECT 1 WHERE false", refused, reread=tuple(names))]
        for number, version in enumerate(self._versions):
            if not connection.execute(
                f"SELECT 1 FROM arrived WHERE _version = {number} LIMIT 1"
            ).fetchone():
                continue
            mappings = self._mappings(version, has_schema=number > 0)
            meta = {"_file": "VARCHAR", "_line": "BIGINT", **META}
            meta_mappings = {name: ColumnMapping(type_, "", name) for name, type_ in meta.items()}
            staged = f"changes_{number}"
            self.stage.add_arrived(
                staged,
                mappings | meta_mappings,
                key=self.table.config.primary_key,
                where=f"_version = {number}",
            )
            parts.append(
                Part(
                    self.table,
                    {name: item.warehouse for name, item in mappings.items()},
                    f"SELECT * EXCLUDE (_fault), 1::INTEGER AS _generation FROM {staged}"
                    " WHERE _fault IS NULL",
                    f"SELECT {DEAD_LETTER} FROM {staged} WHERE _fault IS NOT NULL",
                    unnumbered=True,
                )
            )
        return parts

    def _take_out_unavailable(self) -> None:
        masked = self.table.config.mask
        salts = {name: self.salt if name in masked else None for name in self.rows.columns}
        if not salts:
            return
        found = self.stage.connection.execute(lacking(salts)).fetchall()[0]
        salts = {
            name: salt for (name, salt), is_in in zip(salts.items(), found, strict=True) if is_in
        }
        if salts:
            self.stage.connection.execute(without_unavailable(salts))

    def _mappings(
        self, version: Mapping[str, ConnectType | None], *, has_schema: bool
    ) -> dict[str, ColumnMapping]:
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
