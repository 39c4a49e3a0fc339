"""HTTP APIs, read by batch: each table by itself, page by page."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import duckdb

from pyops.config.model import RestSource
from pyops.config.project import Project, Table
from pyops.errors import PyopsError
from pyops.failures import explained
from pyops.records import Watermark
from pyops.retry import ONCE, Policy
from pyops.sources.files.arrived import add_columns
from pyops.sources.files.plan import arrived_mappings
from pyops.sources.protocol import Plan, Progress, Request, Source, Staged, require_key
from pyops.sources.rest.client import Api
from pyops.sources.rest.newest import Cursor, keep_newest, query
from pyops.sources.rest.pages import Pages
from pyops.sources.rest.plan import RestPlan, plan
from pyops.staging import memory
from pyops.staging.file import Stage
from pyops.warehouse.protocol import TableState

_log = logging.getLogger(__name__)


class Tables(Source):
    """The tables of one source."""

    def __init__(self, project: Project, name: str, policy: Policy = ONCE) -> None:
        config = project.config.sources[name]
        assert isinstance(config, RestSource)
        self._config = config
        self._api = Api(name, config)

    def plan(self, states: Mapping[Table, TableState], request: Request) -> Sequence[Plan]:
        return [self._planned(table, state, request) for table, state in states.items()]

    def _planned(self, table: Table, state: TableState, request: Request) -> Plan:
        try:
            return plan(table, state, request, self._config.base_url, salt=self._config.mask_salt)
        except PyopsError as error:
            return Plan(table, table.config.write_pattern, error=error)

    def check(self, tables: Sequence[Table]) -> dict[Table, PyopsError]:
        """Asks for the first page of each table, and lands nothing."""
        failed = {}
        for planned in self.plan({table: TableState() for table in tables}, Request()):
            try:
                with duckdb.connect(config=memory.SETTINGS) as connection:
                    Pages(self._api, planned.table, connection).page(_checked(planned).start, 0)
            except PyopsError as error:
                failed[planned.table] = error
        return failed

    def stage(self, plan: Plan, stage: Stage, progress: Progress) -> Staged:
        planned, table, config = _checked(plan), plan.table, plan.table.config
        with explained(stage.path):
            pages = Pages(self._api, table, stage.connection, progress)
            pages.read(planned.start)
            columns, where = pages.landed.columns, f"in the rows of {planned.start.path}"
            if not pages.rows:  # an empty table has the columns that are known all the same
                known = [*config.primary_key, *config.mask, *config.declared_types]
                known += [config.cursor_column] if config.cursor_column else []
                add_columns(stage.connection, columns, dict.fromkeys(known, "VARCHAR"), str(table))
            table.require([config.cursor_column], columns, where)
            mappings = arrived_mappings(table, columns, planned.state, where, salt=self._config.mask_salt)
            cursor = Cursor(stage, config.cursor_column) if config.cursor_column else None
            stage.fill_from_tables(mappings, key=config.primary_key)
            # A row stands elsewhere when it comes again: its place would make it another dead letter.
            query(stage, "UPDATE dead_letters SET line = NULL")
            if config.primary_key and (gone := keep_newest(stage, str(table), config.primary_key, cursor)):
                _log.info("%s: %d rows came more than once, on different pages", table, gone)
            bound = cursor.largest() if cursor else None
        nulls = stage.null_count(cursor.column) if cursor else 0
        return Staged(planned.commit(stage.columns, bound or planned.lower_bound), pages.rows, pages.bytes, nulls)

    def compare(self, table: Table, state: TableState, stage: Stage) -> Staged:
        """Stages the whole table; the commit merges it, and deletes what it does not have."""
        require_key(table)
        planned = self._planned(table, replace(state, watermark=Watermark()), Request())
        staged = self.stage(planned, stage, lambda rows, size: None)
        [[rows]] = query(stage, "SELECT count(*) FROM rows")  # what came twice is no duplicate at the source
        return replace(staged, rows_read=rows + stage.dead_letters).as_comparison(table, state)

    def close(self) -> None:
        self._api.close()


def _checked(plan: Plan) -> RestPlan:
    if plan.error is not None:
        raise plan.error
    assert isinstance(plan, RestPlan)
    return plan
