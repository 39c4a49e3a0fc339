"""How columns reach the warehouse, and what a dead letter says of a row. Pure functions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from pyops.sql import identifier, literal


@dataclass(frozen=True)
class ColumnMapping:
    """How the values of one column reach the warehouse."""

    warehouse: str  # the DuckDB type they get
    select: str  # the PostgreSQL expression that asks for them
    convert: str  # the DuckDB expression that types what arrived, NULL where that cannot be
    fault: str = ""  # why it cannot be; empty if it always can
    text: str = ""  # the DuckDB expression that writes it into a dead letter


# ``_fault`` is a list of these: to write a struct's columns of nothing but NULLs takes longer than
# to write one of the rows' own.
_FAULT = ("key", "column_name", "value", "reason", "payload", "file", "line")
DEAD_LETTER = ", ".join(  # the columns of a dead letter, from a row's fault
    f"_fault[{n}]{'::BIGINT' * (name == 'line')} AS {name}" for n, name in enumerate(_FAULT, 1)
)


def clash(names: Iterable[str], reserved: Iterable[str]) -> tuple[str, str] | None:
    """The first name that cannot be a column's beside the others, and why; DuckDB ignores case."""
    reserved, seen = set(reserved), dict[str, str]()
    for name in names:
        if name.lower() in reserved:
            return name, "pyops reserves the name"
        if (other := seen.setdefault(name.lower(), name)) != name:
            return name, f"{other} differs from it only by case"
    return None


def key_json(columns: Mapping[str, str], key: Sequence[str], *, of: str = "") -> str:
    """The DuckDB expression for a row's key, a JSON object of texts, given its columns' types."""
    prefix = f"{of}." if of else ""
    return _json({name: text_of(prefix + identifier(name), columns[name]) for name in key})


def typed(
    mappings: Mapping[str, ColumnMapping], key: tuple[str, ...], *, required: bool = True, where: str = "true"
) -> str:
    """The SELECT that types each column and describes the first fault of a row in ``_fault``."""
    raw = {name: mapping.text or text_of(identifier(name), mapping.warehouse) for name, mapping in mappings.items()}
    mark = "_"  # in front of the names of converted columns, so that they are no other's
    while any(name.startswith(mark) for name in mappings):
        mark += "_"
    converted = {name: identifier(f"{mark}{n}") for n, name in enumerate(mappings)}
    faults = []  # column, reason, condition
    for name, mapping in mappings.items():
        column = identifier(name)
        if mapping.fault:
            condition = f"{column} IS NOT NULL AND {converted[name]} IS NULL"
            faults.append((name, mapping.fault, condition))
        if required and name in key:
            faults.append((name, "a primary key cannot be NULL", f"{column} IS NULL"))
    columns = ", ".join(f"{converted[name]} AS {identifier(name)}" for name in mappings)
    conversions = ", ".join(f"{item.convert} AS {converted[n]}" for n, item in mappings.items())
    arrived = f"(SELECT *, {conversions} FROM arrived WHERE {where})"
    if not faults:
        return f"SELECT {columns}, NULL::VARCHAR[] AS _fault FROM {arrived}"
    # The fault's number first, what it stands for second: the statement grows with the columns, not with their square.
    numbers = " ".join(f"WHEN {fault[2]} THEN {n}" for n, fault in enumerate(faults, 1))
    landed = {  # as ``key_json`` has it of the row then
        name: f"coalesce({text_of(converted[name], mappings[name].warehouse)}, {raw[name]})" for name in key
    }
    described = {
        "column_name": f"[{', '.join(literal(fault[0]) for fault in faults)}][_fault]",
        "value": f"[{', '.join(raw[fault[0]] for fault in faults)}][_fault]",
        "reason": f"[{', '.join(literal(fault[1]) for fault in faults)}][_fault]",
        "key": _json(landed),
        "payload": _json(raw),
        "file": "_file" if "_file" in mappings else "NULL",
        "line": "_line::VARCHAR" if "_file" in mappings else "NULL",
    }
    values = ", ".join(described[name] for name in _FAULT)
    fault = f"CASE WHEN _fault IS NOT NULL THEN [{values}] END"
    numbered = f"SELECT *, CASE {numbers} END AS _fault FROM {arrived}"
    return f"SELECT {columns}, {fault} AS _fault FROM ({numbered})"


def row_json(columns: Mapping[str, str]) -> str:
    """The DuckDB expression for a typed row as a JSON object of texts."""
    return key_json(columns, list(columns))


def text_of(expression: str, type_: str) -> str:
    """The DuckDB expression for a typed value's text, as dead letters have it."""
    if type_ == "BLOB":
        return rf"'\x' || lower(hex({expression}))"
    return f"({expression})::VARCHAR"


def _json(values: Mapping[str, str]) -> str:
    struct = ", ".join(f"{literal(name)}: {text}" for name, text in values.items())
    return f"to_json({{{struct}}})::VARCHAR" if values else "NULL::VARCHAR"
