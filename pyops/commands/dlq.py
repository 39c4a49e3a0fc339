"""``pyops dlq``: rows that could not be landed, kept whole until they can be or need not be.

A dead letter is ``open`` until ``replay`` lands its row (``replayed``) or a load reads it again (``superseded``).
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress

from pyops.commands.extract import Extraction
from pyops.commands.invocation import Invocation, open_warehouse
from pyops.config.project import Project, Table
from pyops.errors import OperationError, UsageError
from pyops.quality.gates import dead_letter_rules
from pyops.quality.validate import evaluate, failed, references
from pyops.records import DeadLetter, GateResult, Run
from pyops.sources.files.arrive import REFUSED
from pyops.sql import identifier, json_pointer, literal
from pyops.staging import casts
from pyops.staging.columns import ColumnMapping
from pyops.staging.file import Stage
from pyops.warehouse.protocol import Append, ByKey, Commit, TableState, Warehouse, Write
from pyops.warehouse.recording import Recording

_LETTERS = "SELECT _letter FROM rows"
_CHECKS = ("nulls", "expectations", "references")  # what can be said of a row by itself


def dead_letters(
    project: Project, names: Sequence[str] = (), *, ids: Sequence[int] = (), everything: bool = False
) -> list[DeadLetter]:
    """Looks dead letters up, the oldest first: open ones, of all tables or those named; or by id."""
    condition = _condition(project, names, ids, everything=everything or bool(ids))
    return open_warehouse(project).rows(DeadLetter, condition, order="letter_id")


def purge(project: Project, names: Sequence[str] = (), *, everything: bool = False) -> int:
    """Deletes closed dead letters of all tables, or of those named; returns how many.

    With ``everything`` open ones too: their rows are given up.
    """
    invocation = Invocation(project)
    if not invocation.warehouse.exists():
        return 0
    condition = _condition(project, names, (), everything=True)
    condition += "" if everything else " AND status <> 'open'"
    with invocation.recording(Run.begun(None, None, "purge", "delete")) as recording:
        return recording.commit(None, Commit(purges=condition)).rows_deleted


def replay(project: Project, name: str, *, ids: Sequence[int] = ()) -> Extraction:
    """Lands the open dead letters of a table that can be landed now, the normal way.

    A dead letter whose row, or a newer version of it, has been landed meanwhile writes nothing. What still cannot be
    landed stays open. Doing it again changes nothing. Raises a PyopsError, or a GateError.
    """
    table = project.select([name])[0]
    if table.config.mode == "cdc":
        raise UsageError(
            f"{table}: a change cannot be put back into the middle of its log",
            hint=project.config.sources[table.source].replay_hint.format(table),
        )
    invocation = Invocation(project)
    invocation.settle()
    state = invocation.warehouse.states([table])[table]
    if not state.columns:
        raise OperationError(f"{table}: {'.'.join(table.target)} is not there", hint=f"run pyops extract {table}")
    letters = [
        letter
        for letter in dead_letters(project, [name], ids=ids)
        if letter.status == "open" and letter.column_name is not None
    ]
    write = "merge" if table.config.primary_key else "append"
    with invocation.recording(invocation.begun(table, "replay", write)) as recording:
        if letters:
            with invocation.stage(recording) as stage:
                _replay(recording, stage, table, state, letters)
    return Extraction(table, recording.run, gates=recording.gates)


def _replay(recording: Recording, stage: Stage, table: Table, state: TableState, letters: Sequence[DeadLetter]) -> None:
    _fill(stage, letters, table, state)
    recording.note(rows_read=len(letters))
    replayed = {letter for (letter,) in stage.connection.execute(_LETTERS).fetchall()}
    stage.connection.execute("DELETE FROM dead_letters")  # they are open as they are
    warehouse = recording.warehouse
    with warehouse.attached(stage) as at:
        _leave_out_landed(stage, table, at.name(table.target))
    results = evaluate(warehouse, stage, table, recent_rows=(), checks=_CHECKS)
    recording.gates = tuple(results)
    if any(result.status == "failed" for result in results):
        raise failed(table, results, None)
    replayed -= _taken_out_again(warehouse, stage, table, results)
    stage.connection.execute("ALTER TABLE rows DROP COLUMN _letter")
    del stage.columns["_letter"]
    key = table.config.primary_key
    scope = ByKey(key, skips_unchanged=True) if key else Append()
    write = Write(table, stage.columns, scope, key=key, supersedes=Append())
    recording.commit(stage, Commit((write,), replayed=tuple(sorted(replayed))))


def _condition(project: Project, names: Sequence[str], ids: Iterable[int], *, everything: bool) -> str:
    conditions = ["true" if everything else "status = 'open'"]
    if numbers := ", ".join(map(str, ids)):
        conditions.append(f"letter_id IN ({numbers})")
    if names:
        chosen = (
            f"source = {literal(table.source)} AND table_name = {literal(table.name)}"
            for table in project.select(list(names))
        )
        conditions.append(f"({' OR '.join(chosen)})")
    return " AND ".join(conditions)


def _fill(stage: Stage, letters: Sequence[DeadLetter], table: Table, state: TableState) -> None:
    """Types the letters' payloads as the configuration now has it."""
    connection = stage.connection
    declared = table.config.declared_types
    types = {name: declared.get(name, type_) for name, type_ in state.columns.items()}
    connection.execute("CREATE TABLE letters (letter BIGINT, payload JSON)")
    # Few rows, already in memory: the good path does not come here.
    connection.executemany(
        "INSERT INTO letters VALUES (?, ?)", [[letter.letter_id, letter.payload] for letter in letters]
    )
    columns = ", ".join(f"payload ->> {literal(json_pointer(name))} AS {identifier(name)}" for name in types)
    connection.execute(f"CREATE TABLE arrived AS SELECT {columns}, letter AS _letter FROM letters")
    connection.execute(REFUSED)
    mappings = {name: _landing(name, type_) for name, type_ in types.items()}
    own = {"_letter": "_letter", **({"_line": '"_line"::BIGINT'} if "_line" in types else {})}
    mappings |= {name: ColumnMapping("BIGINT", "", sql) for name, sql in own.items()}
    stage.fill_from_tables(mappings, key=table.config.primary_key)


