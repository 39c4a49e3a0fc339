"""Circuit breakers: a source that failed again and again is left alone for a while, by every process.

The states are pybreaker's; they are kept in a JSON file for each source, changed under a lock. While a breaker is
half-open, one process tries, and the others are refused.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pybreaker

from pyops.errors import SourceError, TransientError


@dataclass(frozen=True)
class BreakerStatus:
    """Where a source's breaker stands; ``until`` is naive UTC, when an open one lets one process try."""

    source: str
    state: str  # closed, open or half-open
    failures: int = 0  # in a row
    until: datetime | None = None


class _Storage(pybreaker.CircuitBreakerStorage):
    """The state of one breaker, in a file."""

    def __init__(self, path: Path) -> None:
        super().__init__(path.stem)
        self._path = path

    def read(self) -> dict[str, Any]:
        try:
            return dict(json.loads(self._path.read_text("utf-8")))
        except (FileNotFoundError, ValueError):  # the latter was cut short by whatever ended that process
            return {}

    def change(self, **values: Any) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            known = self.read()
            known |= {name: known.get(name, 0) + 1 if value is None else value for name, value in values.items()}
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps(known), "utf-8")
            new.replace(self._path)

    @property
    def state(self) -> str:
        return str(self.read().get("state", pybreaker.STATE_CLOSED))

    @state.setter
    def state(self, state: str) -> None:
        self.change(state=state)

    def increment_counter(self) -> None:
        self.change(failures=None)

    def reset_counter(self) -> None:
        if self.counter:
            self.change(failures=0)

    @property
    def counter(self) -> int:
        return int(self.read().get("failures", 0))

    @property
    def success_counter(self) -> int:
        return 1  # one success closes it

    @property
    def opened_at(self) -> datetime | None:
        at = self.read().get("opened_at")
        return datetime.fromisoformat(at) if at else None

    @opened_at.setter
    def opened_at(self, at: datetime) -> None:
        self.change(opened_at=at.isoformat())


@dataclass(frozen=True)
class Breaker:
    """The breaker of one source: open after so many failures in a row, until ``reset`` has passed."""

    folder: Path
    source: str
    failures: int
    reset: timedelta

    @property
    def _file(self) -> Path:
        return self.folder / f"{self.source}.json"

    def status(self) -> BreakerStatus:
        stored = _Storage(self._file)
        opened = stored.opened_at if stored.state != pybreaker.STATE_CLOSED else None
        until = (opened + self.reset).astimezone(UTC).replace(tzinfo=None) if opened else None
        return BreakerStatus(self.source, stored.state, stored.counter, until)

    def close(self) -> None:
        """Closes it, whatever has failed."""
        self._file.unlink(missing_ok=True)

    @contextmanager
    def guarding(self) -> Iterator[None]:
        """Counts a SourceError that is raised inside; while it is open, raises a TransientError at once."""
        stored = _Storage(self._file)
        before = stored.read()
        breaker = pybreaker.CircuitBreaker(
            self.failures,
            self.reset.total_seconds(),
            exclude=[lambda error: not isinstance(error, SourceError)],
            state_storage=stored,
            throw_new_error_on_trip=False,
        )
        with self._turn(breaker):
            try:
                with breaker.calling():
                    yield
            except pybreaker.CircuitBreakerError:
                raise self._open() from None
            except KeyboardInterrupt:  # says nothing of the source, and is a success to pybreaker
                if before:
                    stored.change(**before)
                raise

    @contextmanager
    def _turn(self, breaker: pybreaker.CircuitBreaker) -> Iterator[None]:
        """Lets one process at a time try a breaker that is not closed."""
        if breaker.current_state == pybreaker.STATE_CLOSED:
            yield
            return
        with self._file.with_suffix(".probe").open("w") as probe:
            try:
                fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise self._open() from None
            yield

    def _open(self) -> TransientError:
        status = self.status()
        until = f" until {status.until:%Y-%m-%d %H:%M:%S} (UTC)" if status.until else ""
        return TransientError(
            f"{self.source}: its circuit breaker is open{until}: it has failed {status.failures} times in a row",
            hint=f"wait, or close it at once: pyops breaker reset {self.source}",
        )
