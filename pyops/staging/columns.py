"""Stand-in."""

from collections.abc import Mapping, Sequence

from pyops.sql import identifier, literal
from pyops.staging.file import DEAD_LETTER
from pyops.staging.postgres_types import ColumnMapping

__all__ = ["DEAD_LETTER", "ColumnMapping", "key_json"]


def key_json(columns: Mapping[str, str], key: Sequence[str], *, of: str = "") -> str:
    """Stand-in."""
    prefix = f"{of}." if of else ""

    def text(name: str) -> str:
        column = f"{prefix}{identifier(name)}"
        if columns.get(name) == "BLOB":
            return rf"'\x' || lower(hex({column}))"
        return f"{column}::VARCHAR"

    texts = ", ".join(f"{literal(name)}: {text(name)}" for name in key)
    return f"to_json({{{texts}}})::VARCHAR"
