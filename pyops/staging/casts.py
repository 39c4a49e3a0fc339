"""The strict way from a text to a type: a value that would be altered has no place in the type.

DuckDB's casts help themselves ('1.5' becomes INTEGER 2, '1.005' DECIMAL 1.01, an offset from UTC is
ignored, 1e400 is infinite): so the form of a text is checked beside its cast.
"""

import difflib
import re

from pyops.errors import UsageError
from pyops.sql import identifier
from pyops.staging.columns import ColumnMapping

_INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
_ALIASES = {
    "INT": "INTEGER", "INT2": "SMALLINT", "INT4": "INTEGER", "INT8": "BIGINT", "LONG": "BIGINT",
    "NUMERIC": "DECIMAL", "FLOAT4": "FLOAT", "REAL": "FLOAT", "FLOAT8": "DOUBLE",
    "DOUBLE PRECISION": "DOUBLE", "BOOL": "BOOLEAN", "TEXT": "VARCHAR", "STRING": "VARCHAR",
    "DATETIME": "TIMESTAMP", "TIMESTAMPTZ": "TIMESTAMP", "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",
}  # fmt: skip
_SIMPLE = (
    *_INTEGERS, "FLOAT", "DOUBLE", "BOOLEAN", "DATE", "TIME", "TIMESTAMP", "UUID", "JSON", "VARCHAR"
)  # fmt: skip

_DATE = r"\d{4}-\d{2}-\d{2}"
_TIME = r"\d{2}:\d{2}(?::\d{2}(?:\.\d{1,6}0*)?)?"
_OFFSET = r"[+-](?:0\d|1[0-5])(?::?[0-5]\d)?"
_UUID = "[0-9a-fA-F]{8}-" + "[0-9a-fA-F]{4}-" * 3 + "[0-9a-fA-F]{12}"
_FLOAT = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
# What DuckDB's parser of JSON lets pass beyond RFC 8259; in a string it is nothing.
_LOOSE = r"(?i)(?:^|[:,\[])[ \t\r\n]*-?(?:nan|inf)|,[ \t\r\n]*[\]}]"
_STRINGS = r'"(?:[^"\\]|\\.)*"'


def check_type(name: str) -> str:
    """The DuckDB name of a type that a column of texts may have; ``int`` is INTEGER."""
    squeezed = re.sub(r"\s*([(),])\s*", r"\1", " ".join(name.lower().split()))
    match = re.fullmatch(r"([a-z0-9 ]+?)(?:\((\d+)(?:,(\d+))?\))?", squeezed)
    base = match[1].upper() if match else ""
    base = _ALIASES.get(base, base)
    if match is None or (match[2] and base not in {"DECIMAL", "VARCHAR"}):
        base = ""
    if base in _SIMPLE and (base != "VARCHAR" or not match or match[2] is None):
        return base
    if base == "DECIMAL" and match and match[2]:
        precision, scale = int(match[2]), int(match[3] or 0)
        if 1 <= precision <= 38 and scale <= precision:
            return f"DECIMAL({precision},{scale})"
    raise UsageError(f"{name!r} is no type that a text can get", hint=_nearest(name, base))


def _nearest(name: str, base: str) -> str:
    if base == "DECIMAL":
        return "write DECIMAL(precision, scale), like DECIMAL(12,2), with at most 38 digits"
    if base == "VARCHAR":
        return "write VARCHAR: its length is not limited"
    words = re.split(r"\(", name.strip().upper())
    known = [*_SIMPLE, *_ALIASES, "DECIMAL"]
    close = difflib.get_close_matches(words[0], known, n=1, cutoff=0.5)
    if close:
        nearest = _ALIASES.get(close[0], close[0])
        return f"did you mean {nearest + '(12,2)' if nearest == 'DECIMAL' else nearest!r}?"
    return f"it is one of: {', '.join(_SIMPLE)}, DECIMAL(precision,scale)"


def mapping_of(column: str, type_: str) -> ColumnMapping:
    """Says how a column that arrived as text gets a type that ``check_type`` has named."""
    name = identifier(column)
    if type_ == "VARCHAR":
        return ColumnMapping(type_, "", name)
    convert, fault = conversion(name, type_)
    return ColumnMapping(type_, "", convert, fault, name)