def _landing(name: str, type_: str) -> ColumnMapping:
    column = identifier(name)
    if type_ == "BLOB":
        return ColumnMapping(type_, "", f"unhex(substr({column}, 3))")
    with suppress(UsageError):
        return casts.mapping_of(name, casts.check_type(type_))
    return ColumnMapping(type_, "", f"TRY_CAST({column} AS {type_})", f"it is no {type_}", column)


def _taken_out_again(warehouse: Warehouse, stage: Stage, table: Table, results: Sequence[GateResult]) -> set[int]:
    """Drops the rows that a gate makes dead letters, and says whose they were: they stay open."""
    taken: set[int] = set()
    with references(warehouse, stage, table):
        for condition, _, _ in dead_letter_rules(table.config.gates, results):
            found = stage.connection.execute(f"{_LETTERS} WHERE {condition}").fetchall()
            taken |= {letter for (letter,) in found}
            stage.connection.execute(f"DELETE FROM rows WHERE {condition}")
    return taken


def _leave_out_landed(stage: Stage, table: Table, target: str) -> None:
    """Drops rows whose place in the target is taken by themselves or a newer version."""
    config = table.config
    if config.primary_key:
        same = [f"t.{identifier(name)} = rows.{identifier(name)}" for name in config.primary_key]
        if config.cursor_column:
            cursor = identifier(config.cursor_column)
            same.append(f"t.{cursor} >= rows.{cursor}")
    elif "_file" in stage.columns:
        same = ["t._file = rows._file", "t._line = rows._line"]
    else:
        return
    stage.connection.execute(f"DELETE FROM rows USING {target} AS t WHERE {' AND '.join(same)}")
