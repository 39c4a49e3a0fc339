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
    """One version of a table: whatever is altered makes another one.

    ``identity`` is its replica identity: d(efault), f(ull), i(ndex) or n(othing); ``attributes``
    are the published columns, in order.
    """

    oid: int
    schema: str
    name: str
    identity: str
    attributes: tuple[Attribute, ...]


@dataclass(frozen=True)
class ChangeBatch:
    """Changes of one version of one relation, in the order of the stream.

    An update that changes the key is two events: a ``d`` of the old key, and a ``c`` of the new one
    right after it. So a ``c`` with something in ``unchanged`` is always the second half of such a
    pair: what was not sent is what the old key had.

    Arrow arrays: ``op`` string (c, u, d, t); ``lsn`` int64, the commit position; ``seq`` int64, the
    place in the transaction over all relations; ``xid`` int64, 32 bits of it; ``committed_at``
    timestamp[us], UTC; ``unchanged`` list of string, never NULL; ``values`` a string view for each
    attribute, NULL for NULL and for what was not sent. ``bytes`` is the length of all texts.
    """

    relation: Relation
    op: pa.Array
    lsn: pa.Array
    seq: pa.Array
    xid: pa.Array
    committed_at: pa.Array
    unchanged: pa.Array
    values: tuple[pa.Array, ...]
    bytes: int


def lsn_text(position: int) -> str:
    """A position in the log as PostgreSQL writes it."""
    return f"{position >> 32:X}/{position & 0xFFFFFFFF:X}"
