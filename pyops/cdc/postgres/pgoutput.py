"""The messages of PostgreSQL's plugin `pgoutput` as Arrow columns. Pure: bytes in, Arrow out.

PostgreSQL manual, 54.9 Logical Replication Message Formats, version 1: whole transactions, values
as text. The messages of a relation are decoded together, by column: no row is looped over.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pyops.cdc.postgres.changes import Attribute, ChangeBatch, Relation, lsn_text
from pyops.cdc.postgres.wire import Bools, Buffer, CorruptBytesError, Ints, Values, joined, split
from pyops.errors import OperationError

_EPOCH_US = 946_684_800_000_000  # from the Unix epoch to PostgreSQL's, 2000-01-01
_UNIX_EPOCH = datetime(1970, 1, 1)
_FIRST_US, _LAST_US = -63_000_000_000_000_000, 252_000_000_000_000_000  # years 3 and 9985
_BEGIN, _COMMIT, _INSERT, _UPDATE, _DELETE = (ord(letter) for letter in "BCIUD")
_OPS = {_INSERT: "c", _UPDATE: "u", _DELETE: "d"}
_NEW, _KEY, _OLD = (ord(letter) for letter in "NKO")


class CorruptStreamError(OperationError):
    """The stream holds what this protocol does not: nothing behind that can be trusted."""


@dataclass(frozen=True)
class _Transaction:
    """A transaction that is open at the end of a batch, and how much of it there was."""

    lsn: int
    committed_us: int
    xid: int
    messages: int
    events: int


@dataclass(frozen=True)
class _Rows:
    """ChangeBatch of one relation in a batch, each with its message and its place in that."""

    relation: Relation
    op: npt.NDArray[np.str_]
    message: Ints
    place: Ints
    values: list[Values]


class Decoder:
    """Decodes a stream batch by batch; a transaction may go on in the next one.

    ``key`` names a relation's key columns where its identity does not: to change one is a ``d`` and a ``c``.
    """

    def __init__(self, key: Callable[[Relation], Sequence[str]] = lambda _: ()) -> None:
        self.position: int | None = None  # the end of the last commit
        self.committed_at: datetime | None = None  # when that was, naive UTC
        self.messages = 0
        self._key = key
        self._relations: dict[int, Relation] = {}
        self._open: _Transaction | None = None

    def decode(self, messages: pa.Array | pa.ChunkedArray) -> list[ChangeBatch]:
        """Decodes a binary array, a message a row; an invalid message is a CorruptStreamError."""
        chunks = messages.chunks if isinstance(messages, pa.ChunkedArray) else [messages]
        done: list[ChangeBatch] = []
        for chunk in chunks:
            for part in split(chunk):
                if len(part):
                    done += self._decode(part)
        return done

    def finish(self) -> None:
        """Raises CorruptStreamError unless the stream has ended with a commit."""
        if self._open is not None:
            raise _corrupt(self._open, self._open.messages, "the stream ends early")

    def _decode(self, part: pa.Array) -> list[ChangeBatch]:
        batch: _Batch | None = None
        try:
            batch = _Batch(Buffer(part), self._open)
            relations = _Relations(self._relations, batch)
            rows = [*_changes(batch, relations, self._key), *_truncations(batch, relations)]
            seq = batch.sequence(rows)
            done = [_arrow(batch, part, seq) for part in rows]
        except CorruptBytesError as error:
            if batch is None:  # its very shape is wrong
                raise _corrupt(self._open, self.messages + error.message, str(error)) from None
            raise _corrupt(*batch.place_of(error.message), str(error)) from None
        self.messages += len(batch.kinds)
        self._relations = relations.latest
        self._open = batch.still_open(int(seq[-1]))
        if (end := batch.end()) is not None:
            self.position, self.committed_at = end
        return done


class _Batch:
    """The messages of one batch, and the transaction of each; 0 is the one that was open before."""

    def __init__(self, buffer: Buffer, carried: _Transaction | None) -> None:
        self.buffer = buffer
        self._carried = carried or _Transaction(0, 0, 0, 0, 0)
        self.kinds = np.zeros(len(buffer.begins), np.uint8)
        self.number = np.zeros(len(buffer.begins), np.int64)
        self.lsns = np.array([self._carried.lsn])
        self.times = np.array([self._carried.committed_us])
        self.xids = np.array([self._carried.xid])
        self._is_carried = carried is not None

    def follow(self) -> None:
        """Reads every Begin and Commit, and makes sure that they alternate around the changes."""
        buffer = self.buffer
        self.want(buffer.begins < buffer.ends, "it is empty")
        self.kinds = buffer.byte(buffer.begins)
        is_begin, is_commit = self.kinds == _BEGIN, self.kinds == _COMMIT
        self._commits = np.flatnonzero(is_commit)
        lengths = buffer.ends - buffer.begins
        self.want(~is_begin | (lengths == 21), "it has not the length of a Begin")
        self.want(~is_commit | (lengths == 26), "it has not the length of a Commit")
        at = buffer.begins[is_begin] + 1
        self.number = np.cumsum(is_begin)
        self.lsns = np.concatenate([self.lsns, buffer.int64(at)])
        self.times = np.concatenate([self.times, buffer.int64(at + 8) + _EPOCH_US])
        self.xids = np.concatenate([self.xids, buffer.uint32(at + 16)])
        inside = self._is_carried + np.cumsum(is_begin) - np.cumsum(is_commit)
        before = inside - is_begin + is_commit
        fits = np.where(is_begin, before == 0, before == 1) | (self.kinds == ord("M"))
        self.want(fits, "it stands where no message of its kind can")
        for kind, place in ((is_begin, 9), (is_commit, 18)):
            us = np.zeros(len(self.kinds), np.int64)
            us[kind] = buffer.int64(buffer.begins[kind] + place)
            self.want((us > _FIRST_US) & (us < _LAST_US), "its time is no time of a commit")
        same = np.ones(len(self.kinds), np.bool_)
        same[self._commits] = buffer.int64(buffer.begins[self._commits] + 2) == self.lsns[self.number[self._commits]]
        self.want(same, "the transaction began with another position")
        self._is_open = bool(inside[-1])

    def want(self, fits: Bools, problem: str) -> None:
        """Raises CorruptBytesError for the first message that does not fit."""
        if not fits.all():
            raise CorruptBytesError(problem, int(np.argmin(fits)))

    def place_of(self, message: int) -> tuple[_Transaction, int]:
        """The transaction of a message, and its number in there."""
        number = int(self.number[message])
        first = int(np.searchsorted(self.number, number))
        found = _Transaction(int(self.lsns[number]), 0, int(self.xids[number]), 0, 0)
        return found, message - first + (0 if number else self._carried.messages)

    def sequence(self, rows: Sequence[_Rows]) -> Ints:
        """The place of each message's first event in its transaction; behind it, of the next."""
        weights = np.zeros(len(self.kinds) + 1, np.int64)
        for part in rows:
            np.maximum.at(weights, part.message + 1, part.place + 1)
        total = np.cumsum(weights)
        starts = np.searchsorted(self.number, np.arange(self.number[-1] + 1))
        base = total[starts]
        base[0] = -self._carried.events
        places: Ints = total - base[np.append(self.number, self.number[-1])]
        return places

    def still_open(self, events: int) -> _Transaction | None:
        """The transaction that goes on in the next batch, of which there were so many events."""
        if not self._is_open:
            return None
        number = self.number[-1]
        messages = len(self.kinds) - int(np.searchsorted(self.number, number))
        messages += 0 if number else self._carried.messages
        lsn, time, xid = (int(of[number]) for of in (self.lsns, self.times, self.xids))
        return _Transaction(lsn, time, xid, messages, events)

    def end(self) -> tuple[int, datetime] | None:
        """The end of the last commit and its time; None if there was none."""
        if not len(self._commits):
            return None
        at = self.buffer.begins[self._commits[-1:]]
        us = int(self.buffer.int64(at + 18)[0]) + _EPOCH_US
        return int(self.buffer.int64(at + 10)[0]), _UNIX_EPOCH + timedelta(microseconds=us)