def conversion(name: str, type_: str) -> tuple[str, str]:
    """The DuckDB expression that gives a text a type, NULL where it cannot; and why it cannot."""
    if type_ in _INTEGERS:
        return _matching(name, r"[+-]?\d+", type_), f"{type_} holds whole numbers of its range only"
    if type_.startswith("DECIMAL"):
        return _decimal(name, type_)
    if type_ in {"FLOAT", "DOUBLE"}:
        word = rf"regexp_full_match({name}, '(?i)[+-]?(?:nan|inf|infinity)')"
        number = _matching(name, _FLOAT, type_)
        # What is too small for the type would become 0.
        is_lost = f"{number} = 0 AND regexp_matches(regexp_extract({name}, '^[^eE]*'), '[1-9]')"
        finite = f"CASE WHEN isfinite({number}) AND NOT ({is_lost}) THEN {number} END"
        convert = f"CASE WHEN {word} THEN TRY_CAST({name} AS {type_}) ELSE {finite} END"
        return convert, f"it is no number, or too large or too small for {type_}"
    if type_ == "BOOLEAN":
        convert = (
            f"CASE WHEN lower({name}) IN ('true', 't', '1') THEN true"
            f" WHEN lower({name}) IN ('false', 'f', '0') THEN false END"
        )
        return convert, "BOOLEAN is true, false, t, f, 1 or 0"
    if type_ == "DATE":
        convert = f"CASE WHEN {name} >= '0001' THEN {_matching(name, _DATE, type_)} END"
        return convert, "DATE is YYYY-MM-DD, from 0001-01-01"
    if type_ == "TIMESTAMP":
        return _timestamp(name), ("TIMESTAMP is YYYY-MM-DD HH:MM:SS, to the microsecond, from 0001-01-01")
    if type_ == "TIME":
        return _matching(name, _TIME, type_), "TIME is HH:MM:SS, to the microsecond"
    if type_ == "UUID":
        return _matching(name, _UUID, type_), "UUID is 8-4-4-4-12 hexadecimal digits"
    assert type_ == "JSON"
    return f"CASE WHEN {is_json(name)} THEN {name}::JSON END", "it is no JSON (RFC 8259)"


def _matching(name: str, pattern: str, type_: str) -> str:
    return f"CASE WHEN regexp_full_match({name}, '{pattern}') THEN TRY_CAST({name} AS {type_}) END"


def _decimal(name: str, type_: str) -> tuple[str, str]:
    precision, scale = map(int, re.findall(r"\d+", type_))
    fraction = rf"\.\d{{0,{scale}}}0*"
    bare = rf"|\.\d{{1,{scale}}}0*" if scale else ""
    plain = rf"[+-]?(?:\d+(?:{fraction})?{bare})"
    # With an exponent, first and last digit must lie within: DuckDB takes 1e3 for DECIMAL(5,2).
    power = r"[+-]?\d{1,20}(?:\.\d{0,40})?[eE][+-]?\d{1,3}"
    whole = rf"regexp_extract({name}, '\d+')"
    digits = rf"rtrim(replace(regexp_extract({name}, '[\d.]+'), '.', ''), '0')"
    exponent = rf"regexp_extract({name}, '[eE](.*)', 1)::INTEGER"
    exact = (
        f"({digits} = '' OR (length({digits}) - length({whole}) - {exponent} <= {scale}"
        f" AND length(ltrim({whole}, '0')) + {exponent} <= {precision - scale}))"
    )
    convert = (
        f"CASE WHEN regexp_full_match({name}, '{plain}') THEN TRY_CAST({name} AS {type_})"
        f" WHEN regexp_full_match({name}, '{power}') THEN"
        f" CASE WHEN {exact} THEN TRY_CAST({name} AS {type_}) END END"
    )
    return convert, f"{type_} holds no more digits than that, and nothing but numbers"


def _timestamp(name: str) -> str:
    """Naive UTC; the offset is subtracted here, since DuckDB's cast ignores it."""
    moment = rf"{_DATE}[Tt ]{_TIME}"
    local = f"TRY_CAST(replace(upper(regexp_extract({name}, '{moment}')), 'T', ' ') AS TIMESTAMP)"
    offset = rf"regexp_extract({name}, '{_OFFSET}$')"
    minutes = rf"({offset}[1:3]::INTEGER * 60 + concat({offset}[1], '0', {offset}[-2:])::INTEGER)"
    hours = f"({offset}[1:3]::INTEGER * 60)"
    shift = f"to_minutes(CASE WHEN length({offset}) > 3 THEN {minutes} ELSE {hours} END)"
    utc = (
        f"CASE WHEN regexp_full_match({name}, '(?:{_DATE}|{moment}[Zz]?)')"
        f" THEN TRY_CAST(replace(upper(rtrim({name}, 'Zz')), 'T', ' ') AS TIMESTAMP)"
        f" WHEN regexp_full_match({name}, '{moment}{_OFFSET}') THEN {local} - {shift} END"
    )
    return f"CASE WHEN ({utc}) >= TIMESTAMP '0001-01-01' THEN {utc} END"


def is_json(expression: str) -> str:
    """The DuckDB condition that a text is JSON (RFC 8259), and text that can be stored."""
    # ``json_valid`` alone takes NaN, Infinity and a comma behind the last item. It refuses half a
    # surrogate pair, which the RFC's grammar takes but which stands for no text.
    blanked = f"regexp_replace({expression}, '{_STRINGS}', '\"\"', 'g')"
    return (
        f"(json_valid({expression}) AND CASE WHEN regexp_matches({expression}, '{_LOOSE}')"
        f" THEN NOT regexp_matches({blanked}, '{_LOOSE}') ELSE true END)"
    )
