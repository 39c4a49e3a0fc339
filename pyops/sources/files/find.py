"""Files: which there are, and their rows in a staging file, as texts that are what stands there."""

from __future__ import annotations

import glob
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING

import duckdb
import pyarrow as pa

from pyops.errors import DataError, TransientError
from pyops.failures import of_file
from pyops.sources.files.csv import land_csv
from pyops.sources.files.json import Rows, add_columns, land_document
from pyops.sources.files.lines import Refused, chunks
from pyops.sources.files.parquet import land_parquet
from pyops.sql import identifier

if TYPE_CHECKING:
    from pyops.config.days import Days
    from pyops.config.model import FilesTable, TableConfig

_BLOCK = 1 << 20
REFUSED = "CREATE TABLE refused (_file VARCHAR, _line BIGINT, payload VARCHAR, reason VARCHAR)"


@dataclass(frozen=True)
class File:
    """A file that was found.

    Attributes:
        path: Where it is.
        name: Its path relative to the project, with slashes.
        day: The day in its name, where ``{date}`` stands in the pattern.
        size: In bytes, as it lies there.
        mtime_ns: When it was changed last, in nanoseconds.
    """

    path: Path
    name: str
    day: date | None
    size: int
    mtime_ns: int


class Found(tuple[File, ...]):
    """Files, sorted by name.

    Attributes:
        missing: The days asked for that have no file.
    """

    missing: tuple[date, ...] = ()


@dataclass(frozen=True)
class Arrived:
    """What is in the tables ``arrived`` and ``refused``.

    Attributes:
        columns: The type of each column, in order, ``_file`` and ``_line`` left out.
        rows: How many rows arrived.
        bytes: How large the files are as they lie there.
        refused: How many rows could not be parsed.
    """

    columns: dict[str, str]
    rows: int
    bytes: int
    refused: int


def find(project_dir: Path, path_: str, days: Days | None = None) -> Found:
    """Finds the files of a table.

    Args:
        project_dir: What the table's path is relative to.
        table: Its ``path`` may hold ``{date}``, which is YYYY-MM-DD, and ``*``, ``?``, ``[]``,
            ``**``.
        days: Only the files of these days.

    Raises:
        DataError: There is no file, so nothing can be said of these days.
    """
    shape = re.compile(_regex(path_))
    pattern = path_.replace("{date}", "-".join(["[0-9]" * n for n in (4, 2, 2)]))
    found = []
    for name in sorted(set(glob.glob(pattern, root_dir=project_dir, recursive=True))):
        path, match = project_dir / name, shape.fullmatch(name)
        if match is None or not path.is_file():
            continue  # a folder, or two different days in one name
        day = _day(match["date"], name) if "date" in match.groupdict() else None
        if day is None or days is None or days.first <= day <= days.last:
            stat = path.stat()
            found.append(File(path, Path(name).as_posix(), day, stat.st_size, stat.st_mtime_ns))
    files = Found(found)
    if days is not None and "{date}" in path_:
        there = {file.day for file in files}
        asked = (days.first + timedelta(n) for n in range((days.last - days.first).days + 1))
        files.missing = tuple(day for day in asked if day not in there)
    if not files:
        when = "" if days is None else f" for {days.first}"
        when += f" to {days.last}" if days is not None and days.last != days.first else ""
        raise DataError(
            f"there is no file {path_}{when}",
            hint="nothing was removed: only an empty file says that there are no rows"
            if when
            else "`path` in pyops.yml is relative to the project",
        )
    return files


def _day(text: str, name: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise DataError(
            f"{name}: {text} is no date", hint="rename the file: {date} is YYYY-MM-DD"
        ) from None


def _regex(pattern: str) -> str:
    """A glob pattern with ``{date}`` as a regular expression."""
    tokens = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts, dates = [], 0
    for token in re.findall(r"\{date\}|\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", pattern, re.DOTALL):
        if token == "{date}":
            parts.append("(?P=date)" if dates else r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})")
            dates += 1
        elif len(token) > 1 and token[0] == "[":
            parts.append("[" + token[1:].replace("!", "^", 1).replace("\\", r"\\"))
        else:
            parts.append(tokens.get(token, re.escape(token)))
    return "".join(parts)


def arrive(
    connection: duckdb.DuckDBPyConnection,
    table: FilesTable,
    files: Sequence[File],
    scratch: Path,
) -> Arrived:
    """Reads files into two new tables: ``arrived``, and ``refused`` for what cannot be parsed.

    Both have ``_file`` and ``_line``: the line of the file, from 1, where a row or record begins;
    of a JSON document its element, of Parquet its row. What is no Parquet arrives as text. In mode
    ``partition`` the rows of a file without the column ``partition_by`` get the file's day there.

    Args:
        connection: The run's staging file.
        table: Its format, mode and ``partition_by`` count.
        files: What to read, in this order.
        scratch: A folder for decompressed files; nothing is left in it.

    Raises:
        DataError: A file is damaged, in another encoding, or names its columns badly.
        OperationError: A file cannot be read, or there is no room.
        TransientError: A file was changed meanwhile.
    """
    connection.execute("CREATE TABLE arrived (_file VARCHAR, _line BIGINT)")
    connection.execute(REFUSED)
    columns: dict[str, str] = {}
    day_column = table.partition_by if table.mode == "partition" else None
    for file in files:
        with reading(file, scratch) as path:
            keys, refused = _land(connection, columns, table, path, file)
            refuse(connection, file, refused, table)
            if day_column is not None and file.day is not None and day_column not in keys:
                _fill_day(connection, columns, day_column, file)
    rows, refusals = connection.execute(
        "SELECT (SELECT count(*) FROM arrived), (SELECT count(*) FROM refused)"
    ).fetchall()[0]
    return Arrived(columns, rows, sum(file.size for file in files), refusals)


