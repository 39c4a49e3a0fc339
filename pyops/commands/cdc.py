"""``pyops cdc``: lands the changes of sources, once or again and again."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain

from pyops.commands.breaker import breaker_of
from pyops.commands.invocation import Invocation, open_warehouse
from pyops.config.project import Project, Table
from pyops.errors import Outcome, PyopsError, SourceError, TransientError, UsageError
from pyops.progress import Listener
from pyops.records import Run
from pyops.retry import retrying
from pyops.sources.protocol import ChangeSource, Chunk, open_changes
from pyops.warehouse.protocol import CaptureState, TableState
from pyops.warehouse.recording import Recording

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Capture(Outcome):
    """What came of one source: a run for each table copied and each chunk landed; and its error."""

    source: str
    runs: tuple[Run, ...] = ()
    error: PyopsError | None = None


def capture(
    project: Project, names: Sequence[str] = (), *, patience: timedelta | None = None, listener: Listener | None = None
) -> list[Capture]:
    """Lands the changes of sources (those that have cdc tables, or those named) until caught up.

    ``patience`` is how long a copy waits for transactions that are open at the source. There is one result for each
    source, failed ones too. An unknown name is a UsageError; a warehouse that cannot be opened an OperationError.
    """
    options = {"patience": patience} if patience is not None else {}
    sources = captured_sources(project, names)
    invocation = Invocation(project, listener)
    invocation.settle()
    return [land_source(invocation, source, **options) for source in sources]


def follow(
    project: Project,
    names: Sequence[str] = (),
    *,
    interval: timedelta,
    listener: Listener | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Capture]:
    """Lands changes again and again, until interrupted or until a failure that will not pass.

    Sessions and state are kept between two looks, ``interval`` apart; a failure that may pass opens
    them again. Returns the results of the look that failed.
    """
    sources = captured_sources(project, names)
    invocation = Invocation(project, listener)
    invocation.settle()
    opened: dict[str, ChangeSource] = {}
    try:
        while True:
            done = [_look(invocation, source, opened) for source in sources]
            errors = [item.error for item in done if item.error]
            if any(not isinstance(error, TransientError) for error in errors):
                return done
            sleep(interval.total_seconds())
    finally:
        for changes in opened.values():
            changes.close()


def _look(invocation: Invocation, source: str, opened: dict[str, ChangeSource]) -> Capture:
    """Lands what a followed source has now; one that failed is closed, to be opened again."""
    started: Iterator[Chunk] = iter(())
    if source not in opened:
        opened[source] = _opened(invocation, source)
        started = _started(invocation, source, opened[source])
    done = _landed(invocation, source, chain(started, opened[source].changes(idles=True)))
    if done.error:
        opened.pop(source).close()
    return done


def land_source(invocation: Invocation, source: str, **options: object) -> Capture:
    """Lands one source until caught up; ``options`` are those of its kind of source."""
    runs: list[Run] = []

    def attempt() -> Capture:
        with _opened(invocation, source, **options) as changes:
            chunks = chain(_started(invocation, source, changes), changes.changes())
            done = _landed(invocation, source, chunks)
        runs.extend(done.runs)
        if isinstance(done.error, SourceError):
            raise done.error
        return done

    try:
        with breaker_of(invocation.project, source).guarding():
            done = retrying(invocation.project.config.sources[source].retry.policy, source)(attempt)
            return replace(done, runs=tuple(runs))
    except SourceError as error:  # told and recorded, each time
        return Capture(source, tuple(runs), error)
    except TransientError as error:  # its breaker is open
        return _landed(invocation, source, iter([Chunk(error=error)]))


def _opened(invocation: Invocation, source: str, **options: object) -> ChangeSource:
    progress = invocation.listener.reading
    return open_changes(invocation.project, source, progress=progress, **options)


def _started(invocation: Invocation, source: str, changes: ChangeSource) -> Iterator[Chunk]:
    """The chunks of a start, given what the warehouse knows."""

    def look() -> tuple[CaptureState, Mapping[Table, TableState]]:
        warehouse = invocation.warehouse
        return warehouse.capture_state(source), warehouse.states(invocation.project.cdc_tables(source))

    yield from changes.start(look)


def _landed(invocation: Invocation, source: str, chunks: Iterator[Chunk]) -> Capture:
    """Commits chunk after chunk; a failure of one table leaves the others alone."""
    runs: list[Run] = []
    first: PyopsError | None = None
    while True:
        chunk: Chunk | None = None
        recording: Recording | None = None
        try:
            with invocation.recording(Run.begun(source, None, "cdc", "append")) as recording:
                chunk = next(chunks, None)
                _commit(invocation, recording, chunk)
        except PyopsError as error:
            assert recording is not None
            first = first or error
            runs.append(recording.run)
            if chunk is None or chunk.table is None:
                invocation.listener.failed(source, error)
                return Capture(source, tuple(runs), first)
            invocation.listener.finished(chunk.table, recording.run, error)
            continue
        if chunk is None:
            return Capture(source, tuple(runs), first)
        if chunk.is_run:
            runs.append(recording.run)
            if chunk.table:
                invocation.listener.finished(chunk.table, recording.run, None)


def _commit(invocation: Invocation, recording: Recording, chunk: Chunk | None) -> None:
    if chunk is None:
        recording.is_recorded = True  # nothing was left to do
        return
    recording.note(mode=chunk.mode, table_name=chunk.table and chunk.table.name)
    if chunk.error:
        raise chunk.error
    if not chunk.is_run:
        invocation.warehouse.commit(None, chunk.commit)
        recording.is_recorded = True
    elif chunk.stage is None:
        chunk.landed = recording.commit(None, chunk.commit)
    else:
        with invocation.stage(recording) as stage:
            chunk.landed = recording.commit(stage, chunk.stage(stage, recording))


def captured_sources(project: Project, names: Sequence[str] = (), *, with_slot: bool = False) -> list[str]:
    """The sources of these names (or a UsageError); or all with cdc tables or a slot of theirs."""
    sources = {
        name: settings
        for name, settings in project.config.sources.items()
        if (settings.has_slot if with_slot else settings.has_changes)
    }
    for name in names:
        if name not in sources:
            what = "replication slot" if with_slot else "changes"
            raise UsageError(
                f"there is no source of {what} {name!r} in the configuration",
                hint=f"configured are: {', '.join(sources) or 'none'}",
            )
    if names:
        return list(dict.fromkeys(names))
    warehouse = open_warehouse(project)

    def is_captured(name: str) -> bool:
        offset = warehouse.capture_state(name).offset
        return offset is not None and offset.status != "dropped"

    return [name for name in sources if project.cdc_tables(name) or is_captured(name)]
