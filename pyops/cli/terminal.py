"""Progress, as a person sees it: bars on a terminal, and a line for each table anywhere."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Self

from rich.console import Console

from pyops.progress import Listener

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from pyops.errors import PyopsError
    from pyops.records import Run
    from pyops.records import TableId as Table


class Terminal(Listener):
    """A listener that shows bars on a terminal, and a line for each table anywhere."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._bars: dict[Table, TaskID] = {}

    def __enter__(self) -> Self:
        if stderr().is_terminal:
            from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

            rows = TextColumn("{task.completed:,.0f} rows")
            columns = (TextColumn("{task.description}"), BarColumn(), rows, TimeElapsedColumn())
            self._progress = Progress(*columns, console=stderr(), transient=True)
            self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pause()

    def pause(self) -> None:
        if self._progress:
            self._progress.stop()

    def reading(self, table: Table, rows: int, estimated_rows: int) -> None:
        if self._progress is None:
            return
        if table not in self._bars:
            total = max(estimated_rows, rows) if estimated_rows > 0 else None
            self._bars[table] = self._progress.add_task(str(table), total=total)
        self._progress.update(self._bars[table], completed=rows)

    def finished(self, table: Table, run: Run, error: PyopsError | None) -> None:
        if self._progress and table in self._bars:
            self._progress.remove_task(self._bars.pop(table))
        if error is None:
            stderr().print(f"{table!s:<24} {_counts(run)}", markup=False)
        else:
            self.failed(str(table), error)

    def failed(self, source: str, error: PyopsError) -> None:
        stderr().print(f"{source:<24} failed: {error}", markup=False, style="red")
        if error.hint:
            stderr().print(f"{'':<24}    fix: {error.hint}", markup=False)


@cache
def stderr() -> Console:
    """Where everything goes but data."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def _counts(run: Run) -> str:
    parts = [f"{run.rows_read:>9,} read", f"{run.rows_written:>9,} written"]
    if run.rows_unchanged:
        parts.append(f"{run.rows_unchanged:,} unchanged")
    if run.null_cursors:
        parts.append(f"{run.null_cursors:,} without a cursor")
    if run.rows_dead_lettered:
        parts.append(f"{run.rows_dead_lettered:,} DEAD LETTERS: see pyops dlq list")
    return ", ".join(parts) + f"  {run.seconds:6.1f} s"
