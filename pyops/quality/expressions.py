"""The conditions of gates in SQL: which rows are at fault, and what may be asked of them."""

from collections.abc import Mapping

import duckdb

from pyops.config.thresholds import Reference
from pyops.errors import UsageError
from pyops.sql import identifier, qualified
from pyops.words import did_you_mean

# What DuckDB raises where a value, and not the statement, is at fault.
VALUE_ERRORS = (duckdb.DataError, duckdb.InvalidInputException, duckdb.NotSupportedError)


def is_null(column: str) -> str:
    return f"{identifier(column)} IS NULL"


def is_broken(text: str) -> str:
    """True for rows of which an expectation is false; of NULL, it is not."""
    comment = "\n" * ("--" in text)  # whatever ends in a comment is closed on the next line
    return f"({text}{comment}) IS FALSE"


def is_dangling(column: str, reference: Reference) -> str:
    """True for rows whose value the attached warehouse has not where a reference points to."""
    there = f"parent.{identifier(reference.column)}"
    table = qualified("warehouse", *reference.table)
    return (
        f"{identifier(column)} IS NOT NULL AND {identifier(column)} NOT IN"
        f" (SELECT {there} FROM {table} AS parent WHERE {there} IS NOT NULL)"
    )


def require_condition(connection: duckdb.DuckDBPyConnection, table: str, name: str, text: str) -> None:
    """Refuses an expectation that is not exactly one condition over the columns of a table."""
    refused = f"expectation {name} ({one_line(text)}) is no condition"
    try:
        for opening, closing in (("(", ")"), ("[", "]")):  # only a whole expression fits both
            connection.extract_statements(f"SELECT {opening}\n{text}\n{closing}")
        # In WHERE, where it is to stand, there are neither aggregates nor windows.
        select = f"SELECT (\n{text}\n) FROM {table} WHERE (\n{text}\n) IS NOT NULL"
        found = connection.execute(f"DESCRIBE {select}").fetchall()
    except (duckdb.ProgrammingError, *VALUE_ERRORS) as error:
        said = str(error).splitlines()[0]
        unknown = said.partition('Referenced column "')[2].partition('"')[0]
        hint = "write one SQL condition over the table's columns, like: quantity > 0"
        if unknown:
            hint = nearest_column(unknown, described(connection, table))
        raise UsageError(f"{refused}: {said}", hint=hint) from None
    if found[0][1] != "BOOLEAN":
        raise UsageError(
            f"{refused}: it gives {found[0][1]}",
            hint="write one that is true or false for each row, like: quantity > 0",
        )


def described(connection: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    """Type by name of a staged table's columns, without the one that only staging knows."""
    found = connection.execute(f"DESCRIBE {table}").fetchall()
    return {name: type_ for name, type_, *_ in found if name != "_fault"}


def typed(column: str, columns: Mapping[str, str]) -> str:
    """A column's type, whatever the case it is written in."""
    return {name.lower(): type_ for name, type_ in columns.items()}[column.lower()]


def existing(gate: str, column: str, columns: Mapping[str, str]) -> None:
    """Refuses a column that does not exist, with the nearest one as a hint."""
    if column.lower() not in {name.lower() for name in columns}:
        hint = nearest_column(column, columns)
        raise UsageError(f"{gate}: there is no column {column!r}", hint=hint)


def nearest_column(column: str, columns: Mapping[str, str]) -> str:
    """Asks for the column that is nearest to an unknown one, or names them all."""
    return did_you_mean(column, list(columns)) or f"the columns are: {', '.join(columns)}"


def one_line(text: str) -> str:
    return " ".join(text.split())
