"""What the failures of servers and files mean, and which of them are worth another try. Pure functions.

A failure is *transient*, a TransientError, when the very same call may succeed in a moment; else it is
*final*: somebody has to do something first. None lets a value, a password or a DSN through.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import duckdb

from pyops.errors import OperationError, PyopsError, SourceError, TransientError
from pyops.interrupt import interruptions

# Classes of SQLSTATE (PostgreSQL manual, appendix A) that pass by themselves, and why.
TRANSIENT_CLASSES = {
    "08": "connection exception: the network, or a server that restarts",
    "40": "transaction rollback: a deadlock or a serialization failure; the other one has won",
    "53": "insufficient resources: too many connections, no memory or disk for now",
    "57": "operator intervention: shut down, starting up, a statement cancelled",
}
_TRANSIENT_STATES = {"55006", "55P03"}  # an object in use, a lock that somebody holds
_FINAL_STATES = {"57P04"}  # the database was dropped
# What libpq says of a DSN that it cannot read; any other failure without more words is a connection that broke.
_BAD_DSN = (
    r"connection info string|invalid (URI|connection option|port|integer)|connection option| in URI|percent-encoded"
)
# Errors that come while rows are read have lost their SQLSTATE: these words tell the same.
_TRANSIENT_WORDS = "canceling statement|could not serialize|deadlock|is active for PID"
# Messages of these classes speak of names alone; any other may quote a value.
_NAMES_ONLY = {*TRANSIENT_CLASSES, "55", "42", "3D", "28"}


def of_connection(message: str, dsn: str) -> PyopsError:
    """The error of a connection to PostgreSQL that failed; libpq's message may repeat secrets."""
    said = next((s for s in message.splitlines() if "FATAL:" in s or "connection to" in s), "")
    said = re.sub(r"^.*\[libpq\] Failed to connect: ", "", said)
    for secret in _secrets(dsn):
        said = said.replace(secret, "***")
    is_bad = not said and re.search(_BAD_DSN, message)
    broke = "libpq does not understand its DSN" if is_bad else "the connection broke while it was made"
    what = f"cannot connect to the source: {said or broke}"
    if "password" in said or "authentication" in said or "no pg_hba" in said:
        return OperationError(what, hint="check user and password of `dsn` in pyops.yml")
    if "does not exist" in said:
        return OperationError(what, hint="check database and user of `dsn` in pyops.yml")
    if "could not translate host" in message:  # which may be the end of a password
        return OperationError(
            "cannot connect to the source: the host of its DSN is not known",
            hint="check the host of `dsn` in pyops.yml; in a password, write @ as %40, / as %2F",
        )
    if is_bad:
        return OperationError(what, hint="write `dsn` as postgresql://user:password@host:port/name")
    return SourceError(what, hint="is the server running, and reachable from here?")


def _secrets(dsn: str) -> list[str]:
    keywords = re.findall(r"password\s*=\s*('(?:[^'\\]|\\.)*'|[^\s&]+)", dsn)
    try:
        password = urlsplit(dsn).password or ""
    except ValueError:
        password = ""
    return [s for s in (dsn, password, unquote(password), *keywords) if s]


def of_query(state: str, message: str) -> OperationError:
    """The error of a query that PostgreSQL did not answer, given its SQLSTATE if that is known."""
    said = message.partition("ERROR:")[2].strip().partition("\n")[0]
    if not said:
        return SourceError("the connection to the source broke", hint="run the same command again")
    if state[:2] not in _NAMES_ONLY:
        said = re.sub(r'"[^"]*"|\([^)]*\)', "...", said)
    if state == "42501":
        return OperationError(
            f"the source refuses: {said}",
            hint="GRANT SELECT on it to the source's user; where row level security hides rows from"
            " that user, also ALTER ROLE ... BYPASSRLS",
        )
    passing = not state and re.search(_TRANSIENT_WORDS, said)
    passes = state in _TRANSIENT_STATES or (state[:2] in TRANSIENT_CLASSES and state not in _FINAL_STATES)
    if passes or passing:
        return SourceError(f"the source failed: {said}", hint="run the same command again")
    return OperationError(f"the source failed: {said}", hint="the server's log has the statement and the values")


def of_lock(message: str, path: Path) -> TransientError | None:
    """The error of a DuckDB file that another process has open; None for any other trouble."""
    if "Could not set lock" not in message:
        return None
    held = re.search(r"held in (.+?) \(PID (\d+)\)", message)
    holder = f"process {held[2]} ({held[1]})" if held else "another process"
    return TransientError(
        f"the warehouse {path} is held by {holder}",
        hint="DuckDB takes one process at a time: close that one, or wait for it to end",
    )


def of_file(message: str, path: Path, *, no_memory: bool = False) -> OperationError:
    """The error of a file that cannot be read or written: somebody must make room or way."""
    said = message.splitlines()[0]
    named = re.search(r'file "([^"]+)"', said)
    where = named[1] if named else path
    if full := re.search("No space left on device|File too large|[Qq]uota exceeded", said):
        problem = "the disk is full" if full[0].startswith("No") else "the file cannot grow"
        return OperationError(
            f"{where}: {problem} ({full[0]})", hint="make room, then run the same command again: nothing was published"
        )
    hint = "check the path, its rights, and that it is a DuckDB file"
    if no_memory:
        hint = "make room on the disk, where DuckDB puts what does not fit in memory"
    return OperationError(f"{where}: {said}", hint=hint)


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns DuckDB's input and output errors into pyops's own."""
    try:
        with interruptions():
            yield
    except (duckdb.OperationalError, duckdb.FatalException, OSError) as error:
        if isinstance(error, duckdb.OperationalError) and not _is_about_files(error):
            raise
        no_memory = isinstance(error, duckdb.OutOfMemoryException)
        raise of_file(str(error), path, no_memory=no_memory) from error


def _is_about_files(error: duckdb.OperationalError) -> bool:
    # A commit that cannot write fails as a transaction.
    kinds = (duckdb.IOException, duckdb.OutOfMemoryException)
    return isinstance(error, kinds) or "Failed to commit" in str(error)
