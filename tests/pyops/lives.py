"""Random lives of a source: what its applications and its owners do, and the tables they do it to."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any

import adbc_driver_postgresql.dbapi as adbc

from pyops.sql import identifier, literal
from tests.pyops.conftest import Sql

# Every change of a table, by a trigger; `of` is the table's name whatever partition it happens in.
AUDIT = (
    "CREATE TABLE audit (n bigserial, of text, op text, old jsonb, new jsonb, xid xid8 DEFAULT pg_current_xact_id())",
    """CREATE FUNCTION audit_row() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE old_key jsonb; new_key jsonb;
    BEGIN
        IF TG_OP IN ('UPDATE', 'DELETE') THEN
            SELECT jsonb_agg(to_jsonb(OLD) ->> k ORDER BY i) INTO old_key
            FROM unnest(TG_ARGV[1:]) WITH ORDINALITY AS a (k, i);
        END IF;
        IF TG_OP IN ('UPDATE', 'INSERT') THEN
            SELECT jsonb_agg(to_jsonb(NEW) ->> k ORDER BY i) INTO new_key
            FROM unnest(TG_ARGV[1:]) WITH ORDINALITY AS a (k, i);
        END IF;
        INSERT INTO audit (of, op, old, new) VALUES (TG_ARGV[0], TG_OP, old_key, new_key);
        RETURN NULL;
    END $$""",
)
LOCK_TIMEOUT = "SET lock_timeout = '100ms'"


@dataclass(frozen=True)
class Model:
    """A table of the source; ``{t}`` in its SQL is its name."""

    name: str
    create: tuple[str, ...]
    key: tuple[str, ...]  # of a table without one: what the audit knows its rows by
    keys: tuple[tuple[object, ...], ...]  # the values that keys have here
    config: Mapping[str, Any] = field(default_factory=lambda: {"mode": "cdc"})
    cursor: str = ""  # set by every write
    is_keyless: bool = False

    @property
    def sql(self) -> str:
        return identifier(self.name)

    @property
    def is_cdc(self) -> bool:
        return bool(self.config["mode"] == "cdc")

    @property
    def is_partitioned(self) -> bool:
        return "PARTITION BY" in self.create[0]


_INTS = tuple((n,) for n in range(1, 13))
MODELS = (
    Model(
        "items",
        ("CREATE TABLE items (id integer PRIMARY KEY, v integer, amount numeric(8,2), note text)",),
        ("id",),
        _INTS,
    ),
    Model(
        "Pairs",
        ('CREATE TABLE "Pairs" ("Note" text, "Kind" text, v integer, "Id A" integer, PRIMARY KEY ("Id A", "Kind"))',),
        ("Id A", "Kind"),
        tuple((n, kind) for n in range(1, 6) for kind in ("a", "B")),
        {"mode": "cdc", "retention": "0s"},
    ),
    Model(
        "docs",
        (
            "CREATE TABLE docs (name text PRIMARY KEY, v integer, big text, more text)",
            "ALTER TABLE docs ALTER big SET STORAGE EXTERNAL, ALTER more SET STORAGE EXTERNAL",
        ),
        ("name",),
        tuple((f"doc {n}",) for n in range(8)),
        {"mode": "cdc", "retention": "0s"},
    ),
    Model(
        "parts",
        (
            "CREATE TABLE parts (id integer, d integer, v integer, note text, PRIMARY KEY (id, d))"
            " PARTITION BY RANGE (d)",
            "CREATE TABLE IF NOT EXISTS parts_00 PARTITION OF parts FOR VALUES FROM (0) TO (10)",
            "CREATE TABLE IF NOT EXISTS parts_10 PARTITION OF parts FOR VALUES FROM (10) TO (20)",
        ),
        ("id", "d"),
        tuple((n, d) for n in range(1, 4) for d in (1, 2, 11, 12, 21, 31, 91)),
    ),
    Model(
        "wholes",
        (
            "CREATE TABLE wholes (id integer PRIMARY KEY, v integer, big text)",
            "ALTER TABLE wholes ALTER big SET STORAGE EXTERNAL",
            "ALTER TABLE wholes REPLICA IDENTITY FULL",
        ),
        ("id",),
        _INTS,
    ),
    Model("facts", ("CREATE TABLE facts (n integer, note text)",), ("n",), _INTS, is_keyless=True),
    Model(
        "recent",
        ("CREATE TABLE recent (id integer PRIMARY KEY, at timestamptz, v integer, note text)",),
        ("id",),
        _INTS,
        {"mode": "incremental", "cursor": "at", "primary_key": ["id"]},
        cursor="at",
    ),
    Model(
        "small",
        ("CREATE TABLE small (id integer PRIMARY KEY, v integer, note text)",),
        ("id",),
        _INTS,
        {"mode": "full", "primary_key": ["id"]},
    ),
)


def create(sql: Callable[[str], Any], model: Model) -> None:
    """Creates a table and its audit."""
    arguments = ", ".join(map(literal, (model.name, *model.key)))
    for statement in (
        *model.create,
        f"CREATE TRIGGER audit_rows AFTER INSERT OR UPDATE OR DELETE ON {model.sql}"
        f" FOR EACH ROW EXECUTE FUNCTION audit_row({arguments})",
        f"CREATE TRIGGER audit_truncate AFTER TRUNCATE ON {model.sql}"
        f" FOR EACH STATEMENT EXECUTE FUNCTION audit_row({literal(model.name)})",
    ):
        sql(statement)


class Client:
    """A session that runs statements as they are, transactions too."""

    def __init__(self, dsn: str) -> None:
        self._connection = adbc.connect(dsn, autocommit=True)
        self.run(LOCK_TIMEOUT)

    def run(self, statement: str) -> None:
        with self._connection.cursor() as cursor:
            cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
            cursor.execute(statement)

    def close(self) -> None:
        self._connection.close()


@dataclass
class Source:
    """The source as its applications and owners use it, by chance; ``did`` says what was done."""

    dsn: str
    sql: Sql
    chance: Random
    did: list[str]
    client: Client = field(init=False)
    open: list[tuple[Client, str]] = field(default_factory=list)  # and what was done in it
    prepared: list[str] = field(default_factory=list)
    unseen: set[str] = field(default_factory=set)  # tables whose rows came or went without a change
    _number: int = 0

    def __post_init__(self) -> None:
        self.client = Client(self.dsn)
        for statement in AUDIT:
            self.sql(statement)
        for model in MODELS:
            create(self.sql, model)
            for _ in range(3):
                self.client.run(self._insert(model))

    def close(self) -> None:
        self.end_open()
        self.client.close()

    # What applications do

    def burst(self) -> None:
        """Some transactions, each committed, rolled back, left open or prepared."""
        for _ in range(self.chance.randint(1, 4)):
            ending = self.chance.choices(["COMMIT", "ROLLBACK", "open", "PREPARE"], [12, 3, 2, 1])[0]
            statements = self._transaction()
            if ending in {"COMMIT", "ROLLBACK"}:
                self._attempt(self.client, statements, ending)
            elif ending == "open" and len(self.open) < 2:
                client = Client(self.dsn)
                if self._attempt(client, statements, ""):
                    self.open.append((client, "; ".join(statements)))
                else:
                    client.close()
            elif len(self.prepared) < 2:
                self._number += 1
                name = f"{self.dsn.split('/')[3].split('?')[0]}_{self._number}"
                if self._attempt(self.client, statements, f"PREPARE TRANSACTION {literal(name)}"):
                    self.prepared.append(name)

    def end_open(self) -> None:
        """Commits or rolls back what is open or prepared."""
        for client, _ in self.open:
            ending = self.chance.choice(["COMMIT", "COMMIT", "ROLLBACK"])
            self.did.append(f"-- of an open transaction: {ending}")
            client.run(ending)
            client.close()
        for name in self.prepared:
            ending = self.chance.choice(["COMMIT", "ROLLBACK"])
            self.did.append(f"{ending} PREPARED {name}")
            self.client.run(f"{ending} PREPARED {literal(name)}")
        self.open, self.prepared = [], []

    def nudge(self) -> None:
        """A row for each table, so that the stream shows what its columns are."""
        if not self._attached():
            self._run("CREATE TABLE parts_90 PARTITION OF parts FOR VALUES FROM (90) TO (100)")
        for model in MODELS:
            statement = self._insert(model)
            self.did.append(statement)
            self.client.run(statement)

    def _attempt(self, client: Client, statements: list[str], ending: str) -> bool:
        """Runs a transaction; one that meets an error, such as a lock, is rolled back."""
        said = "BEGIN; " + "; ".join([*statements, ending or "-- left open"])
        try:
            for statement in ("BEGIN", *statements, ending):
                if statement:
                    client.run(statement)
        except adbc.Error as error:
            self.did.append(f"{said}  -- failed: {str(error).splitlines()[0][:100]}")
            with suppress(adbc.Error):
                client.run("ROLLBACK")
            return False
        self.did.append(said)
        return True

    def _transaction(self) -> list[str]:
        statements, has_savepoint = [], False
        for _ in range(self.chance.randint(1, 6)):
            kind = self.chance.choices(["write", "savepoint", "back", "alter"], [12, 1, 1, 1])[0]
            if kind == "savepoint":
                statements.append("SAVEPOINT s")
                has_savepoint = True
            elif kind == "back" and has_savepoint:
                statements.append("ROLLBACK TO SAVEPOINT s")
            elif kind == "alter":
                model = self.chance.choice(MODELS)
                statements += self._alter(model)
            else:
                statements.append(self._write(self.chance.choice(MODELS)))
        return statements

    def columns(self, model: Model) -> dict[str, str]:
        """The columns that a table has now, and their types."""
        return dict(
            self.sql(
                "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute"
                f" WHERE attrelid = to_regclass({literal(model.sql)}) AND attnum > 0 AND NOT attisdropped"
                " ORDER BY attnum"
            )
        )

    def _values(self, model: Model) -> dict[str, str]:
        return {n: self._value(model, n, t) for n, t in self.columns(model).items() if n not in model.key}

    def _value(self, model: Model, name: str, type_: str) -> str:
        number = self.chance.randint(0, 99)
        if name == model.cursor:
            return "clock_timestamp()"
        if self.chance.random() < 0.1:
            return "NULL"
        if type_ == "integer":
            return str(number)
        if type_ == "bigint":
            return str(number * 10 ** self.chance.randint(0, 12))
        if type_.startswith("numeric"):
            return f"{number}.{self.chance.randint(0, 99):02}"
        if self.chance.random() < 0.4:
            return f"repeat(md5('{number}'), 100)"
        return literal(f"it's {number}")

    def _where(self, model: Model, key: tuple[object, ...]) -> str:
        pairs = zip(model.key, key, strict=True)
        return " AND ".join(f"{identifier(n)} = {literal(str(v))}" for n, v in pairs)

    def _insert(self, model: Model) -> str:
        key = self.chance.choice(self._reachable(model) or model.keys)
        values = {n: literal(str(v)) for n, v in zip(model.key, key, strict=True)} | self._values(model)
        names = ", ".join(map(identifier, values))
        statement = f"INSERT INTO {model.sql} ({names}) VALUES ({', '.join(values.values())})"
        if model.is_keyless:
            return statement
        sets = ", ".join(f"{identifier(n)} = excluded.{identifier(n)}" for n in values if n not in model.key)
        action = f"UPDATE SET {sets}" if sets else "NOTHING"
        return f"{statement} ON CONFLICT ({', '.join(map(identifier, model.key))}) DO {action}"

    def _write(self, model: Model) -> str:
        kinds = ["insert", "update", "touch", "delete", "move", "truncate"]
        kind = self.chance.choices(kinds, [6, 6, 1, 3, 2, 0.4])[0]
        if kind == "truncate":
            return f"TRUNCATE {model.sql}"
        values = self._values(model)
        if kind == "insert" or model.is_keyless or not values:
            return self._insert(model)
        key, other = self.chance.choice(model.keys), self.chance.choice(model.keys)
        where = self._where(model, key)
        if kind == "delete":
            return f"DELETE FROM {model.sql} WHERE {where}"
        chosen = {n for n in values if self.chance.random() < 0.4} or {next(iter(values))}
        sets = [f"{identifier(n)} = {v}" for n, v in values.items() if n in chosen or n == model.cursor]
        if kind == "move":
            keys = [f"{identifier(n)} = {literal(str(v))}" for n, v in zip(model.key, other, strict=True)]
            also = sets if self.chance.random() < 0.3 else [s for s in sets if model.cursor and "clock_" in s]
            there = f"NOT EXISTS (SELECT FROM {model.sql} WHERE {self._where(model, other)})"
            return f"UPDATE {model.sql} SET {', '.join(keys + also)} WHERE {where} AND {there}"
        return f"UPDATE {model.sql} SET {', '.join(sets)}" + (f" WHERE {where}" if kind == "update" else "")

    # What owners do

    def migrate(self) -> None:
        """One change of a table's shape, or of what it is made of."""
        model = self.chance.choice(MODELS)
        kinds = ["alter", "recreate", "index", "vacuum", "identity", "partition"]
        kind = self.chance.choices(kinds, [8, 2, 1, 1, 2, 4])[0]
        if kind == "partition":
            model = next(m for m in MODELS if m.is_partitioned)
        statements = getattr(self, f"_{kind}")(model)
        in_one = kind in {"alter", "recreate"} and self.chance.random() < 0.5
        if in_one:
            done = self._attempt(self.client, statements, "COMMIT")
        else:
            done = sum(map(self._run, statements)) == len(statements)
        if done and kind == "partition":
            self.unseen.add(model.name)

    def _run(self, statement: str) -> bool:
        try:
            self.client.run(statement)
        except adbc.Error as error:
            self.did.append(f"{statement}  -- failed: {str(error).splitlines()[0][:100]}")
            return False
        self.did.append(statement)
        return True

    def _alter(self, model: Model) -> list[str]:
        there = self.columns(model)
        free = [n for n in there if n not in model.key and n != model.cursor]
        names = ["c1", "c2", "C 3", "v", "Note" if "Pairs" in model.name else "note"]
        new = self.chance.choice([n for n in names if n not in there] or ["c4"])
        kind = self.chance.choice(["add", "drop", "rename", "type"])
        table = f"ALTER TABLE {model.sql}"
        column = identifier(self.chance.choice(free)) if free else ""
        if kind == "add" or not free:
            type_ = self.chance.choice(["integer", "text", "numeric(8,2)", "integer DEFAULT 7"])
            return [f"{table} ADD COLUMN {identifier(new)} {type_}", *self._mark(model)]
        if kind == "drop":
            return [f"{table} DROP COLUMN {column}", *self._mark(model)]
        if kind == "rename":
            return [f"{table} RENAME COLUMN {column} TO {identifier(new)}", *self._mark(model)]
        wider = {"integer": ["bigint", "text"], "bigint": ["text"], "numeric(8,2)": ["numeric(12,2)", "numeric(14,4)"]}
        wider |= {"numeric(12,2)": ["numeric(14,4)", "text"], "text": ["varchar(4000)"]}
        choices = wider.get(next(t for n, t in there.items() if identifier(n) == column), ["text"])
        return [f"{table} ALTER COLUMN {column} TYPE {self.chance.choice(choices)}"]

    def _mark(self, model: Model) -> list[str]:
        """A row under the columns that a table has from here on: without one, nothing shows that a name came back."""
        keys = self._reachable(model)
        if not keys:
            return []
        values = ", ".join(literal(str(value)) for value in keys[-1])
        insert = f"INSERT INTO {model.sql} ({', '.join(map(identifier, model.key))}) VALUES ({values})"
        if model.cursor:
            insert = (
                insert.replace(") VALUES (", f", {model.cursor}) VALUES (").removesuffix(")") + ", clock_timestamp())"
            )
        return (
            [insert] if model.is_keyless else [f"DELETE FROM {model.sql} WHERE {self._where(model, keys[-1])}", insert]
        )

    def _recreate(self, model: Model) -> list[str]:
        statements = [f"DROP TABLE {model.sql}"]
        create(statements.append, model)
        return statements

    def _index(self, model: Model) -> list[str]:
        column = self.chance.choice(model.key)
        name = identifier(f"{model.name}_extra")
        return [f"DROP INDEX IF EXISTS {name}", f"CREATE INDEX {name} ON {model.sql} ({identifier(column)})"]

    def _vacuum(self, model: Model) -> list[str]:
        return [f"VACUUM FULL {model.sql}"]

    def _identity(self, model: Model) -> list[str]:
        if model.is_keyless:
            return []
        kind = self.chance.choice(["DEFAULT", "FULL", "INDEX"])
        table, index = f"ALTER TABLE {model.sql}", identifier(f"{model.name}_same")
        if kind != "INDEX" or model.is_partitioned:
            return [f"{table} REPLICA IDENTITY {kind.replace('INDEX', 'DEFAULT')}"]
        key = ", ".join(map(identifier, reversed(model.key)))
        unique = f"CREATE UNIQUE INDEX IF NOT EXISTS {index} ON {model.sql} ({key})"
        return [unique, f"{table} REPLICA IDENTITY USING INDEX {index}"]

    def _partition(self, model: Model) -> list[str]:
        attached = self._attached()
        there = {name for (name,) in self.sql(
            "SELECT relname::text FROM pg_class WHERE relname ~ '^parts_[0-9]+$' AND relkind = 'r'"
        )}  # fmt: skip
        first = self.chance.choice([0, 10, 20, 30])
        name, bounds = f"parts_{first:02}", f"FOR VALUES FROM ({first}) TO ({first + 10})"
        if name in attached:
            return [
                self.chance.choice(
                    [f"ALTER TABLE parts DETACH PARTITION {name}", f"DROP TABLE {name}", f"TRUNCATE {name}"]
                )
            ]
        if name in there:
            grown = [f"UPDATE {name} SET v = 5"] if self.chance.random() < 0.5 else []
            return [*grown, f"ALTER TABLE parts ATTACH PARTITION {name} {bounds}"]
        return [f"CREATE TABLE {name} PARTITION OF parts {bounds}"]

    def rename(self, model: Model, other: str) -> None:
        """Gives a table another name, for `back` to take away."""
        self._run(f"ALTER TABLE {model.sql} RENAME TO {identifier(other)}")

    def back(self, model: Model, other: str) -> None:
        self._run(f"ALTER TABLE {identifier(other)} RENAME TO {model.sql}")

    def _attached(self) -> set[str]:
        found = self.sql("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = to_regclass('parts')")
        return {name for (name,) in found}

    def _reachable(self, model: Model) -> Sequence[tuple[object, ...]]:
        """The keys that there is a place for."""
        there = self._attached()
        return [k for k in model.keys if not model.is_partitioned or f"parts_{str(k[1]).zfill(2)[0]}0" in there]

    # What happened

    def rows(self, model: Model, names: list[str]) -> list[tuple[Any, ...]]:
        """The rows of a table as texts, times in UTC."""
        types = self.columns(model)
        selected = ", ".join(
            f"to_char({identifier(n)} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US')"
            if types[n].startswith("timestamp") else f"{identifier(n)}::text"
            for n in names
        )  # fmt: skip
        return self.sql(f"SELECT {selected} FROM {model.sql}")

    def events(self, model: Model, snapshot: str) -> list[tuple[str, tuple[str, ...]]]:
        """The events that a log must have behind a copy, in the order of each key."""
        found = []
        for op, old, new in self.sql(
            f"SELECT op, old::text, new::text FROM audit WHERE of = {literal(model.name)}"
            f" AND NOT pg_visible_in_snapshot(xid, {literal(snapshot)}::pg_snapshot) ORDER BY n"
        ):
            before, after = (tuple(json.loads(text)) if text else () for text in (old, new))
            if op == "UPDATE" and before == after:
                found.append(("u", after))
            elif op == "TRUNCATE":
                found.append(("t", ()))
            else:
                found += [("d", before)] if before else []
                found += [("c", after)] if after else []
        return found
