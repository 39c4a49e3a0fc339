"""pgoutput's messages, from bytes to Arrow: any sequence, cut anywhere, and any broken one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyops.cdc.postgres.changes import Attribute, Relation, lsn_text
from pyops.cdc.postgres.pgoutput import CorruptStreamError, Decoder
from tests.pyops import reference_decoder as wire
from tests.pyops.conftest import Lab, Sql, examples, execute
from tests.pyops.reference_decoder import CorruptError, Event, Reference, events_of

T = Relation(
    7, "public", "t", "d", (Attribute("id", 23, -1, True), Attribute("v", 25, -1, False))
)  # fmt: skip
FULL = Relation(
    8, "public", "full", "f",
    (Attribute("a", 25, -1, True), Attribute("b", 25, -1, True), Attribute("c", 25, -1, True)),
)  # fmt: skip
KEYS = {8: ("a", "b")}
LONG = b"a text of more than twelve bytes"
# Every message, with texts of every length around what a view holds in itself.
STREAM = [
    wire.begin(100, 5, 1), wire.origin("here"), wire.relation(T), wire.insert(7, [b"1", b""]),
    wire.insert(7, [b"2", LONG]), wire.insert(7, [b"3", b"x" * 12]),
    wire.insert(7, [b"4", b"x" * 13]),
    wire.update(7, [b"1", None]), wire.update(7, [b"2", ...]), wire.commit(100, 120, 5),
    wire.begin(130, -7, 2), wire.type_name(99, "mood"), wire.relation(FULL),
    wire.update(7, [b"9", ...], [b"1", None]), wire.update(7, [b"2", b"n"], [b"2", None]),
    wire.update(8, [b"x", ..., LONG], [b"x", LONG, None], "O"),
    wire.update(8, [b"y", LONG, None], [b"x", LONG, b"c"], "O"),
    wire.update(8, [LONG + b"1", b"", None], [LONG + b"2", b"", b"c"], "O"),
    wire.message("prefix", b"content"), wire.delete(7, [b"9", None]),
    wire.delete(8, [b"y", None, LONG], "O"), wire.truncate([7, 8]), wire.insert(7, [b"1", b"z"]),
    wire.commit(130, 160, -7), wire.message("outside", b""), wire.begin(170, 9, 3),
    wire.relation(Relation(7, "public", "t", "d", (*T.attributes, Attribute("w", 23, -1, False)))),
    wire.insert(7, [b"5", b"v", b"6"]), wire.commit(170, 180, 9),
]  # fmt: skip


def array(messages: Sequence[bytes], type_: pa.DataType | None = None) -> pa.Array:
    return pa.array(messages, type_ or pa.binary())


def decoder() -> Decoder:
    return Decoder(lambda relation: KEYS.get(relation.oid, ()))


def decoded(messages: Sequence[bytes]) -> list[Event]:
    fast = decoder()
    changes = fast.decode(array(messages))
    fast.finish()
    return events_of(changes)


def expected(messages: Sequence[bytes]) -> list[Event]:
    slow = Reference(KEYS)
    slow.decode(messages)
    if slow.is_open:
        raise CorruptError("open")
    return slow.events


def test_every_message_is_what_the_manual_says() -> None:
    """Behaviours 16, 18, 19 and 20: one event a row, two for a changed key, one for each table."""
    found = decoded(STREAM)
    assert found == expected(STREAM)
    assert [(e.op, e.lsn, e.seq, e.xid, e.values[0], e.unchanged) for e in found] == [
        ("c", 100, 0, 1, "1", ()), ("c", 100, 1, 1, "2", ()), ("c", 100, 2, 1, "3", ()),
        ("c", 100, 3, 1, "4", ()), ("u", 100, 4, 1, "1", ()), ("u", 100, 5, 1, "2", ("v",)),
        ("d", 130, 0, 2, "1", ()), ("c", 130, 1, 2, "9", ("v",)), ("u", 130, 2, 2, "2", ()),
        ("u", 130, 3, 2, "x", ()), ("d", 130, 4, 2, "x", ()), ("c", 130, 5, 2, "y", ()),
        ("d", 130, 6, 2, LONG.decode() + "2", ()), ("c", 130, 7, 2, LONG.decode() + "1", ()),
        ("d", 130, 8, 2, "9", ()), ("d", 130, 9, 2, "y", ()), ("t", 130, 10, 2, None, ()),
        ("t", 130, 11, 2, None, ()), ("c", 130, 12, 2, "1", ()), ("c", 170, 0, 3, "5", ()),
    ]  # fmt: skip
    assert found[9].values == ("x", LONG.decode(), LONG.decode()), "what FULL knows is sent"


def test_position_and_time_are_those_of_the_last_commit() -> None:
    """Behaviour 17: the offset is the end of the last commit."""
    fast = decoder()
    assert (fast.position, fast.committed_at, fast.messages) == (None, None, 0)
    fast.decode(array(STREAM[:12]))
    assert (fast.position, fast.messages) == (120, 12)
    with pytest.raises(CorruptStreamError, match=r"message 2 of transaction 2, .* 0/82: .*early"):
        fast.finish()
    fast.decode(array(STREAM[12:]))
    assert (fast.position, fast.committed_at) == (180, wire.EPOCH.replace(microsecond=9))
    fast.finish()


def test_a_stream_may_be_cut_between_any_messages() -> None:
    """Behaviour 22."""
    for at in range(len(STREAM) + 1):
        fast = decoder()
        changes = fast.decode(array(STREAM[:at])) + fast.decode(array(STREAM[at:]))
        assert events_of(changes) == expected(STREAM), at


@pytest.mark.parametrize("type_", [pa.binary(), pa.large_binary()], ids=str)
def test_slices_and_chunks_are_decoded_alike(type_: pa.DataType) -> None:
    padded = array([b"junk", *STREAM, b"junk"], type_).slice(1, len(STREAM))
    assert events_of(decoder().decode(padded)) == expected(STREAM)
    chunks = pa.chunked_array([padded.slice(0, 5), padded.slice(5, 0), padded.slice(5)])
    assert events_of(decoder().decode(chunks)) == expected(STREAM)


def test_duckdb_reads_the_texts_also_when_the_messages_are_gone() -> None:
    part = decoder().decode(array(STREAM))[0]
    names = [attribute.name for attribute in part.relation.attributes]
    table = pa.Table.from_arrays(list(part.values), names=names)
    with duckdb.connect() as connection:
        connection.register("texts", table)
        found = connection.execute("SELECT id, v FROM texts LIMIT 4").fetchall()
    assert found == [("1", ""), ("2", LONG.decode()), ("3", "x" * 12), ("4", "x" * 13)]


def test_every_message_that_ends_early_is_an_error_at_its_position() -> None:
    """Behaviour 17: nothing is skipped and nothing is guessed."""
    for number, content in enumerate(STREAM):
        for width in range(len(content)):
            broken = [*STREAM[:number], content[:width], *STREAM[number + 1 :]]
            with pytest.raises(CorruptStreamError, match=r"cannot be read: message \d+"):
                decoded(broken)
        with pytest.raises(CorruptStreamError):
            decoded([*STREAM[:number], content + b"\0", *STREAM[number + 1 :]])


B, R, C = wire.begin(100, 5, 1), wire.relation(T), wire.commit(100, 120, 5)


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ([B, b"Z", C], "message 1 of transaction 1, committed at 0/64: its kind is unknown"),
        ([B, R, b"I" + bytes([0, 0, 0, 7]) + b"X\0\2nn", C], "its tuple is of an unknown kind"),
        ([B, R, wire.delete(7, [b"1", None], "N"), C], "its tuple is of an unknown kind"),
        ([B, R, wire.insert(7, [b"1"]), C], "has not the 2 columns"),
        ([B, wire.insert(7, [b"1", b"2"]), C], "its relation was never described"),
        ([B, wire.truncate([7]), C], "its relation was never described"),
        ([B, R, wire.insert(7, [b"1", b"\xff"]), C], "a text is not UTF-8"),
        ([B, R, wire.insert(7, [b"1", b"x" * 20 + b"\xff"]), C], "a text is not UTF-8"),
        ([B, R, wire.insert(7, [b"1", b"2"]).replace(b"t\0\0\0\1", b"b\0\0\0\1"), C], "a value is"),
        ([B, R, b"I\0\0\0\7N\0\2nt\xff\xff\xff\xff", C], "a value's length is negative"),
        ([B, B, C], "message 0 .*: it stands where no message of its kind can"),
        ([C], "stands where no message of its kind can"),
        ([R], "stands where no message of its kind can"),
        ([B, wire.commit(101, 120, 5)], "the transaction began with another position"),
        ([B, wire.relation(Relation(7, "s", "t", "x", ())), C], "its replica identity is unknown"),
        ([B, b"", C], "it is empty"),
        ([b""], "message 0.*: it is empty"),
        ([wire.begin(100, 2**62, 1), C], "its time is no time of a commit"),
    ],
)
def test_what_the_protocol_does_not_know_is_an_error_that_says_where(messages: list[bytes], said: str) -> None:
    """Behaviour 17: and that quotes no value."""
    with pytest.raises(CorruptStreamError, match=said) as error:
        decoded(messages)
    assert "\\xff" not in str(error.value)
    assert "slot stays" in error.value.hint


def test_a_null_message_is_an_error() -> None:
    with pytest.raises(CorruptStreamError, match="NULL"):
        decoder().decode(pa.array([B, None], pa.binary()))


def test_positions_are_written_as_postgresql_does() -> None:
    assert (lsn_text(0), lsn_text(2**32 * 22 + 0xAB), lsn_text(2**62)) == (
        "0/0", "16/AB", "40000000/0"
    )  # fmt: skip


texts = st.one_of(
    st.binary(max_size=3).map(lambda content: content.hex().encode()),
    st.text(max_size=20).map(lambda text: text.encode()),
    st.sampled_from([b"", b"1", b"2", LONG, LONG + b"!", b"x" * 12, b"y" * 13]),
)
values = st.one_of(texts, st.none())


@st.composite
def relations(draw: st.DrawFn) -> Relation:
    oid = draw(st.sampled_from([7, 8, 9]))
    count = draw(st.integers(0, 4))
    attributes = tuple(Attribute(f"c{n}", 25, -1, draw(st.booleans())) for n in range(count))
    return Relation(oid, "public", f"t{oid}", draw(st.sampled_from("dnfi")), attributes)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Whole transactions over a few tables whose columns change."""
    messages: list[bytes] = []
    known: dict[int, Relation] = {}
    lsn = 0
    for xid in range(draw(st.integers(1, 4))):
        lsn += draw(st.integers(1, 2**40))
        us = draw(st.integers(-(2**50), 2**50))
        messages.append(wire.begin(lsn, us, xid))
        for _ in range(draw(st.integers(0, 8))):
            kind = draw(st.sampled_from("RIIUUUDTOYM"))
            if kind == "R" or (kind in "IUDT" and not known):
                described = draw(relations())
                known[described.oid] = described
                messages.append(wire.relation(described))
                continue
            messages.append(_message(draw, kind, known))
        messages.append(wire.commit(lsn, lsn + 8, us))
    return messages


