"""Validation: what is staged must pass its gates before it is published."""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from pyops.errors import DataError
from pyops.quality import gates
from pyops.records import GateResult, Run, utc_now
from pyops.staging.file import Stage
from pyops.warehouse.duckdb import Warehouse
from pyops.warehouse.publication import Load


class GateError(DataError):
    """A gate has failed: nothing was published, and the staging file is kept.

    Attributes:
        run: The run so far.
        results: What every gate said.
    """

    def __init__(self, run: Run, results: Sequence[GateResult], *, table: str, path: Path) -> None:
        self.run = run
        self.results = tuple(results)
        failed = [result for result in results if result.status == "failed"]
        said = "; ".join(result.message for result in failed)
        queries = "\n       ".join(result.query for result in failed if result.query)
        super().__init__(
            f"{table}: {said}: nothing was published",
            hint=f"look at the staged rows in {path}:\n       {queries}",
        )


def evaluate(
    warehouse: Warehouse,
    stage: Stage,
    load: Load,
    *,
    recent_rows: Sequence[int],
    checks: Collection[str] = (),
) -> list[GateResult]:
    """Holds staged rows against their table's gates; changes nothing.

    Args:
        warehouse: Where references are looked up.
        stage: The staging file, filled.
        load: What is to be published from it.
        recent_rows: How many rows the table's last runs read.
        checks: Only these families of gates; all of them if empty.
    """
    with references(warehouse, stage, load):
        return gates.evaluate(
            stage.connection,
            load.table.config.gates,
            history=recent_rows,
            now=utc_now(),
            checks=checks,
        )


def references(warehouse: Warehouse, stage: Stage, load: Load) -> AbstractContextManager[object]:
    """The warehouse attached, where a gate looks into it."""
    if load.table.config.gates.references:
        return warehouse.attached(stage.connection)
    return nullcontext()


def audit(
    warehouse: Warehouse, stage: Stage, load: Load, run: Run, *, recent_rows: Sequence[int]
) -> tuple[Run, tuple[GateResult, ...]]:
    """Validates a staged load for its publication.

    Rows that a gate makes dead letters leave the load; then the share of dead letters is a gate
    like the others.

    Returns:
        The run with its dead letters counted, and what every gate said.

    Raises:
        GateError: A gate has failed; the staging file stays.
    """
    results = evaluate(warehouse, stage, load, recent_rows=recent_rows)
    if not any(result.status == "failed" for result in results):
        with references(warehouse, stage, load):
            for condition, column, reason in gates.dead_letter_rules(
                load.table.config.gates, results
            ):
                stage.reject(condition, column, reason, key=load.key)
    run = replace(run, rows_dead_lettered=stage.dead_letters)
    results.append(_dead_letter_rate(run, load.table.config.max_dead_letter_rate))
    if any(result.status == "failed" for result in results):
        stage.keep(replace(run, status="rejected"), load.to_json())
        raise GateError(run, results, table=str(load.table), path=stage.path)
    return run, tuple(results)


def _dead_letter_rate(run: Run, threshold: float) -> GateResult:
    rate = run.rows_dead_lettered / run.rows_read if run.rows_read else 0.0
    return GateResult(
        gate="max_dead_letter_rate",
        column_name="",
        status="failed" if rate > threshold else "passed",
        figure=rate,
        threshold=threshold,
        failing_rows=run.rows_dead_lettered,
        on_fail="fail",
        query="SELECT reason, column_name, count(*) FROM dead_letters GROUP BY ALL",
        message=f"{rate:.3%} of {run.rows_read} rows are dead letters;"
        f" at most {threshold:.3%} may be",
    )
