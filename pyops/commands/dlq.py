"""Dead letters: rows that could not be landed, kept whole until they can be or need not be.

A letter is ``open`` until its row is landed by ``replay`` (``replayed``) or read again by a load,
which then says itself what has become of it (``superseded``).
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from pyops.commands.extract import Extraction
from pyops.config.model import DebeziumTable, FilesTable, PostgresTable, Write
from pyops.config.project import Project, Table
from pyops.errors import DataError, OperationError, UsageError
from pyops.quality.gates import dead_letter_rules
from pyops.quality.validate import GateError, evaluate, references
from pyops.records import DeadLetter, GateResult, Run, ended
from pyops.sql import identifier, json_pointer, literal, qualified
from pyops.staging import casts
from pyops.staging.file import Stage
from pyops.staging.postgres_types import ColumnMapping
from pyops.warehouse.duckdb import TableState, Warehouse, bookkeeping_exists, catalog_of
from pyops.warehouse.publication import Load, publish
from pyops.warehouse.recording import History

_LISTED = (
    "letter_id, source, table_name, key, column_name, value, reason, payload, file, line, run_id,"
    " recorded_at, status"
)
_LETTERS = "SELECT _letter FROM rows"
_CHECKS = ("nulls", "expectations", "references")  # what can be said of a row by itself


def dead_letters(
    project: Project,
    names: Sequence[str] = (),
    *,
    ids: Sequence[int] = (),
    everything: bool = False,
) -> list[DeadLetter]:
    """Looks dead letters up, the oldest first.

    Args:
        project: The project.
        names: Of these tables only.
        ids: These letters only, whatever has become of them.
        everything: Also those that are open no more.
    """
    warehouse = Warehouse.of(project)
    if not warehouse.path.exists():
        return []
    condition, parameters = _chosen(project, names, ids, everything=everything or bool(ids))
    with warehouse.opened(read_only=True) as connection:
        if not bookkeeping_exists(connection, table="gate_results"):
            return []
        found = connection.execute(
            f"SELECT {_LISTED} FROM pyops.dead_letters WHERE {condition} ORDER BY letter_id",
            parameters,
        ).fetchall()
    return [DeadLetter(*row) for row in found]


def purge(project: Project, names: Sequence[str] = (), *, everything: bool = False) -> int:
    """Deletes dead letters that are open no more.

    Args:
        project: The project.
        names: Of these tables only.
        everything: Also the open ones: their rows are given up.

    Returns:
        How many were deleted.
    """
    warehouse = Warehouse.of(project)
    if not warehouse.path.exists():
        return 0
    condition, parameters = _chosen(project, names, (), everything=True)
    condition += "" if everything else " AND status <> 'open'"
    with warehouse.opened() as connection:
        if not bookkeeping_exists(connection, table="gate_results"):
            return 0
        row = connection.execute(
            f"DELETE FROM pyops.dead_letters WHERE {condition}", parameters
        ).fetchone()
        warehouse.mirror_letters(connection, catalog_of(connection))
    return int(row[0]) if row else 0


def replay(project: Project, name: str, *, ids: Sequence[int] = ()) -> Extraction:
    """Lands the open dead letters of a table that can be landed now, the normal way.

    For use once the configuration was mended; a row that was mended at the source comes with the
    next extraction. A letter whose row has been landed meanwhile, or a newer version of it, writes
    nothing. What still cannot be landed stays open. Doing it again changes nothing.

    Args:
        project: The project.
        name: The table, as ``source.table`` or ``table``.
        ids: These letters only.

    Returns:
        The run: rows read are the letters tried, rows written those landed.

    Raises:
        PyopsError: The warehouse cannot be opened, or a gate has failed.
    """
    table = project.select([name])[0]
    if table.config.mode == "cdc":
        raise UsageError(
            f"{table}: a change cannot be put back into the middle of its log",
            hint=f"mend the cause and touch the file: pyops cdc {table.source} reads it again"
            if isinstance(table.config, DebeziumTable)
            else f"pyops snapshot {table} copies the table anew, once the cause is mended",
        )
    warehouse = Warehouse.of(project)
    history = History(warehouse, project.staging_directory)
    history.settle()
    state = warehouse.states([table])[table]
    if not state.columns:
        raise OperationError(
            f"{table}: {'.'.join(table.target)} is not there", hint=f"run pyops extract {table}"
        )
    letters = [
        letter
        for letter in dead_letters(project, [name], ids=ids)
        if letter.status == "open" and letter.column_name is not None
    ]
    config = table.config
    write: Write = "merge" if config.primary_key else "append"
    run = Run.begun(table.source, table.name, "replay", write)
    if not letters:
        run = ended(run, "succeeded", None)
        history.record(run)
        return Extraction(table, run)
    try:
        with Stage.create(history.staging, run) as stage:
            _fill(stage, letters, table, state)
            replayed = {letter for (letter,) in stage.connection.execute(_LETTERS).fetchall()}
            stage.connection.execute("DELETE FROM dead_letters")  # they are open as they are
            with warehouse.attached(stage.connection):
                _leave_out_landed(stage, table)
            load = Load(table, write, key=config.primary_key)
            results = evaluate(warehouse, stage, load, recent_rows=(), checks=_CHECKS)
            if any(result.status == "failed" for result in results):
                raise GateError(run, results, table=str(table), path=stage.path)
            replayed -= _taken_out_again(warehouse, stage, load, results)
            stage.connection.execute("ALTER TABLE rows DROP COLUMN _letter")
            del stage.columns["_letter"]
            load = replace(load, replays=tuple(sorted(replayed)))
            return Extraction(
                table, publish(warehouse, stage, load, replace(run, rows_read=len(letters)))
            )
    except (DataError, OperationError) as error:
        history.record(ended(run, "failed", str(error)))
        raise


def _chosen(
    project: Project, names: Sequence[str], ids: Sequence[int], *, everything: bool
) -> tuple[str, list[Any]]:
    tables = project.select(list(names)) if names else []
    condition = "true" if everything else "status = 'open'"
    parameters: list[Any] = []
    if ids:
        condition += " AND letter_id IN (SELECT unnest(?))"
        parameters.append(list(ids))
    if tables:
        condition += f" AND ({' OR '.join(['(source = ? AND table_name = ?)'] * len(tables))})"
        parameters += [word for table in tables for word in (table.source, table.name)]
    return condition, parameters


def _fill(stage: Stage, letters: Sequence[DeadLetter], table: Table, state: TableState) -> None:
    """Types the letters' payloads as the configuration now has it."""
    connection = stage.connection
    declared = table.config.types if isinstance(table.config, FilesTable) else {}
    types = {name: declared.get(name, type_) for name, type_ in state.columns.items()}
    connection.execute("CREATE TABLE letters (letter BIGINT, payload JSON)")
    # Few rows, already in memory: the good path does not come here.
    connection.executemany(
        "INSERT INTO letters VALUES (?, ?)",
        [[letter.letter_id, letter.payload] for letter in letters],
    )
    columns = ", ".join(
        f"payload ->> {literal(json_pointer(name))} AS {identifier(name)}" for name in types
    )
    connection.execute(f"CREATE TABLE arrived AS SELECT {columns}, letter AS _letter FROM letters")
    connection.execute(
        "CREATE TABLE refused (_file VARCHAR, _line BIGINT, payload VARCHAR, reason VARCHAR)"
    )
    mappings = {name: _landing(name, type_) for name, type_ in types.items()}
    if "_line" in mappings:
        mappings["_line"] = ColumnMapping("BIGINT", "", '"_line"::BIGINT')
    stage.fill_from_tables(
        mappings | {"_letter": ColumnMapping("BIGINT", "", "_letter")}, key=table.config.primary_key
    )


