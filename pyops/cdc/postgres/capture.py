"""Change data capture: every committed change of a source's cdc tables, once and in order.

A table is copied in a snapshot first and followed from there: what the snapshot shows is left out
of the stream, so nothing is missed and nothing doubled. The slot at the source is advanced only
after the warehouse has committed what was read from it.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain

from pyops.cdc.changelog import Chunk, Part, Position, append
from pyops.cdc.debezium import land as debezium
from pyops.cdc.postgres.pgoutput import Decoder, lsn_text
from pyops.cdc.postgres.publication import Facts, Member, Publications, default_name
from pyops.cdc.postgres.slot import (
    MESSAGES,
    Server,
    advance_slot,
    await_transactions,
    create_slot,
    drop_slot,
    lock_slot,
    look_at_server,
    look_at_slot,
    peek,
)
from pyops.commands.extract import Listener, Silent
from pyops.config.model import DebeziumSource, DebeziumTable, PostgresSource
from pyops.config.project import Project, Table
from pyops.errors import OperationError, PyopsError, SchemaChangeError, TransientError, UsageError
from pyops.records import Captured, Offset, Run, ended
from pyops.sources.postgres import session as postgres
from pyops.sources.postgres.plan import table_mappings
from pyops.sources.postgres.session import Session
from pyops.sql import identifier
from pyops.staging.file import Stage
from pyops.staging.prefetch import Prefetch
from pyops.warehouse.bookkeeping import State, forget_tables, read_state, store_keys, store_offset
from pyops.warehouse.duckdb import BOOKKEEPING, Warehouse, catalog_of
from pyops.warehouse.recording import History

PATIENCE = timedelta(minutes=10)


@dataclass(frozen=True)
class Capture:
    """What came of one source.

    Attributes:
        source: The source.
        runs: A run for each table that was copied and each chunk of the stream that was landed.
        error: Why it failed, if it did.
    """

    source: str
    runs: tuple[Run, ...] = ()
    error: PyopsError | None = None


def capture(
    project: Project,
    names: Sequence[str] = (),
    *,
    patience: timedelta = PATIENCE,
    listener: Listener | None = None,
) -> list[Capture]:
    """Lands the changes of sources until caught up with where they are now.

    Args:
        project: The project.
        names: Sources; every one that has cdc tables if empty.
        patience: How long to wait for transactions that are open at the source, before a table
            can be copied.
        listener: Told of progress.

    Returns:
        One result for each source, failed ones too.

    Raises:
        UsageError: A source that is not configured, or has no cdc tables.
        OperationError: The warehouse cannot be opened.
    """
    listener = listener or Silent()
    return [
        _Job(project, name, patience, listener).run()
        if isinstance(project.config.sources[name], PostgresSource)
        else _land_events(project, name, listener)
        for name in captured_sources(project, names, kinds=(PostgresSource, DebeziumSource))
    ]


def follow(
    project: Project,
    names: Sequence[str] = (),
    *,
    interval: timedelta,
    listener: Listener | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> list[Capture]:
    """Lands changes again and again, until interrupted or until a failure that will not pass.

    Args:
        project: The project.
        names: Sources; every one that has cdc tables if empty.
        interval: How long to rest between two runs.
        listener: Told of progress, and of failures that may pass.
        sleep: Waits for a number of seconds.

    Returns:
        The results of the run that failed.
    """
    listener = listener or Silent()
    while True:
        done = capture(project, names, listener=listener)
        errors = [item.error for item in done if item.error]
        if any(not isinstance(error, TransientError) for error in errors):
            return done
        sleep(interval.total_seconds())


def snapshot(
    project: Project,
    name: str,
    *,
    patience: timedelta = PATIENCE,
    listener: Listener | None = None,
) -> Capture:
    """Copies one cdc table anew and follows it from there; its log says that it starts over.

    Args:
        project: The project.
        name: The table, as ``source.table`` or ``table``.
        patience: How long to wait for transactions that are open at the source.
        listener: Told of progress.

    Raises:
        UsageError: It is no cdc table.
        OperationError: The warehouse cannot be opened.
    """
    table = project.select([name])[0]
    if table.config.mode != "cdc":
        raise UsageError(
            f"{table} is landed by mode {table.config.mode}", hint=f"run pyops extract {table}"
        )
    if isinstance(table.config, DebeziumTable):
        raise UsageError(
            f"{table} is landed from files of events: there is nothing to copy",
            hint="let the connector take a snapshot: its events land like any other",
        )
    return _Job(project, table.source, patience, listener or Silent(), anew=table).run()


def captured_sources(
    project: Project,
    names: Sequence[str] = (),
    *,
    kinds: tuple[type[PostgresSource | DebeziumSource], ...] = (PostgresSource,),
) -> list[str]:
    """The sources of these names; without names, those with cdc tables or a slot of theirs.

    Args:
        project: The project.
        names: The names.
        kinds: Of which types they may be.

    Raises:
        UsageError: A source that is not configured or is of another type.
    """
    sources = project.config.sources
    for name in names:
        if not isinstance(sources.get(name), kinds):
            known = ", ".join(n for n, s in sources.items() if isinstance(s, kinds))
            words = {PostgresSource: "PostgreSQL", DebeziumSource: "Debezium"}
            what = " or ".join(words[kind] for kind in kinds)
            raise UsageError(
                f"there is no {what} source {name!r} in the configuration",
                hint=f"configured are: {known or 'none'}",
            )
    if names:
        return list(dict.fromkeys(names))
    warehouse = Warehouse.of(project)
    return [
        name
        for name, source in sources.items()
        if isinstance(source, kinds)
        and (cdc_tables(project, name) or _has_slot(read_state(warehouse, name)))
    ]


def _land_events(project: Project, source: str, listener: Listener) -> Capture:
    """Lands the events of Debezium's that files hold, table by table."""
    warehouse = Warehouse.of(project, on_wait=listener.note)
    history = History(warehouse, project.staging_directory)
    history.settle()
    done = [
        debezium.land(project, table, warehouse, history, listener)
        for table in cdc_tables(project, source)
    ]
    runs = tuple(run for run, _ in done if run is not None)
    return Capture(source, runs, next((error for _, error in done if error), None))


