"""Stand-in."""

from collections.abc import Sequence

from pyops.sources.postgres.session import Column, Session
from pyops.sources.postgres.session import Relation as TableShape
from pyops.staging.postgres_types import PostgresType

__all__ = ["Column", "TableShape"]


def describe(session: Session, schema: str, name: str) -> TableShape:
    return session.describe(schema, name)


def open_transactions(session: Session) -> frozenset[str]:
    return session.open_transactions()


def transaction_owners(session: Session) -> dict[str, str]:
    return session.transaction_owners()


def column_types(session: Session, given: Sequence[tuple[int, int]]) -> list[PostgresType]:
    return session.types(given)
