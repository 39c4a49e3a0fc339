"""Debezium's change events as SQL over lines of JSON. Pure functions.

The envelope (Debezium's documentation, "Data change events") may be bare, wrapped in Connect's
``schema`` and ``payload``, and accompanied by its key.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from pyops.sources.files.json import NOT_BLANK, marked_if_needed
from pyops.sql import identifier, json_pointer, literal
from pyops.staging import casts
from pyops.staging.connect_types import ConnectType

COUNTED = ("tombstones", "heartbeats", "transaction events", "messages", "events of other tables")
# What an event has besides its row, until it gets its place in the log.
META = {
    "_op": "VARCHAR", "_lsn": "BIGINT", "_order": "BIGINT", "_xid": "BIGINT",
    "_committed_at": "TIMESTAMP", "_unchanged": "VARCHAR[]", "_since": "BIGINT", "_copied": "BOOLEAN",
}  # fmt: skip

_WORDS = {  # where the single values of an event are; ts_sec was before Debezium 0.10
    "op": "/op", "status": "/status", "connector": "/source/connector", "db": "/source/db",
    "schema": "/source/schema", "table": "/source/table", "lsn": "/source/lsn",
    "file": "/source/file", "pos": "/source/pos", "change_lsn": "/source/change_lsn",
    "commit_lsn": "/source/commit_lsn", "scn": "/source/scn", "ts_ns": "/source/ts_ns",
    "ts_us": "/source/ts_us", "ts_ms": "/source/ts_ms", "ts_sec": "/source/ts_sec",
    "xid": "/source/txId", "order": "/transaction/total_order",
    "snapshot": "/source/snapshot", "sequence": "/source/sequence",
}  # fmt: skip
_NUMBERS = {word: f"w[{number}]" for number, word in enumerate(_WORDS, 1)}
_BEFORE, _AFTER = "parts[1]", "parts[2]"


def fields_of(schema: str | None) -> dict[str, ConnectType]:
    """The columns of the row in an event's Connect schema; none without a schema."""
    for wanted in ("after", "before"):
        for part in _fields(json.loads(schema or "null")):
            if part["field"] == wanted and (fields := _fields(part)):
                return {field["field"]: ConnectType.of_field(field) for field in fields}
    return {}


def _fields(struct: Any) -> list[dict[str, Any]]:
    found = struct.get("fields") if isinstance(struct, dict) else None
    listed = found if isinstance(found, list) else []
    return [item for item in listed if isinstance(item, dict) and isinstance(item.get("field"), str)]


