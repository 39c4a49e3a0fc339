"""Batch extraction: plan, read, stage, validate, publish; what fails leaves the others alone."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from pyops.commands.breaker import breaker_of
from pyops.commands.invocation import Invocation
from pyops.config.days import Days
from pyops.config.project import Project, Table
from pyops.errors import Outcome, PyopsError, SourceError, UsageError
from pyops.progress import Listener
from pyops.quality.validate import validate
from pyops.records import GateResult, Run
from pyops.retry import ONCE, retrying
from pyops.sources.protocol import Plan, Request, Source, open_source
from pyops.staging.file import discard, kept
from pyops.warehouse.protocol import Commit, TableState
from pyops.warehouse.recording import Recording


@dataclass(frozen=True)
class Extraction(Outcome):
    """What came of one table: its run, its error if it failed, and what its gates said.

    ``query`` is what a dry run would ask the source.
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
    """Lands tables (all but those of mode cdc, or those named): stages, validates and publishes each.

    ``days`` lands these days only: replaced or merged, the watermark stays as it is. ``full_refresh`` reads the tables
    whole and swaps them; their watermarks start over. ``stage_only`` stops after staging; ``dry_run`` writes nothing
    anywhere. There is one result for each table, failed ones too. A name that is not configured, or of mode cdc, is a
    UsageError; a warehouse that cannot be opened an OperationError.
    """
    tables = project.select(list(names))
    if names:
        for table in tables:
            if table.config.mode == "cdc":
                raise UsageError(f"{table} is landed by mode cdc", hint=f"pyops cdc {table.source} lands its changes")
    invocation = Invocation(project, listener, is_dry=dry_run)
    job = _Extracting(invocation, Request(days, full_refresh), stage_only)
    return job.run([table for table in tables if table.config.mode != "cdc"])


def _is_of_source(item: Extraction) -> bool:
    return isinstance(item.error, SourceError)


@dataclass
class _Extracting:
    invocation: Invocation
    request: Request
    stage_only: bool

    def run(self, tables: Sequence[Table]) -> list[Extraction]:
        states = self.invocation.states(tables)
        done: dict[Table, Extraction] = {}
        for source in dict.fromkeys(table.source for table in tables):
            self._read(source, {table: states[table] for table in tables if table.source == source}, done)
        return [done[table] for table in tables]

    def _read(self, source: str, states: Mapping[Table, TableState], done: dict[Table, Extraction]) -> None:
        """Lands a source's tables; those that a broken source has cost go on in one new snapshot."""
        project = self.invocation.project
        config = project.config.sources[source]

        def attempt() -> None:
            left = {t: state for t, state in states.items() if t not in done or _is_of_source(done[t])}
            with open_source(project, source) as opened:
                for plan in opened.plan(left, self.request):
                    done[plan.table] = self._extract(opened, plan, states[plan.table])
            for table in left:
                if _is_of_source(done[table]):
                    done[table].raise_for_error()

        try:
            with nullcontext() if self.invocation.is_dry else breaker_of(project, source).guarding():
                retrying(ONCE if config.retries_requests else config.retry.policy, source)(attempt)
        except PyopsError as error:  # no connection, or an open breaker: each table that is left has failed
            for table in states:
                if table not in done:
                    left = Plan(table, table.config.write_pattern, error=error)
                    done[table] = self._extract(None, left, states[table])

    def _extract(self, source: Source | None, plan: Plan, state: TableState) -> Extraction:
        """Lands one planned table, and records what came of it."""
        invocation = self.invocation
        recording, failure = None, None
        try:
            with invocation.recording(plan.run) as recording:
                recording.note(lower_bound=plan.lower_bound, upper_bound=plan.upper_bound)
                if plan.error or source is None:
                    raise plan.error or AssertionError(plan)
                if invocation.is_dry:
                    recording.end("planned")
                elif plan.asks:
                    self._land(source, plan, state, recording)
        except PyopsError as error:
            failure = error
        assert recording is not None
        run = recording.run
        if failure or not invocation.is_dry:
            invocation.listener.finished(plan.table, run, failure)
        asks = (plan.asks or "nothing is new") if invocation.is_dry and not failure else ""
        return Extraction(plan.table, run, failure, asks, recording.gates)

    def _land(self, source: Source, plan: Plan, state: TableState, recording: Recording) -> None:
        invocation, table = self.invocation, plan.table

        def progress(rows: int, size: int) -> None:
            recording.note(rows_read=rows, bytes_read=size)
            invocation.listener.reading(table, rows, plan.estimated_rows)

        with invocation.stage(recording) as stage:
            staged = source.stage(plan, stage, progress)
            recording.note(rows_read=staged.rows_read, bytes_read=staged.bytes_read, null_cursors=staged.null_cursors)
            asked = self.request.days
            days = (str(asked.first), str(asked.last)) if asked else None
            self._discard_staged(table, days)
            if self.stage_only:
                recording.note(rows_dead_lettered=stage.dead_letters)
                stage.keep(recording.end("staged"), replace(staged.commit, days=days).to_json())
                return
            validate(recording, stage, table, staged.commit, recent_rows=state.recent_rows)
            recording.commit(stage, staged.commit)

    def _discard_staged(self, table: Table, days: tuple[str, str] | None) -> None:
        """Deletes what was staged before and never published, unless it is of other days."""
        for path, old, load in kept(self.invocation.staging):
            mine = (old.source, old.table_name) == (table.source, table.name)
            if mine and (days is None or Commit.from_json(load).days in {None, days}):
                discard(self.invocation.staging, [path])
