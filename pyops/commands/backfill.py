"""``pyops backfill``: lands the days of a range again, each by itself; what was stopped goes on where it was."""

import fcntl
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from pathlib import Path
from typing import IO
from urllib.parse import quote

from pyops import dbt
from pyops.commands.extract import extract
from pyops.commands.invocation import open_warehouse
from pyops.config.days import Days
from pyops.config.project import Project, Table
from pyops.errors import BusyError, NoFileError, Outcome, PyopsError, UsageError
from pyops.failures import explained
from pyops.progress import Listener

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FailedDay(Outcome):
    """A day that could not be landed, and why."""

    day: date
    error: PyopsError


@dataclass(frozen=True)
class Backfill:
    """What came of a range of days; ``dbt`` counts nodes by status, None if dbt was not run.

    ``done_before`` counts the days that an earlier call has landed, ``not_tried`` those after the one that stopped it.
    """

    table: Table
    days: Days
    landed: tuple[date, ...] = ()
    without_file: tuple[date, ...] = ()
    failed: tuple[FailedDay, ...] = ()
    done_before: int = 0
    not_tried: int = 0
    dbt: dict[str, int] | None = None
    dbt_succeeded: bool = True

    def raise_for_error(self) -> None:
        """Raises the first day's error, if a day has failed."""
        for item in self.failed:
            item.raise_for_error()


def backfill(
    project: Project,
    name: str,
    days: Days,
    *,
    force: bool = False,
    stop_on_error: bool = False,
    build: bool = False,
    listener: Listener | None = None,
) -> Backfill:
    """Lands each day of a range by itself, the oldest first; a day that fails does not stop the others.

    The days landed are noted in ``.pyops/backfills`` until the whole range is: the same call goes on after a kill or a
    failed day; ``force`` begins again. No watermark moves. ``build`` then runs dbt for what reads the table, once all
    days are landed. A table that has no days to choose from is a UsageError.
    """
    [table] = project.select([name])
    if build:
        dbt.require_project(project.directory)
    if table.config.mode == "full":
        raise UsageError(
            f"{table}: mode full has no days to choose from", hint=f"pyops extract {table} lands all of it"
        )
    with _journal(project, table, days, force=force) as journal:
        done = set(journal.read().split("\n")) & set(map(str, days))
        left = [day for day in days if str(day) not in done]
        if done:
            _log.info("%s: %d days were landed before: %d are left", table, len(done), len(left))
        landed, absent, failed = _land(project, table, left, journal, stop_on_error=stop_on_error, listener=listener)
        if absent and not (landed or done or failed):
            failed, absent = absent, ()  # of the whole range: is the path right?
        not_tried = len(left) - sum(map(len, (landed, absent, failed)))
        without_file = tuple(item.day for item in absent)
        came = Backfill(table, days, landed, without_file, failed, len(done), not_tried)
        if failed:
            return came
        if build:
            if listener:
                listener.pause()
            environment = open_warehouse(project).dbt_environment()
            counts, succeeded = dbt.build(project.directory, environment, f"source:{table}+")
            came = replace(came, dbt=counts, dbt_succeeded=succeeded)
        if came.dbt_succeeded:
            journal.truncate(0)
        return came


_Found = tuple[tuple[date, ...], tuple[FailedDay, ...], tuple[FailedDay, ...]]


def _land(
    project: Project,
    table: Table,
    days: list[date],
    journal: IO[str],
    *,
    stop_on_error: bool,
    listener: Listener | None,
) -> _Found:
    """Lands days one by one: those landed, those that have no file, those that failed."""
    began = time.monotonic()
    landed, absent, failed = list[date](), list[FailedDay](), list[FailedDay]()
    for number, day in enumerate(days, 1):
        stops = stop_on_error
        try:
            [item] = extract(project, [str(table)], days=Days(day, day), listener=listener)
            error = item.error
        except PyopsError as problem:  # of the warehouse: no other day would fare better
            error, stops = problem, True
        if isinstance(error, UsageError):
            raise error
        if error is None:
            with explained(Path(journal.name)):
                journal.write(f"\n{day}")  # first the break: a line that a kill has cut short stays apart
                journal.flush()
            landed.append(day)
        else:
            (absent if isinstance(error, NoFileError) else failed).append(FailedDay(day, error))
        word = "landed" if error is None else "has no file" if isinstance(error, NoFileError) else "failed"
        seconds = (time.monotonic() - began) / number * (len(days) - number)
        rest = timedelta(seconds=round(seconds))
        _log.info("%s: %s %s (%d of %d, about %s left)", table, day, word, number, len(days), rest)
        if failed and stops:
            break
    return tuple(landed), tuple(absent), tuple(failed)


@contextmanager
def _journal(project: Project, table: Table, days: Days, *, force: bool) -> Iterator[IO[str]]:
    """The file that lists the days landed so far, deleted where none is; one process has it at a time."""
    name = quote(f"{table} {days.first} {days.last}", safe=" ")
    path = project.state_directory / "backfills" / name
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="ascii", errors="replace")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BusyError(
                f"{table}: another process backfills {days.first} to {days.last}", hint="wait for that one to end"
            ) from None
        if force:
            file.truncate(0)
        file.seek(0)
        try:
            yield file
        finally:
            if not os.fstat(file.fileno()).st_size:
                path.unlink()
