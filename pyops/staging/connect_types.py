"""From a value as Kafka Connect writes it in JSON to a warehouse type, exactly. Pure functions.

A schema names a column's base type and what it stands for (Debezium's documentation, "Data type
mappings"). What arrives is the value's text: a string's own, or the JSON that stands there.
"""

import json
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import md5
from uuid import UUID

from pyops.errors import UsageError
from pyops.sql import identifier
from pyops.staging import casts
from pyops.staging.columns import ColumnMapping

UNAVAILABLE = "__debezium_unavailable_value"
# The variables of lambdas in SQL: names that pyops reserves, so that no column hides them.
_BYTES, _NUMBER = "_load_id", "_loaded_at"

_BASE = {
    "int8": "SMALLINT", "int16": "SMALLINT", "int32": "INTEGER", "int64": "BIGINT",
    "float": "FLOAT", "float32": "FLOAT", "double": "DOUBLE", "float64": "DOUBLE",
    "boolean": "BOOLEAN", "string": "VARCHAR", "bytes": "BLOB", "array": "JSON", "map": "JSON",
    "struct": "JSON",
}  # fmt: skip
_TIME, _DATA, _CONNECT = "io.debezium.time.", "io.debezium.data.", "org.apache.kafka.connect.data."
_DAYS = (f"{_TIME}Date", f"{_CONNECT}Date")
_TIMES = {f"{_TIME}Time": 1000, f"{_CONNECT}Time": 1000, f"{_TIME}MicroTime": 1}  # microseconds
_MOMENTS = {f"{_TIME}Timestamp": 1000, f"{_CONNECT}Timestamp": 1000, f"{_TIME}MicroTimestamp": 1}
_AS_BASE = {  # those whose text says it all
    f"{_TIME}Year": "int32", f"{_TIME}MicroDuration": "int64", f"{_TIME}NanoDuration": "int64",
    f"{_TIME}Interval": "string", f"{_TIME}ZonedTime": "string", f"{_DATA}Json": "string",
    f"{_DATA}Xml": "string", f"{_DATA}Enum": "string", f"{_DATA}EnumSet": "string",
    f"{_DATA}Ltree": "string", f"{_DATA}geometry.Point": "struct",
    f"{_DATA}geometry.Geometry": "struct", f"{_DATA}geometry.Geography": "struct",
}  # fmt: skip
_AS_TEXT = {  # those whose text has the form of a type's, but for a Z behind it
    f"{_DATA}Uuid": "UUID", f"{_TIME}ZonedTimestamp": "TIMESTAMP",
    f"{_TIME}IsoTimestamp": "TIMESTAMP", f"{_TIME}IsoDate": "DATE", f"{_TIME}IsoTime": "TIME",
}  # fmt: skip
_NANO_TIME, _NANO_MOMENT = f"{_TIME}NanoTime", f"{_TIME}NanoTimestamp"
_DECIMAL, _VARIABLE = f"{_CONNECT}Decimal", f"{_DATA}VariableScaleDecimal"
_BITS = f"{_DATA}Bits"
_NAMES = {
    *_DAYS, *_TIMES, *_MOMENTS, *_AS_BASE, *_AS_TEXT,
    _NANO_TIME, _NANO_MOMENT, _DECIMAL, _VARIABLE, _BITS,
}  # fmt: skip

_DAY_US = 86_400_000_000
_LAST_UHUGEINT = 2**128 - 1


@dataclass(frozen=True)
class ConnectType:
    """The schema of one column."""

    base: str
    name: str = ""
    scale: int = 0
    precision: int | None = None
    length: int | None = None

    @classmethod
    def of_field(cls, field: Mapping[str, object]) -> "ConnectType":
        """The type of a field of a schema, as Connect's JSON converter writes it."""
        given = field.get("parameters")
        parameters = given if isinstance(given, dict) else {}
        number = {
            key: int(str(parameters[key]))
            for key in ("scale", "connect.decimal.precision", "length")
            if re.fullmatch(r"-?\d{1,6}", str(parameters.get(key)))
        }
        name, precision = str(field.get("name") or ""), number.get("connect.decimal.precision")
        return cls(str(field.get("type")), name, number.get("scale", 0), precision, number.get("length"))


