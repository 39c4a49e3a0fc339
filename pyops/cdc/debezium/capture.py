"""Changes from Debezium's events in files, into the logs that ``pyops cdc`` fills.

A file is read whole again if it has changed; an event that is in the log already adds nothing.
"""

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import duckdb

from pyops.cdc.debezium.envelope import COUNTED
from pyops.cdc.debezium.land import StagedEvents
from pyops.config.model import DebeziumSource
from pyops.config.project import Project, Table
from pyops.errors import DataError, OperationError, PyopsError, UsageError
from pyops.interrupt import interruptible
from pyops.sources.files.find import File, find
from pyops.sources.protocol import ChangeSource, Chunk, Look
from pyops.staging.connect_types import unavailable
from pyops.staging.file import Stage
from pyops.warehouse.protocol import Commit, TableState
from pyops.warehouse.recording import Recording

_log = logging.getLogger(__name__)


class Changes(ChangeSource):
    """The tables of one source."""

    # There is nothing to wait for and nothing to show: other options are ignored.
    def __init__(self, project: Project, source: str, *, again: Table | None = None, **_: object) -> None:
        if again is not None:
            raise UsageError(
                f"{again} is landed from files of events: there is nothing to copy",
                hint="let the connector take a snapshot: its events land like any other",
            )
        self.project = project
        settings = project.config.sources[source]
        assert isinstance(settings, DebeziumSource)
        self.salt = settings.mask_salt
        self.unavailable = unavailable(settings.unavailable_value)
        self.tables = project.cdc_tables(source)
        self.states: dict[Table, TableState] = {}

    def start(self, look: Look) -> Iterator[Chunk]:
        self.states = dict(look()[1])
        return iter(())

    def changes(self, *, idles: bool = False) -> Iterator[Chunk]:
        for table in self.tables:
            try:
                found = self._new_files(table)
            except PyopsError as error:
                yield Chunk(table=table, error=error)
                continue
            if not found:
                continue
            chunk = Chunk(table=table, stage=partial(self._stage, table, found))
            yield chunk
            if chunk.landed:
                self._note_landed(table, found, chunk.landed.load_id)

    def _new_files(self, table: Table) -> list[File]:
        known = self.states[table].files
        try:
            found = find(self.project.directory, table.debezium.path)
        except DataError:
            if known:  # they were landed, and may go
                return []
            raise
        return [file for file in found if known.get(file.name) != (file.size, file.changed_ns)]

    def _stage(self, table: Table, found: list[File], stage: Stage, recording: Recording) -> Commit:
        try:
            return self._staged(table, found, stage, recording)
        except (duckdb.ProgrammingError, duckdb.DataError, duckdb.NotSupportedError, duckdb.InternalError) as error:
            raise OperationError(  # whose message may quote a value
                f"{table}: DuckDB cannot take its events ({type(error).__name__}); nothing of them is landed",
                hint="report it with an event of that table; other tables are landed",
            ) from error

    def _staged(self, table: Table, found: list[File], stage: Stage, recording: Recording) -> Commit:
        state = self.states[table]
        events = StagedEvents(stage, table, self.salt, self.unavailable, state.columns)
        interruptible(lambda: events.read(found), cancel=stage.connection.interrupt)
        recording.note(rows_read=events.lines, bytes_read=sum(file.size for file in found))
        names = [file.name for file in found]
        with recording.warehouse.attached(stage) as at:
            first, *others = interruptible(lambda: events.writes(at, names), cancel=stage.connection.interrupt)
        recording.note(rows_unchanged=events.repeated)
        if left := {kind: events.kinds[kind] for kind in COUNTED if events.kinds[kind]}:
            counts = ", ".join(f"{kind} ({count:,})" for kind, count in left.items())
            _log.info("%s: nothing to land in %s", table, counts)
        signatures = tuple((file.name, file.size, file.changed_ns) for file in found)
        # Numbers were given by what the log had then.
        first = replace(first, files=signatures, expects_load=state.last_load)
        return Commit((first, *others))

    def _note_landed(self, table: Table, found: list[File], load_id: int | None) -> None:
        state = self.states[table]
        landed = {file.name: (file.size, file.changed_ns) for file in found}
        self.states[table] = replace(state, files={**state.files, **landed}, last_load=load_id or state.last_load)
