"""What is staged and waits for ``validate`` or ``publish``."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pyops.commands.extract import Extraction
from pyops.commands.invocation import Invocation
from pyops.config.project import Table
from pyops.errors import OperationError
from pyops.staging.file import kept

Step = Callable[[Table, Path | None], Extraction]


def each_staged(invocation: Invocation, names: Sequence[str], step: Step) -> list[Extraction]:
    """Takes a step with the newest staging file of each table named, or of each that has one."""
    tables = invocation.project.select(list(names))
    staged = {(run.source, run.table_name): path for path, run in reversed(kept(invocation.staging))}
    done = []
    for table in tables:
        path = staged.get((table.source, table.name))
        if path is None and not names:
            continue
        item = step(table, path)
        invocation.listener.finished(table, item.run, item.error)
        done.append(item)
    return done


def nothing_staged(table: Table) -> OperationError:
    return OperationError(f"{table}: nothing is staged", hint=f"run pyops extract {table} --stage first")
