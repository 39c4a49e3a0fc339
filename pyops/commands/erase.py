"""``pyops erase``: removes all that is kept of one key, wherever pyops and dbt have put it.

In dbt it is found by a tag of its column: ``meta: {pyops_key_of: source.table.column}``. Nothing of
the key is printed, logged or recorded.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import duckdb

from pyops.commands.invocation import Invocation
from pyops.config.project import Project, Table
from pyops.dbt import Manifest, Node
from pyops.errors import OperationError, TransientError, UsageError
from pyops.interrupt import interruptible
from pyops.records import Relation, Run, TableId
from pyops.sql import identifier, json_pointer, literal
from pyops.staging import memory
from pyops.staging.file import busy, discard, kept
from pyops.warehouse.fold import MOVES, number_events
from pyops.warehouse.protocol import Attached, Commit, Where, Write


@dataclass(frozen=True)
class Erasure:
    """What was kept of a key, and is gone; with ``dry_run``, would go."""

    table: str
    rows: Mapping[str, int] = field(default_factory=dict)  # by the warehouse's table
    dead_letters: int = 0
    staging_files: int = 0
    unreadable_letters: int = 0  # dead letters whose key cannot be read: they stay
    rebuild: str = ""  # the dbt command that builds again what may still hold something
    by_hand: tuple[str, ...] = ()  # dbt tables that it cannot: tag their columns, or delete by hand
    run: Run | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing of the key was there."""
        return not (self.rows or self.dead_letters or self.staging_files)


def erase(project: Project, name: str, key: Sequence[str], *, dry_run: bool = False) -> Erasure:
    """Removes every row of one key, in one transaction, and says what dbt has to build again.

    ``key`` has the texts of its values, in clear. A table without a key, or values that do not fit it, are a
    UsageError; a run under way a TransientError; what is not as it must be an OperationError.
    """
    table = project.select([name])[0]
    invocation = Invocation(project, is_dry=dry_run)
    manifest = Manifest.read(project.directory)
    _check_tags(project, manifest)
    wanted = _Wanted(project, table, manifest, tuple(key))
    if not invocation.warehouse.exists():
        return Erasure(str(table))
    invocation.settle()
    if not dry_run and busy(invocation.staging):
        raise TransientError(
            f"{table}: a run is under way, and may land again what is erased now", hint="wait until it has ended"
        )
    with invocation.warehouse.attached() as at:
        erasing = _Erasing(wanted, at)
        staged = erasing.staged()
        if dry_run:
            return erasing.count(len(staged))
    discard(invocation.staging, staged)
    with (
        invocation.recording(invocation.begun(table, "erase", "delete")) as recording,
        invocation.stage(recording) as stage,
        invocation.warehouse.attached(stage, read_only=False) as at,
    ):
        stage.make_room(memory.FOR_LOGS)
        erasing = _Erasing(wanted, at)
        found = interruptible(lambda: erasing.count(len(staged)), cancel=at.connection.interrupt)
        commit = interruptible(lambda: erasing.commit(found), cancel=at.connection.interrupt)
        return replace(found, run=recording.commit(stage, commit))


def _check_tags(project: Project, manifest: Manifest) -> None:
    """A tag with a slip in it would leave a person where it was: none may lead nowhere."""
    known = {str(table) for table in project.tables()}
    for node in manifest.nodes.values():
        for tag in node.keys:
            if tag.rpartition(".")[0] not in known:
                raise OperationError(
                    f"{node.name}: pyops_key_of: {tag} is no column of a configured table",
                    hint="write source.table.column, with the names of pyops.yml",
                )


@dataclass(frozen=True)
class _Wanted:
    """What is to be erased: of which table, the texts of the key's values."""

    project: Project
    table: Table
    manifest: Manifest
    key: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """A table that may hold the key: where, the condition for its rows, whether it is a log."""

    relation: Relation
    condition: str
    is_log: bool = False

    def __str__(self) -> str:
        return ".".join(self.relation)


