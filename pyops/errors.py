"""The errors pyops raises, and which of them are worth another try.

    PyopsError                    exit 1 (75 if transient): the data or the operation failed
    ├── UsageError                exit 2: the command line or the configuration is wrong
    ├── OperationError            a server, a disk or a lock stands in the way
    │   └── TransientError        the same call may succeed in a moment: retry it
    │       ├── SourceError       the source did not answer, or broke off
    │       └── BusyError         another run does the same just now
    ├── SchemaChangeError         the source's columns are not what the target's policy allows
    └── DataError                 rows that cannot be landed as the configuration asks
        ├── NoFileError           no file is there to be landed
        └── GateError             staged rows that do not pass the gates of their table

An error says what happened, where and why; its ``hint`` says what to do next. Neither ever holds a
row's value, a password or a DSN: messages reach logs, values belong in the dead letters.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pyops.records import GateResult


class PyopsError(Exception):
    """Base of every error that pyops raises on purpose; ``hint`` says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(PyopsError):
    """The command line or the configuration asks for something that cannot be done."""

    exit_code = 2


class OperationError(PyopsError):
    """The operation failed for a reason outside the data: a server, a right, a disk, a lock."""


class TransientError(OperationError):
    """An operation that failed for a reason that may be gone in a moment."""

    exit_code = 75  # EX_TEMPFAIL


class SourceError(TransientError):
    """The source did not answer, or broke off; ``retry_after`` is how many seconds it asks to wait."""

    retry_after: float | None = None


class BusyError(TransientError):
    """Another run does the same work just now: nothing has failed, and nothing was done."""


class SchemaChangeError(PyopsError):
    """The source's columns differ from the target's in a way the table's policy refuses."""


class DataError(PyopsError):
    """Rows that cannot be landed faithfully as the table is configured."""


class NoFileError(DataError):
    """No file matches, of the days asked for or at all."""


class GateError(DataError):
    """A gate has failed: nothing was published. ``results`` has what every gate said."""

    def __init__(self, message: str, *, results: tuple[GateResult, ...], hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.results = results


def worst(errors: Iterable[PyopsError | None]) -> int:
    """The exit code of several items: 2 before 1 before 75, 0 if none has failed."""
    codes = {error.exit_code for error in errors if error}
    return next((code for code in (2, 1, 75) if code in codes), 0)


class Outcome:
    """A result that carries its error."""

    error: PyopsError | None

    def raise_for_error(self) -> None:
        """Raises the error, if there is one."""
        if self.error is not None:
            raise self.error