class _Relations:
    """The relations a batch may speak of: which version holds from which message on."""

    def __init__(self, known: dict[int, Relation], batch: _Batch) -> None:
        batch.follow()
        self.latest = dict(known)
        self._versions = {oid: [(-1, relation)] for oid, relation in known.items()}
        rare = ~np.isin(batch.kinds, [_BEGIN, _COMMIT, *_OPS, ord("T")])
        for message in map(int, np.flatnonzero(rare)):
            kind = chr(batch.kinds[message])
            if kind == "R":
                relation = _relation(batch, message)
                self.latest[relation.oid] = relation
                self._versions.setdefault(relation.oid, []).append((message, relation))
            elif kind in "OYM":  # an origin, a type's name, somebody's message: nothing to land
                _look_over(batch, message, kind)
            else:
                raise CorruptBytesError("its kind is unknown", message)

    def at(self, oid: int, message: int) -> Relation:
        """The version of a relation that a message speaks of."""
        for since, relation in reversed(self._versions.get(oid, [])):
            if since < message:
                return relation
        raise CorruptBytesError("its relation was never described", message)

    def split(self, oid: int, messages: Ints) -> Iterator[tuple[Relation, Ints]]:
        """The messages of a relation, by its version."""
        self.at(oid, int(messages[0]))
        versions = self._versions[oid]
        bounds = np.searchsorted(messages, [since for since, _ in versions[1:]])
        for (_, relation), part in zip(versions, np.split(messages, bounds), strict=True):
            if len(part):
                yield relation, part


