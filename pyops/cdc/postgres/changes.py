"""Changes as they are decoded from the stream: the versions of relations, and Arrow columns."""

from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Attribute:
    """A column as a Relation message describes it; ``modifier`` is -1 for none."""

    name: str
    type_oid: int
    modifier: int
    is_key: bool


@dataclass(frozen=True)
class Relation:
    """One version of a table: whatever is altered makes another one."""

    oid: int
    schema: str
    name: str
    identity: str  # replica identity: d(efault), f(ull), i(ndex) or n(othing)
    attributes: tuple[Attribute, ...]  # the published columns, in order


@dataclass(frozen=True)
class ChangeBatch:
    """Changes of one version of one relation, in the order of the stream, as Arrow arrays.

    An update that changes the key is a ``d`` of the old key and a ``c`` of the new one right after
    it: what such a ``c`` was not sent (``unchanged``) is what the old key had.
    """

    relation: Relation
    op: pa.Array  # string: c, u, d or t
    lsn: pa.Array  # int64, the commit position
    seq: pa.Array  # int64, the place in the transaction over all relations
    xid: pa.Array  # int64, 32 bits of it
    committed_at: pa.Array  # timestamp[us], UTC
    unchanged: pa.Array  # list of string, never NULL
    values: tuple[pa.Array, ...]  # string views; NULL for NULL and for what was not sent
    bytes: int  # of all texts


def lsn_text(position: int) -> str:
    """A position in the log as PostgreSQL writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"