@contextmanager
def reading(file: File, scratch: Path) -> Iterator[Path]:
    """Gives a file's content, decompressed, and makes sure that it stayed the same meanwhile.

    Raises:
        DataError: It is damaged.
        OperationError: It cannot be read, or there is no room.
        TransientError: It was changed meanwhile.
    """
    try:
        yield _decompressed(file, scratch / "decompressed")
        (scratch / "decompressed").unlink(missing_ok=True)
        stat = file.path.stat()
    except (OSError, duckdb.IOException, duckdb.OutOfMemoryException) as error:
        no_memory = isinstance(error, duckdb.OutOfMemoryException)
        raise of_file(str(error), file.path, no_memory=no_memory) from error
    if (stat.st_size, stat.st_mtime_ns) != (file.size, file.mtime_ns):
        raise TransientError(
            f"{file.name} was changed while it was read", hint="run the same command again"
        )


def _land(
    connection: duckdb.DuckDBPyConnection,
    columns: dict[str, str],
    table: FilesTable,
    path: Path,
    file: File,
) -> tuple[list[str], list[Refused]]:
    """Lands one file; returns the names of its own columns, and what was refused."""
    if table.format == "csv":
        return land_csv(connection, columns, path, file.name)
    if table.format == "parquet":
        return land_parquet(connection, columns, path, file.name), []
    rows = Rows(connection, columns)
    if table.format == "json":
        return land_document(rows, path, file.name)
    keys: dict[str, None] = {}
    refused: list[Refused] = []
    for chunk in chunks(path, file.name, quoted=False):
        some, more = rows.land(chunk.table, file.name)
        keys |= dict.fromkeys(some)
        refused += [*chunk.refused, *more]
    return list(keys), refused


def refuse(
    connection: duckdb.DuckDBPyConnection, file: File, refused: list[Refused], table: TableConfig
) -> None:
    """Adds what could not be parsed of a file to the table ``refused``.

    Where a table hides columns, what cannot be told apart from them is not kept.
    """
    if not refused:
        return
    if table.mask or table.exclude or table.columns:
        refused = [
            replace(item, payload=f"({len(item.payload):,} characters, not kept)")
            for item in refused
        ]
    found = pa.table(
        {
            "_file": [file.name] * len(refused),
            "_line": [item.line for item in refused],
            "payload": pa.array([item.payload for item in refused], pa.large_string()),
            "reason": [item.reason for item in refused],
        }
    )
    connection.register("found", found)
    connection.execute("INSERT INTO refused SELECT * FROM found ORDER BY _line")
    connection.unregister("found")


def _fill_day(
    connection: duckdb.DuckDBPyConnection, columns: dict[str, str], column: str, file: File
) -> None:
    if column not in columns:
        add_columns(connection, columns, {column: "VARCHAR"}, file.name)
    connection.execute(
        f"UPDATE arrived SET {identifier(column)} = ? WHERE _file = ?", [str(file.day), file.name]
    )


def _decompressed(file: File, target: Path) -> Path:
    """The file's content, checked to its end where it is compressed.

    Raises:
        DataError: It ends too early, or is damaged.
    """
    suffix = file.path.suffix.lower()
    if suffix not in {".gz", ".zst"}:
        return file.path
    if file.size == 0:
        raise DataError(f"{file.name}, byte 0: it is empty, not a {suffix} file", hint=_AGAIN)
    with file.path.open("rb") as raw, target.open("wb") as plain:
        packed = _opened(raw, suffix)  # left open: closing it may close the file
        try:
            while block := packed.read(_BLOCK):
                plain.write(block)
        except EOFError:
            raise _damaged(file, file.size, "it ends too early") from None
        except (gzip.BadGzipFile, zlib.error):
            raise _damaged(file, raw.tell(), "it is damaged") from None
        except OSError as error:
            if error.errno is not None:
                raise
            if "Truncated" in str(error):
                raise _damaged(file, file.size, "it ends too early") from None
            raise _damaged(file, raw.tell(), "it is damaged") from None
    return target


def _opened(raw: IO[bytes], suffix: str) -> IO[bytes] | pa.CompressedInputStream:
    if suffix == ".gz":
        return gzip.GzipFile(fileobj=raw, mode="rb")
    return pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")


_AGAIN = "fetch it again; nothing of it was landed"


def _damaged(file: File, position: int, what: str) -> DataError:
    return DataError(f"{file.name}, at byte {position}: {what}", hint=_AGAIN)
