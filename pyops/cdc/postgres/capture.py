"""Change data capture from PostgreSQL: every committed change of a source's cdc tables, in order.

A table is copied in a snapshot first and followed from there: what the snapshot shows is left out
of the stream, so nothing is missed and nothing doubled. The slot at the source is advanced only
after the warehouse has committed what was read from it.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta

from pyops.cdc.postgres.handshake import Opened, check_server, start
from pyops.cdc.postgres.publication import Publications, default_name
from pyops.cdc.postgres.slot import lock_slot, look_at_server
from pyops.cdc.postgres.snapshot import copies
from pyops.cdc.postgres.stream import IDLE_SECONDS, Stream
from pyops.config.project import Project, Table
from pyops.errors import BusyError
from pyops.records import Offset
from pyops.sources.postgres.session import Session, connect
from pyops.sources.protocol import ChangeSource, Chunk, Look

PATIENCE = timedelta(minutes=10)
# How long to wait for another run of the slot: one that follows an idle source moves on every two minutes.
TURN = timedelta(seconds=IDLE_SECONDS + 30)
_log = logging.getLogger(__name__)


def slot_name(project: Project, source: str, session: Session, offset: Offset | None) -> str:
    """The slot of a source: configured, in use, or one of its database's own."""
    if offset is not None and offset.status != "dropped" and not project.postgres(source).slot:
        return offset.slot
    [(database,)] = session.query("SELECT current_database()::text")
    return project.postgres(source).slot or default_name(f"{database}_{source}")


class Changes(ChangeSource):
    """The cdc tables of one source; ``again`` is a table to re-snapshot."""

    def __init__(
        self,
        project: Project,
        source: str,
        *,
        again: Table | None = None,
        patience: timedelta = PATIENCE,
        progress: Callable[[Table, int, int], None] = lambda table, rows, estimated: None,
    ) -> None:
        self._project = project
        self._source = source
        self._again = again
        self._patience = patience.total_seconds()
        self._stream: Stream | None = None
        self._progress = progress
        self._connections = ExitStack()

    def start(self, look: Look) -> Iterator[Chunk]:
        """Connects, checks slot and publications, and copies the tables that are new."""
        project, source = self._project, self._source
        control, reader = (self._connections.enter_context(connect(project.dsn(source), name=source)) for _ in range(2))
        slot = slot_name(project, source, control, look()[0].offset)
        server = look_at_server(control)
        check_server(server, source)
        if not self._locked(control, slot, look, server.flushed):
            return
        capture, states = look()
        server = look_at_server(control)
        publications = Publications.of(project, source, control, version=server.version)
        opened = Opened(
            *(project, source, project.cdc_tables(source), slot, self._patience, self._again),
            control=control,
            reader=reader,
            publications=publications,
            stored=capture.offset,
            log_keys=capture.keys,
        )
        yield from start(opened, server, capture, states)
        self._stream = Stream(opened)
        if opened.captured and any(map(opened.why_to_copy, opened.facts)):
            yield from self._stream.changes(idles=True)  # what waits in the slot comes before a copy
        yield from copies(opened, self._progress)

    def _locked(self, control: Session, slot: str, look: Look, target: int) -> bool:
        """Whether the slot is ours now; if not, another run has landed all there was to land when we came."""
        deadline = time.monotonic() + TURN.total_seconds()
        while True:
            try:
                lock_slot(control, slot)
                return True
            except BusyError:
                offset = look()[0].offset
                if self._again is None and offset is not None and offset.lsn >= target:
                    _log.info("%s: another run has landed its changes", self._source)
                    return False
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)

    def changes(self, *, idles: bool = False) -> Iterator[Chunk]:
        if self._stream is not None:
            yield from self._stream.changes(idles=idles)

    def close(self) -> None:
        self._connections.close()
