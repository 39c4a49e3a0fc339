"""Publications: which tables and columns PostgreSQL puts into the stream of changes.

A table that is not published, or under another column list, is missing without an error: so that is
checked before every look at the stream. One that cannot be published for updates makes the source's
own updates fail: so that is checked first of all (29.1 Publication, 52.40-42 pg_publication*).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256

from pyops.config.project import Project, Table
from pyops.errors import OperationError
from pyops.records import Captured
from pyops.sources.postgres.catalog import Facts, replica_facts
from pyops.sources.postgres.session import Session
from pyops.sql import columns as listed
from pyops.sql import identifier, qualified

# What was altered and altered back was another publication meanwhile: xmin tells, the oid does not.
_PUBLICATIONS = """
SELECT pubname::text, p.xmin::text::bigint, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot
FROM pg_publication AS p WHERE pubname = ANY ($1::text::text[])
"""
_MEMBERS = """
SELECT c.oid::bigint, t.pubname::text,
    -- A table that left a schema's publication and came back has another xmin in the row of its type.
    coalesce(r.oid::bigint, s.oid::bigint + ((made.xmin::text::bigint % 536870912) << 32), 0),
    coalesce(array_to_json(t.attnames)::text, '[]'), t.rowfilter
FROM pg_publication_tables AS t
JOIN pg_publication AS p ON p.pubname = t.pubname
JOIN pg_namespace AS n ON n.nspname = t.schemaname
JOIN pg_class AS c ON c.relnamespace = n.oid AND c.relname = t.tablename
LEFT JOIN pg_publication_rel AS r ON r.prpubid = p.oid AND r.prrelid = c.oid
LEFT JOIN pg_publication_namespace AS s ON s.pnpubid = p.oid AND s.pnnspid = n.oid
LEFT JOIN pg_type AS made ON made.oid = c.reltype
WHERE t.pubname = ANY ($1::text::text[])
"""


@dataclass(frozen=True)
class Member:
    """A table in a publication, or in several: then ``oid`` is the sum of its rows' there."""

    oid: int
    publication: str
    columns: tuple[str, ...]
    filter: str | None


def default_name(source: str) -> str:
    """The name of a source's slot and publication where the configuration gives none."""
    name = re.sub("[^a-z0-9_]", "_", source.lower())
    if len(name) > 50:  # what is cut off still tells it from others
        name = f"{name[:41]}_{sha256(source.encode()).hexdigest()[:8]}"
    return f"pyops_{name}"


def own_names(source: str) -> tuple[str, ...]:
    """The publications that pyops makes for a source."""
    return default_name(source), f"{default_name(source)}_inserts"