def check_type(name: str) -> str:
    """A type that the configuration may name: DuckDB's, or one of Debezium's and Connect's."""
    return casts.check_type(name) if _named(name) is None else name


def _named(name: str) -> ConnectType | None:
    match = re.fullmatch(r"([\w.]+?)\s*(?:\((\d+)(?:,\s*(\d+))?\))?", name.strip())
    if match is None or match[1] not in _NAMES | {"bytes"}:
        return None
    first, second = (int(match[n]) if match[n] else None for n in (2, 3))
    if match[1] == _DECIMAL:
        if first is None:
            raise UsageError(
                f"{name} does not say how many digits it has",
                hint=f"write {_DECIMAL}(precision, scale), like {_DECIMAL}(12,2)",
            )
        return ConnectType("bytes", _DECIMAL, second or 0, first)
    if match[1] == "bytes":
        return ConnectType("bytes")
    return ConnectType("", match[1], length=first)


def mapping_of_configured(column: str, type_: str) -> ColumnMapping:
    """Says how a column without a schema is landed, by the type ``check_type`` let pass."""
    named = _named(type_)
    return mapping_of(column, named) if named else casts.mapping_of(column, type_)


def mapping_of(column: str, type_: ConnectType) -> ColumnMapping:
    """Says how the texts of a column of a schema's type are landed."""
    name = identifier(column)
    warehouse, convert, fault = _conversion(name, type_)
    return ColumnMapping(warehouse, "", convert, fault, name if fault else "")


def _conversion(name: str, type_: ConnectType) -> tuple[str, str, str]:
    """The warehouse type, the expression that converts to it, and why that may fail."""
    if type_.name in _DAYS:
        day = _whole(name, -719_162, 2**31 - 2)
        return "DATE", f"(DATE '1970-01-01' + ({day})::INTEGER)", "DATE is kept from 0001-01-01 on"
    if type_.name in _TIMES:
        return _time(name, _TIMES[type_.name])
    if type_.name in _MOMENTS:
        return _moment(name, _MOMENTS[type_.name])
    if type_.name == _NANO_TIME:
        time = _whole(name, 0, _DAY_US * 1000 - 1)
        full = f"WHEN {name} = '{_DAY_US * 1000}' THEN TIME_NS '24:00:00'"
        convert = f"CASE {full} ELSE make_timestamp_ns({time})::TIME_NS END"
        return "TIME_NS", convert, "TIME_NS is kept from 00:00:00 to 24:00:00"
    if type_.name == _NANO_MOMENT:
        moment = _whole(name, -(2**63) + 2, 2**63 - 2)
        return "TIMESTAMP_NS", f"make_timestamp_ns({moment})", "it is no whole number of 64 bits"
    if type_.name == _DECIMAL:
        digits = _digits(name, str(type_.scale))
        precision = 38 if type_.precision is None else type_.precision
        if not 1 <= precision <= 38 or not 0 <= type_.scale <= precision:
            return "VARCHAR", digits, "it is no number of at most 38 digits in base64"
        decimal = f"DECIMAL({precision},{type_.scale})"
        fault = f"it is no number in base64, or has more digits than {decimal} holds"
        return decimal, f"TRY_CAST({digits} AS {decimal})", fault
    if type_.name == _VARIABLE:
        value = f"json_extract_string({name}, '$.value')"
        scale = f"TRY_CAST(json_extract_string({name}, '$.scale') AS INTEGER)"
        fault = "it is no scale with a number of at most 38 digits in base64"
        return "VARCHAR", _digits(value, scale), fault
    if type_.name == _BITS:
        return "VARCHAR", _bits(name, type_.length), "it is no bytes in base64"
    if type_.name in _AS_TEXT:
        warehouse = _AS_TEXT[type_.name]
        text = f"rtrim({name}, 'Zz')" if ".Iso" in type_.name else name
        return warehouse, *casts.conversion(text, warehouse)
    base = _BASE.get(_AS_BASE.get(type_.name, type_.base), "VARCHAR")
    if base == "VARCHAR":
        return base, name, ""
    if base == "BLOB":
        return base, f"TRY(from_base64({name}))", "it is no bytes in base64"
    return base, *casts.conversion(name, base)


