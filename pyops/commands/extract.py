"""Batch extraction: read in one snapshot of the source, stage, publish.

All tables of a source are read in one snapshot, so that they fit together: no order without its
user. A table that fails leaves the others alone; its target stays as it was.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from pyops.config.days import Days
from pyops.config.model import FilesSource, PostgresTable
from pyops.config.project import Project, Table
from pyops.errors import DataError, PyopsError, UsageError
from pyops.interrupt import interruptible
from pyops.quality.validate import GateError, audit
from pyops.records import GateResult, Run, Watermark, ended
from pyops.sources.files import find as files
from pyops.sources.files.plan import file_mappings, plan_files
from pyops.sources.postgres import session as postgres
from pyops.sources.postgres.plan import Plan, plan
from pyops.sources.postgres.watermark import advance, still_open
from pyops.staging.file import Stage, discard, kept
from pyops.warehouse.duckdb import TableState, Warehouse
from pyops.warehouse.publication import Load, publish
from pyops.warehouse.recording import History

_SETTLING_SECONDS = 0.25  # how long to wait for short transactions, so that the watermark can move


class Listener(Protocol):
    """Told what goes on; every method may be called often."""

    def note(self, message: str) -> None:
        """Something worth a line: a retry, a wait."""

    def pause(self) -> None:
        """Another program is about to print."""

    def failed(self, source: str, error: PyopsError) -> None:
        """A source has failed, not one of its tables."""

    def reading(self, table: Table, rows: int, estimated_rows: int) -> None:
        """Rows read so far; the estimate is -1 where there is none."""

    def finished(self, table: Table, run: Run, error: PyopsError | None) -> None:
        """A table is done, well or not."""


class Silent:
    """A listener that does not listen."""

    def note(self, message: str) -> None:
        """Forgets it."""

    def pause(self) -> None:
        """Forgets it."""

    def failed(self, source: str, error: PyopsError) -> None:
        """Forgets it."""

    def reading(self, table: Table, rows: int, estimated_rows: int) -> None:
        """Forgets it."""

    def finished(self, table: Table, run: Run, error: PyopsError | None) -> None:
        """Forgets it."""


@dataclass(frozen=True)
class Extraction:
    """What came of one table.

    Attributes:
        table: The table.
        run: What is recorded of it.
        error: Why it failed, if it did.
        query: What a dry run would ask the source.
        gates: What the gates said of the staged rows.
    """

    table: Table
    run: Run
    error: PyopsError | None = None
    query: str = ""
    gates: tuple[GateResult, ...] = ()


def extract(
    project: Project,
    names: Sequence[str] = (),
    *,
    days: Days | None = None,
    full_refresh: bool = False,
    stage_only: bool = False,
    dry_run: bool = False,
    listener: Listener | None = None,
) -> list[Extraction]:
    """Lands tables in the warehouse: stages, validates and publishes each.

    Args:
        project: Where, from where, and how.
        names: Tables, as ``source.table`` or ``table``; all but those of mode cdc if empty.
        days: Land these days only: replaced or merged, the watermark stays as it is.
        full_refresh: Read the tables whole and swap them; their watermarks start over.
        stage_only: Stop after staging: ``validate`` and ``publish`` go on from there.
        dry_run: Look at source and warehouse and say what would be done; write nothing anywhere.
        listener: Told of progress.

    Returns:
        One result for each table, failed ones too.

    Raises:
        UsageError: A name that is not configured, or whose mode is cdc.
        OperationError: The warehouse cannot be opened.
    """
    tables = project.select(list(names))
    if names:
        for table in tables:
            if table.config.mode == "cdc":
                raise UsageError(
                    f"{table} is landed by mode cdc",
                    hint=f"pyops cdc {table.source} lands its changes"
                    + f", pyops snapshot {table} copies it anew"
                    * isinstance(table.config, PostgresTable),
                )
    job = _Job(project, days, full_refresh, stage_only, dry_run, listener or Silent())
    return job.run([table for table in tables if table.config.mode != "cdc"])


@dataclass
class _Job:
    project: Project
    days: Days | None
    full_refresh: bool
    stage_only: bool
    dry_run: bool
    listener: Listener

    def __post_init__(self) -> None:
        self.warehouse = Warehouse.of(self.project, on_wait=self.listener.note)
        self.history = History(self.warehouse, self.project.staging_directory)

    def run(self, tables: Sequence[Table]) -> list[Extraction]:
        states = self._states(tables)
        done: dict[Table, Extraction] = {}
        for source in dict.fromkeys(table.source for table in tables):
            mine = {table: states[table] for table in tables if table.source == source}
            read = self._postgres
            if isinstance(self.project.config.sources[source], FilesSource):
                read = self._files
            try:
                for item in read(source, mine):
                    done[item.table] = item
            except PyopsError as error:  # no connection: each table that is left has failed
                left = [table for table in mine if table not in done]
                done |= {table: self._failed(table, error) for table in left}
        return [done[table] for table in tables]

    def _states(self, tables: Sequence[Table]) -> dict[Table, TableState]:
        try:
            if not self.dry_run:
                self.history.settle()
            return self.warehouse.states(tables)
        except PyopsError as error:
            self._record(*(ended(self._begun(t), "failed", str(error)) for t in tables))
            raise

    # PostgreSQL

    def _postgres(self, name: str, states: Mapping[Table, TableState]) -> Iterator[Extraction]:
        plans: list[Plan] = []
        with postgres.connect(self.project.dsn(name), on_retry=self.listener.note) as session:
            for table, state in states.items():
                try:
                    plans.append(self._plan(session, table, state))
                except PyopsError as error:
                    yield self._failed(table, error)
            marks = self._watermarks(session, plans)
            with session.snapshot():
                for planned in plans:
                    mark = marks.get(planned.table)
                    state = states[planned.table]
                    yield self._attempted(
                        planned.table,
                        self._begun(planned.table, planned.write),
                        partial(self._query, session, planned, mark, state),
                    )

    def _plan(self, session: postgres.Session, table: Table, state: TableState) -> Plan:
        return plan(
            table,
            session.describe(table.postgres.schema_, table.name),
            state,
            salt=self.project.config.sources[table.source].mask_salt,
            days=self.days,
            full_refresh=self.full_refresh,
        )

    def _watermarks(
        self, session: postgres.Session, plans: Sequence[Plan]
    ) -> dict[Table, Watermark | PyopsError]:
        """Each incremental table's watermark after this run, or why it cannot be known."""
        incremental = [planned for planned in plans if planned.cursor is not None]
        if not incremental:
            return {}
        largest: dict[Table, str | PyopsError | None] = {}
        with session.snapshot():
            for planned in incremental:
                try:
                    with session.savepoint():
                        session.bind(**planned.settings)
                        largest[planned.table] = session.query(planned.largest)[0][0]
                except PyopsError as error:
                    largest[planned.table] = error
        noted = session.open_transactions()
        now = self._settled(session, noted)
        return {
            planned.table: found
            if isinstance(found := largest[planned.table], PyopsError)
            else advance(planned.stored, largest=found, noted=noted, now=now)
            for planned in incremental
        }

    def _settled(self, session: postgres.Session, noted: frozenset[str]) -> frozenset[str]:
        """The transactions open now, once the noted ones have ended or will not for a while."""
        deadline = time.monotonic() + _SETTLING_SECONDS
        while still_open(noted, now := session.open_transactions()):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        return now

    def _query(
        self,
        session: postgres.Session,
        planned: Plan,
        mark: Watermark | PyopsError | None,
        state: TableState,
        run: Run,
    ) -> Extraction:
        if isinstance(mark, PyopsError):
            raise mark
        with session.savepoint():
            upper = mark.bound if mark else None
            session.bind(**planned.settings, upper=upper or "")
            self._refuse_null_cursors(session, planned)
            lower = planned.stored.bound if planned.cursor else None
            run = self.current = replace(run, lower_bound=lower, upper_bound=upper)
            if self.dry_run:
                planned_run = replace(run, status="planned")
                return Extraction(planned.table, planned_run, query=planned.query(mark))
            return self._land(session, planned, mark, state, run)

    def _refuse_null_cursors(self, session: postgres.Session, planned: Plan) -> None:
        if planned.null_cursors and (count := session.query(planned.null_cursors)[0][0]):
            column = planned.cursor.column if planned.cursor else ""
            raise DataError(
                f"{planned.table}: {count} rows have no {column}, so no run would ever read them",
                hint="fill the column, or set on_null_cursor: include (not for append)",
            )

    def _land(
        self,
        session: postgres.Session,
        planned: Plan,
        mark: Watermark | None,
        state: TableState,
        run: Run,
    ) -> Extraction:
        table, relation = planned.table, planned.relation
        load = planned.load(mark)

        def progress(rows: int, size: int) -> None:
            self.current = replace(run, rows_read=rows, bytes_read=size)
            self.listener.reading(table, rows, relation.estimated_rows)

        with Stage.create(self.history.staging, run) as stage:
            schema, batches = session.read(planned.query(mark))
            staged = stage.fill(
                schema,
                batches,
                planned.mappings,
                key=load.key,
                cancel=session.cancel,
                progress=progress,
            )
            if load.key and not planned.lands_below_bound:
                superseded = stage.keep_newest(load.key, load.cursor, table=str(table))
                if superseded:
                    self.listener.note(f"{table}: {superseded} rows superseded by newer ones")
            self.current = replace(
                run,
                rows_read=staged.rows_read,
                bytes_read=staged.bytes_read,
                null_cursors=stage.null_count(load.cursor) if load.cursor else 0,
            )
            return self._staged(stage, load, state)

    # Files

    def _files(self, name: str, states: Mapping[Table, TableState]) -> Iterator[Extraction]:
        for table, state in states.items():
            write = "swap" if self.full_refresh else table.config.write_pattern
            run = self._begun(table, write)
            yield self._attempted(table, run, partial(self._read_files, table, state))

    def _read_files(self, table: Table, state: TableState, run: Run) -> Extraction:
        found = files.find(self.project.directory, table.files, self.days)
        for day in found.missing:
            self.listener.note(f"{table}: there is no file for {day}")
        planned = plan_files(table, found, state, days=self.days, full_refresh=self.full_refresh)
        if self.dry_run:
            names = ", ".join(file.name for file in planned.files) or "no file that is new"
            return Extraction(table, replace(run, status="planned"), query=f"read {names}")
        if not planned.files:
            run = ended(run, "succeeded", None)
            self._record(run)
            return Extraction(table, run)
        with Stage.create(self.history.staging, run) as stage:
            arrived = interruptible(
                lambda: files.arrive(stage.connection, table.files, planned.files, stage.scratch),
                cancel=stage.connection.interrupt,
            )
            salt = self.project.config.sources[table.source].mask_salt
            mappings = file_mappings(table, arrived.columns, state, salt=salt)
            stage.fill_from_tables(mappings, key=planned.load.key)
            if planned.load.key:
                stage.keep_newest(planned.load.key, None, table=str(table))
            self.current = replace(
                run, rows_read=arrived.rows + arrived.refused, bytes_read=arrived.bytes
            )
            return self._staged(stage, planned.load, state)

    # Either

    def _staged(self, stage: Stage, load: Load, state: TableState) -> Extraction:
        """Goes on with a filled staging file: keeps it for later, or validates and publishes."""
        for path, old in kept(self.history.staging):
            if (old.source, old.table_name) == (load.table.source, load.table.name):
                discard(self.history.staging, [path])
        if self.stage_only:
            run = replace(self.current, rows_dead_lettered=stage.dead_letters)
            self.current = ended(run, "staged", None)
            stage.keep(self.current, load.to_json())
            self._record(self.current)
            return Extraction(load.table, self.current)
        self.current, results = audit(
            self.warehouse, stage, load, self.current, recent_rows=state.recent_rows
        )
        run = publish(self.warehouse, stage, load, self.current, results)
        return Extraction(load.table, run, gates=results)

    def _attempted(
        self, table: Table, run: Run, attempt: Callable[[Run], Extraction]
    ) -> Extraction:
        self.current = run
        try:
            done = attempt(run)
        except GateError as error:
            run = ended(error.run, "rejected", str(error))
            self.history.record(run, results=error.results)
            self.listener.finished(table, run, error)
            return Extraction(table, run, error, gates=error.results)
        except PyopsError as error:
            return self._failed(table, error, self.current)
        except KeyboardInterrupt:
            if not self.dry_run:
                self.history.cancelled(self.current)
            raise
        except BaseException as error:
            self._record(ended(self.current, "failed", type(error).__name__))
            raise
        if not self.dry_run:
            self.listener.finished(table, done.run, None)
        return done

    def _begun(self, table: Table, write: str | None = None) -> Run:
        return Run.begun(
            table.source, table.name, table.config.mode, write or table.config.write_pattern
        )

    def _failed(self, table: Table, error: PyopsError, run: Run | None = None) -> Extraction:
        run = ended(run or self._begun(table), "failed", str(error))
        self._record(run)
        self.listener.finished(table, run, error)
        return Extraction(table, run, error)

    def _record(self, *runs: Run) -> None:
        if not self.dry_run:
            self.history.record(*runs)
