"""What an extraction of files reads and replaces. Pure functions."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pyops.config.project import Table
from pyops.records import PLACE_COLUMNS
from pyops.sources.files.find import File, Found
from pyops.sources.protocol import Plan, Request
from pyops.sql import identifier
from pyops.staging import casts
from pyops.staging.columns import ColumnMapping
from pyops.staging.postgres_types import hashed
from pyops.warehouse.protocol import ByFiles, ByKey, Commit, Scope, TableState, WatermarkChange, Whole, Write


@dataclass(frozen=True)
class FilesPlan(Plan):
    """The files to read, and what their rows replace."""

    files: tuple[File, ...] = ()
    scope: Scope = field(default_factory=lambda: Whole(swap=True))
    state: TableState = field(default_factory=TableState)
    request: Request = field(default_factory=Request)
    landed_as: str | None = None

    def commit(self, columns: Mapping[str, str]) -> Commit:
        """What is to be published of the staged rows, given the columns' types."""
        config = self.table.config
        write = Write(
            self.table,
            columns,
            self.scope,
            key=config.primary_key,
            may_evolve=config.on_schema_change == "evolve" or self.request.full_refresh,
            expects_load=None if self.request.days else self.state.last_load,
            watermark=WatermarkChange(),
            landed_as=self.landed_as,
            adopts=config.adopt,
            files=tuple((f.name, f.size, f.changed_ns) for f in self.files),
        )
        return Commit((write,))


def plan(table: Table, found: Found, state: TableState, request: Request, *, salt: str = "") -> FilesPlan:
    """Chooses files: those of the days asked for, or those that are new or have changed."""
    config = table.files
    landed_as = state.landed_as if request.days and state.columns else table.landed_as(salt)
    signatures = {file.name: (file.size, file.changed_ns) for file in found}
    # Rows that were landed by another configuration are read again.
    chosen, known = list(found), dict(state.files) if state.landed_as in {None, table.landed_as(salt)} else {}
    scope: Scope = Whole(swap=request.full_refresh or config.write_pattern == "swap")
    if config.mode == "partition" and not request.full_refresh:
        # A day's files belong together: whatever came, changed or went, the day is read whole again.
        landed = {name: found.day_of(name) for name in state.files}
        if request.days is None:
            fresh = {f.day for f in found if known.get(f.name) != signatures[f.name]}
            fresh |= {day for name, day in landed.items() if name not in signatures}
            chosen = [file for file in found if file.day in fresh]
        names = dict.fromkeys(file.name for file in chosen)
        days = {file.day for file in chosen}
        scope = ByFiles((*names, *(n for n, day in landed.items() if day in days and n not in names)))
    elif not request.full_refresh and known == signatures:
        chosen = []
    if config.write_pattern == "merge" and not request.full_refresh:
        scope = ByKey(config.primary_key, skips_unchanged=True)
    return FilesPlan(
        table,
        "swap" if request.full_refresh else config.write_pattern,
        asks=f"read {', '.join(file.name for file in chosen)}" if chosen else "",
        files=tuple(chosen),
        scope=scope,
        state=state,
        request=request,
        landed_as=landed_as,
    )


def file_mappings(
    table: Table, arrived: Mapping[str, str], state: TableState, *, salt: str = ""
) -> dict[str, ColumnMapping]:
    """Says how each column of files is mapped, and where each row came from."""
    place = {name: ColumnMapping(type_, "", identifier(name)) for name, type_ in PLACE_COLUMNS.items()}
    return arrived_mappings(table, arrived, state, "in its files", salt=salt) | place


def arrived_mappings(
    table: Table, arrived: Mapping[str, str], state: TableState, where: str, *, salt: str = ""
) -> dict[str, ColumnMapping]:
    """Says how each column that arrived is mapped, given the type of each, in order.

    What has a configured type gets it, strictly; any other text stays one. What is lacking is NULL,
    unless the policy is ``fail``; lacking what the load itself needs is an OperationError.
    """
    config = table.config
    wanted = {n: type_ for n, type_ in arrived.items() if config.lands(n) and n not in PLACE_COLUMNS}
    table.require([*config.primary_key, *config.mask], wanted, where)
    declared = dict(config.declared_types)
    if config.partition_by:
        declared.setdefault(config.partition_by, "DATE")
    mappings = {}
    for name, type_ in wanted.items():
        column = identifier(name)
        if name in config.mask:
            mappings[name] = hashed(f"{column}::VARCHAR", salt)
        elif type_ == "VARCHAR" and name in declared:
            mappings[name] = casts.mapping_of(name, declared[name])
        else:
            mappings[name] = ColumnMapping(type_, "", column)
    here = {name.lower() for name in (*mappings, *PLACE_COLUMNS, *config.exclude)}
    if config.on_schema_change == "evolve":
        lacking = {**state.columns, **{n: t for n, t in declared.items() if not config.columns}}
        for name, type_ in lacking.items():
            if name.lower() not in here:
                mappings[name] = ColumnMapping(type_, "", f"NULL::{type_}")
    return mappings