def _whole(name: str, low: int, high: int, factor: int = 1) -> str:
    number = f"(TRY_CAST({name} AS HUGEINT) * {factor})"
    within = f"regexp_full_match({name}, '-?\\d{{1,19}}') AND {number} BETWEEN {low} AND {high}"
    return f"CASE WHEN {within} THEN {number}::BIGINT END"


def _time(name: str, factor: int) -> tuple[str, str, str]:
    time = _whole(name, 0, _DAY_US - 1, factor)
    full = f"WHEN {name} = '{_DAY_US // factor}' THEN TIME '24:00:00'"  # TIME + 24 hours is 00:00
    convert = f"CASE {full} ELSE TIME '00:00:00' + to_microseconds({time}) END"
    return "TIME", convert, "TIME is kept from 00:00:00 to 24:00:00"


def _moment(name: str, factor: int) -> tuple[str, str, str]:
    first = -62_135_596_800_000_000  # 0001-01-01
    # PostgreSQL's infinities, whatever the unit: those of its JDBC driver (PGStatement).
    moment = (
        f"CASE {name} WHEN '9223372036825200000' THEN TIMESTAMP 'infinity'"
        " WHEN '-9223372036832400000' THEN TIMESTAMP '-infinity'"
        f" ELSE make_timestamp({_whole(name, first, 2**63 - 2, factor)}) END"
    )
    return "TIMESTAMP", moment, "TIMESTAMP is kept from 0001-01-01 to 294247-01-10 04:00:54.775806"


def _digits(value: str, scale: str) -> str:
    """The text of a number whose unscaled value is base64 of two's complement, big-endian."""
    h, n = _BYTES, _NUMBER
    unscaled = f"""list_transform([hex(TRY(from_base64({value})))], lambda {h}: CASE
        WHEN length({h}) BETWEEN 1 AND 32 AND {h}[1] < '8'
        THEN ('0x' || lpad({h}, 32, '0'))::UHUGEINT::VARCHAR
        WHEN length({h}) BETWEEN 1 AND 32
        THEN (-({_LAST_UHUGEINT}::UHUGEINT - ('0x' || lpad({h}, 32, 'F'))::UHUGEINT)::HUGEINT
            - 1)::VARCHAR END)[1]"""
    return f"""list_transform([{{u: {unscaled}, s: {scale}}}], lambda {n}: CASE
        WHEN {n}.s BETWEEN -1000 AND 0
        THEN CASE WHEN {n}.u = '0' THEN {n}.u ELSE {n}.u || repeat('0', -{n}.s) END
        WHEN {n}.s BETWEEN 1 AND 1000 THEN regexp_extract({n}.u, '^-?')
            || regexp_replace(lpad(ltrim({n}.u, '-'),
                greatest(length(ltrim({n}.u, '-')), {n}.s + 1)::INTEGER, '0'),
                '^(.*)(.{{' || {n}.s || '}})$', '\\1.\\2') END)[1]"""


def _bits(name: str, length: int | None) -> str:
    """The bits, the highest first; Debezium's bytes have the lowest first."""
    pairs = f"regexp_extract_all(hex(TRY(from_base64({name}))), '..')"
    bits = f"unhex(nullif(array_to_string(list_reverse({pairs}), ''), ''))::BIT::VARCHAR"
    turned = f"CASE WHEN {name} = '' THEN '' ELSE {bits} END"
    return turned if length is None else f"right({turned}, {length})"


def unavailable(word: str) -> list[str]:
    """The texts that stand for a value that was not sent, as Debezium's UnchangedToastedPlaceholder has them."""
    data = word.encode()
    numbers = [byte - (byte > 127) * 256 for byte in data]  # as Java's
    base64, *digits = (b64encode(part).decode() for part in (data, *(bytes([byte]) for byte in data)))
    uuid = UUID(bytes=md5(data, usedforsecurity=False).digest(), version=3)
    scaled = [{"scale": 0, "value": digit} for digit in digits]
    lists = [[word], [base64], [str(uuid)], numbers, [float(n) for n in numbers], digits, scaled]
    compact = [json.dumps(item, ensure_ascii=False, separators=(",", ":")) for item in (*lists, {word: word})]
    return [word, base64, data.hex(), *compact, json.dumps({word: word}, ensure_ascii=False)]
