"""What is staged and waits for ``validate`` or ``publish``."""

from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path

from pyops.commands.extract import Extraction
from pyops.commands.invocation import Invocation
from pyops.config.project import Table
from pyops.errors import OperationError
from pyops.staging.file import kept
from pyops.warehouse.protocol import Commit

Step = Callable[[Table, Path | None], Extraction]


def each_staged(
    invocation: Invocation, names: Sequence[str], step: Step, *, run_id: str | None, day: date | None
) -> list[Extraction]:
    """Takes a step with each staging file of the tables, oldest first; or that of a run, or of a day."""
    staged: dict[tuple[str | None, str | None], list[Path]] = {}
    for path, run, load in kept(invocation.staging):
        days = Commit.from_json(load).days
        is_of_day = day is None or (days is not None and days[0] <= str(day) <= days[1])
        if run_id in {None, run.run_id} and is_of_day:
            staged.setdefault((run.source, run.table_name), []).append(path)
    done = []
    for table in invocation.project.select(list(names)):
        missing: list[Path | None] = [None] if names else []
        for waiting in staged.get((table.source, table.name)) or missing:
            item = step(table, waiting)
            invocation.listener.finished(table, item.run, item.error)
            done.append(item)
    return done


def nothing_staged(table: Table) -> OperationError:
    return OperationError(f"{table}: nothing is staged", hint=f"run pyops extract {table} --stage first")
