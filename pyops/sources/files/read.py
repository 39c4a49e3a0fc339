"""Files, read by batch: each table by itself."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pyops.config.project import Project, Table
from pyops.errors import PyopsError, UsageError
from pyops.interrupt import interruptible
from pyops.retry import ONCE, Policy
from pyops.sources.files.arrive import arrive
from pyops.sources.files.find import find
from pyops.sources.files.plan import FilesPlan, file_mappings, plan
from pyops.sources.protocol import Plan, Progress, Request, Source, Staged
from pyops.staging.file import Stage
from pyops.warehouse.protocol import TableState

_log = logging.getLogger(__name__)


class Tables(Source):
    """The tables of one source."""

    def __init__(self, project: Project, name: str, policy: Policy = ONCE) -> None:
        self._directory = project.directory
        self._salt = project.config.sources[name].mask_salt

    def plan(self, states: Mapping[Table, TableState], request: Request) -> Sequence[Plan]:
        return [self._planned(table, state, request) for table, state in states.items()]

    def _planned(self, table: Table, state: TableState, request: Request) -> Plan:
        try:
            found = find(self._directory, table.files.path, request.days)
            for day in found.missing:
                _log.info("%s: there is no file for %s", table, day)
            return plan(table, found, state, request, salt=self._salt)
        except PyopsError as error:
            return Plan(table, table.config.write_pattern, error=error)

    def stage(self, plan: Plan, stage: Stage, progress: Progress) -> Staged:
        assert isinstance(plan, FilesPlan)
        table, key = plan.table, plan.table.config.primary_key
        config, connection = table.files, stage.connection
        how: dict[str, Any] = {"format_": config.format, "day_column": config.partition_by}
        how["hides"] = config.hides_columns
        arrived = interruptible(
            lambda: arrive(connection, plan.files, stage.scratch, **how), cancel=connection.interrupt
        )
        mappings = file_mappings(table, arrived.columns, plan.state, salt=self._salt)
        stage.fill_from_tables(mappings, key=key)
        if key:
            stage.keep_newest(key, None, table=str(table))
        return Staged(plan.commit(stage.columns), arrived.rows + arrived.refused, arrived.bytes)

    def compare(self, table: Table, state: TableState, stage: Stage) -> Staged:
        raise UsageError(f"{table} is landed from files", hint=f"read them again: pyops extract {table} --full-refresh")
