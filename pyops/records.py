"""What is recorded of a run."""

import json
import os
import secrets
import socket
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Self


def utc_now() -> datetime:
    """The clock of this machine as the warehouse keeps times: UTC, without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


@dataclass(frozen=True)
class Run:
    """The extraction of one table: a row of ``pyops.runs``, with the columns' names and units.

    ``status`` is succeeded, failed, rejected (by a gate), staged, cancelled, killed or planned;
    times are naive UTC; bytes are those of the Arrow batches or the files; the bounds are the
    cursor's text at the source.
    """

    run_id: str
    source: str | None
    table_name: str | None
    mode: str | None
    write_pattern: str | None
    status: str
    started_at: datetime | None
    finished_at: datetime | None = None
    seconds: float = 0.0
    locked_seconds: float = 0.0
    rows_read: int = 0
    rows_written: int = 0
    rows_deleted: int = 0
    rows_unchanged: int = 0
    rows_dead_lettered: int = 0
    null_cursors: int = 0
    bytes_read: int = 0
    lower_bound: str | None = None
    upper_bound: str | None = None
    load_id: int | None = None
    error: str | None = None
    host: str | None = None
    pid: int | None = None

    @classmethod
    def begun(cls, source: str, table: str | None, mode: str, write: str) -> Self:
        """A run that begins now, in this process."""
        now = utc_now()
        return cls(
            run_id=f"{now:%Y%m%dT%H%M%S.%f}-{secrets.token_hex(3)}",
            source=source,
            table_name=table,
            mode=mode,
            write_pattern=write,
            status="running",
            started_at=now,
            host=socket.gethostname(),
            pid=os.getpid(),
        )

    def to_json(self) -> str:
        """The run as a JSON object."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The run that ``to_json`` wrote.

        Raises:
            ValueError: It is no such object.
        """
        values = json.loads(text)
        for name in ("started_at", "finished_at"):
            if values[name] is not None:
                values[name] = datetime.fromisoformat(values[name])
        return cls(**values)


def ended(run: Run, status: str, error: str | None) -> Run:
    """The run as it ended now."""
    now = utc_now()
    seconds = (now - (run.started_at or now)).total_seconds()
    return replace(run, status=status, finished_at=now, seconds=seconds, error=error)
