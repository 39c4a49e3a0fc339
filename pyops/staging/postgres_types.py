"""The one map from PostgreSQL types to warehouse types.

A value without a faithful place in the warehouse makes its row a dead letter, never a NULL or a 0. ADBC
wraps infinite and far times around the end of their integer, by which they are recognised; types without
an Arrow form, and numeric (twice as slow, at most 131,068 digits), are asked for as the server's text.
"""

from dataclasses import dataclass

from pyops.sql import identifier, literal
from pyops.staging.columns import ColumnMapping

# The microseconds and days between PostgreSQL's epoch (2000-01-01) and the Unix epoch.
_EPOCH_US = 946_684_800_000_000
_EPOCH_DAYS = 10_957
# A cycle of the Gregorian calendar, to write down timestamps of years DuckDB cannot hold.
_CYCLE_YEARS, _CYCLE_US = 400, 146_097 * 86_400_000_000

_NATIVE = {
    "bool": "BOOLEAN", "int2": "SMALLINT", "int4": "INTEGER", "int8": "BIGINT", "float4": "FLOAT",
    "float8": "DOUBLE", "text": "VARCHAR", "varchar": "VARCHAR", "bpchar": "VARCHAR",
    "name": "VARCHAR", "json": "VARCHAR", "jsonb": "VARCHAR", "bytea": "BLOB", "time": "TIME",
    "uuid": "UUID",
}  # fmt: skip
# What DuckDB's cast of a text would not do as PostgreSQL means it; its timestamps come in UTC.
_OF_TEXT = {
    "BOOLEAN": "({} = 't')",
    "BLOB": "unhex(substr({}, 3))",
    "DATE": "CASE WHEN NOT ends_with({0}, 'BC') THEN TRY_CAST({0} AS DATE) END",
    "TIMESTAMP": "CASE WHEN NOT ends_with({0}, 'BC') THEN TRY_CAST({0} AS TIMESTAMP) END",
}
_NUMBERS = {"int2", "int4", "int8", "oid", "float4", "float8", "numeric"}


@dataclass(frozen=True)
class PostgresType:
    """A column's type as PostgreSQL's catalog has it, domains resolved to their base type."""

    name: str
    modifier: int = -1
    element: str | None = None


def newest_first(column: str) -> str:
    """The DuckDB ORDER BY of numbers of any size that are kept as PostgreSQL's text of a numeric."""
    text = identifier(column)
    rank = f"CASE {text} WHEN 'NaN' THEN 3 WHEN 'Infinity' THEN 2 WHEN '-Infinity' THEN -2"
    rank += f" ELSE 1 - 2 * starts_with({text}, '-')::INTEGER END"
    whole, digits = f"split_part(ltrim({text}, '-'), '.', 1)", f"ltrim({text}, '-')"
    digits = f"CASE WHEN contains({text}, '.') THEN rtrim({digits}, '0') ELSE {digits} || '.' END"
    terms = [f"{text} IS NULL", f"{rank} DESC"]
    for sign, order in ((">", "DESC"), ("<", "ASC")):
        terms += [f"CASE WHEN {rank} {sign} 0 THEN {value} END {order}" for value in (f"length({whole})", digits)]
    return ", ".join(terms)


def mapping_of(column: str, type_: PostgresType) -> ColumnMapping:
    """Says how a column of a PostgreSQL type is landed."""
    name = identifier(column)
    if type_.element is not None:
        converted = array_to_json(name, type_.element)
        return ColumnMapping("JSON", as_text(name), converted, "it is no array of JSON values", name)
    if type_.name == "numeric":
        return _numeric(name, type_.modifier)
    if type_.name == "money":
        return _decimal(name, f"{name}::numeric::text", 19, 2)
    if type_.name == "oid":
        return ColumnMapping("BIGINT", f"{name}::bigint", name)
    if type_.name in {"timestamp", "timestamptz"}:
        return _timestamp(name)
    if type_.name == "date":
        return _date(name)
    if type_.name in _NATIVE:
        return ColumnMapping(_NATIVE[type_.name], name, name)
    return ColumnMapping("VARCHAR", as_text(name), name)


def mapping_of_text(column: str, type_: PostgresType) -> ColumnMapping:
    """The same for values that arrive as PostgreSQL's text, as changes do."""
    name = identifier(column)
    target = mapping_of(column, type_)
    convert = _OF_TEXT.get(target.warehouse, "TRY_CAST({} AS " + target.warehouse + ")").format(name)
    fault = target.fault or f"it is no {target.warehouse}"
    if target.warehouse == "VARCHAR":
        convert, fault = name, ""
    elif target.warehouse == "JSON":
        convert = array_to_json(name, type_.element or "")
    elif type_.name == "money":
        convert = f"TRY_CAST(regexp_replace({name}, '[$,]', '', 'g') AS {target.warehouse})"
    # Dead letters are those of ``mapping_of``, too.
    text = name
    if type_.name == "timestamptz":
        text = rf"regexp_replace({name}, '\+00( BC)?$', '\1')"
    elif type_.name in {"bool", "float4", "float8", "money"}:
        text = f"coalesce(({convert})::VARCHAR, {name})"
    return ColumnMapping(target.warehouse, "", convert, fault, text)


def as_text(expression: str) -> str:
    """The PostgreSQL expression for a value's text as its output function writes it."""
    return f"CASE WHEN {expression} IS DISTINCT FROM NULL THEN concat({expression}) END"


