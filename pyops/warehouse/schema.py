"""What a change of the source's columns means for a table that is already there. Pure functions."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pyops.errors import SchemaChangeError
from pyops.records import TableId

_INTEGERS = {"SMALLINT": 5, "INTEGER": 10, "BIGINT": 19}


@dataclass(frozen=True)
class SchemaChange:
    """One difference between source and target."""

    kind: Literal["added", "dropped", "type_changed", "recreated"]
    column: str
    old: str = ""  # the type
    new: str = ""
    becomes: str = ""  # the type that the target's column gets, empty where it stays as it is

    def __str__(self) -> str:
        match self.kind:
            case "added":
                return f"column {self.column} {self.new} was added"
            case "dropped":
                return f"column {self.column} was dropped"
            case "recreated":
                return "the table was dropped and created again"
        return f"column {self.column} changed from {self.old} to {self.new}"


def compare(
    target: Mapping[str, str],
    source: Mapping[str, str],
    *,
    keep: bool,  # the target's rows stay, so that a changed type must hold them too
    otherwise: str | None = None,  # the type where none holds both
    table: TableId | str = "TABLE",
) -> list[SchemaChange]:
    """Lists what differs by column, whatever its case; no type for both is a SchemaChangeError."""
    there = {name.lower(): (name, type_) for name, type_ in target.items()}
    here = {name.lower() for name in source}
    changes = []
    for name, new in source.items():
        if name.lower() not in there:
            changes.append(SchemaChange("added", name, new=new, becomes=new))
            continue
        column, old = there[name.lower()]
        if old == new:
            continue
        wide = common_type(old, new) or otherwise
        if wide is None and keep:
            raise SchemaChangeError(
                f"column {name} changed from {old} to {new}, and {old} cannot become that in place",
                hint=f"pyops extract {table} --full-refresh reads it whole and swaps it",
            )
        if wide != old or not keep:
            becomes = wide if wide and wide != old else ""
            changes.append(SchemaChange("type_changed", column, old, new, becomes))
    changes += [SchemaChange("dropped", name, old=old) for name, old in target.items() if name.lower() not in here]
    return changes


def refuse(table: TableId, changes: Sequence[SchemaChange], *, hint: str) -> None:
    """Raises the SchemaChangeError of a table whose columns may not change, if they have."""
    if changes:
        raise SchemaChangeError(
            f"{table}: the source's columns have changed: {'; '.join(map(str, changes))}", hint=hint
        )


BATCH_HINT = "nothing was landed; use --full-refresh, or set on_schema_change: evolve"


def common_type(old: str, new: str) -> str | None:
    """The narrowest type that holds every value of both exactly, or None."""
    if old == new:
        return old
    if {old, new} == {"FLOAT", "DOUBLE"}:
        return "DOUBLE"
    if old in _INTEGERS and new in _INTEGERS:
        return max(old, new, key=lambda name: _INTEGERS[name])
    first, second = _digits(old), _digits(new)
    if first and second:
        whole, scale = max(first[0], second[0]), max(first[1], second[1])
        return f"DECIMAL({whole + scale},{scale})" if whole + scale <= 38 else None
    if new == "VARCHAR" and (first or old == "UUID"):
        return "VARCHAR"
    return None


def _digits(type_: str) -> tuple[int, int] | None:
    """How many digits a number has before and after the point."""
    if type_ in _INTEGERS:
        return _INTEGERS[type_], 0
    match = re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", type_)
    return (int(match[1]) - int(match[2]), int(match[2])) if match else None
