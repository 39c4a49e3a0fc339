"""The whole way: extract, land changes, then build and test the dbt project, in one process."""

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path

from pyops.cdc.postgres.capture import Capture, capture
from pyops.commands.extract import Extraction, Listener, extract
from pyops.config.project import Project
from pyops.errors import UsageError


@dataclass(frozen=True)
class Summary:
    """What came of a run; ``dbt`` counts nodes by status, None if dbt was not run."""

    extractions: Sequence[Extraction]
    extract_seconds: float
    captures: Sequence[Capture] = ()
    capture_seconds: float = 0.0
    dbt: dict[str, int] | None = None
    dbt_seconds: float = 0.0
    exit_code: int = 0


def run(project: Project, *, listener: Listener | None = None) -> Summary:
    """Extracts every table, lands the changes of the cdc tables, and then runs ``dbt build``.

    If a table or a source fails dbt is not run: marts are built from tables that fit together.

    Args:
        project: The project; its folder is dbt's too.
        listener: Told of progress.

    Raises:
        UsageError: The folder is no dbt project.
        OperationError: The warehouse cannot be opened.
    """
    if not (project.directory / "dbt_project.yml").exists():
        raise UsageError(
            f"there is no dbt_project.yml in {project.directory.resolve()}",
            hint="see --project-dir; to land tables only, use pyops extract",
        )
    began = time.monotonic()
    done = extract(project, listener=listener)
    extracted = time.monotonic()
    changes = capture(project, listener=listener)
    captured = time.monotonic()
    summary = Summary(done, extracted - began, changes, captured - extracted)
    errors = [item.error for item in done if item.error]
    errors += [item.error for item in changes if item.error]
    if errors:
        return replace(summary, exit_code=max(error.exit_code for error in errors))
    if listener:
        listener.pause()
    counts, succeeded = _dbt_build(project.directory, project.warehouse_path)
    return replace(
        summary,
        dbt=counts,
        dbt_seconds=time.monotonic() - captured,
        exit_code=0 if succeeded else 1,
    )


def _dbt_build(directory: Path, warehouse: Path) -> tuple[dict[str, int], bool]:
    from dbt.cli.main import dbtRunner

    os.environ["PYOPS_WAREHOUSE"] = str(warehouse.resolve())
    folder = str(directory.resolve())
    with redirect_stdout(sys.stderr):  # dbt's lines are a log; stdout is for the summary
        outcome = dbtRunner().invoke(["build", "--project-dir", folder, "--profiles-dir", folder])
    _let_go_of_the_warehouse()
    if outcome.exception is not None:
        print(f"dbt: {outcome.exception}", file=sys.stderr)
    results = getattr(outcome.result, "results", [])
    return dict(Counter(str(node.status) for node in results)), outcome.success


def _let_go_of_the_warehouse() -> None:
    """Closes the connection that dbt-duckdb would keep until the process ends."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    if (environment := getattr(DuckDBConnectionManager, "_ENV", None)) is not None:
        environment.close()
        DuckDBConnectionManager.close_all_connections()  # type: ignore[no-untyped-call]