def masked(column: str, salt_setting: str) -> ColumnMapping:
    """How a masked column is mapped: its text, salted by a setting and hashed by the server."""
    text = as_text(identifier(column))
    salted = f"current_setting({literal(salt_setting)}) || {text}"
    digest = f"encode(sha256(convert_to({salted}, 'UTF8')), 'hex')"
    return ColumnMapping("VARCHAR", digest, identifier(column))


def hashed(text: str, salt: str) -> ColumnMapping:
    """Says how a masked column is mapped that arrives in clear: hashed, in dead letters too."""
    digest = f"sha256({literal(salt)} || {text})"
    return ColumnMapping("VARCHAR", "", digest, text=digest)


def _numeric(name: str, modifier: int) -> ColumnMapping:
    select = f"{name}::text"
    if modifier == -1:
        return ColumnMapping("VARCHAR", select, name)
    # The modifier packs precision and an 11-bit signed scale (numeric.c, make_numeric_typmod).
    precision = ((modifier - 4) >> 16) & 0xFFFF
    scale = (((modifier - 4) & 0x7FF) ^ 1024) - 1024
    if scale < 0:
        precision, scale = precision - scale, 0
    if precision > 38 or scale > precision:
        return ColumnMapping("VARCHAR", select, name)
    return _decimal(name, select, precision, scale)


def _decimal(name: str, select: str, precision: int, scale: int) -> ColumnMapping:
    decimal = f"DECIMAL({precision},{scale})"
    fault = f"{decimal} holds no NaN, no Infinity and no more than {precision} digits"
    return ColumnMapping(decimal, select, f"TRY_CAST({name} AS {decimal})", fault, name)


def _timestamp(name: str) -> ColumnMapping:
    minus_infinity = -(2**63) + _EPOCH_US
    infinity = minus_infinity - 1
    infinite = (
        f"WHEN {name} = make_timestamp({infinity}) THEN 'infinity'"
        f" WHEN {name} = make_timestamp({minus_infinity}) THEN '-infinity'"
    )
    # DuckDB's own infinities are two moments of the year 294247 to PostgreSQL.
    convert = f"CASE WHEN {name} >= TIMESTAMP '0001-01-01' AND {name} < TIMESTAMP 'infinity' THEN {name} {infinite} END"
    cycle = f"make_timestamp((epoch_us({name})::HUGEINT + {2**64 - _CYCLE_US})::BIGINT)"
    far = f"(year({cycle}) + {_CYCLE_YEARS}) || substr({cycle}::VARCHAR, 7)"
    text = (
        f"CASE {infinite}"
        f" WHEN {name} = TIMESTAMP 'infinity' THEN '294247-01-10 04:00:54.775807'"
        f" WHEN {name} = TIMESTAMP '-infinity' THEN '294247-01-10 04:00:54.775809'"
        f" WHEN {name} < make_timestamp({infinity}) THEN {far} ELSE {_text_of_time(name)} END"
    )
    fault = "TIMESTAMP is kept from 0001-01-01 to 294247-01-10 04:00:54.775806"
    return ColumnMapping("TIMESTAMP", name, convert, fault, text)


def _date(name: str) -> ColumnMapping:
    minus_infinity = -(2**31) + _EPOCH_DAYS
    day = "(DATE '1970-01-01' + ({}))"
    infinite = (
        f"WHEN {name} = {day.format(minus_infinity - 1)} THEN 'infinity'"
        f" WHEN {name} = {day.format(minus_infinity)} THEN '-infinity'"
    )
    convert = f"CASE WHEN {name} >= DATE '0001-01-01' THEN {name} {infinite} END"
    text = f"CASE {infinite} ELSE {_text_of_time(name)} END"
    return ColumnMapping("DATE", name, convert, "DATE is kept from 0001-01-01 onwards", text)


def _text_of_time(name: str) -> str:
    """DuckDB's text of a date or timestamp, but the era behind it, as PostgreSQL writes it."""
    return rf"regexp_replace({name}::VARCHAR, ' \(BC\)(.*)', '\1 BC')"


def array_to_json(text: str, element: str) -> str:
    """The DuckDB expression that turns PostgreSQL's text of an array into JSON (manual, 8.15.6).

    Numbers stay the digits they are, booleans become JSON's, anything else (NaN too) a string.
    Lower bounds other than 1 have no place in JSON and are dropped.
    """
    tokens = (
        rf"""regexp_extract_all(regexp_replace({text}, '^[^{{]*', ''),"""
        r""" '"(?:[^"\\]|\\(?s:.))*"|[{},]|[^{},"]+')"""
    )
    unescaped = r"""regexp_replace(token[2:-2], '\\((?s:.))', '\1', 'g')"""
    if element in _NUMBERS:
        is_word = "regexp_matches(token, '[a-zA-Z]{3}')"
        bare = f"CASE WHEN {is_word} THEN to_json(token)::VARCHAR ELSE token END"
    elif element == "bool":
        bare = "CASE token WHEN 't' THEN 'true' WHEN 'f' THEN 'false' ELSE token END"
    else:
        bare = "to_json(token)::VARCHAR"
    return (
        f"TRY_CAST(array_to_string(list_transform({tokens}, lambda token: CASE"
        " WHEN token = '{' THEN '[' WHEN token = '}' THEN ']' WHEN token = ',' THEN ','"
        " WHEN token = 'NULL' THEN 'null'"
        f""" WHEN token[1] = '"' THEN to_json({unescaped})::VARCHAR"""
        f" ELSE {bare} END), '') AS JSON)"
    )