class _Erasing:
    """One key in an open warehouse."""

    def __init__(self, wanted: _Wanted, at: Attached) -> None:
        self.project, self.table, self.manifest = wanted.project, wanted.table, wanted.manifest
        self.at = at
        self.relations = self._raw()
        self.names = self.table.config.primary_key or at.log_key(self.table)
        if not self.names:
            raise UsageError(
                f"{self.table}: no key is known that tells its rows apart", hint="set primary_key in pyops.yml"
            )
        if len(wanted.key) != len(self.names):
            raise UsageError(
                f"{self.table}: its key has {len(self.names)} values, and {len(wanted.key)} given",
                hint=f"give --key once for each of: {', '.join(self.names)}",
            )
        types = next(iter(self.relations.values()), {})
        self.types = {n: types.get(n, "VARCHAR") for n in self.names}
        self.given = dict(zip(self.names, wanted.key, strict=True))
        self._bind(at.connection)
        self.places = [*self._raw_places(), *self._built_places()]

    def _raw(self) -> dict[Relation, dict[str, str]]:
        """Where the table lands, and where it did by batch or by changes before; their columns."""
        schema, name = self.table.target
        base = name.removesuffix("__changes") if self.table.config.mode == "cdc" else name
        others = {t.target for t in self.project.tables() if t != self.table}
        found = {}
        for relation in (self.table.target, (schema, base), (schema, f"{base}__changes")):
            columns = self.at.columns(relation)
            if columns and relation not in others:
                found[relation] = columns
        return found

    def _bind(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Gives a connection the key's values, as ``_value`` and ``_given`` name them in SQL."""
        for number, name in enumerate(self.names):
            text, type_ = self.given[name], self.types[name]
            connection.execute(f"SET VARIABLE given_{number} = (SELECT ?)", [text])
            if name in self.table.config.mask:
                salt = self.project.config.sources[self.table.source].mask_salt
                text = hashlib.sha256((salt + text).encode()).hexdigest()
            statement = f"SET VARIABLE key_{number} = (SELECT TRY_CAST(? AS {type_}))"
            connection.execute(statement, [text])
            found = connection.execute(f"SELECT {self._value(name)} IS NULL").fetchone()
            if found == (True,):
                raise UsageError(
                    f"{self.table}: the value given for {name} is no {type_}",
                    hint="give --key the value as the warehouse shows it",
                )

    def _value(self, name: str) -> str:
        return f"getvariable('key_{self.names.index(name)}')"

    def _given(self, name: str) -> str:
        return f"getvariable('given_{self.names.index(name)}')"

    # Where it may be

    def _raw_places(self) -> Iterator[_Place]:
        for relation, columns in self.relations.items():
            if lost := [name for name in self.names if name not in columns]:
                raise OperationError(
                    f"{self.table}: {'.'.join(relation)} has no column {', '.join(lost)}, which its key needs",
                    hint="let primary_key name what is there; drop the table if it is a leftover",
                )
            condition = self._is_key({name: [identifier(name)] for name in self.names})
            yield _Place(relation, condition, is_log="_lsn" in columns)

    def _built_places(self) -> Iterator[_Place]:
        tags = {f"{self.table}.{name}": name for name in self.names}
        for node in self.manifest.nodes.values():
            if unknown := [t for t in node.keys if self._is_ours(t) and t not in tags]:
                raise OperationError(
                    f"{node.name}: pyops_key_of: {', '.join(unknown)} is not in the key of"
                    f" {self.table} ({', '.join(self.names)})",
                    hint="tag the columns that hold the key",
                )
            tagged = {tags[tag]: names for tag, names in node.keys.items() if tag in tags}
            if not tagged or not node.is_stored:
                continue
            columns = self.at.columns(node.relation)
            wanted = {name for names in tagged.values() for name in names}
            if len(tagged) < len(self.names) or (columns and not wanted <= set(columns)):
                raise OperationError(
                    f"{node.name}: its columns tagged pyops_key_of are not the whole key of"
                    f" {self.table}, or are not in {'.'.join(node.relation)}",
                    hint=f"tag a column for each of: {', '.join(self.names)}; then run dbt build",
                )
            if columns:
                yield _Place(
                    node.relation, self._is_key({k: [identifier(n) for n in names] for k, names in tagged.items()})
                )

    def _is_ours(self, tag: str) -> bool:
        return tag.rpartition(".")[0] == str(self.table)

    def _is_key(self, columns: Mapping[str, Sequence[str]]) -> str:
        """The condition for the key, given the SQL of each of its columns; any of several."""

        def is_value(name: str, column: str) -> str:
            return f"TRY_CAST({column} AS {self.types[name]}) = {self._value(name)}"

        parts = [" OR ".join(is_value(name, column) for column in columns[name]) for name in self.names]
        return " AND ".join(f"({part})" for part in parts)

    @property
    def _letter(self) -> str:
        """The condition for dead letters of the key; those of old may have it in clear."""

        def is_in(document: str) -> str:
            return " AND ".join(
                f"(TRY_CAST({text} AS {self.types[name]}) = {self._value(name)} OR {text} = {self._given(name)})"
                for name, text in self._texts(document).items()
            )

        return f"coalesce({is_in('key')}, false) OR coalesce({is_in('payload')}, false)"

    def _texts(self, document: str) -> dict[str, str]:
        json = f"TRY_CAST({document} AS JSON)"
        return {name: f"({json} ->> {literal(json_pointer(name))})" for name in self.names}

    def staged(self) -> list[Path]:
        """The staging files of the table that wait for another command and hold the key."""
        found = []
        for path, run, _ in kept(self.project.staging_directory):
            if (run.source, run.table_name) != (self.table.source, self.table.name):
                continue
            with duckdb.connect(str(path), read_only=True) as staging:
                self._bind(staging)
                there = {row[0] for row in staging.execute("DESCRIBE rows").fetchall()}
                condition = "true"  # the key is not among its columns: who knows
                if there.issuperset(self.names):
                    condition = self._is_key({name: [identifier(name)] for name in self.names})
                if staging.execute(
                    f"SELECT 1 FROM rows WHERE {condition} UNION ALL"
                    f" SELECT 1 FROM dead_letters WHERE {self._letter} LIMIT 1"
                ).fetchone():
                    found.append(path)
        return found

    # What is done

    def count(self, staging_files: int) -> Erasure:
        rebuild, by_hand = self._rebuild()
        readable = " AND ".join(
            f"coalesce({key}, {row}) IS NOT NULL"
            for key, row in zip(self._texts("key").values(), self._texts("payload").values(), strict=True)
        )
        counted = {
            str(place): self._number(f"SELECT count(*) FROM {self.at.name(place.relation)} WHERE {place.condition}")
            for place in self.places
        }
        rows = {name: count for name, count in counted.items() if count}
        letters = self.at.count_dead_letters(f"{self._mine} AND ({self._letter})")
        unreadable = self.at.count_dead_letters(f"{self._mine} AND NOT ({readable})")
        return Erasure(str(self.table), rows, letters, staging_files, unreadable, rebuild, by_hand)

    @property
    def _mine(self) -> str:
        who = literal(self.table.source), literal(self.table.name)
        return "source = {} AND table_name = {}".format(*who)

    def commit(self, found: Erasure) -> Commit:
        """What is to be committed, given what was counted."""
        writes = []
        for place in self.places:
            target = TableId(self.table.source, self.table.name, place.relation)
            if place.is_log and str(place) in found.rows:
                writes += self._completed_moves(target, place.condition)
            writes.append(Write(target, {}, Where(place.condition), "", is_rewrite=True))
        return Commit(tuple(writes), purges=f"{self._mine} AND ({self._letter})")

    def _completed_moves(self, table: TableId, condition: str) -> list[Write]:
        """Gives rows that got another key what only events of this one have: those go."""
        log = self.at.name(table.target)
        gone = f"(SELECT _generation, _lsn, _seq FROM {log} WHERE _op = 'd' AND {condition})"
        following = (
            f"FROM {log} AS c JOIN {gone} AS d ON c._generation = d._generation"
            " AND c._lsn = d._lsn AND c._seq = d._seq + 1"
            " WHERE c._op = 'c' AND len(c._unchanged) > 0"
        )
        if not self._number(f"SELECT count(*) {following}"):
            return []
        fold = number_events(self.at.connection, log, self.names)
        fold.rewrite(
            f"SELECT c.n FROM {MOVES} SEMI JOIN {gone} AS gone"
            " ON d._generation = gone._generation AND d._lsn = gone._lsn AND d._seq = gone._seq"
        )
        is_one = "(_generation, _lsn, _seq) IN (SELECT (_generation, _lsn, _seq) FROM temp.rewritten)"
        return [Write(table, {}, Where(is_one), fold.rewritten, is_rewrite=True)]

    def _rebuild(self) -> tuple[str, tuple[str, ...]]:
        """The dbt command for what was made of the table and not purged; and what it cannot do."""
        purged = {place.relation for place in self.places}
        reads_folded = self.manifest.rememberers(self.table.target) if self.table.config.retention else []
        chosen: list[Node] = []
        by_hand = []
        for node in self.manifest.descendants(list(self.relations)):
            if node.relation in purged or node.materialized in {"view", "ephemeral"}:
                continue
            if node.remembers and (not node.may_be_refreshed or node in reads_folded):
                by_hand.append(node.name)
            else:
                chosen.append(node)
        if not chosen:
            return "", tuple(by_hand)
        anew = "--full-refresh " * any(node.remembers for node in chosen)
        names = " ".join(node.name for node in chosen)
        return f"dbt build {anew}--select {names}", tuple(by_hand)

    def _number(self, statement: str, *parameters: object) -> int:
        row = self.at.connection.execute(statement, list(parameters)).fetchone()
        return int(row[0]) if row else 0