def _message(draw: st.DrawFn, kind: str, known: dict[int, Relation]) -> bytes:
    match kind:
        case "T":
            return wire.truncate(draw(st.lists(st.sampled_from(sorted(known)), max_size=3)))
        case "O":
            return wire.origin("o")
        case "Y":
            return wire.type_name(1, "y")
        case "M":
            return wire.message("m", draw(st.binary(max_size=4)))
    oid = draw(st.sampled_from(sorted(known)))
    count = len(known[oid].attributes)
    row = st.lists(values, min_size=count, max_size=count)
    if kind == "I":
        return wire.insert(oid, draw(row))
    old = draw(row)
    marker = draw(st.sampled_from("KO"))
    if kind == "D":
        return wire.delete(oid, old, marker)
    new: list[Any] = draw(st.lists(st.one_of(values, st.just(...)), min_size=count, max_size=count))
    new = [b if draw(st.booleans()) else n for b, n in zip(old, new, strict=True)]
    return wire.update(oid, new, old if draw(st.booleans()) else (), marker)


@settings(max_examples=examples(300))
@given(streams(), st.lists(st.integers(0, 40), max_size=4))
def test_any_stream_cut_into_any_pieces_gives_the_same_events(messages: list[bytes], cuts: list[int]) -> None:
    """Behaviour 22: and they are those of the reference decoder."""
    fast, found = decoder(), []
    bounds = [0, *sorted(cut for cut in cuts if cut < len(messages)), len(messages)]
    for first, last in pairwise(bounds):
        found += fast.decode(array(messages[first:last]))
    fast.finish()
    assert events_of(found) == expected(messages)


