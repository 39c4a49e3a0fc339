"""Any traffic on a table (id, v, big): its steps, transactions and batches, and their commit."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.pyops.conftest import Connect

Step = tuple[str, int, int]
KEYS = st.integers(1, 6)
STATEMENTS = {
    "insert": "INSERT INTO {t} VALUES ({a}, {b}, repeat(md5('{a}{b}'), 100))"
    " ON CONFLICT (id) DO UPDATE SET v = excluded.v",
    "update": "UPDATE {t} SET v = {b} WHERE id = {a}",
    "touch": "UPDATE {t} SET v = v + 1",
    "write": "UPDATE {t} SET big = repeat(md5('{b}'), 100) WHERE id = {a}",
    "forget": "UPDATE {t} SET big = NULL WHERE id = {a}",
    "delete": "DELETE FROM {t} WHERE id = {a}",
    "move": "UPDATE {t} SET id = {b} + 10 WHERE id = {a} AND NOT EXISTS (SELECT FROM {t} WHERE id = {b} + 10)",
    "back": "UPDATE {t} SET id = id - 10 WHERE id = {a} + 10 AND NOT EXISTS (SELECT FROM {t} WHERE id = {a})",
    "truncate": "TRUNCATE {t}",
    "savepoint": "SAVEPOINT s",
    "rollback": "ROLLBACK TO SAVEPOINT s",
}
steps = st.tuples(st.sampled_from([*STATEMENTS, "insert", "update", "delete"]), KEYS, KEYS)
transactions = st.tuples(st.lists(steps, min_size=1, max_size=8), st.booleans())
batches = st.lists(
    st.tuples(st.lists(transactions, max_size=6), st.sampled_from(["cdc", "cdc", "snapshot"])), min_size=1, max_size=4
)


def commit(connect: Connect, table: str, transactions: Any) -> None:
    """Runs transactions on a table, one after the other, and commits or rolls back each."""
    connection = connect()
    for statements, is_committed in transactions:
        _run(connection, table, statements)
        connection.commit() if is_committed else connection.rollback()
    connection.close()


def _run(connection: Any, table: str, statements: list[Step]) -> None:
    has_savepoint = False
    with connection.cursor() as cursor:
        for name, a, b in statements:
            if name == "rollback" and not has_savepoint:
                continue
            has_savepoint = has_savepoint or name == "savepoint"
            cursor.execute(STATEMENTS[name].format(t=table, a=a, b=b))
