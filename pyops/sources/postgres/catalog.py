"""What PostgreSQL's catalog says: tables and their columns, types, open transactions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pyops.errors import OperationError
from pyops.sources.postgres.session import Session
from pyops.sql import identifier, qualified
from pyops.staging.postgres_types import PostgresType

_ATTRIBUTES = """
    SELECT a.attnum, a.attname::text, a.atttypid AS oid, a.atttypmod AS modifier
    FROM pg_attribute AS a
    WHERE a.attrelid = $1::oid AND a.attnum > 0 AND NOT a.attisdropped
"""
_GIVEN = """
    SELECT given.attnum, ''::text, given.oid, given.modifier
    FROM unnest($1::oid[], $2::integer[]) WITH ORDINALITY AS given (oid, modifier, attnum)
"""
_COLUMNS = """
WITH RECURSIVE bases (attnum, attname, oid, modifier) AS (
    {of}
    UNION ALL
    SELECT b.attnum, b.attname, t.typbasetype, t.typtypmod
    FROM bases AS b
    JOIN pg_type AS t ON t.oid = b.oid AND t.typtype = 'd'
), elements AS (
    SELECT b.attnum, e.oid
    FROM bases AS b
    JOIN pg_type AS e ON e.typarray = b.oid
    UNION ALL
    SELECT e.attnum, t.typbasetype
    FROM elements AS e
    JOIN pg_type AS t ON t.oid = e.oid AND t.typtype = 'd'
)
SELECT
    b.attnum::integer,
    b.attname,
    CASE WHEN t.typnamespace = 'pg_catalog'::regnamespace THEN t.typname ELSE '' END::text,
    b.modifier,
    CASE
        WHEN e.oid IS NULL OR e.typdelim <> ',' THEN NULL
        WHEN e.typnamespace = 'pg_catalog'::regnamespace THEN e.typname
        ELSE ''
    END::text,
    format_type(t.oid, NULL)
FROM bases AS b
JOIN pg_type AS t ON t.oid = b.oid AND t.typtype <> 'd'
LEFT JOIN (elements JOIN pg_type AS e ON e.oid = elements.oid AND e.typtype <> 'd') USING (attnum)
ORDER BY b.attnum
"""

_KEY_OF_INDEX = """
        SELECT json_agg(a.attname ORDER BY k.place)
        FROM pg_index AS i
        CROSS JOIN unnest((i.indkey::smallint[])[0:i.indnkeyatts - 1]) WITH ORDINALITY AS k (attnum, place)
        JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
"""
# What an update or delete names its row by holds leaf by leaf. A table made as a partition begins empty; one that was
# attached has rows: its catalog rows were written by another transaction than the link, or by a later command.
_FACTS = """
WITH RECURSIVE tree (oid, is_attached) AS (
    SELECT c.oid, false
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace AND n.nspname = $1 AND c.relname = $2
    UNION ALL
    SELECT i.inhrelid, tree.is_attached OR i.xmin <> made.xmin OR NOT EXISTS (
        SELECT FROM pg_attribute AS a
        WHERE a.attrelid = i.inhrelid AND a.attnum > 0 AND a.xmin = i.xmin AND a.cmin = made.cmin
    )
    FROM tree
    JOIN pg_class AS parent ON parent.oid = tree.oid AND parent.relkind = 'p'
    JOIN pg_inherits AS i ON i.inhparent = tree.oid
    JOIN pg_attribute AS made ON made.attrelid = i.inhrelid AND made.attnum = -1
), identities AS (
    SELECT t.oid, t.is_attached, p.relkind, CASE WHEN p.relreplident <> 'f' THEN coalesce((
        {key_of_index}
        WHERE i.indrelid = t.oid AND i.indimmediate AND i.indisvalid
            AND CASE p.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END
    ), '[]') END AS identity
    FROM tree AS t JOIN pg_class AS p ON p.oid = t.oid
)
SELECT
    c.oid::bigint, c.relkind::text, c.relpersistence::text, pg_has_role(c.relowner, 'USAGE'),
    coalesce((
        {key_of_index}
        WHERE i.indrelid = c.oid AND i.indisprimary
    ), '[]')::text,
    (
        SELECT json_agg(a.attname ORDER BY a.attnum)::text
        FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            AND (a.attgenerated = '' OR a.attgenerated = $3)
    ),
    (
        SELECT json_agg(a.attname ORDER BY a.attnum)::text
        FROM pg_attribute AS a
        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
            AND a.attgenerated <> '' AND a.attgenerated <> $3
    ),
    (
        SELECT json_agg(heir.relname)::text
        FROM pg_inherits AS h JOIN pg_class AS heir ON heir.oid = h.inhrelid
        WHERE h.inhparent = c.oid AND c.relkind = 'r'
    ),
    (SELECT i.identity::text FROM identities AS i WHERE i.oid = c.oid),
    (
        SELECT json_agg(json_build_array(i.oid::bigint, i.is_attached, i.identity) ORDER BY i.oid)::text
        FROM identities AS i WHERE i.relkind <> 'p'
    )
