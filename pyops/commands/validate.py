"""``pyops validate``: evaluates the gates of what is staged, as often as one likes."""

from collections.abc import Collection, Sequence
from datetime import date
from pathlib import Path

from pyops.commands.extract import Extraction
from pyops.commands.invocation import Invocation
from pyops.commands.staged import each_staged, nothing_staged
from pyops.config.project import Project, Table
from pyops.errors import PyopsError
from pyops.progress import Listener
from pyops.quality.validate import evaluate, failed
from pyops.records import ended
from pyops.staging.file import Stage


def validate(
    project: Project,
    names: Sequence[str] = (),
    *,
    checks: Collection[str] = (),
    run_id: str | None = None,
    day: date | None = None,
    listener: Listener | None = None,
) -> list[Extraction]:
    """Evaluates the gates of what is staged, or some families of them; changes nothing."""
    invocation = Invocation(project, listener)

    def step(table: Table, path: Path | None) -> Extraction:
        run = invocation.begun(table, table.config.mode, table.config.write_pattern)
        try:
            if path is None:
                raise nothing_staged(table)
            stage, run, _ = Stage.reopen(path)
            with stage:
                state = invocation.warehouse.states([table])[table]
                results = evaluate(*(invocation.warehouse, stage, table), recent_rows=state.recent_rows, checks=checks)
                error = None
                if any(result.status == "failed" for result in results):
                    error = failed(table, results, stage)
                return Extraction(table, run, error, gates=tuple(results))
        except PyopsError as error:
            return Extraction(table, ended(run, "failed", str(error)), error)

    return each_staged(invocation, names, step, run_id=run_id, day=day)
