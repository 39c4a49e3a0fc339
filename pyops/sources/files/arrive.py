"""Stand-in."""

from types import SimpleNamespace
from typing import Any

from pyops.sources.files import find as f
from pyops.sources.files.find import REFUSED, reading

__all__ = ["REFUSED", "reading"]


def arrive(
    connection: Any, files: Any, scratch: Any, *, format_: str, day_column: str | None, hides: bool
) -> Any:
    t = SimpleNamespace(
        format=format_,
        mode="partition",
        partition_by=day_column,
        mask=hides,
        exclude=(),
        columns=(),
    )
    return f.arrive(connection, t, files, scratch)


def refuse(connection: Any, file: Any, refused: Any, *, hides: bool) -> None:
    f.refuse(connection, file, refused, SimpleNamespace(mask=hides, exclude=(), columns=()))
