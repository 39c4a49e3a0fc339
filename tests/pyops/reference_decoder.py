"""A slow decoder of pgoutput, a message and a value at a time, to hold the fast one against.

Beside it the other direction: how messages are written, from the manual's 54.9.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from pyops.cdc.postgres.changes import Attribute, ChangeBatch, Relation

EPOCH = datetime(2000, 1, 1)


@dataclass(frozen=True)
class Event:
    """One event as a log has it; a value is its text, None, or missing from ``values``."""

    relation: Relation
    op: str
    lsn: int
    seq: int
    xid: int
    committed_at: datetime
    unchanged: tuple[str, ...]
    values: tuple[str | None, ...]


def begin(lsn: int, us: int, xid: int) -> bytes:
    return b"B" + struct.pack(">qqI", lsn, us, xid)


def commit(lsn: int, end: int, us: int) -> bytes:
    return b"C\0" + struct.pack(">qqq", lsn, end, us)


def relation(described: Relation) -> bytes:
    head = struct.pack(">I", described.oid) + _name(described.schema) + _name(described.name)
    columns = b"".join(
        bytes([attribute.is_key]) + _name(attribute.name)
        + struct.pack(">Ii", attribute.type_oid, attribute.modifier)
        for attribute in described.attributes
    )  # fmt: skip
    count = struct.pack(">H", len(described.attributes))
    return b"R" + head + described.identity.encode() + count + columns


def insert(oid: int, new: Sequence[object]) -> bytes:
    return b"I" + struct.pack(">I", oid) + b"N" + _tuple(new)


def update(oid: int, new: Sequence[object], old: Sequence[object] = (), kind: str = "K") -> bytes:
    before = kind.encode() + _tuple(old) if old else b""
    return b"U" + struct.pack(">I", oid) + before + b"N" + _tuple(new)


def delete(oid: int, old: Sequence[object], kind: str = "K") -> bytes:
    return b"D" + struct.pack(">I", oid) + kind.encode() + _tuple(old)


def truncate(oids: Sequence[int]) -> bytes:
    return b"T" + struct.pack(f">IB{len(oids)}I", len(oids), 0, *oids)


def origin(name: str) -> bytes:
    return b"O" + struct.pack(">q", 0) + _name(name)


def type_name(oid: int, name: str) -> bytes:
    return b"Y" + struct.pack(">I", oid) + _name("public") + _name(name)


def message(prefix: str, content: bytes) -> bytes:
    return b"M\1" + struct.pack(">q", 1) + _name(prefix) + struct.pack(">I", len(content)) + content


def _name(text: str) -> bytes:
    return text.encode() + b"\0"


def _tuple(values: Sequence[object]) -> bytes:
    parts = [struct.pack(">H", len(values))]
    for value in values:
        if value is None:
            parts.append(b"n")
        elif value is ...:
            parts.append(b"u")
        else:
            assert isinstance(value, bytes)
            parts.append(b"t" + struct.pack(">i", len(value)) + value)
    return b"".join(parts)


class CorruptError(Exception):
    """The bytes are no such message."""


@dataclass
class Reference:
    """Decodes messages one by one; ``keys`` names the key of relations that do not name it."""

    keys: Mapping[int, Sequence[str]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)
    position: int | None = None
    is_open: bool = False
    _relations: dict[int, Relation] = field(default_factory=dict)

    def decode(self, messages: Iterable[bytes]) -> None:
        for content in messages:
            self._content, self._at = content, 0
            kind = chr(self._number(1))
            if kind != "M" and (kind == "B") == self.is_open:
                raise CorruptError(kind)
            if kind not in "BCORYIUDTM":
                raise CorruptError(kind)
            getattr(self, f"_{kind.lower()}")()
            if self._at != len(content):
                raise CorruptError("left over")

    def _take(self, width: int) -> bytes:
        chunk = self._content[self._at : self._at + width]
        if width < 0 or len(chunk) < width:
            raise CorruptError("short")
        self._at += width
        return chunk

    def _number(self, width: int, *, signed: bool = False) -> int:
        return int.from_bytes(self._take(width), "big", signed=signed)

    def _moment(self) -> int:
        us = self._number(8, signed=True)
        if not -63 * 10**15 < us < 252 * 10**15:
            raise CorruptError("time")
        return us

    def _text(self) -> str:
        end = self._content.find(b"\0", self._at)
        if end < 0:
            raise CorruptError("no end")
        text = self._decoded(self._take(end - self._at))
        self._at += 1
        return text

    def _decoded(self, content: bytes) -> str:
        try:
            return content.decode()
        except UnicodeDecodeError:
            raise CorruptError("no UTF-8") from None

    def _b(self) -> None:
        self.is_open = True
        self._lsn = self._number(8, signed=True)
        self._time = self._moment()
        self._xid = self._number(4)
        self._seq = 0

    def _c(self) -> None:
        self._number(1)
        if self._number(8, signed=True) != self._lsn:
            raise CorruptError("another transaction")
        self.position = self._number(8, signed=True)
        self._moment()
        self.is_open = False

    def _o(self) -> None:
        self._number(8)
        self._text()

    def _y(self) -> None:
        self._number(4)
        self._text()
        self._text()

    def _m(self) -> None:
        self._number(9)
        self._text()
        self._take(self._number(4))

    def _r(self) -> None:
        oid, schema, name = self._number(4), self._text(), self._text()
        identity = chr(self._number(1))
        if identity not in "dnfi":
            raise CorruptError("identity")
        attributes = []
        for _ in range(self._number(2)):
            flags, column = self._number(1), self._text()
            type_oid, modifier = self._number(4), self._number(4, signed=True)
            attributes.append(Attribute(column, type_oid, modifier, bool(flags & 1)))
        self._relations[oid] = Relation(oid, schema or "pg_catalog", name, identity, tuple(attributes))

    def _relation(self) -> Relation:
        try:
            return self._relations[self._number(4)]
        except KeyError:
            raise CorruptError("unknown relation") from None

    def _values(self, described: Relation) -> list[object]:
        if self._number(2) != len(described.attributes):
            raise CorruptError("columns")
        values: list[object] = []
        for _ in described.attributes:
            match self._take(1):
                case b"n":
                    values.append(None)
                case b"u":
                    values.append(...)
                case b"t":
                    content = self._take(self._number(4, signed=True))
                    values.append(content.decode(errors="surrogateescape"))  # of an old row that is not landed
                case _:
                    raise CorruptError("kind of value")
        return values

    def _event(self, described: Relation, op: str, values: Sequence[object]) -> None:
        unchanged = tuple(
            attribute.name for attribute, value in zip(described.attributes, values, strict=True) if value is ...
        )
        texts = tuple(value if isinstance(value, str) else None for value in values)
        for text in texts:
            self._decoded((text or "").encode(errors="surrogateescape"))
        at = EPOCH + timedelta(microseconds=self._time)
        self.events.append(Event(described, op, self._lsn, self._seq, self._xid, at, unchanged, texts))
        self._seq += 1

    def _i(self) -> None:
        described = self._relation()
        if self._take(1) != b"N":
            raise CorruptError("marker")
        self._event(described, "c", self._values(described))

    def _d(self) -> None:
        described = self._relation()
        if self._take(1) not in (b"K", b"O"):
            raise CorruptError("marker")
        self._event(described, "d", self._values(described))

    def _u(self) -> None:
        described = self._relation()
        marker, old = self._take(1), None
        if marker in (b"K", b"O"):
            old = self._values(described)
            if self._take(1) != b"N":
                raise CorruptError("marker")
        elif marker != b"N":
            raise CorruptError("marker")
        new = self._values(described)
        if old is None:
            self._event(described, "u", new)
            return
        if marker == b"O":
            new = [before if value is ... else value for before, value in zip(old, new, strict=True)]
        keys = self.keys.get(described.oid, ())
        is_key = [attribute.is_key and described.identity != "f" for attribute in described.attributes]
        if not any(is_key):
            is_key = [attribute.name in keys for attribute in described.attributes]
        if any(
            key and value is not ... and before != value for key, before, value in zip(is_key, old, new, strict=True)
        ):
            self._event(described, "d", old)
            self._event(described, "c", new)
        else:
            self._event(described, "u", new)

    def _t(self) -> None:
        count = self._number(4)
        self._number(1)
        described = [self._relation() for _ in range(count)]
        for each in described:
            self._event(each, "t", [None] * len(each.attributes))


def events_of(changes: Iterable[ChangeBatch]) -> list[Event]:
    """What the fast decoder found, in the order of the stream."""
    found = [
        Event(part.relation, op, lsn, seq, xid, at, tuple(unchanged), tuple(values))
        for part in changes
        for op, lsn, seq, xid, at, unchanged, values in zip(
            *(getattr(part, name).to_pylist() for name in ("op", "lsn", "seq", "xid", "committed_at", "unchanged")),
            zip(*(column.to_pylist() for column in part.values), strict=True) if part.values else [()] * len(part.op),
            strict=True,
        )
    ]
    return sorted(found, key=lambda event: (event.lsn, event.seq))
