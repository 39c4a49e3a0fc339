"""Validation: what is staged must pass its gates before it is published."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

from pyops.config.project import Table
from pyops.errors import GateError
from pyops.quality import gates
from pyops.records import GateResult, GateStatus, Run, utc_now
from pyops.staging.file import Stage
from pyops.warehouse.protocol import Commit, Warehouse
from pyops.warehouse.recording import Recording


def evaluate(
    warehouse: Warehouse, stage: Stage, table: Table, *, recent_rows: Sequence[int], checks: Collection[str] = ()
) -> list[GateResult]:
    """Evaluates a table's gates, or some families of them, on staged rows; changes nothing."""
    with references(warehouse, stage, table):
        return gates.evaluate(stage.connection, table.config.gates, history=recent_rows, now=utc_now(), checks=checks)


def references(warehouse: Warehouse, stage: Stage, table: Table) -> AbstractContextManager[object]:
    """The warehouse attached, where a gate looks into it."""
    return warehouse.attached(stage) if table.config.gates.references else nullcontext()


def validate(recording: Recording, stage: Stage, table: Table, commit: Commit, *, recent_rows: Sequence[int]) -> None:
    """Validates a staged load; rows that a gate makes dead letters leave it."""
    warehouse = recording.warehouse
    results = evaluate(warehouse, stage, table, recent_rows=recent_rows)
    if not any(result.status == "failed" for result in results):
        with references(warehouse, stage, table):
            for condition, column, reason in gates.dead_letter_rules(table.config.gates, results):
                stage.reject(condition, column, reason, key=table.config.primary_key)
    recording.note(rows_dead_lettered=stage.dead_letters)
    rate = table.config.max_dead_letter_rate
    results.append(dead_letter_rate(recording.run, rate, more=stage.refused_lines))
    recording.gates = tuple(results)
    if any(result.status == "failed" for result in results):
        stage.keep(replace(recording.run, status="rejected"), commit.to_json())
        raise failed(table, results, stage)


def failed(table: Table, results: Sequence[GateResult], stage: Stage | None) -> GateError:
    """The error of gates that have failed, with queries for the staging file if it is kept."""
    bad = [result for result in results if result.status == "failed"]
    queries = "\n       ".join(result.query for result in bad if result.query)
    hint = f"look at the staged rows in {stage.path}:\n       {queries}" if stage else ""
    said = "; ".join(result.message for result in bad)
    return GateError(f"{table}: {said}: nothing was published", results=tuple(results), hint=hint)


def dead_letter_rate(run: Run, threshold: float, *, more: int = 0) -> GateResult:
    """The share of dead letters, as a gate like the others; ``more`` are further lines of theirs."""
    rows = run.rows_read + more
    rate = (run.rows_dead_lettered + more) / rows if rows else 0.0
    status: GateStatus = "failed" if rate > threshold else "passed"
    query = "SELECT reason, column_name, count(*) FROM dead_letters GROUP BY ALL"
    said = f"{rate:.3%} of {rows} rows are dead letters; the limit is {threshold:.3%}"
    figures = (rate, threshold, run.rows_dead_lettered)
    return GateResult("max_dead_letter_rate", "", status, *figures, "fail", query, said)
