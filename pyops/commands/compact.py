"""``pyops compact``: changes older than a log's retention become one row a key.

What is folded has been applied by everything in dbt that remembers; what is built from the log
again ends in the same rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from pyops.commands.invocation import Invocation
from pyops.config.project import Project, Table
from pyops.dbt import Manifest
from pyops.errors import OperationError, Outcome, PyopsError, UsageError
from pyops.interrupt import interruptible
from pyops.records import Run, utc_now
from pyops.sql import literal
from pyops.staging import memory
from pyops.warehouse.fold import number_events
from pyops.warehouse.protocol import Attached, Commit, Compacted, Where, Write

_SURVIVES = "is_last AND _op <> 'd'"


@dataclass(frozen=True)
class Compaction(Outcome):
    """What came of one log."""

    table: str
    older_than: datetime  # changes committed before it (naive UTC) could go
    rows_before: int = 0
    rows_after: int = 0  # with ``dry_run``: that it would have
    held_back_by: tuple[str, ...] = ()  # dbt models that have not applied all that is old enough
    run: Run | None = None
    error: PyopsError | None = None


def compact(
    project: Project, names: Sequence[str] = (), *, now: datetime | None = None, dry_run: bool = False
) -> list[Compaction]:
    """Folds what is older than each log's retention and applied by dbt, of all tables or those named.

    ``now`` is naive UTC. There is one result for each log, failed ones too. A table named that has
    no retention is a UsageError; a dbt manifest that cannot be read an OperationError.
    """
    tables = project.select(list(names))
    for table in tables if names else ():
        if table.config.retention is None:
            raise UsageError(f"{table} has no retention", hint="give the table one in pyops.yml, like 90d")
    tables = [table for table in tables if table.config.retention is not None]
    if not tables:
        return []
    manifest, now = Manifest.read(project.directory), now or utc_now()
    invocation = Invocation(project, is_dry=dry_run)
    return [_compact(invocation, table, manifest, now) for table in tables]


def _compact(invocation: Invocation, table: Table, manifest: Manifest, now: datetime) -> Compaction:
    assert table.config.retention is not None
    done = Compaction(str(table), now - table.config.retention)
    recording = None
    try:
        if not invocation.warehouse.exists():
            raise _not_landed(table)
        if invocation.is_dry:
            with invocation.warehouse.attached() as at:
                return _Folding(at, table, manifest, done).look()
        invocation.settle()
        with (
            invocation.recording(invocation.begun(table, "compact", "fold")) as recording,
            invocation.stage(recording) as stage,
            invocation.warehouse.attached(stage, read_only=False) as at,
        ):
            stage.make_room(memory.FOR_LOGS)
            folding = _Folding(at, table, manifest, done)
            done = interruptible(folding.look, cancel=at.connection.interrupt)
            commit = interruptible(folding.commit, cancel=at.connection.interrupt)
            return replace(done, run=recording.commit(stage, commit))
    except PyopsError as error:
        return replace(done, run=recording.run if recording else None, error=error)


@dataclass
class _Folding:
    at: Attached
    table: Table
    manifest: Manifest
    done: Compaction

    def __post_init__(self) -> None:
        self.log = self.at.name(self.table.target)

    def look(self) -> Compaction:
        """Finds the events to fold, in ``temp.events``; says what the log would come to."""
        columns = self.at.columns(self.table.target)
        if "_lsn" not in columns:
            raise _not_landed(self.table)
        self.key = self.table.config.primary_key or self.at.log_key(self.table)
        if not self.key:
            raise OperationError(
                f"{self.table}: no key is known that tells its rows apart: changes can only be folded by it",
                hint="run pyops cdc, which asks the source; for a table without one, set"
                " primary_key in pyops.yml or leave out retention",
            )
        applied = self._applied()
        self.old = self._old(applied)
        self._number()
        before, folded = self._row(f"SELECT count(*), count(*) FILTER (WHERE {self.old}) FROM {self.log}")
        (left,) = self._row(f"SELECT count(*) FROM temp.events WHERE {_SURVIVES}")
        loads = "SELECT coalesce(max(_load_id), 0) FROM {} WHERE _committed_at < {}"
        (oldest,) = self._row(loads.format(self.log, _timestamp(self.done.older_than)))
        return replace(
            self.done,
            rows_before=before,
            rows_after=before - folded + left,
            held_back_by=tuple(name for name, load in applied.items() if load < oldest),
        )

    def commit(self) -> Commit:
        """Rewrites the rows that stay, and says what is to be committed; after ``look``."""
        position = self._row(
            f"SELECT _generation, _lsn FROM {self.log} WHERE {self.old} ORDER BY _generation DESC, _lsn DESC LIMIT 1"
        )
        self.fold.rewrite(f"SELECT n FROM temp.events WHERE {_SURVIVES} AND _op <> 'r'", op="'r'")
        goes = (
            f"{self.old} AND (_generation, _lsn, _seq) NOT IN"
            " (SELECT (_generation, _lsn, _seq) FROM temp.events WHERE is_last AND _op = 'r')"
        )
        write = Write(self.table, {}, Where(goes), self.fold.rewritten, is_rewrite=True)
        table = self.table
        return Commit(
            (write,),
            compacted=Compacted(table, self.key, *position) if position else None,
            purges=f"source = {literal(table.source)} AND table_name = {literal(table.name)}"
            f" AND status <> 'open' AND recorded_at < {_timestamp(self.done.older_than)}",
        )

    def _applied(self) -> dict[str, int]:
        """Up to which load each model that remembers has applied the log."""
        applied = {}
        for node in self.manifest.rememberers(self.table.target):
            name = ".".join(node.relation)
            columns = self.at.columns(node.relation)
            if not columns:
                raise OperationError(
                    f"{self.table}: {name} ({node.materialized}) reads its log, and is not built", hint="run dbt build"
                )
            if "_load_id" not in columns:
                raise OperationError(
                    f"{self.table}: {name} ({node.materialized}) reads its log, and has no column"
                    " _load_id to tell how far",
                    hint="let the model keep the largest _load_id a row was made from; then run dbt"
                    " build --full-refresh of it",
                )
            relation = self.at.name(node.relation)
            (load,) = self._row(f"SELECT coalesce(max(_load_id), 0) FROM {relation}")
            applied[name] = load
        return applied

    def _old(self, applied: dict[str, int]) -> str:
        """The condition for events before the first one that must stay, in whole transactions."""
        is_old = f"_committed_at < {_timestamp(self.done.older_than)}"
        if applied:
            is_old += f" AND _load_id <= {min(applied.values())}"
        position = self._row(
            f"SELECT _generation, _lsn FROM {self.log} WHERE ({is_old}) IS NOT TRUE ORDER BY _generation, _lsn LIMIT 1"
        )
        return f"(_generation, _lsn) < {position}" if position else "true"

    def _number(self) -> None:
        where = self.old
        if truncation := self._row(
            f"SELECT _generation, _lsn, _seq FROM {self.log} WHERE _op = 't' AND {self.old}"
            " ORDER BY _generation DESC, _lsn DESC, _seq DESC LIMIT 1"
        ):
            where += f" AND (_generation, _lsn, _seq) > {truncation}"
        self.fold = number_events(self.at.connection, self.log, self.key, where=where)
        (keyless,) = self._row("SELECT count(*) FROM temp.events WHERE NOT has_key")
        if keyless:
            raise OperationError(
                f"{self.table}: {keyless:,} changes lack a value of its key"
                f" ({', '.join(self.key)}): what they changed cannot be told",
                hint="primary_key must be what the source's replica identity sends; pyops snapshot"
                f" {self.table} begins the log again",
            )

    def _row(self, statement: str, *parameters: object) -> tuple[int, ...]:
        return self.at.connection.execute(statement, list(parameters)).fetchone() or ()


def _timestamp(at: datetime) -> str:
    return f"TIMESTAMP {literal(at.isoformat(sep=' '))}"


def _not_landed(table: Table) -> OperationError:
    return OperationError(f"{table}: {'.'.join(table.target)} is not there", hint=f"run pyops cdc {table.source}")
