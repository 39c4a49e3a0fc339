"""Parquet into columns of its own types, as far as the warehouse has them."""

import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pyops.errors import DataError
from pyops.sources.files.arrived import TAKEN, add_columns
from pyops.sources.files.lines import Refused
from pyops.sql import identifier, literal
from pyops.staging.columns import clash

_KEPT = {
    "BOOLEAN", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "VARCHAR", "BLOB",
    "DATE", "TIME", "TIMESTAMP", "UUID", "JSON",
}  # fmt: skip
_WIDER = {
    "UTINYINT": "SMALLINT", "USMALLINT": "INTEGER", "UINTEGER": "BIGINT",
    "UBIGINT": "DECIMAL(20,0)", "TIMESTAMP_S": "TIMESTAMP", "TIMESTAMP_MS": "TIMESTAMP",
}  # fmt: skip
_AGAIN = "write or fetch it again; none of its rows were landed"
_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")


def land_parquet(
    connection: duckdb.DuckDBPyConnection, columns: dict[str, str], path: Path, name: str
) -> tuple[list[str], list[Refused]]:
    """Lands a Parquet file in ``arrived``; a column whose type differs between files is text."""
    try:
        schema = pq.read_schema(path)
        names: list[str] = list(schema.names)
        read = f"read_parquet({literal(_escaped(path))}, hive_partitioning = false"
        described = connection.execute(f"DESCRIBE SELECT * FROM {read})").fetchall()
    except Exception as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"{name}: not a Parquet file, or damaged", hint=_AGAIN) from None
    _refuse(schema, name)
    values, new = "", {}
    for column, type_, *_ in described:
        landed, value = _column(column, type_)
        before = columns.get(column)
        if before is None:
            new[column] = landed
        elif before != landed:
            are_integers = before in _INTEGERS and landed in _INTEGERS
            both = max(before, landed, key=_INTEGERS.index) if are_integers else "VARCHAR"
            if both != before:
                connection.execute(f"ALTER TABLE arrived ALTER {identifier(column)} SET DATA TYPE {both}")
                columns[column] = both
            value = f"({value})::{both}"
        values += f", {value} AS {identifier(column)}"
    add_columns(connection, columns, new, name)
    try:
        connection.execute(
            f"INSERT INTO arrived BY NAME SELECT {literal(name)} AS _file,"
            f" file_row_number + 1 AS _line{values}"
            f" FROM {read}, file_row_number = true)"
        )
    except (duckdb.InvalidInputException, duckdb.IOException, duckdb.SerializationException):
        raise DataError(f"{name}: the file is damaged", hint=_AGAIN) from None
    except (duckdb.ConversionException, duckdb.OutOfRangeException):  # which quote the value
        raise DataError(
            f"{name}: a timestamp or a decimal is beyond the warehouse's range", hint="write that column as text"
        ) from None
    early = [f"min({identifier(n)}) < DATE '0001-01-01'" for n in names if columns[n] in {"DATE", "TIMESTAMP"}]
    is_early = f"SELECT {' OR '.join(early) or 'false'} FROM arrived WHERE _file = ?"
    if connection.execute(is_early, [name]).fetchall()[0][0]:
        raise DataError(f"{name}: a date is before the year 1", hint="write that column as text")
    return names, []


def _refuse(schema: pa.Schema, name: str) -> None:
    """Refuses columns that DuckDB would rename, or read as other values."""
    names = list(schema.names)
    if len(set(names)) < len(names):
        raise DataError(f"{name}: two columns have the same name", hint="rename one of them")
    if found := clash(names, (*TAKEN, "file_row_number")):  # DuckDB would rename it
        raise DataError(f"{name}: column {found[0]!r} cannot be landed: {found[1]}", hint="rename it")
    for field in schema:
        if pa.types.is_decimal256(field.type):
            raise DataError(
                f"{name}: column {field.name!r} is {field.type}: the warehouse holds 38 digits at most",
                hint="write it as text, or as a decimal of 38 digits",
            )


def _escaped(path: Path) -> str:
    """A path that DuckDB takes for no glob."""
    return re.sub(r"[*?\[]", r"[\g<0>]", str(path))


def _column(name: str, type_: str) -> tuple[str, str]:
    """The type a column of a Parquet file gets, and the expression for its value."""
    column = identifier(name)
    if type_ in _KEPT or re.fullmatch(r"DECIMAL\(\d+,\d+\)", type_):
        return type_, column
    if type_ in _WIDER:
        return _WIDER[type_], f"{column}::{_WIDER[type_]}"
    if type_ == "TIMESTAMP WITH TIME ZONE":
        return "TIMESTAMP", f"make_timestamp(epoch_us({column}))"
    if re.search(r"\[\d*\]$|^(STRUCT|MAP|UNION)\(", type_):
        # Decimals as strings: JSON's numbers are floating.
        exact = re.sub(r"DECIMAL\(\d+,\d+\)", "VARCHAR", type_)
        return "JSON", f"to_json({column}::{exact})"
    return "VARCHAR", f"{column}::VARCHAR"
