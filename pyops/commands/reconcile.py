"""``pyops reconcile``: what a watermark cannot see, above all rows that were deleted."""

from dataclasses import dataclass, replace

from pyops.commands.invocation import Invocation
from pyops.config.project import Project, Table
from pyops.errors import OperationError, UsageError
from pyops.records import Run
from pyops.sources.protocol import Staged, open_source
from pyops.sql import identifier
from pyops.staging.file import Stage
from pyops.warehouse.committing import is_extra
from pyops.warehouse.protocol import Warehouse


@dataclass(frozen=True)
class Reconciliation:
    """How a table differs, in rows."""

    table: str
    source_rows: int  # dead letters too
    warehouse_rows: int
    missing: int  # keys only the source has
    extra: int  # keys only the warehouse has
    different: int  # keys of both, with other values
    dead_letters: int
    duplicates: int = 0  # rows of the source whose key another row has
    run: Run | None = None  # what ``apply`` recorded

    @property
    def is_equal(self) -> bool:
        """Whether both hold the same rows, as far as they can be landed."""
        return not (self.missing or self.extra or self.different or self.duplicates)


def reconcile(project: Project, name: str, *, apply: bool = False) -> Reconciliation:
    """Compares a table's keys and values with its source, row by row, in one snapshot.

    It reads the whole table; rows committed since the last extraction count as missing. ``apply``
    lands what is missing or different, and deletes what is extra, in one transaction; the watermark
    stays. A table without a primary key, or of files, is a UsageError.
    """
    table = project.select([name])[0]
    if table.config.mode == "cdc":
        raise UsageError(
            f"{table}: its rows are in a log of changes, and only a model has its current state",
            hint=f"pyops snapshot {table} re-snapshots it",
        )
    invocation = Invocation(project)
    invocation.settle()
    state = invocation.warehouse.states([table])[table]
    if not state.columns:
        raise OperationError(f"{table}: {'.'.join(table.target)} is not there", hint=f"run pyops extract {table}")
    with (
        invocation.recording(invocation.begun(table, "reconcile", "merge")) as recording,
        open_source(project, table.source, policy=project.config.sources[table.source].retry.policy) as source,
        invocation.stage(recording) as stage,
    ):
        staged = source.compare(table, state, stage)
        recording.note(rows_read=staged.rows_read, bytes_read=staged.bytes_read, rows_dead_lettered=stage.dead_letters)
        found = _compared(invocation.warehouse, stage, table, staged)
        if apply and not found.is_equal:
            return replace(found, run=recording.commit(stage, staged.commit))
        return found


def _compared(warehouse: Warehouse, stage: Stage, table: Table, staged: Staged) -> Reconciliation:
    key = table.config.primary_key
    same = " AND ".join(f"r.{identifier(name)} = t.{identifier(name)}" for name in key)
    with warehouse.attached(stage) as at:
        target, there = at.name(table.target), {n.lower() for n in at.columns(table.target)}
        differs = " OR ".join(
            f"r.{identifier(name)}::VARCHAR IS DISTINCT FROM t.{identifier(name)}::VARCHAR"
            for name in stage.columns
            if name not in key and name.lower() in there
        )
        counts = at.connection.execute(
            f"SELECT (SELECT count(*) FROM {target}),"
            f" (SELECT count(*) FROM rows AS r ANTI JOIN {target} AS t ON {same}),"
            f" (SELECT count(*) FROM {target} AS t WHERE {is_extra(stage.columns, key)}),"
            f" (SELECT count(*) FROM rows AS r JOIN {target} AS t ON {same}"
            f"  WHERE {differs or 'false'}), (SELECT count(*) FROM rows)"
        ).fetchall()[0]
    rows, missing, extra, different, distinct = counts
    duplicates = staged.rows_read - stage.dead_letters - distinct
    differing = (missing, extra, different, stage.dead_letters, duplicates)
    return Reconciliation(str(table), staged.rows_read, rows, *differing)