def parsed(mark: str, *, table: str, skips_others: bool, key: tuple[str, ...], unavailable: Sequence[str]) -> str:
    """The SELECT that parses the lines of ``chunk``, whose numbers get a mark (see files/json.py).

    ``text`` is the row as JSON, ``kind`` one of COUNTED or ``row``, ``_order`` a place in the transaction, ``_since``
    the last commit before it, ``_copied`` whether it comes before the changes of its position.
    """
    w = _NUMBERS
    name = f"concat_ws('.', {w['db']}, nullif({w['schema']}, ''), nullif({w['table']}, ''))"
    is_mine = f"ends_with('.' || {name}, {literal('.' + table)})"
    keyless = " OR ".join(f"{_text('row', column)} IS NULL" for column in key) or "false"
    moved = " OR ".join(f"{_text(_BEFORE, column)} <> {_text(_AFTER, column)}" for column in key)
    other = f"'an event of ' || {name} || {literal(f', not of {table}')}"
    fault = f"""CASE
        WHEN value IS NULL THEN 'its value is a string that is not JSON'
        WHEN kind IS NOT NULL THEN NULL
        WHEN NOT starts_with(event, '{{') THEN 'valid JSON, but not an event'
        WHEN {w["op"]} IS NULL THEN {_named_fault()}
        WHEN {w["connector"]} = 'mongodb' OR list_contains(source_keys, 'collection')
        THEN 'an event of MongoDB, whose documents are not rows'
        WHEN {w["op"]} NOT IN ('r', 'c', 'u', 'd', 't')
        THEN 'invalid op: expected r, c, u, d, t or m'
        WHEN {w["table"]} IS NULL OR {w["table"]} = '' THEN 'it names no table'
        WHEN NOT {is_mine} THEN {other}
        WHEN lsn IS NULL THEN 'it has no position in the source:'
            || ' expected lsn, file and pos, change_lsn, scn or ts_ms'
        WHEN NOT coalesce(starts_with(row, '{{'), false)
        THEN 'it has no row: expected after or, for a d, before or a key'
        WHEN {w["op"]} <> 't' AND ({keyless}) THEN 'a primary key cannot be NULL'
        WHEN {w["op"]} = 'u' AND ({moved or "false"})
        THEN 'it changes the key: expected two events, d and c, not one u'
        END"""
    kind = f"""CASE
        WHEN event = 'null' THEN 'tombstones'
        WHEN NOT starts_with(event, '{{') THEN NULL
        WHEN {w["op"]} IS NULL THEN CASE
            WHEN {w["status"]} IN ('BEGIN', 'END') THEN 'transaction events'
            WHEN json_extract(event, '/ts_ms') IS NOT NULL
            AND list_has_all(['ts_ms', 'ts_us', 'ts_ns'], json_keys(event)) THEN 'heartbeats' END
        WHEN {w["op"]} = 'm' THEN 'messages'
        WHEN {str(skips_others).lower()} AND {w["op"]} IN ('r', 'c', 'u', 'd', 't')
            AND {w["table"]} <> '' AND NOT {is_mine} THEN 'events of other tables'
        END"""
    row = f"""CASE
        WHEN {w["op"]} IN ('r', 'c', 'u') THEN {_AFTER}
        WHEN {w["op"]} = 'd' AND starts_with({_BEFORE}, '{{') THEN {_BEFORE}
        WHEN {w["op"]} = 'd' THEN key
        WHEN {w["op"]} = 't' THEN '{{}}' END"""
    words = ", ".join(map(literal, _WORDS.values()))
    # Of these, no two transactions share a position.
    is_exact = "len(list_intersect(source_keys, ['lsn', 'file', 'change_lsn'])) > 0"
    may_lack = " OR ".join(f"contains(row, {literal(part)})" for part in sorted(set(map(_part, unavailable))))
    return f"""
    WITH events AS ({_events(mark)}),
    words AS (
        SELECT line, value, schema, event, key,
            json_extract_string(event, [{words}]) AS w,
            json_extract(event, ['/before', '/after']) AS parts,
            CASE WHEN starts_with(event, '{{') THEN json_keys(event, '/source') END AS source_keys
        FROM events
    ),
    placed AS (SELECT *, {row} AS row, {kind} AS kind, {_position()} AS lsn FROM words),
    judged AS (SELECT *, {fault} AS fault FROM placed)
    SELECT line, row AS text, schema, coalesce(kind, 'row') AS kind, fault, {w["op"]} AS _op,
        lsn AS _lsn, CASE WHEN {is_exact} THEN {_whole(w["order"])} END AS _order,
        {_whole(w["xid"])} AS _xid, TRY(make_timestamp({_microseconds()})) AS _committed_at,
        {may_lack} AS _unavailable, {_of_sequence("^.")} AS _since,
        {w["op"]} = 'r' AND {w["snapshot"]} IS DISTINCT FROM 'incremental' AS _copied
    FROM judged
    """


def _events(mark: str) -> str:
    """The SELECT of each line's event, its schema, and its key."""
    of_key = "CASE WHEN k[1] IS NOT NULL THEN k[1] ELSE key END"
    return f"""
    SELECT line, value,
        CASE WHEN v[1] IS NULL AND v[2] IS NOT NULL THEN v[2] ELSE value END AS event,
        CASE WHEN v[1] IS NULL AND v[2] IS NOT NULL THEN v[3] END AS schema, {of_key} AS key
    FROM (
        SELECT *, CASE WHEN is_bare THEN [a[1], a[3], a[5]]
            ELSE json_extract(value, ['/op', '/payload', '/schema']) END AS v,
            json_extract(key, ['/payload']) AS k
        FROM (
            SELECT line, a, a[1] IS NOT NULL
                OR (a[2] IS NULL AND NOT coalesce(starts_with(a[3], '"'), false)) AS is_bare,
                CASE WHEN {_is_text("coalesce(a[2], a[3])")}
                THEN {_unpacked("CASE WHEN a[2] IS NOT NULL THEN a[2] ELSE a[3] END", mark)}
                WHEN a[1] IS NULL AND a[2] IS NOT NULL THEN a[2] ELSE t END AS value,
                CASE WHEN a[1] IS NOT NULL THEN NULL
                WHEN {_is_text("a[4]")} THEN {_unpacked("a[4]", mark)} ELSE a[4] END AS key
            FROM (
                SELECT line, t,
                    json_extract(t, ['/op', '/value', '/payload', '/key', '/schema']) AS a
                FROM (
                    SELECT line, trim({marked_if_needed("text", mark)}, E' \\t\\r\\n') AS t
                    FROM chunk WHERE {NOT_BLANK}
                )
            )
        )
    )"""


def _is_text(value: str) -> str:
    return f"""a[1] IS NULL AND starts_with({value}, '"')"""


def _unpacked(value: str, mark: str) -> str:
    """JSON that was written into a string, as ``kcat -J`` does; NULL if it is not JSON."""
    text = f"json_extract_string({value}, '$')"
    return f"CASE WHEN {casts.is_json(text)} THEN {marked_if_needed(text, mark)} END"


