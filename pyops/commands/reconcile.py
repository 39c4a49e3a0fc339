"""Source against warehouse: what a watermark cannot see, above all rows that were deleted."""

from dataclasses import dataclass, replace

from pyops.config.model import PostgresTable
from pyops.config.project import Project, Table
from pyops.errors import OperationError, PyopsError, UsageError
from pyops.records import Run, ended
from pyops.sources.postgres import session as postgres
from pyops.sources.postgres.plan import Plan, plan
from pyops.sql import identifier, qualified
from pyops.staging.file import Stage
from pyops.warehouse.duckdb import TableState, Warehouse
from pyops.warehouse.publication import Load, extra_rows, publish
from pyops.warehouse.recording import History


@dataclass(frozen=True)
class Reconciliation:
    """How a table differs, in rows.

    Attributes:
        table: The table.
        source_rows: What is at the source, dead letters too.
        warehouse_rows: What was in the warehouse before.
        missing: Keys that only the source has.
        extra: Keys that only the warehouse has.
        different: Keys that both have, with other values in some column.
        dead_letters: Rows at the source that cannot be landed.
        run: What ``apply`` recorded; None if nothing was applied.
    """

    table: str
    source_rows: int
    warehouse_rows: int
    missing: int
    extra: int
    different: int
    dead_letters: int
    run: Run | None = None

    @property
    def is_equal(self) -> bool:
        """Whether both hold the same rows, as far as they can be landed."""
        return not (self.missing or self.extra or self.different)


def reconcile(project: Project, name: str, *, apply: bool = False) -> Reconciliation:
    """Compares a table's keys and values with its source, row by row, in one snapshot.

    It reads the whole table, as a full refresh does. Rows that were committed since the last
    extraction count as missing. The watermark stays as it is.

    Args:
        project: The project.
        name: The table, as ``source.table`` or ``table``; it needs a ``primary_key``.
        apply: Land what is missing or different, and delete what is extra, in one transaction.

    Raises:
        UsageError: The table has no primary key, or was never landed.
        PyopsError: Source or warehouse cannot be read.
    """
    table = project.select([name])[0]
    if not isinstance(table.config, PostgresTable):
        raise UsageError(f"{table}: files are read again with --full-refresh")
    if table.config.mode == "cdc":
        raise UsageError(
            f"{table}: its rows are in a log of changes, and only a model has its current state",
            hint=f"pyops snapshot {table} copies it anew",
        )
    if not table.config.primary_key:
        raise UsageError(
            f"{table}: rows without a primary_key cannot be told apart",
            hint="set primary_key in pyops.yml",
        )
    warehouse = Warehouse.of(project)
    history = History(warehouse, project.staging_directory)
    history.settle()
    state = warehouse.states([table])[table]
    if not state.columns:
        raise OperationError(
            f"{table}: {'.'.join(table.target)} is not there", hint=f"run pyops extract {table}"
        )
    run = Run.begun(table.source, table.name, "reconcile", "merge")
    try:
        with (
            postgres.connect(project.dsn(table.source)) as session,
            session.snapshot(),
            Stage.create(history.staging, run) as stage,
        ):
            planned = _planned(session, project, table, state)
            session.bind(**planned.settings)
            schema, batches = session.read(planned.query(None))
            key = table.config.primary_key
            staged = stage.fill(schema, batches, planned.mappings, key=key, cancel=session.cancel)
            stage.keep_newest(key, table.postgres.cursor, table=str(table))
            run = replace(
                run,
                rows_read=staged.rows_read,
                bytes_read=staged.bytes_read,
                rows_dead_lettered=stage.dead_letters,
            )
            found = _compared(warehouse, stage, table, state, run)
            if not apply or found.is_equal:
                return found
            load = Load(
                table,
                "merge",
                key=key,
                newest_load=state.last_load,
                deletes_extra=True,
                accepts_changes=table.config.on_schema_change == "evolve",
            )
            return replace(found, run=publish(warehouse, stage, load, run))
    except PyopsError as error:
        history.record(ended(run, "failed", str(error)))
        raise


def _planned(session: postgres.Session, project: Project, table: Table, state: TableState) -> Plan:
    relation = session.describe(table.postgres.schema_, table.name)
    salt = project.config.sources[table.source].mask_salt
    planned = plan(table, relation, state, salt=salt)
    settings = {name: value for name, value in planned.settings.items() if name == "mask_salt"}
    return replace(planned, cursor=None, settings=settings)


def _compared(
    warehouse: Warehouse, stage: Stage, table: Table, state: TableState, run: Run
) -> Reconciliation:
    target = qualified("warehouse", *table.target)
    key = table.config.primary_key
    same = " AND ".join(f"r.{identifier(name)} = t.{identifier(name)}" for name in key)
    there = {name.lower() for name in state.columns}
    values = [name for name in stage.columns if name not in key and name.lower() in there]
    differs = " OR ".join(
        f"r.{identifier(name)}::VARCHAR IS DISTINCT FROM t.{identifier(name)}::VARCHAR"
        for name in values
    )
    with warehouse.attached(stage.connection):
        counts = stage.connection.execute(
            f"SELECT (SELECT count(*) FROM {target}),"
            f" (SELECT count(*) FROM rows AS r ANTI JOIN {target} AS t ON {same}),"
            f" (SELECT count(*) FROM {target} AS t WHERE {extra_rows(key)}),"
            f" (SELECT count(*) FROM rows AS r JOIN {target} AS t ON {same}"
            f"  WHERE {differs or 'false'})"
        ).fetchall()[0]
    warehouse_rows, missing, extra, different = counts
    return Reconciliation(
        str(table),
        run.rows_read,
        warehouse_rows,
        missing,
        extra,
        different,
        run.rows_dead_lettered,
    )