def _landing(name: str, type_: str) -> ColumnMapping:
    column = identifier(name)
    if type_ == "BLOB":
        return ColumnMapping(type_, "", f"unhex(substr({column}, 3))")
    with suppress(UsageError):
        return casts.mapping_of(name, casts.check_type(type_))
    return ColumnMapping(type_, "", f"TRY_CAST({column} AS {type_})", f"it is no {type_}", column)


def _taken_out_again(
    warehouse: Warehouse, stage: Stage, load: Load, results: Sequence[GateResult]
) -> set[int]:
    """Drops the rows that a gate makes dead letters, and says whose they were: they stay open."""
    taken: set[int] = set()
    with references(warehouse, stage, load):
        for condition, _, _ in dead_letter_rules(load.table.config.gates, results):
            found = stage.connection.execute(f"{_LETTERS} WHERE {condition}").fetchall()
            taken |= {letter for (letter,) in found}
            stage.connection.execute(f"DELETE FROM rows WHERE {condition}")
    return taken


def _leave_out_landed(stage: Stage, table: Table) -> None:
    """Drops rows whose place in the target is taken by themselves or a newer version."""
    target = qualified("warehouse", *table.target)
    config = table.config
    if config.primary_key:
        same = [f"t.{identifier(name)} = rows.{identifier(name)}" for name in config.primary_key]
        if isinstance(config, PostgresTable) and config.cursor:
            cursor = identifier(config.cursor)
            same.append(f"t.{cursor} >= rows.{cursor}")
    elif "_file" in stage.columns:
        same = ["t._file = rows._file", "t._line = rows._line"]
    else:
        return
    stage.connection.execute(f"DELETE FROM rows USING {target} AS t WHERE {' AND '.join(same)}")