@settings(max_examples=examples(500))
@given(streams(), st.data())
def test_any_broken_stream_is_refused_or_read_as_the_reference_reads_it(
    messages: list[bytes], data: st.DataObject
) -> None:
    """Never another exception, and never an event that is not there."""
    at = data.draw(st.integers(0, len(messages) - 1))
    content = bytearray(messages[at])
    match data.draw(st.sampled_from(["byte", "cut", "drop", "repeat"])):
        case "byte":
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
            messages[at] = bytes(content)
        case "cut":
            messages[at] = bytes(content[: data.draw(st.integers(0, len(content)))])
        case "drop":
            del messages[at]
        case "repeat":
            messages.insert(at, messages[at])
    try:
        wanted = expected(messages)
    except CorruptError:
        with pytest.raises(CorruptStreamError):
            decoded(messages)
    else:
        assert decoded(messages) == sorted(wanted, key=lambda event: (event.lsn, event.seq))


def test_a_real_server_speaks_as_the_reference_understands(lab: Lab, sql: Sql) -> None:
    """Behaviours 18 to 23: both decoders agree on what PostgreSQL sends."""
    sql("CREATE TYPE mood AS ENUM ('glad')")
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text, m mood)")
    sql("ALTER TABLE t ALTER v SET STORAGE EXTERNAL")
    sql("CREATE TABLE f (a integer, b text)")
    sql("ALTER TABLE f REPLICA IDENTITY FULL")
    sql("CREATE PUBLICATION p FOR TABLE t, f")
    sql("SELECT 1 FROM pg_create_logical_replication_slot('decoder_slot', 'pgoutput')")
    for statement in (
        "INSERT INTO t SELECT n, repeat('x', n * 1000), 'glad' FROM generate_series(1, 5) AS n",
        "UPDATE t SET m = NULL",
        "UPDATE t SET id = -id WHERE id > 3",
        "DELETE FROM t WHERE id = 1",
        "INSERT INTO f VALUES (1, 'a'), (2, NULL), (NULL, 'c')",
        "UPDATE f SET a = a + 10",
        "TRUNCATE t, f",
        "ALTER TABLE t ADD COLUMN later date",
        "INSERT INTO t VALUES (1, '', NULL, 'today')",
        "SELECT 1 FROM pg_logical_emit_message(true, 'prefix', 'content')",
    ):
        sql(statement)
    messages = [
        row[0]
        for row in execute(
            lab.dsn,
            "SELECT data FROM pg_logical_slot_peek_binary_changes('decoder_slot', NULL, NULL,"
            " 'proto_version', '1', 'publication_names', 'p', 'messages', 'true')",
        )
    ]
    found = decoded(messages)
    assert found == expected(messages)
    assert "".join(event.op for event in found) == "cccccuuuuudcdcdcccuuuttc"