def cdc_tables(project: Project, source: str) -> list[Table]:
    """The tables of a source whose changes are landed."""
    return [t for t in project.tables() if t.source == source and t.config.mode == "cdc"]


def slot_name(project: Project, source: str) -> str:
    """The name of a source's replication slot."""
    return project.postgres(source).slot or default_name(source)


def _has_slot(state: State) -> bool:
    return state.offset is not None and state.offset.status != "dropped"


@dataclass
class _Job:
    project: Project
    source: str
    patience: timedelta
    listener: Listener
    anew: Table | None = None

    def __post_init__(self) -> None:
        self.warehouse = Warehouse.of(self.project, on_wait=self.listener.note)
        self.history = History(self.warehouse, self.project.staging_directory)
        self.tables = cdc_tables(self.project, self.source)
        self.slot = slot_name(self.project, self.source)
        self.current = Run.begun(self.source, None, "cdc", "append")
        self.done: list[Run] = []
        self.error: PyopsError | None = None

    def run(self) -> Capture:
        self.history.settle()
        try:
            with self._connected() as self.control:
                lock_slot(self.control, self.slot)
                self._capture()
        except PyopsError as error:
            self._fail(self.current, error)
        except KeyboardInterrupt:
            self.history.cancelled(self.current)
            raise
        except BaseException as error:
            self.history.record(ended(self.current, "failed", type(error).__name__))
            raise
        return Capture(self.source, tuple(self.done), self.error)

    def _connected(self) -> Session:
        return postgres.connect(self.project.dsn(self.source), on_retry=self.listener.note)

    def _fail(self, run: Run, error: PyopsError, table: Table | None = None) -> None:
        run = ended(run, "failed", str(error))
        self.history.record(run)
        self.done.append(run)
        self.error = self.error or error
        if table is None:
            self.listener.failed(self.source, error)
        else:
            self.listener.finished(table, run, error)

    def _capture(self) -> None:
        server = look_at_server(self.control)
        _check(server, self.source)
        self.publications = Publications.of(
            self.project, self.source, self.control, version=server.version
        )
        self.facts = self._look_at_tables()
        state = read_state(self.warehouse, self.source)
        if state.offset is not None and state.offset.status == "active":
            self.offset, self.captured = state.offset, dict(state.tables)
            self._check_slot(server)
        else:
            self.offset, self.captured = self._start(state.offset, server), {}
        self._check_publications(but=self.anew)
        keys = {table.name: self._key(table) for table in self.facts}
        if not keys.items() <= state.keys.items():
            store_keys(self.warehouse, self.source, keys)
        self._leave()
        self._miss_logs()
        self._copy(self._join())
        self._stream()

    def _look_at_tables(self) -> dict[Table, Facts]:
        facts = {}
        for table in self.tables:
            try:
                facts[table] = self.publications.facts(table)
            except PyopsError as error:  # the others can be captured all the same
                self._fail(self._run_of(table), error, table)
        return facts

    def _run_of(self, table: Table) -> Run:
        return Run.begun(self.source, table.name, "snapshot", "append")

    # The slot

    def _start(self, before: Offset | None, server: Server) -> Offset:
        """Makes publications and slot, after noting that they are about to be made."""
        is_unfinished = before is not None and before.status == "starting"
        slot = look_at_slot(self.control, self.slot)
        is_named = self.project.postgres(self.source).slot is not None
        if slot and not (is_named or is_unfinished):
            raise OperationError(
                f"{self.source}: slot {self.slot} is there, and this warehouse knows nothing of it:"
                " another project may be reading it",
                hint=f"if nobody does: pyops slot drop {self.source}; else give this source"
                " another `slot` and `publication`",
            )
        generation = (before.generation if before else 0) + (not is_unfinished)
        offset = Offset(
            self.source, generation, "starting", self.slot, server.system_id, server.timeline
        )
        publications = self.publications
        if publications.are_ours:
            publications.check_rights(self.facts)
        self._store(offset)
        if publications.are_ours:
            publications.create()
        names = publications.look()
        if slot and slot.confirmed is not None and is_named:
            self._refuse_slot(slot.plugin, is_here=slot.is_here)
            position = slot.confirmed
        else:
            if slot:  # whatever made it was stopped: nothing was landed from it
                drop_slot(self.control, self.slot)
            position = create_slot(self.control, self.slot, patience=self.patience.total_seconds())
        offset = replace(offset, status="active", publications=names, lsn=position)
        self._store(offset)
        self.listener.note(f"{self.source}: slot {self.slot} made at {lsn_text(position)}")
        return offset

    def _refuse_slot(self, plugin: str | None, *, is_here: bool) -> None:
        if plugin != "pgoutput" or not is_here:
            raise OperationError(
                f"{self.source}: slot {self.slot} is no pgoutput slot of this database",
                hint="give the source another `slot` in pyops.yml; pyops makes it",
            )

    def _check_slot(self, server: Server) -> None:
        """Makes sure that the slot goes on where the warehouse stopped.

        Raises:
            OperationError: It is gone, lost, another one, or of another cluster.
        """
        offset = self.offset
        again = (
            f"what was landed stays; pyops slot drop {self.source}, then pyops cdc {self.source},"
            " copies all tables anew"
        )

        def stop(problem: str, hint: str = again) -> OperationError:
            return OperationError(f"{self.source}: {problem}", hint=hint)

        if offset.slot != self.slot:
            raise stop(f"its slot was {offset.slot}, the configuration says {self.slot}")
        if offset.system_id != server.system_id:
            raise stop("the source is another cluster than the one that was landed so far")
        slot = look_at_slot(self.control, self.slot)
        if slot is None:
            raise stop(f"slot {self.slot} is not there: changes since were not kept")
        self._refuse_slot(slot.plugin, is_here=slot.is_here)
        if slot.wal_status == "lost" or slot.invalidation or slot.restart is None:
            why = slot.invalidation or "the source's log was needed for something else"
            raise stop(f"slot {self.slot} was lost ({why}): changes since were not kept")
        if slot.active_pid is not None:
            raise TransientError(
                f"{self.source}: slot {self.slot} is in use by the source's process"
                f" {slot.active_pid}",
                hint="wait until it has ended; a slot serves one reader",
            )
        if slot.confirmed is None or slot.confirmed > offset.lsn:
            raise stop(
                f"slot {self.slot} is ahead of what was landed"
                f" ({lsn_text(slot.confirmed or 0)} > {lsn_text(offset.lsn)}): it was made anew, or"
                " something else has read it, and changes between are missing"
            )
        if server.timeline != offset.timeline and slot.confirmed < offset.lsn:
            raise stop(
                f"it failed over, or was restored: its timeline is {server.timeline}, and was"
                f" {offset.timeline}; what was landed behind {lsn_text(slot.confirmed)} may have"
                " been lost there, and be other changes now"
            )
        if server.flushed < offset.lsn:
            raise stop(
                f"the source's log ends before what was landed ({lsn_text(server.flushed)} <"
                f" {lsn_text(offset.lsn)}): it was restored, or failed over to a standby that"
                " lacked something"
            )
        self.offset = replace(offset, timeline=server.timeline)

    # The tables

    def _check_publications(self, *, but: Table | None = None) -> dict[int, Member]:
        """Makes sure that the stream has every change of the tables that are captured.

        Raises:
            OperationError: It has not.
        """
        if self.publications.look() != dict(self.offset.publications):
            raise OperationError(
                f"{self.source}: a publication was altered, or was dropped and made again: changes"
                " between may be missing",
                hint=f"pyops slot drop {self.source}, then pyops cdc {self.source}, copies all"
                " tables anew",
            )
        members = self.publications.members()
        for table, facts in self.facts.items():
            known = self.captured.get(table.name)
            if known is None or table == but or known.relation_oid != facts.oid:
                continue
            if problem := self.publications.problem(known, members):
                raise OperationError(
                    f"{table} {problem}: changes of it are missing",
                    hint=f"pyops snapshot {table} publishes and copies it anew",
                )
        return members

    def _leave(self) -> None:
        """Lets go of tables that are configured no more."""
        names = {table.name for table in self.tables}
        if gone := [name for name in self.captured if name not in names]:
            self._forget(gone)
        if self.publications.are_ours:
            wanted = {facts.oid for facts in self.facts.values()}
            broken = {known.relation_oid for known in self.captured.values()}
            members = self.publications.members()
            self.publications.leave([oid for oid in members if oid not in wanted | broken])

    def _miss_logs(self) -> None:
        """Lets go of tables whose log is not there, so that they are copied into a new one."""
        with self.warehouse.opened(read_only=True) as connection:
            query = "SELECT schema_name, table_name FROM duckdb_tables()"
            there = {".".join(names).lower() for names in connection.execute(query).fetchall()}
        for table in self.tables:
            log = ".".join(table.target)
            if table.name in self.captured and log.lower() not in there:
                self.listener.note(f"{table}: {log} is not there: the table is copied anew")
                self._forget([table.name])

    def _forget(self, names: list[str]) -> None:
        with self.warehouse.opened() as connection:
            forget_tables(connection, catalog_of(connection), self.source, names)
        for name in names:
            self.captured.pop(name, None)

    def _join(self) -> list[tuple[Table, bool]]:
        """Publishes the tables that are to be copied; returns each, and whether it was recreated.

        A table is forgotten before its publication is changed: whatever stops this, the next run
        takes it up.
        """
        members = self.publications.members()
        to_copy = []
        for table, facts in self.facts.items():
            known = self.captured.get(table.name)
            member = members.get(facts.oid)
            try:
                recreated = known is not None and known.relation_oid != facts.oid
                if recreated and table.config.on_schema_change == "fail" and table != self.anew:
                    raise SchemaChangeError(
                        f"{table} was dropped and made again at the source",
                        hint=f"pyops snapshot {table} copies it anew",
                    )
                wanted = set(self.publications.columns(table, facts))
                is_right = member is not None and (
                    set(member.columns) == wanted
                    and (member.publication == self.publications.names[0]) == facts.has_identity
                    if self.publications.are_ours
                    else set(member.columns) <= wanted
                )
                if known and is_right and not recreated and table != self.anew:
                    continue
                if not is_right and not self.publications.are_ours:
                    raise self._not_published(table, member, wanted)
                if known:
                    self._forget([table.name])
                if not is_right:
                    self.publications.check_rights({table: facts})
                    self.publications.join(table, facts)
                to_copy.append((table, recreated))
                if not facts.has_identity:
                    self.listener.note(
                        f"{table} has no key: PostgreSQL gives only its inserts and truncations"
                    )
            except PyopsError as error:
                self._fail(self._run_of(table), error, table)
        return to_copy

    def _not_published(
        self, table: Table, member: Member | None, wanted: set[str]
    ) -> OperationError:
        publication = identifier(self.publications.names[0])
        if member is None:
            return OperationError(
                f"{table} is in none of the publications {', '.join(self.publications.names)}",
                hint=f"ALTER PUBLICATION {publication} ADD TABLE {self.facts[table].qualified};",
            )
        return OperationError(
            f"{table}: publication {member.publication} sends columns that are to be left out:"
            f" {', '.join(sorted(set(member.columns) - wanted))}",
            hint="give the table a column list in that publication",
        )

    def _copy(self, tables: Sequence[tuple[Table, bool]]) -> None:
        """Copies tables in one snapshot, each of them in a transaction of its own."""
        if not tables:
            return
        await_transactions(
            self.control, patience=self.patience.total_seconds(), on_wait=self.listener.note
        )
        members = self.publications.members()
        with self._connected() as session, session.snapshot():
            seen, handoff, now = session.query(
                "SELECT pg_current_snapshot()::text,"
                " (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::bigint,"
                " transaction_timestamp() AT TIME ZONE 'UTC'"
            )[0]
            for table, recreated in tables:
                self.current = self._run_of(table)
                facts = self.facts[table]
                if (member := members.get(facts.oid)) is None:
                    gone = OperationError(
                        f"{table} left its publication, or was dropped, before it could be copied",
                        hint="look whether it is there; the next run copies it",
                    )
                    self._fail(self.current, gone, table)
                    continue
                captured = Captured(
                    table.name,
                    self.offset.generation,
                    facts.oid,
                    member.oid,
                    member.columns,
                    seen,
                    # Between what was landed and what is next: no commit record begins there.
                    self.offset.lsn - 1,
                    handoff,
                )
                part = Part(table, {}, "", "", (), captured, now, recreated)
                try:
                    with session.savepoint():
                        self._copy_table(session, part, facts, member)
                except PyopsError as error:
                    self._fail(self.current, error, table)

    def _copy_table(self, session: Session, part: Part, facts: Facts, member: Member) -> None:
        table, captured = part.table, part.captured
        assert captured is not None
        relation = session.describe(facts.schema, facts.name)
        mappings = {
            name: item
            for name, item in table_mappings(table, relation).items()
            if name in member.columns
        }
        if table.config.mask:
            session.bind(mask_salt=self.project.postgres(self.source).mask_salt)
        columns = ", ".join(
            f"{item.select} AS {identifier(name)}" for name, item in mappings.items()
        )
        where = f" WHERE {member.filter}" if member.filter else ""
        run = self.current

        def progress(rows: int, size: int) -> None:
            self.current = replace(run, rows_read=rows, bytes_read=size)
            self.listener.reading(table, rows, relation.estimated_rows)

        with Stage.create(self.history.staging, run) as stage:
            schema, batches = session.read(f"SELECT {columns} FROM {facts.qualified}{where}")
            staged = stage.fill(
                schema,
                batches,
                mappings,
                key=self._key(table),
                cancel=session.cancel,
                progress=progress,
            )
            run = replace(
                run,
                rows_read=staged.rows_read,
                bytes_read=staged.bytes_read,
                upper_bound=lsn_text(captured.snapshot_lsn),
            )
            part = replace(
                part,
                columns=stage.columns,
                rows="SELECT * EXCLUDE (_fault), 'r' AS _op,"
                f" {captured.generation}::INTEGER AS _generation,"
                f" {captured.snapshot_lsn}::BIGINT AS _lsn, row_number() OVER () AS _seq,"
                f" NULL::BIGINT AS _xid, TIMESTAMP '{part.copied_at}' AS _committed_at,"
                " []::VARCHAR[] AS _unchanged FROM rows",
                letters="FROM dead_letters",
                key=self._key(table),
            )
            done = append(self.warehouse, stage, [part], position=_moved_to(self.offset), run=run)
        self.captured[table.name] = captured
        self.done.append(done)
        self.listener.finished(table, done, None)

    def _key(self, table: Table) -> tuple[str, ...]:
        """The columns that identify a row of a table: configured, or its primary key."""
        facts = self.facts.get(table)
        return table.config.primary_key or (facts.primary_key if facts else ())

    # The stream

    def _stream(self) -> None:
        """Lands chunks until everything is landed that was committed when this began."""
        target = look_at_server(self.control)
        self.current = Run.begun(self.source, None, "cdc", "append")
        while not self._land_chunk(target):
            self.current = Run.begun(self.source, None, "cdc", "append")

    def _land_chunk(self, target: Server) -> bool:
        """Lands what is next in the stream; returns whether that was all up to the target."""
        self._check_publications()
        by_name = {table.name: table for table in self.tables}
        tables = {
            known.relation_oid: (by_name[name], known)
            for name, known in self.captured.items()
            if name in by_name
        }
        with self._connected() as session:
            batches = peek(session, self.slot, self.publications.names, upto=target.flushed)
            first = next(batches, None)
            if first is None:
                self._rest(target)
                return True
            batches = chain([first], batches)
            run = replace(self.current, lower_bound=lsn_text(self.offset.lsn))
            with Stage.create(self.history.staging, run) as stage:
                chunk = Chunk(
                    stage,
                    tables,
                    {name: self._key(table) for name, table in by_name.items()},
                    self.offset,
                    self.control,
                    self.project.postgres(self.source).mask_salt,
                )
                decoder = Decoder(chunk.key)
                decoded = Prefetch(decoder.decode(batch.column(0)) for batch in batches)
                try:
                    for part in decoded:
                        for changes in part:
                            chunk.add(changes)
                finally:
                    decoded.stop(session.cancel)
                decoder.finish()
                self._check_publications()
                is_all = decoder.messages < MESSAGES
                position = max(decoder.position or 0, self.offset.lsn)
                offset = replace(
                    self.offset,
                    lsn=max(position, target.flushed) if is_all else position,
                    committed_at=decoder.committed_at or self.offset.committed_at,
                    caught_up_at=target.now if is_all else self.offset.caught_up_at,
                )
                run = replace(run, rows_read=chunk.events, upper_bound=lsn_text(offset.lsn))
                done = append(
                    self.warehouse, stage, chunk.parts(), position=_moved_to(offset), run=run
                )
        self.offset = offset
        advance_slot(self.control, self.slot, offset.lsn)
        self.done.append(done)
        self.listener.note(
            f"{self.source}: {done.rows_written:,} changes landed up to {done.upper_bound}"
            f"  {done.seconds:.1f} s"
        )
        return is_all

    def _rest(self, target: Server) -> None:
        """Moves slot and offset past a log that has nothing to land, so that it can go."""
        if target.flushed > self.offset.lsn:
            self.offset = replace(self.offset, lsn=target.flushed, caught_up_at=target.now)
            run = ended(self.current, "succeeded", None)
            self._store(self.offset)
            self.history.record(run)
            self.done.append(run)
        advance_slot(self.control, self.slot, self.offset.lsn)

    def _store(self, offset: Offset) -> None:
        with self.warehouse.opened() as connection:
            catalog = catalog_of(connection)
            connection.execute(BOOKKEEPING.format(catalog=catalog))
            connection.execute("BEGIN")
            store_offset(connection, catalog, offset)
            connection.execute("COMMIT")


def _moved_to(offset: Offset) -> Position:
    return lambda connection, _: store_offset(connection, "warehouse", offset)


def _check(server: Server, source: str) -> None:
    """Makes sure that the server can give changes at all.

    Raises:
        OperationError: It cannot; the hint is what to change there.
    """
    if server.version < 150000:
        raise OperationError(
            f"{source}: PostgreSQL 15 or later is needed for cdc", hint="land it by batch"
        )
    if server.is_standby:
        raise OperationError(
            f"{source}: the server is a standby", hint="let `dsn` name the primary"
        )
    if server.wal_level != "logical":
        raise OperationError(
            f"{source}: wal_level is {server.wal_level}, and only logical keeps changes readable",
            hint="ALTER SYSTEM SET wal_level = logical; then restart the server",
        )
    if not server.may_replicate:
        raise OperationError(
            f"{source}: the source's user may not replicate",
            hint="ALTER ROLE <user> REPLICATION; (on Amazon RDS: GRANT rds_replication TO <user>;)",
        )
