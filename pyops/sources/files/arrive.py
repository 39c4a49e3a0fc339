"""The rows of files in a staging file, as texts exactly as they are written."""

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import duckdb
import pyarrow as pa

from pyops.errors import DataError, TransientError
from pyops.failures import of_file
from pyops.sources.files.arrived import add_columns
from pyops.sources.files.csv import land_csv
from pyops.sources.files.find import File
from pyops.sources.files.json import land_document, land_lines
from pyops.sources.files.lines import Refused
from pyops.sources.files.parquet import land_parquet
from pyops.sql import identifier
from pyops.staging import memory

_BLOCK = 1 << 20
_LAND = {"csv": land_csv, "jsonl": land_lines, "json": land_document, "parquet": land_parquet}
# _line counts from 1: where a row begins in a text, a JSON document's element, Parquet's row.
ARRIVED = "CREATE TABLE arrived (_file VARCHAR, _line BIGINT)"
REFUSED = "CREATE TABLE refused (_file VARCHAR, _line BIGINT, payload VARCHAR, reason VARCHAR)"


@dataclass(frozen=True)
class Arrived:
    """How many rows arrived and were refused, the type of each column, and the bytes on disk."""

    columns: dict[str, str]
    rows: int
    bytes: int
    refused: int


def arrive(
    connection: duckdb.DuckDBPyConnection,
    files: Sequence[File],
    scratch: Path,
    *,
    format_: str,
    day_column: str | None,
    hides: bool,
) -> Arrived:
    """Reads files into the new tables ``arrived`` and, for what cannot be parsed, ``refused``."""
    connection.execute(ARRIVED)
    connection.execute(REFUSED)
    columns: dict[str, str] = {}
    for file in files:
        with reading(file, scratch) as path:
            names, refused = _LAND[format_](connection, columns, path, file.name)
            refuse(connection, file.name, refused, hides=hides)
            if day_column and file.day and day_column not in names:
                if day_column not in columns:
                    add_columns(connection, columns, {day_column: "VARCHAR"}, file.name)
                connection.execute(
                    f"UPDATE arrived SET {identifier(day_column)} = ? WHERE _file = ?", [str(file.day), file.name]
                )
    rows, refusals = connection.execute(
        "SELECT (SELECT count(*) FROM arrived), (SELECT count(*) FROM refused)"
    ).fetchall()[0]
    return Arrived(columns, rows, sum(file.size for file in files), refusals)


@contextmanager
def reading(file: File, scratch: Path) -> Iterator[Path]:
    """Gives a file's decompressed content; a file that changes meanwhile is a TransientError."""
    try:
        yield _decompressed(file, scratch / "decompressed")
        (scratch / "decompressed").unlink(missing_ok=True)
        stat = file.path.stat()
    except (OSError, duckdb.IOException, duckdb.OutOfMemoryException) as error:
        no_memory = isinstance(error, duckdb.OutOfMemoryException)
        raise of_file(str(error), file.path, no_memory=no_memory) from error
    if (stat.st_size, stat.st_ctime_ns) != (file.size, file.changed_ns):
        raise TransientError(f"{file.name} changed while it was read", hint="run the same command again")


def refuse(connection: duckdb.DuckDBPyConnection, name: str, refused: list[Refused], *, hides: bool) -> None:
    """Adds what could not be parsed to ``refused``; its text only where no column is hidden."""
    if not refused:
        return
    if hides:
        refused = [replace(item, payload=f"({len(item.payload):,} characters, not kept)") for item in refused]
    lines, payloads, reasons = zip(*((x.line, x.payload, x.reason) for x in refused), strict=True)
    texts = pa.array(payloads, pa.large_string())
    arrays = [[name] * len(lines), lines, texts, reasons]
    found = pa.table(arrays, names=["_file", "_line", "payload", "reason"])
    with memory.registered(connection, "found", found):
        connection.execute("INSERT INTO refused SELECT * FROM found ORDER BY _line")


def _decompressed(file: File, target: Path) -> Path:
    """The file's content, checked to its end where it is compressed."""
    suffix = file.path.suffix.lower()
    if suffix not in {".gz", ".zst"}:
        return file.path
    if file.size == 0:
        raise _damaged(file, 0, f"the file is empty, not a {suffix} file")
    with file.path.open("rb") as raw, target.open("wb") as plain:
        packed: IO[bytes] | pa.CompressedInputStream  # left open: closing it may close the file
        if suffix == ".gz":
            packed = gzip.GzipFile(fileobj=raw, mode="rb")
        else:
            packed = pa.CompressedInputStream(pa.PythonFile(raw, "r"), "zstd")
        try:
            while block := packed.read(_BLOCK):
                plain.write(block)
        except (EOFError, zlib.error, OSError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            if isinstance(error, EOFError) or "Truncated" in str(error):
                raise _damaged(file, file.size, "the file ends too early") from None
            raise _damaged(file, raw.tell(), "the file is damaged") from None
    return target


def _damaged(file: File, position: int, what: str) -> DataError:
    return DataError(f"{file.name}, at byte {position}: {what}", hint="fetch it again; none of its rows were landed")
