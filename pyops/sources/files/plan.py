"""What an extraction of files reads and replaces. Pure functions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyops.config.days import Days
from pyops.config.project import Table
from pyops.errors import OperationError
from pyops.records import PLACE_COLUMNS
from pyops.sources.files.find import File
from pyops.sql import identifier
from pyops.staging import casts
from pyops.staging.postgres_types import ColumnMapping, hashed
from pyops.warehouse.duckdb import TableState
from pyops.warehouse.publication import Load


@dataclass(frozen=True)
class FilesPlan:
    """The files to read, and what their rows do to the target."""

    files: tuple[File, ...]
    load: Load


def plan_files(
    table: Table,
    found: Sequence[File],
    state: TableState,
    *,
    days: Days | None = None,
    full_refresh: bool = False,
) -> FilesPlan:
    """Chooses files: those of the days asked for, or those that are new or have changed.

    Args:
        table: The table as it is configured.
        found: The files that are there.
        state: What the warehouse knows of the table, and of files landed before.
        days: Land these days again.
        full_refresh: Read every file and swap the table.
    """
    config = table.files
    signatures = {file.name: (file.size, file.mtime_ns) for file in found}
    chosen = list(found)
    replaces: tuple[str, ...] | None = None
    if config.mode == "partition" and not full_refresh:
        if days is None:
            chosen = [f for f in found if state.files.get(f.name) != signatures[f.name]]
        replaces = tuple(file.name for file in chosen)
    elif not full_refresh and dict(state.files) == signatures:
        chosen = []
    return FilesPlan(
        tuple(chosen),
        Load(
            table,
            "swap" if full_refresh else config.write_pattern,
            key=config.primary_key,
            replaces_all=config.write_pattern == "delete_insert" and replaces is None,
            replaces_files=replaces,
            newest_load=None if days else state.last_load,
            resets_watermark=True,
            accepts_changes=config.on_schema_change == "evolve" or full_refresh,
            files=tuple((f.name, f.size, f.mtime_ns) for f in chosen),
        ),
    )


def file_mappings(
    table: Table, arrived: Mapping[str, str], state: TableState, *, salt: str = ""
) -> dict[str, ColumnMapping]:
    """Says how each column of some files is landed.

    What has a type in the configuration gets it, strictly; any other text stays the text it is.
    Columns that these files lack are NULL, unless the table's policy is ``fail``.

    Args:
        table: The table as it is configured.
        arrived: The type of each column that arrived, in order.
        state: What the warehouse knows of the table.
        salt: What masked values are hashed with.

    Raises:
        OperationError: A column that the load needs is not there.
    """
    config = table.files
    wanted = {
        name: type_
        for name, type_ in arrived.items()
        if name not in config.exclude
        and name in (config.columns or arrived)
        and name not in PLACE_COLUMNS
    }
    for name in (*config.primary_key, *config.mask):
        if name not in wanted:
            raise OperationError(
                f"{table}: there is no column {name} in its files",
                hint=f"they have: {', '.join(wanted)}",
            )
    declared = dict(config.types)
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
    return mappings | {
        name: ColumnMapping(type_, "", identifier(name)) for name, type_ in PLACE_COLUMNS.items()
    }
