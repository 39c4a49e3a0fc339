"""PostgreSQL tables, read by batch: all in one snapshot, so that they fit together."""

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

from pyops.config.project import Project, Table
from pyops.errors import DataError, PyopsError, TransientError
from pyops.records import Watermark
from pyops.retry import ONCE, Policy
from pyops.sources.postgres.catalog import describe, files_of, open_transactions, transaction_owners
from pyops.sources.postgres.plan import PostgresPlan, plan
from pyops.sources.postgres.session import connect, unlockable
from pyops.sources.postgres.watermark import advance, still_open
from pyops.sources.protocol import Plan, Progress, Request, Source, Staged, require_key
from pyops.staging.file import Stage
from pyops.staging.postgres_types import newest_first
from pyops.warehouse.protocol import TableState

_SETTLING_SECONDS = 0.25  # how long to wait for short transactions, so that the watermark can move
_log = logging.getLogger(__name__)


class Tables(Source):
    """The tables of one source."""

    def __init__(self, project: Project, name: str, policy: Policy = ONCE) -> None:
        self._salt = project.config.sources[name].mask_salt
        self._refused: dict[str, PyopsError] = {}
        self._warned: dict[Table, set[str]] = {}
        self._open = ExitStack()
        self.session = self._open.enter_context(connect(project.dsn(name), name=name, policy=policy))

    def plan(self, states: Mapping[Table, TableState], request: Request) -> Sequence[Plan]:
        """Plans tables, and begins the snapshot they are read in.

        What was looked up before the tables were locked is looked up again.
        """
        before = [self._planned(table, state, request) for table, state in states.items()]
        marks = self._watermarks([p for p in before if isinstance(p, PostgresPlan)])
        self._begin([p for p in before if isinstance(p, PostgresPlan)])
        planned = [self._planned(table, state, request) for table, state in states.items()]
        return [self._checked(p, marks.get(p.table)) if isinstance(p, PostgresPlan) else p for p in planned]

    def _begin(self, plans: Sequence[PostgresPlan]) -> None:
        """Begins the snapshot, and takes note of the tables that somebody keeps locked."""
        names = [p.source_name for p in plans if p.shape and p.shape.may_lock]
        self._refused = self._open.enter_context(self.session.snapshot(names))

    def _planned(self, table: Table, state: TableState, request: Request) -> Plan:
        try:
            shape = describe(self.session, table.postgres.schema_, table.name)
            if error := self._refused.get(shape.qualified):
                raise unlockable(table, error)
            planned = plan(table, shape, state, request, salt=self._salt)
            key = set(table.config.primary_key)
            if key and shape.unique is not None and not any(key >= set(names) for names in shape.unique):
                self._warn(table, "no unique index at the source covers its primary_key: rows may share it")
            return planned
        except PyopsError as error:
            return Plan(table, table.config.write_pattern, error=error)

    def _warn(self, table: Table, problem: str) -> None:
        if problem not in self._warned.setdefault(table, set()):
            _log.warning("%s: %s", table, problem)
            self._warned[table].add(problem)

    def _watermarks(self, plans: Sequence[PostgresPlan]) -> dict[Table, Watermark | PyopsError]:
        """Each incremental table's watermark after this run, or why it cannot be known."""
        incremental = [planned for planned in plans if planned.cursor is not None]
        if not incremental:
            return {}
        largest: dict[Table, str | PyopsError | None] = {}
        with self.session.snapshot():
            for planned in incremental:
                try:
                    with self.session.savepoint():
                        self.session.bind(**planned.settings)
                        largest[planned.table] = found = self.session.query(planned.largest)[0][0]
                        if found is None and planned.stored.bound is not None:
                            self._check_fallen(planned)
                except PyopsError as error:
                    largest[planned.table] = error
        noted = open_transactions(self.session)
        now = self._settled(noted)
        return {
            planned.table: found
            if isinstance(found := largest[planned.table], PyopsError)
            else advance(planned.stored, largest=found, noted=noted, now=now)
            for planned in incremental
        }

    def _check_fallen(self, planned: PostgresPlan) -> None:
        """Refuses a table whose cursors are all below what was read: no run would read what is new."""
        assert planned.cursor is not None
        if self.session.query(planned.fell)[0][0]:
            raise DataError(
                f"{planned.table}: every {planned.cursor.column} is below the watermark"
                f" {planned.stored.bound}: the table was truncated or its sequence restarted, and no run"
                " would read the new rows",
                hint=f"pyops extract {planned.table} --full-refresh lands it anew",
            )

    def _settled(self, noted: frozenset[str]) -> frozenset[str]:
        """The transactions open now, once the noted ones have ended or will not for a while."""
        deadline = time.monotonic() + _SETTLING_SECONDS
        while still_open(noted, now := open_transactions(self.session)):
            if time.monotonic() > deadline:
                break
            time.sleep(0.02)
        return now

    def _checked(self, planned: PostgresPlan, mark: Watermark | PyopsError | None) -> Plan:
        """The plan with its query, if rows without a cursor do not stand in the way."""
        if isinstance(mark, PyopsError):
            return replace(planned, error=mark)
        try:
            if mark is None and planned.cursor:
                raise TransientError(f"{planned.table} was created or altered just now", hint="run it again")
            if planned.null_cursors:
                with self.session.savepoint():
                    [(count,)] = self.session.query(planned.null_cursors)
                if count and planned.cursor:
                    raise DataError(
                        f"{planned.table}: {count} rows have no {planned.cursor.column}, so no run"
                        " would ever read them",
                        hint="fill the column, or set on_null_cursor: include (not for append)",
                    )
            if planned.without_day:
                with self.session.savepoint():
                    [(count,)] = self.session.query(planned.without_day)
                if count:
                    self._warn(planned.table, f"{count:,} rows have no day: a run without days lands them")
        except PyopsError as error:
            return replace(planned, error=error)
        return planned.marked(mark)

    def stage(self, plan: Plan, stage: Stage, progress: Progress) -> Staged:
        assert isinstance(plan, PostgresPlan)
        table, key = plan.table, plan.table.config.primary_key
        with self.session.savepoint():
            self.session.bind(**plan.settings)
            schema, batches = self.session.read(plan.asks)
            how = partial(stage.fill, cancel=self.session.cancel, progress=progress)
            rows, size = how(schema, batches, plan.mappings, key=key)
            shape = plan.shape
            if shape and not shape.may_lock and files_of(self.session, shape.oid) != shape.files:
                raise TransientError(
                    f"{table} was truncated or rewritten while it was read",
                    hint="run it again, or GRANT SELECT on the whole table: then pyops locks it",
                )
        if key and not (plan.cursor and plan.lands_below_bound):
            newest_by, order = table.config.cursor_column, ""
            if newest_by and plan.is_wide_number(newest_by):
                order = newest_first(newest_by)
            if superseded := stage.keep_newest(key, newest_by, table=str(table), order=order):
                _log.info("%s: %d rows superseded by newer ones", table, superseded)
        return Staged(plan.commit(), rows, size, stage.null_count(plan.cursor.column) if plan.cursor else 0)

    def compare(self, table: Table, state: TableState, stage: Stage) -> Staged:
        """Stages the whole table; the commit merges it, and deletes what it does not have."""
        require_key(table)
        planned = self._planned(table, state, Request())
        if isinstance(planned, PostgresPlan):
            self._begin([planned])
            planned = self._planned(table, state, Request())
        if not isinstance(planned, PostgresPlan):
            raise planned.error or AssertionError(planned)
        settings = {n: value for n, value in planned.settings.items() if n == "mask_salt"}
        planned = replace(planned, cursor=None, settings=settings).marked(None)
        return self.stage(planned, stage, lambda rows, size: None).as_comparison(table, state)

    def holders(self) -> Mapping[str, str]:
        return transaction_owners(self.session)

    def close(self) -> None:
        self._open.close()