@dataclass(frozen=True)
class Publications:
    """A source's publications: of tables whose rows have an identity, and of the others."""

    session: Session
    source: str
    names: tuple[str, ...]
    are_ours: bool  # whether pyops creates and changes them
    version: int

    @classmethod
    def of(cls, project: Project, source: str, session: Session, *, version: int) -> "Publications":
        named = project.postgres(source).publication
        return cls(session, source, named or own_names(source), not named, version)

    def facts(self, table: Table) -> Facts:
        """Looks a table up, and refuses what could not be captured or would harm the source."""
        facts = replica_facts(self.session, table.postgres.schema_, table.name, version=self.version)
        if facts is None:
            raise OperationError(
                f"{table}: there is no table {table.postgres.schema_}.{table.name} at the source",
                hint="names are case-sensitive; `schema` in pyops.yml says where it is",
            )
        self._refuse(table, facts)
        return facts

    def _refuse(self, table: Table, facts: Facts) -> None:
        config = table.postgres
        named = (*config.primary_key, *config.mask, *config.exclude, *config.columns)
        table.require(named, [*facts.columns, *facts.unpublished], "at the source")
        listed_out = set(facts.columns) - set(self.published(table, facts))
        key = config.primary_key or facts.key
        virtual = ", ".join(name for name in facts.unpublished if config.lands(name))
        lost = ", ".join(name for name in key if not config.lands(name))
        is_full_anywhere = None in facts.identities
        identified = {name for identity in facts.identities for name in identity or ()}
        unlisted = ", ".join(sorted(listed_out & identified))
        breaks = "PostgreSQL would refuse every update of it at the source"
        for is_wrong, problem, hint in (
            (
                facts.heirs,
                f"other tables inherit from it ({', '.join(facts.heirs)}): PostgreSQL publishes only its own rows",
                "land it by mode full, or capture a table of that shape that nothing inherits from",
            ),
            (
                virtual,
                f"column {virtual} is generated, and this PostgreSQL does not publish it",
                f"exclude: [{virtual}], and compute it in a model",
            ),
            (
                facts.kind not in "rp" or facts.persistence != "p",
                "PostgreSQL has no changes of it: it is no table with a log of its own",
                "views, foreign and unlogged tables can be landed by mode full",
            ),
            (not self.columns(table, facts), "no column is left to land", "see columns and exclude"),
            (
                is_full_anywhere and (listed_out or (facts.unpublished and self.version >= 180000)),
                f"columns are left out, and its REPLICA IDENTITY is FULL (or a partition's): {breaks}",
                "give it another replica identity; or set column_list: false, where only pyops leaves columns out",
            ),
            (unlisted, f"column {unlisted} identifies its rows: without it {breaks}", "set column_list: false"),
            (
                lost,
                f"column {lost} identifies its rows: without it no change could be told from another's",
                "leave it in; mask it if its values must not be seen",
            ),
            (
                facts.has_identity and facts.own_identity is None and facts.identities != {None},
                "its REPLICA IDENTITY is FULL and that of a partition is not: what a changed row was is not sent whole",
                "ALTER TABLE <partition> REPLICA IDENTITY FULL; or DEFAULT for the table itself",
            ),
            (
                facts.has_identity and (not facts.sends(key) or bool(facts.primary_key and not key)),
                f"its updates and deletes do not name the row by its key ({', '.join(key or facts.primary_key)}),"
                " but by its replica identity: a deleted row would stay",
                "let primary_key name the columns of the identity's index, or ALTER TABLE ... REPLICA IDENTITY DEFAULT",
            ),
        ):
            if is_wrong:
                raise OperationError(f"{table}: {problem}", hint=hint)

    def columns(self, table: Table, facts: Facts) -> tuple[str, ...]:
        """The columns that the configuration wants to have landed."""
        return tuple(filter(table.config.lands, facts.columns))

    def published(self, table: Table, facts: Facts) -> tuple[str, ...]:
        """The columns to publish: of a list of them the source's own migrations fail, so none is made unasked."""
        return self.columns(table, facts) if table.postgres.column_list else facts.columns

    def suits(self, member: Member, table: Table, facts: Facts) -> bool:
        """Whether a table is published as it is wanted; a list of no more than that is no harm done."""
        wanted = set(self.columns(table, facts))
        if not self.are_ours:
            return not table.postgres.column_list or set(member.columns) <= wanted
        is_in_its = (member.publication == self.names[0]) == facts.has_identity
        return is_in_its and set(member.columns) in (wanted, set(self.published(table, facts)))

    def look(self) -> dict[str, int]:
        """The version of each publication by name, which whatever is done to it changes."""
        found = {
            name: (version, operations, via_root)
            for name, version, *operations, via_root in self.session.query(_PUBLICATIONS, _array(self.names))
        }
        for number, name in enumerate(self.names):
            if name not in found:
                raise OperationError(
                    f"{self.source}: publication {name} does not exist: changes would go missing",
                    hint=self._hint("create it"),
                )
            _, operations, via_root = found[name]
            needed = [True, number == 0, number == 0, True] if self.are_ours else [True] * 4
            if operations != needed or not via_root:
                raise OperationError(
                    f"{self.source}: publication {name} was altered, or does not publish insert,"
                    " update, delete and truncate with publish_via_partition_root",
                    hint=self._hint("alter it"),
                )
        return {name: found[name][0] for name in self.names}

    def members(self) -> dict[int, Member]:
        """The tables in the publications, by oid; of one in several, what any of them lets pass."""
        members: dict[int, Member] = {}
        for table, publication, oid, columns, filter_ in self.session.query(_MEMBERS, _array(self.names)):
            member = Member(oid, publication, tuple(json.loads(columns)), filter_)
            if (other := members.get(table)) is not None:
                both = None
                if other.filter and member.filter:
                    both = f"({other.filter}) OR ({member.filter})"
                member = replace(member, oid=other.oid + oid, filter=both)
            members[table] = member
        return members

    def create(self) -> None:
        """Creates those of our own publications that are missing, without a table."""
        there = {row[0] for row in self.session.query(_PUBLICATIONS, _array(self.names))}
        options = "publish_via_partition_root = true"
        if self.version >= 180000:
            options += ", publish_generated_columns = stored"
        for name, operations in zip(self.names, ("insert, update, delete, truncate", "insert, truncate"), strict=True):
            if name not in there:
                self._change(f"CREATE PUBLICATION {identifier(name)} WITH (publish = '{operations}', {options})")

    def check_rights(self, tables: Mapping[Table, Facts]) -> None:
        """Makes sure that our publications can be created and the tables can join them."""
        may_create, user, database = self.session.query(
            "SELECT has_database_privilege(current_database(), 'CREATE'), current_user::text, current_database()::text"
        )[0]
        others = [f"{facts.schema}.{facts.name}" for facts in tables.values() if not facts.is_owned]
        if others:
            raise OperationError(
                f"{self.source}: only its owner can publish {', '.join(others)}",
                hint=f"have the owner make a publication and name it under `publication`,"
                f" or GRANT <owner> TO {identifier(user)};",
            )
        if not may_create:
            raise OperationError(
                f"{self.source}: the source's user may not make a publication",
                hint=f"GRANT CREATE ON DATABASE {identifier(database)} TO {identifier(user)};"
                " or have somebody make one and name it under `publication`",
            )

    def join(self, table: Table, facts: Facts) -> None:
        """Puts a table into the publication it belongs to, under the columns that are wanted."""
        self.leave([facts.oid])
        name = self.names[0 if facts.has_identity else 1]
        wanted = self.published(table, facts)
        columns = f" ({listed(wanted)})" if set(wanted) != set(facts.columns) else ""
        self._change(f"ALTER PUBLICATION {identifier(name)} ADD TABLE {facts.qualified}{columns}")

    def leave(self, relations: Sequence[int]) -> None:
        members = self.members()
        for oid in relations:
            if (member := members.get(oid)) is not None:
                [(schema, name)] = self.session.query(
                    "SELECT n.nspname::text, c.relname::text FROM pg_class AS c"
                    " JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = $1::oid",
                    oid,
                )
                self._change(
                    f"ALTER PUBLICATION {identifier(member.publication)} DROP TABLE ONLY {qualified(schema, name)}"
                )

    def drop(self) -> None:
        for name in self.names if self.are_ours else ():
            self._change(f"DROP PUBLICATION IF EXISTS {identifier(name)}")

    def problem(self, table: Captured, members: Mapping[int, Member]) -> str:
        """Why the stream may lack changes of a captured table; empty if it has all of them."""
        member = members.get(table.relation_oid)
        if member is None:
            return "is not in the publication any more"
        if table.membership_oid not in {member.oid, member.oid % 2**32}:  # the latter of an older pyops
            return "left the publication and joined it again, was renamed, or its column list was altered"
        return ""

    def _change(self, statement: str) -> None:
        self.session.set({"default_transaction_read_only": "off"})
        try:
            self.session.query(statement)
        finally:
            self.session.set({"default_transaction_read_only": "on"})

    def _hint(self, mend: str) -> str:
        again = f"pyops slot drop {self.source}, then pyops cdc {self.source}, re-snapshots all tables"
        return again if self.are_ours else f"{mend} and start over: {again}"


def _array(names: Sequence[str]) -> str:
    """The text of a PostgreSQL array of names."""
    return "{" + ",".join('"' + n.replace("\\", "\\\\").replace('"', '\\"') + '"' for n in names) + "}"
