"""One command at work: its project, its warehouse, and how its runs are recorded."""

import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from pyops.config.project import Project, Table
from pyops.errors import PyopsError
from pyops.progress import Listener
from pyops.records import Run, TableId, ended
from pyops.staging.file import Stage
from pyops.warehouse.duckdb import DuckDBWarehouse
from pyops.warehouse.protocol import TableState, Warehouse
from pyops.warehouse.recording import Recorder, Recording


def open_warehouse(project: Project, *, is_frozen: bool = False) -> Warehouse:
    """The warehouse of a project; a frozen one is never written."""
    mirror = project.config.dead_letters.path
    return DuckDBWarehouse(
        project.warehouse_path,
        lock_timeout=project.config.warehouse.lock_timeout.total_seconds(),
        mirror=mirror and project.directory / mirror,
        is_frozen=is_frozen,
    )


class Invocation:
    """One command at work. With ``is_dry`` it writes nothing anywhere."""

    def __init__(self, project: Project, listener: Listener | None = None, *, is_dry: bool = False) -> None:
        self.project = project
        self.listener = listener or Listener()
        self.is_dry = is_dry
        self.warehouse = open_warehouse(project, is_frozen=is_dry)
        self.staging = project.staging_directory
        self.recorder = Recorder(self.warehouse, self.staging, is_dry)
        self._id = secrets.token_hex(6)

    def settle(self) -> None:
        """Records the runs that earlier processes could not."""
        if not self.is_dry:
            self.recorder.settle()

    def begun(self, table: TableId, mode: str, write: str) -> Run:
        return Run.begun(table.source, table.name, mode, write)

    @contextmanager
    def recording(self, run: Run) -> Iterator[Recording]:
        with self.recorder.recording(replace(run, invocation_id=self._id)) as recording:
            yield recording

    def stage(self, recording: Recording) -> Stage:
        return Stage.create(self.staging, recording.run)

    def states(self, tables: Sequence[Table]) -> dict[Table, TableState]:
        """What is known of tables; where that cannot be known, each of them has failed."""
        try:
            self.settle()
            return self.warehouse.states(tables)
        except PyopsError as error:
            runs = [self.begun(t, t.config.mode, t.config.write_pattern) for t in tables]
            if not self.is_dry:
                self.recorder.record(*(ended(run, "failed", str(error)) for run in runs))
            raise