def _relation(batch: _Batch, message: int) -> Relation:
    reader = batch.buffer.reader(message)
    oid, schema, name = reader.number(4), reader.text(), reader.text()
    identity = chr(reader.number(1))
    attributes = []
    for _ in range(reader.number(2)):
        flags, column, type_oid = reader.number(1), reader.text(), reader.number(4)
        modifier = reader.number(4, signed=True)
        attributes.append(Attribute(column, type_oid, modifier, bool(flags & 1)))
    reader.end()
    if identity not in "dnfi":
        raise CorruptBytesError("its replica identity is unknown", message)
    return Relation(oid, schema or "pg_catalog", name, identity, tuple(attributes))


def _look_over(batch: _Batch, message: int, kind: str) -> None:
    reader = batch.buffer.reader(message)
    if kind == "O":
        reader.number(8)
        reader.text()
    elif kind == "Y":
        reader.number(4)
        reader.text()
        reader.text()
    else:
        reader.number(9)
        reader.text()
        reader.skip(reader.number(4))
    reader.end()


def _truncations(batch: _Batch, relations: _Relations) -> Iterator[_Rows]:
    for message in map(int, np.flatnonzero(batch.kinds == ord("T"))):
        reader = batch.buffer.reader(message)
        count = reader.number(4)
        reader.number(1)
        for place in range(count):
            relation = relations.at(reader.number(4), message)
            values = [Values.nothing(1) for _ in relation.attributes]
            op, at, places = np.array(["t"]), np.array([message]), np.array([place])
            yield _Rows(relation, op, at, places, values)
        reader.end()


def _changes(batch: _Batch, relations: _Relations, key: Callable[[Relation], Sequence[str]]) -> Iterator[_Rows]:
    buffer = batch.buffer
    messages = np.flatnonzero(np.isin(batch.kinds, list(_OPS)))
    at = buffer.begins[messages]
    early = at + 6 > buffer.ends[messages]
    if early.any():
        raise CorruptBytesError("it ends early", int(messages[np.argmax(early)]))
    oids = buffer.uint32(at + 1)
    found: dict[Relation, list[Ints]] = {}
    for oid in np.unique(oids):
        for relation, part in relations.split(int(oid), messages[oids == oid]):
            found.setdefault(relation, []).append(part)
    for relation, parts in found.items():
        yield _rows(batch, relation, np.concatenate(parts), key)