FROM pg_class AS c
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2
"""
_FILES = """
WITH RECURSIVE tree (oid) AS (
    SELECT $1::oid UNION SELECT i.inhrelid FROM tree JOIN pg_inherits AS i ON i.inhparent = tree.oid
)
SELECT string_agg(coalesce(pg_relation_filenode(oid)::text, '-'), ' ' ORDER BY oid) FROM tree
"""
# Locks first, prepared transactions second: a transaction on its way from one to the other is in
# both for a moment, and so is missed by neither.
_VIRTUAL_TRANSACTIONS = """
SELECT DISTINCT 'v' || l.virtualxid
FROM pg_locks AS l
LEFT JOIN pg_stat_activity AS a ON a.pid = l.pid
WHERE l.locktype = 'virtualxid' AND l.granted AND l.mode = 'ExclusiveLock'
    AND l.pid <> pg_backend_pid()
    AND (a.datid IS NULL OR a.datid = (
        SELECT d.oid FROM pg_database AS d WHERE d.datname = current_database()
    ))
"""
_PREPARED_TRANSACTIONS = """
SELECT 'p' || transaction::text FROM pg_prepared_xacts WHERE database = current_database()
"""


@dataclass(frozen=True)
class Column:
    """A column as the catalog has it; ``sql_type`` is its base type's name for a cast."""

    name: str
    type: PostgresType
    sql_type: str


@dataclass(frozen=True)
class TableShape:
    """A table or view at the source; ``estimated_rows`` is the planner's guess, -1 for none.

    ``files`` names the files of it and of its partitions, which TRUNCATE and a rewrite replace;
    ``may_lock`` says whether our user may lock it against that.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    estimated_rows: int
    oid: int
    files: str
    may_lock: bool
    unique: tuple[tuple[str, ...], ...] | None  # the columns of each unique index; None of a view

    @property
    def qualified(self) -> str:
        return qualified(self.schema, self.name)

    def column(self, name: str) -> Column | None:
        return next((c for c in self.columns if c.name == name), None)


@dataclass(frozen=True)
class Leaf:
    """A table that holds rows: a partition, or the table itself.

    ``identity`` has the columns that an update or delete names its row by, None for all (REPLICA IDENTITY FULL).
    """

    oid: int
    is_attached: bool  # made by itself, and a partition later: with the rows it had
    identity: tuple[str, ...] | None


@dataclass(frozen=True)
class Facts:
    """What the source's catalog says of a table that may be captured."""

    oid: int
    schema: str
    name: str
    kind: str  # this and the next one as in ``pg_class``
    persistence: str
    is_owned: bool  # whether our user has the rights of its owner
    primary_key: tuple[str, ...]
    columns: tuple[str, ...]  # all that can be published
    unpublished: tuple[str, ...]  # generated ones that cannot
    heirs: tuple[str, ...]  # the tables that inherit from it
    own_identity: tuple[str, ...] | None  # as that of a leaf
    leaves: tuple[Leaf, ...]

    @property
    def qualified(self) -> str:
        """The quoted name; of this table alone, not of those that inherit from it."""
        only = "" if self.kind == "p" else "ONLY "
        return only + qualified(self.schema, self.name)

    @property
    def identities(self) -> set[tuple[str, ...] | None]:
        return {leaf.identity for leaf in self.leaves} or {self.own_identity}

    @property
    def partitions(self) -> tuple[int, ...]:
        """The oids of its partitions, sorted; none of a plain table."""
        return tuple(leaf.oid for leaf in self.leaves) if self.kind == "p" else ()

    @property
    def has_identity(self) -> bool:
        """Whether its updates and deletes can be published at all: PostgreSQL asks leaf by leaf."""
        return () not in self.identities

    @property
    def key(self) -> tuple[str, ...]:
        """The columns that identify a row in its changes: the primary key, if these have it; else what they have."""
        if not self.has_identity or self.sends(self.primary_key):
            return self.primary_key
        [identity, *others] = self.identities
        return identity if identity and not others else ()

    def sends(self, key: Sequence[str]) -> bool:
        """Whether every update and delete has these columns of the row it was."""
        return all(identity is None or set(key) <= set(identity) for identity in self.identities)