def _named_fault() -> str:
    """What a value without an op is."""
    return """CASE
        WHEN len(list_intersect(json_keys(event), ['ddl', 'tableChanges'])) > 0
        THEN 'a schema change event: it has DDL, not a row'
        WHEN list_contains(json_keys(event), 'specversion')
        THEN 'a CloudEvent: let the connector write its own envelope'
        WHEN list_contains(json_keys(event), 'aggregate_type')
        THEN 'a notification of the connector: it has no row'
        WHEN json_keys(event) = [] THEN 'an empty event'
        ELSE 'it has no op: the key of an event, or a row without its envelope' END"""


def _position() -> str:
    """One BIGINT that orders the events of a row as they happened."""
    # PostgreSQL has an LSN for each change, MySQL a file and a place in it, SQL Server an LSN of
    # three parts, Oracle an SCN. Others have only the time of the change, in nanoseconds.
    w = _NUMBERS
    number = f"TRY_CAST(regexp_extract({w['file']}, '\\d+$') AS BIGINT)"
    place = _whole(w["pos"])
    packed = f"coalesce({w['change_lsn']}, {w['commit_lsn']})"
    fits = "00[0-7][0-9a-fA-F]{5}:00[0-9a-fA-F]{6}:[0-9a-fA-F]{4}"
    log, block, slot = (f"('0x' || split_part({packed}, ':', {n}))::BIGINT" for n in (1, 2, 3))
    # A row of PostgreSQL's incremental snapshots has no LSN, but comes behind all that was streamed.
    streamed = f"greatest({_of_sequence('^.')}, {_of_sequence('^.*,')})"
    return f"""CASE
        WHEN {w["snapshot"]} = 'incremental' AND {streamed} IS NOT NULL THEN {streamed}
        WHEN list_contains(source_keys, 'lsn') THEN {_whole(w["lsn"])}
        WHEN list_contains(source_keys, 'file') THEN
            CASE WHEN {number} < {2**31} AND {place} < {2**32}
            THEN {number} * {2**32} + {place} END
        WHEN list_contains(source_keys, 'change_lsn') THEN
            CASE WHEN regexp_full_match({packed}, '{fits}')
            THEN {log} * {2**40} + {block} * {2**16} + {slot} END
        WHEN list_contains(source_keys, 'scn') THEN {_whole(w["scn"])}
        ELSE coalesce({_whole(w["ts_ns"])}, TRY({_microseconds()} * 1000)) END"""


def _microseconds() -> str:
    w = {name: _whole(word) for name, word in _NUMBERS.items() if name.startswith("ts_")}
    return f"coalesce({w['ts_ns']} // 1000, {w['ts_us']}, {w['ts_ms']} * 1000, {w['ts_sec']} * 1000000)"


def _of_sequence(before: str) -> str:
    """Of PostgreSQL's ``sequence`` the LSN behind a pattern: the last commit's, then the event's own."""
    return _whole(f"""regexp_extract({_NUMBERS["sequence"]}, '{before}"(\\d+)"', 1)""")


def _whole(word: str) -> str:
    return f"CASE WHEN regexp_full_match({word}, '\\d{{1,19}}') THEN TRY_CAST({word} AS BIGINT) END"


def _text(row: str, column: str) -> str:
    return f"json_extract_string({row}, {literal(json_pointer(column))})"


def _part(unavailable: str) -> str:
    """What a row has in its JSON if it has such a value; fractions are marked there, so the first of them."""
    if unavailable[0] not in "[{":
        return json.dumps(unavailable, ensure_ascii=False)[1:-1]
    return unavailable[1:].partition(",")[0] if ".0," in unavailable else unavailable


def lacking(columns: Mapping[str, Sequence[str]]) -> str:
    """Selects whether each column has a value that was not sent, given the texts that stand for one."""
    found = ", ".join(f"coalesce(bool_or({_stands_for(*item)}), false)" for item in columns.items())
    return f"SELECT {found} FROM arrived WHERE _unavailable"


def without_unavailable(columns: Mapping[str, Sequence[str]]) -> str:
    """The UPDATE that notes which values were not sent, and removes what stands for them."""
    names, sets = [], []
    for name, texts in columns.items():
        found, column = _stands_for(name, texts), identifier(name)
        names.append(f"CASE WHEN {found} THEN [{literal(name)}] ELSE [] END")
        sets.append(f"{column} = CASE WHEN NOT {found} THEN {column} END")
    return (
        f"UPDATE arrived SET {', '.join(sets)}, _unchanged = CASE WHEN _op <> 'd' THEN"
        f" flatten([{', '.join(names)}]::VARCHAR[][]) ELSE [] END WHERE _unavailable"
    )


def _stands_for(name: str, texts: Sequence[str]) -> str:
    return f"coalesce({identifier(name)} IN ({', '.join(map(literal, texts))}), false)"
