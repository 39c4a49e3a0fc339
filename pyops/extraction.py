"""Batch extraction: read in one snapshot of the source, stage, publish.

All tables of a source are read in one snapshot, so that they fit together: no order without its
user. A table that fails leaves the others alone; its target stays as it was.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pyops.config import Project, Table
from pyops.errors import DataError, PyopsError
from pyops.history import History
from pyops.plan import Days, Plan, plan
from pyops.publish import publish
from pyops.runs import Run, ended
from pyops.sources import postgres
from pyops.stage import Stage
from pyops.warehouse import TableState, Warehouse
from pyops.watermark import Watermark, advance, still_open

_SETTLING_SECONDS = 0.25  # how long to wait for short transactions, so that the watermark can move


class Listener(Protocol):
    """Told what goes on; every method may be called often."""

    def note(self, message: str) -> None:
        """Something worth a line: a retry, a wait."""

    def pause(self) -> None:
        """Another program is about to print."""

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

    def reading(self, table: Table, rows: int, estimated_rows: int) -> None:
        """Forgets it."""

    def finished(self, table: Table, run: Run, error: PyopsError | None) -> None:
        """Forgets it."""


@dataclass(frozen=True)
class Extraction:
    """What came of one table: the run, and the error if it failed."""

    table: Table
    run: Run
    error: PyopsError | None = None
    query: str = ""


def extract(
    project: Project,
    names: Sequence[str] = (),
    *,
    days: Days | None = None,
    full_refresh: bool = False,
    dry_run: bool = False,
    listener: Listener | None = None,
) -> list[Extraction]:
    """Lands tables in the warehouse.

    Args:
        project: Where, from where, and how.
        names: Tables, as ``source.table`` or ``table``; all of them if empty.
        days: Land these days only: replaced or merged, the watermark stays as it is.
        full_refresh: Read the tables whole and swap them; their watermarks start over.
        dry_run: Look at source and warehouse and say what would be done; write nothing anywhere.
        listener: Told of progress.

    Returns:
        One result for each table, failed ones too.

    Raises:
        UsageError: A name that is not configured.
        OperationError: The warehouse cannot be opened.
    """
    job = _Job(project, days, full_refresh, dry_run, listener or Silent())
    return job.run(project.select(list(names)))


@dataclass
class _Job:
    project: Project
    days: Days | None
    full_refresh: bool
    dry_run: bool
    listener: Listener

    def __post_init__(self) -> None:
        self.warehouse = Warehouse(
            self.project.warehouse_path,
            lock_timeout=self.project.config.warehouse.lock_timeout.total_seconds(),
            on_wait=self.listener.note,
        )
        self.history = History(self.warehouse, self.project.state_directory / "staging")

    def run(self, tables: Sequence[Table]) -> list[Extraction]:
        states = self._states(tables)
        done: dict[Table, Extraction] = {}
        for source in dict.fromkeys(table.source for table in tables):
            mine = {table: states[table] for table in tables if table.source == source}
            try:
                for item in self._source(source, mine):
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

    def _source(self, name: str, states: Mapping[Table, TableState]) -> Iterator[Extraction]:
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
                    yield self._table(session, planned, marks.get(planned.table))

    def _plan(self, session: postgres.Session, table: Table, state: TableState) -> Plan:
        return plan(
            table,
            session.describe(table.config.schema_, table.name),
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

    def _table(
        self, session: postgres.Session, planned: Plan, mark: Watermark | PyopsError | None
    ) -> Extraction:
        run = self.current = self._begun(planned.table, planned)
        try:
            if isinstance(mark, PyopsError):
                raise mark
            with session.savepoint():
                upper = mark.bound if mark else None
                session.bind(**planned.settings, upper=upper or "")
                self._refuse_null_cursors(session, planned)
                run = self.current = replace(
                    run,
                    lower_bound=planned.stored.bound if planned.cursor else None,
                    upper_bound=upper,
                )
                if self.dry_run:
                    run = replace(run, status="planned")
                    return Extraction(planned.table, run, query=planned.query(mark))
                run = self._land(session, planned, mark, run)
        except PyopsError as error:
            return self._failed(planned.table, error, self.current)
        except KeyboardInterrupt:
            self._record(ended(self.current, "cancelled", "it was stopped before it ended"))
            raise
        except BaseException as error:
            self._record(ended(self.current, "failed", type(error).__name__))
            raise
        self.listener.finished(planned.table, run, None)
        return Extraction(planned.table, run)

    def _refuse_null_cursors(self, session: postgres.Session, planned: Plan) -> None:
        if planned.null_cursors and (count := session.query(planned.null_cursors)[0][0]):
            column = planned.cursor.column if planned.cursor else ""
            raise DataError(
                f"{planned.table}: {count} rows have no {column}, so no run would ever read them",
                hint="fill the column, or set on_null_cursor: include (not for append)",
            )

    def _land(
        self, session: postgres.Session, planned: Plan, mark: Watermark | None, run: Run
    ) -> Run:
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
                planned.landings,
                key=load.key,
                cancel=session.cancel,
                progress=progress,
            )
            superseded = 0
            if load.key and not planned.lands_below_bound:
                superseded = stage.keep_newest(load.key, load.cursor, table=str(table))
            if superseded:
                self.listener.note(f"{table}: {superseded} rows superseded by newer ones")
            self.current = replace(
                run,
                rows_read=staged.rows_read,
                bytes_read=staged.bytes_read,
                rows_dead_lettered=staged.rows_dead_lettered,
                null_cursors=stage.null_count(load.cursor) if load.cursor else 0,
            )
            return publish(self.warehouse, stage, load, self.current)

    def _begun(self, table: Table, planned: Plan | None = None) -> Run:
        write = planned.write if planned else table.config.write_pattern
        return Run.begun(table.source, table.name, table.config.mode, write)

    def _failed(self, table: Table, error: PyopsError, run: Run | None = None) -> Extraction:
        run = ended(run or self._begun(table), "failed", str(error))
        self._record(run)
        self.listener.finished(table, run, error)
        return Extraction(table, run, error)

    def _record(self, *runs: Run) -> None:
        if not self.dry_run:
            self.history.record(*runs)