def describe(session: Session, schema: str, name: str) -> TableShape:
    """Reads a table's columns; no such table, or no right to look at it, is an OperationError."""
    found = session.query(
        "SELECT c.oid::bigint, c.reltuples::bigint,"
        " has_schema_privilege(n.oid, 'USAGE') AND (has_table_privilege(c.oid, 'SELECT')"
        "  OR has_any_column_privilege(c.oid, 'SELECT')),"
        " has_table_privilege(c.oid, 'SELECT') AND c.relkind = ANY ('{r,p,v}'),"
        " CASE WHEN c.relkind = ANY ('{r,p}') THEN coalesce((SELECT json_agg((SELECT json_agg(a.attname)"
        "  FROM unnest((i.indkey::smallint[])[0:i.indnkeyatts - 1]) AS k"
        "  JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k))"
        "  FROM pg_index AS i WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid"
        "  AND i.indpred IS NULL AND i.indexprs IS NULL)::text, '[]') END"
        " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
        " WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind = ANY ('{r,p,v,m,f}')",
        schema,
        name,
    )
    if not found:
        raise OperationError(
            f"there is no table {schema}.{name} at the source",
            hint="names are case-sensitive; `schema` in pyops.yml says where it is",
        )
    oid, rows, readable, may_lock, unique = found[0]
    if not readable:
        raise OperationError(
            f"the source's user may not read {schema}.{name}",
            hint=f"GRANT USAGE ON SCHEMA {identifier(schema)} TO <user>;"
            f" GRANT SELECT ON {qualified(schema, name)} TO <user>;",
        )
    columns = tuple(
        Column(column, PostgresType(type_, modifier, element), sql_type)
        for _, column, type_, modifier, element, sql_type in session.query(_COLUMNS.format(of=_ATTRIBUTES), oid)
    )
    files = "" if may_lock else files_of(session, oid)
    keys = None if unique is None else tuple(map(tuple, json.loads(unique)))
    return TableShape(schema, name, columns, rows, oid, files, may_lock, keys)


def files_of(session: Session, oid: int) -> str:
    """The names of the files that a table and its partitions have now, whatever the snapshot."""
    return str(session.query(_FILES, oid)[0][0])


def column_types(session: Session, given: Sequence[tuple[int, int]]) -> list[PostgresType]:
    """Looks types up by oid and modifier; one that was dropped since has no name."""
    arrays = [f"{{{','.join(str(pair[i]) for pair in given)}}}" for i in (0, 1)]
    known = {
        number: PostgresType(type_, modifier, element)
        for number, _, type_, modifier, element, _ in session.query(_COLUMNS.format(of=_GIVEN), *arrays)
    }
    return [known.get(number, PostgresType("")) for number in range(1, len(given) + 1)]


def open_transactions(session: Session) -> frozenset[str]:
    """Every transaction of this database that is open now, prepared ones included.

    ``v`` and a virtual id, ``p`` and a prepared one's. It takes no right (manual, 53.13 and 53.17).
    """
    rows = [*session.query(_VIRTUAL_TRANSACTIONS), *session.query(_PREPARED_TRANSACTIONS)]
    return frozenset(row[0] for row in rows)


def transaction_owners(session: Session) -> dict[str, str]:
    """Describes the open transactions, by the names of ``open_transactions``."""
    virtual = session.query(
        "SELECT DISTINCT 'v' || virtualxid, pid FROM pg_locks WHERE locktype = 'virtualxid'"
        " AND granted AND mode = 'ExclusiveLock'"
    )
    prepared = session.query("SELECT 'p' || transaction::text, gid FROM pg_prepared_xacts")
    return {name: f"process {pid}" for name, pid in virtual} | {
        name: f"prepared transaction {gid!r}" for name, gid in prepared
    }


def replica_facts(session: Session, schema: str, name: str, *, version: int) -> Facts | None:
    """What the catalog says of a table that may be captured; None if there is no such table."""
    # Generated columns that are stored can be published since PostgreSQL 18.
    published = "s" if version >= 180000 else ""
    rows = session.query(_FACTS.format(key_of_index=_KEY_OF_INDEX), schema, name, published)
    if not rows:
        return None
    oid, kind, persistence, owned, key, columns, unpublished, heirs, own, leaves = rows[0]
    lists = (tuple(json.loads(text or "[]")) for text in (key, columns, unpublished, heirs))
    found = [
        Leaf(leaf, attached, None if identity is None else tuple(identity))
        for leaf, attached, identity in json.loads(leaves or "[]")
    ]
    identity = None if own is None else tuple(json.loads(own))
    rest: list[Any] = [*lists, identity, tuple(found)]
    return Facts(oid, schema, name, kind, persistence, owned, *rest)
