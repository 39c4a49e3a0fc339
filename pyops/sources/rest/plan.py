"""What an extraction asks of an API and does to the target. Pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date

import httpx

from pyops.config.project import Table
from pyops.errors import UsageError
from pyops.records import Watermark
from pyops.sources.protocol import Plan, Request
from pyops.sources.rest.client import address, shown
from pyops.sources.rest.pagination import first
from pyops.warehouse.protocol import ByKey, Commit, Scope, TableState, WatermarkChange, Whole, Write


@dataclass(frozen=True)
class RestPlan(Plan):
    """One table's extraction."""

    start: httpx.URL = field(default_factory=lambda: httpx.URL(""))
    state: TableState = field(default_factory=TableState)
    full_refresh: bool = False
    landed_as: str = ""

    @property
    def is_incremental(self) -> bool:
        return self.table.config.mode == "incremental"

    def commit(self, columns: Mapping[str, str], bound: str | None) -> Commit:
        """What is to be published of the staged rows, given the columns' types and the watermark."""
        config = self.table.config
        scope: Scope = Whole(swap=self.write == "swap")
        if self.write == "merge" or (self.is_incremental and self.write != "swap"):
            scope = ByKey(config.primary_key, skips_unchanged=self.write == "merge")
        watermark = WatermarkChange(config.cursor_column, Watermark(bound)) if self.is_incremental else None
        write = Write(
            *(self.table, columns, scope),
            key=config.primary_key,
            may_evolve=config.on_schema_change == "evolve" or self.full_refresh,
            expects_load=self.state.last_load,
            watermark=watermark or WatermarkChange(),
            landed_as=self.landed_as,
            adopts=config.adopt,
        )
        return Commit((write,))


def plan(table: Table, state: TableState, request: Request, base_url: str, *, salt: str = "") -> RestPlan:
    """Plans a table; nothing is sent."""
    config = table.rest
    if request.days is not None:
        raise UsageError(
            f"{table}: an API is not asked for days",
            hint="leave out --date, --from and --to; params can limit what is read",
        )
    bound = None
    if config.mode == "incremental" and state.columns and not request.full_refresh:
        table.refuse_changes(state.landed_as, salt)
        table.refuse_other_cursor(state.cursor)
        bound = state.watermark.bound
    params = {name: _text(value) for name, value in config.params.items()}
    if config.start_param and bound is not None:
        params[config.start_param] = bound
    start = first(config.paginator, address(base_url, config.path, params))
    return RestPlan(
        table,
        "swap" if request.full_refresh else config.write_pattern,
        asks=f"GET {shown(start)}" + f" with {', '.join(start.params)}" * bool(start.params),
        lower_bound=bound,
        start=start,
        state=state,
        full_refresh=request.full_refresh,
        landed_as=table.landed_as(salt),
    )


def _text(value: str | bool | float | date) -> str:
    """A parameter as it is sent."""
    if isinstance(value, date):
        return value.isoformat()
    return str(value).lower() if isinstance(value, bool) else str(value)