def _rows(batch: _Batch, relation: Relation, messages: Ints, key: Callable[[Relation], Sequence[str]]) -> _Rows:
    """Takes the inserts, updates and deletes of one relation apart."""
    buffer, columns = batch.buffer, len(relation.attributes)
    kinds = batch.kinds[messages]
    at = buffer.begins[messages] + 5
    markers = buffer.byte(at)
    is_old = (markers == _KEY) | (markers == _OLD)
    fits = np.where(kinds == _DELETE, is_old, (markers == _NEW) | is_old & (kinds == _UPDATE))
    if not fits.all():
        raise CorruptBytesError("its tuple is of an unknown kind", int(messages[np.argmin(fits)]))
    at = at + 1
    both = np.flatnonzero((kinds == _UPDATE) & is_old)  # those with an old and a new tuple
    old: list[Values] = []
    if len(both):
        old, stop = buffer.tuples(messages[both], at[both], columns)
        fits = (stop < buffer.ends[messages[both]]) & (buffer.byte(stop) == _NEW)
        if not fits.all():
            raise CorruptBytesError("it has no new tuple", int(messages[both[np.argmin(fits)]]))
        at[both] = stop + 1
    values, stop = buffer.tuples(messages, at, columns)
    if (left := stop != buffer.ends[messages]).any():
        raise CorruptBytesError("there are bytes behind its end", int(messages[np.argmax(left)]))
    op = np.where(kinds == _INSERT, "c", np.where(kinds == _DELETE, "d", "u"))
    place = np.zeros(len(messages), np.int64)
    if not len(both):
        return _Rows(relation, op, messages, place, values)

    if (is_full := markers[both] == _OLD).any():
        # A key's tuple has NULL for what is no key; a full one has what the new one does not send.
        full = np.flatnonzero(is_full)
        values = [new.filled_from(before.take(full), both[full]) for new, before in zip(values, old, strict=True)]
    changed = np.zeros(len(both), np.bool_)
    names = {a.name for a in relation.attributes if a.is_key and relation.identity != "f"} or set(key(relation))
    for attribute, new, before in zip(relation.attributes, values, old, strict=True):
        if attribute.name in names:
            changed |= buffer.differ(new.take(both), before) & ~new.is_unsent[both]
    moved = both[changed]
    op[moved] = "c"
    place[moved] = 1
    order = np.argsort(np.concatenate([messages * 2 + place, messages[moved] * 2]), kind="stable")
    return _Rows(
        relation,
        np.concatenate([op, np.full(len(moved), "d")])[order],
        np.concatenate([messages, messages[moved]])[order],
        np.concatenate([place, np.zeros(len(moved), np.int64)])[order],
        [joined(new, before.take(changed)).take(order) for new, before in zip(values, old, strict=True)],
    )


def _arrow(batch: _Batch, rows: _Rows, seq: Ints) -> ChangeBatch:
    number = batch.number[rows.message]
    try:
        values = tuple(batch.buffer.texts(column) for column in rows.values)
    except pa.ArrowInvalid:
        raise CorruptBytesError("a text is not UTF-8", int(rows.message[0])) from None
    return ChangeBatch(
        rows.relation,
        pa.array(rows.op, pa.string()),
        pa.array(batch.lsns[number]),
        pa.array(seq[rows.message] + rows.place),
        pa.array(batch.xids[number]),
        pa.array(batch.times[number]).view(pa.timestamp("us")),
        _unchanged(rows),
        values,
        sum(int(column.lengths.sum()) for column in rows.values),
    )


def _unchanged(rows: _Rows) -> pa.Array:
    """For each row the names of the columns that were not sent; a delete has none."""
    count = len(rows.message)
    names = pa.array([attribute.name for attribute in rows.relation.attributes], pa.string())
    unsent = np.zeros((count, len(names)), np.bool_)
    for column, values in enumerate(rows.values):
        unsent[:, column] = values.is_unsent
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(unsent.sum(axis=1), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), names.take(np.nonzero(unsent)[1]))


def _corrupt(transaction: _Transaction | None, message: int, problem: str) -> CorruptStreamError:
    where = f"message {message}"
    if transaction is not None:
        where += f" of transaction {transaction.xid}, committed at {lsn_text(transaction.lsn)}"
    return CorruptStreamError(
        f"the stream of changes cannot be read: {where}: {problem}",
        hint="nothing of it was landed and the slot stays where it is; if it happens again, the"
        " server speaks another protocol: report it with the server's version",
    )
