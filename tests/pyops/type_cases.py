"""Every kind of PostgreSQL value, and what the warehouse must hold for it.

One table holds them all: a column for each type, named like the type, and one value a row.
A value that has no faithful place in the warehouse is in a row of its own, whose other columns
are fine. What landed is compared as the text DuckDB writes, which tells -0, NaN, the infinities,
24:00:00 and every digit apart, together with the type it has.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from pyops.sql import identifier, literal

TABLE = "every type"


@dataclass(frozen=True)
class Dead:
    """A value that must become a dead letter: its text there, and a part of the reason."""

    value: str | None
    reason: str


class Expression(str):
    """An input that is an SQL expression, not the text of a value."""


@dataclass(frozen=True)
class Case:
    """One value.

    Attributes:
        row: The ``id`` of its row in the table; no other case of its type is in it.
        type: PostgreSQL's type, and the name of its column.
        literal: The SQL expression of the value.
        warehouse: The DuckDB type it must land as.
        expected: What DuckDB must show of it; None for NULL.
    """

    row: int
    type: str
    literal: str
    warehouse: str
    expected: str | Dead | None

    def __str__(self) -> str:
        return f"{self.type}: {self.literal}"[:60].encode("unicode_escape").decode()


Values = Mapping[str, str | Dead]


def _same(*texts: str) -> dict[str, str | Dead]:
    """Values that the warehouse shows as they were put in."""
    return dict(zip(texts, texts, strict=True))


# Types that the cases need. The input functions of `folded` are those of the extension citext.
SETUP = (
    "CREATE EXTENSION vector",
    "CREATE TYPE mood AS ENUM ('sad', 'so so', 'it''s, \"ok\"')",
    "CREATE TYPE public.int4 AS ENUM ('four')",
    "CREATE DOMAIN price AS numeric(10,2)",
    "CREATE DOMAIN dear_price AS price CHECK (VALUE > 100)",
    "CREATE DOMAIN short AS varchar(5)",
    "CREATE DOMAIN moment AS timestamptz",
    "CREATE DOMAIN feeling AS mood",
    "CREATE DOMAIN numbers AS integer[]",
    "CREATE DOMAIN more_numbers AS numbers",
    "CREATE TYPE pair AS (a integer, b text)",
    "CREATE TYPE pairs AS (first pair, rest pair[], at timestamptz)",
    "CREATE DOMAIN checked_pair AS pair CHECK ((VALUE).a > 0)",
    "CREATE TYPE float_range AS RANGE (subtype = float8)",
    "CREATE TYPE folded",
    "CREATE FUNCTION folded_in(cstring) RETURNS folded AS 'textin' LANGUAGE internal STRICT",
    "CREATE FUNCTION folded_out(folded) RETURNS cstring AS 'textout' LANGUAGE internal STRICT",
    "CREATE TYPE folded (INPUT = folded_in, OUTPUT = folded_out, LIKE = text)",
    # An embedded server is built without libxml and so without a function for xml's input.
    "CREATE FUNCTION xml_of(cstring) RETURNS xml AS 'textin' LANGUAGE internal STRICT",
    'CREATE TABLE "Odd Name" ()',
)
# What comes when the table is there.
LATER = ("ALTER TYPE mood ADD VALUE 'glad'",)


def _numbers() -> Iterator[tuple[str, str, Values]]:
    yield "int2", "SMALLINT", {"-32768": "-32768", "32767": "32767", "0": "0"}
    yield "integer", "INTEGER", {"-2147483648": "-2147483648", "2147483647": "2147483647"}
    yield (
        "bigint",
        "BIGINT",
        {
            "-9223372036854775808": "-9223372036854775808",
            "9223372036854775807": "9223372036854775807",
            "9007199254740993": "9007199254740993",
        },
    )
    yield "oid", "BIGINT", {"4294967295": "4294967295", "2147483648": "2147483648", "0": "0"}
    yield (
        "numeric",
        "VARCHAR",
        {
            "0": "0",
            "0.00": "0.00",
            "-1.10": "-1.10",
            "1e-20": "0.00000000000000000001",
            "-12345678901234567890123456789012345678901234567890.000100": (
                "-12345678901234567890123456789012345678901234567890.000100"
            ),
            "1e100": "1" + "0" * 100,
            Expression("repeat('9', 131072)::numeric"): "9" * 131072,
            Expression("('0.' || repeat('0', 16382) || '1')::numeric"): "0." + "0" * 16382 + "1",
            "NaN": "NaN",
            "Infinity": "Infinity",
            "-Infinity": "-Infinity",
        },
    )
    nan: str | Dead = Dead("NaN", "holds no NaN")
    yield (
        "numeric(10,2)",
        "DECIMAL(10,2)",
        {
            "99999999.99": "99999999.99",
            "-99999999.99": "-99999999.99",
            "-0.01": "-0.01",
            "0": "0.00",
            "1000000.1": "1000000.10",
            "NaN": nan,
        },
    )
    nines = "9" * 38
    for scale in (0, 1, 19, 38):
        number = f"{nines[scale:]}.{nines[:scale]}".rstrip(".")
        values: Values = {number: number, f"-{number}": f"-{number}", "NaN": nan}
        yield f"numeric(38,{scale})", f"DECIMAL(38,{scale})", values
    yield "numeric(1)", "DECIMAL(1,0)", {"-9": "-9", "NaN": nan}
    yield "numeric(18,3)", "DECIMAL(18,3)", {"999999999999999.999": "999999999999999.999"}
    yield "numeric(19,9)", "DECIMAL(19,9)", {"-9999999999.999999999": "-9999999999.999999999"}
    yield "numeric(5,5)", "DECIMAL(5,5)", {"0.00001": ".00001", "-.99999": "-.99999"}
    yield "numeric(39,0)", "VARCHAR", {"9" * 39: "9" * 39, "NaN": "NaN"}
    yield "numeric(50,10)", "VARCHAR", {"1" * 40 + ".0000000010": "1" * 40 + ".0000000010"}
    yield "numeric(1000,500)", "VARCHAR", {"1": "1." + "0" * 500, "NaN": "NaN"}
    yield "numeric(3,-2)", "DECIMAL(5,0)", {"99949": "99900", "-12345": "-12300", "NaN": nan}
    yield "numeric(38,-2)", "VARCHAR", {"9" * 38 + "00": "9" * 38 + "00", "NaN": "NaN"}
    yield "numeric(3,5)", "VARCHAR", {"0.00999": "0.00999", "-0.001": "-0.00100", "NaN": "NaN"}
    yield (
        "money",
        "DECIMAL(19,2)",
        {
            "-92233720368547758.08": "-92233720368547758.08",
            "92233720368547758.07": "92233720368547758.07",
            "-1234.5": "-1234.50",
            "-0.01": "-0.01",
        },
    )
    yield (
        "float4",
        "FLOAT",
        {
            "NaN": "nan",
            "Infinity": "inf",
            "-Infinity": "-inf",
            "-0": "-0.0",
            "0": "0.0",
            "1e-45": "1e-45",
            "1.1754942e-38": "1.1754942e-38",
            "3.4028235e38": "3.4028235e+38",
            "16777217": "16777216.0",
            "0.1": "0.1",
        },
    )
    yield (
        "float8",
        "DOUBLE",
        {
            "NaN": "nan",
            "Infinity": "inf",
            "-Infinity": "-inf",
            "-0": "-0.0",
            "0": "0.0",
            "1e-45": "1e-45",
            "5e-324": "5e-324",
            "-2.225073858507201e-308": "-2.225073858507201e-308",
            "1.7976931348623157e308": "1.7976931348623157e+308",
            "0.30000000000000004": "0.30000000000000004",
            "9007199254740993": "9007199254740992.0",
        },
    )
    yield "bool", "BOOLEAN", {"true": "true", "false": "false"}


def _times() -> Iterator[tuple[str, str, Values]]:
    yield (
        "date",
        "DATE",
        {
            "infinity": "infinity",
            "-infinity": "-infinity",
            "0001-01-01": "0001-01-01",
            "1582-10-10": "1582-10-10",
            "1970-01-01": "1970-01-01",
            "2024-02-29": "2024-02-29",
            "9999-12-31": "9999-12-31",
            "10000-01-01": "10000-01-01",
            "5874897-12-31": "5874897-12-31",
            "0001-12-31 BC": Dead("0001-12-31 BC", "from 0001-01-01"),
            "0044-03-15 BC": Dead("0044-03-15 BC", "from 0001-01-01"),
            "4714-11-24 BC": Dead("4714-11-24 BC", "from 0001-01-01"),
        },
    )
    kept = "kept from 0001-01-01 to 294247-01-10 04:00:54.775806"
    far: dict[str, str | Dead] = {
        text: Dead(text, kept)
        for text in (
            "0001-12-31 23:59:59.999999 BC",
            "0044-03-15 12:00:00 BC",
            "4714-11-24 00:00:00 BC",
            "4714-11-24 00:00:00.1 BC",
            "294247-01-10 04:00:54.775807",
            "294247-01-10 04:00:54.775808",
            "294247-01-10 04:00:54.775809",
            "294247-01-10 04:00:54.77581",
            "294247-01-10 04:00:55",
            "294247-02-28 23:59:59.000001",
            "294248-02-29 12:34:56.789",
            "294276-12-31 23:59:59.999999",
        )
    }
    near = _same(
        "infinity",
        "-infinity",
        "0001-01-01 00:00:00",
        "1582-10-10 01:02:03",
        "1899-12-31 23:59:59.999999",
        "1969-12-31 23:59:59.999999",
        "1970-01-01 00:00:00",
        "2000-01-01 00:00:00.000001",
        "2024-02-29 12:34:56.123456",
        "2016-12-31 23:59:59.99999",
        "9999-12-31 23:59:59.999999",
        "10000-01-01 00:00:00",
        "294246-12-31 23:59:59.999999",
        "294247-01-10 04:00:54.775806",
    )
    yield "timestamp", "TIMESTAMP", near | far
    utc = {f"{text} +00": expected for text, expected in (near | far).items() if text[-1] != "y"}
    yield (
        "timestamptz",
        "TIMESTAMP",
        utc
        | {
            "infinity": "infinity",
            "-infinity": "-infinity",
            "2021-10-31 02:30:00+02": "2021-10-31 00:30:00",
            "2021-10-31 02:30:00+01": "2021-10-31 01:30:00",
            "2021-03-28 02:30:00 Europe/Berlin": "2021-03-28 01:30:00",
            "2021-07-01 00:00:00 America/St_Johns": "2021-07-01 02:30:00",
            "2020-06-01 12:00:00.5+05:45": "2020-06-01 06:15:00.5",
            "1900-01-01 00:00:00+00:19:32": "1899-12-31 23:40:28",
            "0001-01-01 00:00:00+01": Dead("0001-12-31 23:00:00 BC", kept),
        },
    )
    yield "timestamp(3)", "TIMESTAMP", {"2020-01-01 00:00:00.1236": "2020-01-01 00:00:00.124"}
    yield (
        "time",
        "TIME",
        {
            "00:00:00": "00:00:00",
            "23:59:59.999999": "23:59:59.999999",
            "24:00:00": "24:00:00",
            "04:05:06.78": "04:05:06.78",
        },
    )
    yield (
        "timetz",
        "VARCHAR",
        {
            "24:00:00+00": "24:00:00+00",
            "04:05:06.789-08": "04:05:06.789-08",
            "00:00:00.000001+15:59:59": "00:00:00.000001+15:59:59",
            "12:00:00-15:59:59": "12:00:00-15:59:59",
            "12:00:00+05:45": "12:00:00+05:45",
        },
    )
    yield (
        "interval",
        "VARCHAR",
        {
            "1 year 2 mons 3 days 04:05:06.789": "P1Y2M3DT4H5M6.789S",
            "-1 year -2 mons -3 days -04:05:06.789": "P-1Y-2M-3DT-4H-5M-6.789S",
            "1 mon -1 day 00:00:01": "P1M-1DT1S",
            "-1 mons 1 day -00:00:00.000001": "P-1M1DT-0.000001S",
            "0": "PT0S",
            "100 hours": "PT100H",
            "178000000 years": "P178000000Y",
            "infinity": "infinity",
            "-infinity": "-infinity",
        },
    )
    yield "interval year to month", "VARCHAR", {"1 year 2 mons 3 days": "P1Y2M"}


def _texts() -> Iterator[tuple[str, str, Values]]:
    odd = "'; DROP TABLE x; -- \" \\ \\x41 $1 %s {} \t\r\n\x01\x7f"
    wide = "\U0001f468\u200d\U0001f469 e\u0301 \u202e \ufeff \uffff \U0010ffff"
    texts = _same("", " ", "NULL", "\\N", "\\.", "NaN", "1e5", odd, wide)
    yield "text", "VARCHAR", texts
    yield "varchar", "VARCHAR", texts
    yield "varchar(3)", "VARCHAR", {"ab ": "ab ", "\U0001f600é\u0301": "\U0001f600é\u0301", "": ""}
    yield "char(5)", "VARCHAR", {"ab": "ab   ", "": " " * 5, " é": " é   ", "abcde": "abcde"}
    yield "name", "VARCHAR", {"pg_class": "pg_class", 'A "b"': 'A "b"', "": ""}
    byte = {"": "", "a": "a", Expression('(-1)::"char"'): "\\377"}
    yield '"char"', "VARCHAR", byte
    yield "folded", "VARCHAR", {"Ab C": "Ab C", "": "", '"': '"'}
    yield "mood", "VARCHAR", {"sad": "sad", 'it\'s, "ok"': 'it\'s, "ok"', "glad": "glad"}
    yield "public.int4", "VARCHAR", {"four": "four"}
    every_byte = bytes(range(256))
    shown = "".join(_shown(byte) for byte in every_byte)
    yield ("bytea", "BLOB", {"\\x": "", "\\x00": "\\x00", "\\x610062": "a\\x00b", "\\x" + every_byte.hex(): shown})
    yield "uuid", "UUID", _same(*_UUIDS)
    yield "xml", "VARCHAR", {Expression("xml_of('<a b=\"1\">&lt;é</a> x')"): '<a b="1">&lt;é</a> x'}
    documents = (
        "null",
        '"\\ud800"',
        '"\\udc00\\ud800\\u0000"',
        '{"a": 1, "a":2}',
        "[18446744073709551617, -1e400, 0.10, 1E2, -0]",
        ' { "b" : [ ] }\n',
        '"\\u00e9 é \\/ /"',
        "[" * 1000 + "]" * 1000,
    )
    yield "json", "VARCHAR", _same(*documents)
    yield (
        "jsonb",
        "VARCHAR",
        {
            "null": "null",
            '{"b": 1, "a": 1, "a": 2}': '{"a": 2, "b": 1}',
            "[18446744073709551617, 1.10, 1e3, true, null]": ("[18446744073709551617, 1.10, 1000, true, null]"),
            "1e400": "1" + "0" * 400,
            '"\\ud83d\\ude00 \\u0001 \\""': '"\U0001f600 \\u0001 \\""',
            '""': '""',
            "{}": "{}",
            "[" * 1000 + "]" * 1000: "[" * 1000 + "]" * 1000,
        },
    )


_UUIDS = (
    "00000000-0000-0000-0000-000000000000",
    "ffffffff-ffff-ffff-ffff-ffffffffffff",
    "80000000-0000-0000-0000-000000000001",
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
)


def _shown(byte: int) -> str:
    """A byte as DuckDB shows it in a BLOB's text."""
    plain = 32 <= byte < 127 and chr(byte) not in "\\'\""
    return chr(byte) if plain else f"\\x{byte:02X}"


def _domains() -> Iterator[tuple[str, str, Values]]:
    prices: Values = {"100.1": "100.10", "99999999.99": "99999999.99"}
    yield "price", "DECIMAL(10,2)", {**prices, "NaN": Dead("NaN", "holds no NaN")}
    yield "dear_price", "DECIMAL(10,2)", {**prices, "NaN": Dead("NaN", "holds no NaN")}
    yield "short", "VARCHAR", {"a b": "a b", "": ""}
    yield (
        "moment",
        "TIMESTAMP",
        {
            "2020-01-01 00:00:00+02": "2019-12-31 22:00:00",
            "infinity": "infinity",
            "0044-03-15 00:00:00+00 BC": Dead("0044-03-15 00:00:00 BC", "kept from"),
        },
    )
    yield "feeling", "VARCHAR", {"so so": "so so", "glad": "glad"}
    yield "numbers", "JSON", {"{1,NULL,-2}": "[1,null,-2]", "{}": "[]"}
    yield "more_numbers", "JSON", {"{{1},{2}}": "[[1],[2]]"}
    yield "price[]", "JSON", {"{1,NaN,NULL}": '[1.00,"NaN",null]'}
    yield "dear_price[]", "JSON", {"{101}": "[101.00]"}
    yield "short[]", "JSON", {'{1,"a b",""}': '["1","a b",""]'}
    yield "numbers[]", "JSON", {'{"{1,2}","{}",NULL}': '["{1,2}","{}",null]'}
    yield ("pair", "VARCHAR", {"(,)": "(,)", '(1,"")': '(1,"")', '(,"a ""b"", c")': '(,"a ""b"", c")'})
    nested = '("(1,a)","{""(2,\\\\""b c\\\\"")"",NULL}","2020-01-01 02:00:00+02")'
    flat = '("(1,a)","{""(2,\\\\""b c\\\\"")"",NULL}","2020-01-01 00:00:00+00")'
    yield "pairs", "VARCHAR", {nested: flat, "(,,)": "(,,)", "(,,infinity)": "(,,infinity)"}
    yield "checked_pair", "VARCHAR", {"(1,)": "(1,)"}


def _arrays() -> Iterator[tuple[str, str, Values]]:
    yield (
        "integer[]",
        "JSON",
        {
            "{}": "[]",
            "{NULL}": "[null]",
            "{1,NULL,-2147483648}": "[1,null,-2147483648]",
            "{{1,2},{3,NULL}}": "[[1,2],[3,null]]",
            "{{{1}},{{2}}}": "[[[1]],[[2]]]",
            "[0:1]={1,2}": "[1,2]",
            "[-5:-4][2:3]={{1,2},{3,4}}": "[[1,2],[3,4]]",
        },
    )
    yield "integer[3][3]", "JSON", {"{1}": "[1]"}
    yield "bigint[]", "JSON", {"{9223372036854775807}": "[9223372036854775807]"}
    yield (
        "numeric[]",
        "JSON",
        {
            "{1.10,NaN,Infinity,-Infinity,NULL}": '[1.10,"NaN","Infinity","-Infinity",null]',
            "{123456789012345678901234567890.000100,1e-20}": (
                "[123456789012345678901234567890.000100,0.00000000000000000001]"
            ),
        },
    )
    yield (
        "numeric(38,10)[]",
        "JSON",
        {"{9999999999999999999999999999.1}": ("[9999999999999999999999999999.1000000000]")},
    )
    yield (
        "float8[]",
        "JSON",
        {
            "{-0,1e-45,1.7976931348623157e308}": "[-0,1e-45,1.7976931348623157e+308]",
            "{Infinity,-Infinity,NaN,NULL}": '["Infinity","-Infinity","NaN",null]',
        },
    )
    yield "float4[]", "JSON", {"{1e-45,0.1,NaN}": '[1e-45,0.1,"NaN"]'}
    yield "oid[]", "JSON", {"{4294967295,0}": "[4294967295,0]"}
    yield "bool[]", "JSON", {"{t,f,NULL}": "[true,false,null]", "{}": "[]"}
    yield (
        "text[]",
        "JSON",
        {
            "{}": "[]",
            '{"",NULL,"NULL","null",nuLL_}': '["",null,"NULL","null","nuLL_"]',
            '{"a,b","c\\"d","e\\\\f","{g}"," h ","i\tj"}': ('["a,b","c\\"d","e\\\\f","{g}"," h ","i\\tj"]'),
            Expression("ARRAY[E'a\\nb', E'\\r', E'\\x01\\x1f\\x7f', E'\\\\n', E'\\\\\"', '\"']"): (
                '["a\\nb","\\r","\\u0001\\u001F\x7f","\\\\n","\\\\\\"","\\""]'
            ),
            Expression("ARRAY['\u0301', U&'\\0022\\0301x', '\U0001f468\u200d\U0001f469', 'é']"): (
                '["\u0301","\\"\u0301x","\U0001f468\u200d\U0001f469","é"]'
            ),
            Expression("ARRAY['1', 'true', 't', 'NaN', '[', ']', ':', '''', '$1', '%s']"): (
                '["1","true","t","NaN","[","]",":","\'","$1","%s"]'
            ),
            Expression("ARRAY[ARRAY['}', '{'], ARRAY[',', NULL]]"): '[["}","{"],[",",null]]',
            '[2:3]={"[0:1]={a}",b}': '["[0:1]={a}","b"]',
        },
    )
    yield "char(3)[]", "JSON", {"{a,NULL,abc}": '["a  ",null,"abc"]'}
    yield '"char"[]', "JSON", {'{a,"","{"}': '["a","","{"]'}
    yield "name[]", "JSON", {'{a,"b c"}': '["a","b c"]'}
    yield "mood[]", "JSON", {'{sad,NULL,"so so",glad}': '["sad",null,"so so","glad"]'}
    yield "public.int4[]", "JSON", {"{four}": '["four"]'}
    yield "uuid[]", "JSON", {f"{{{_UUIDS[3]},NULL}}": f'["{_UUIDS[3]}",null]'}
    yield "bytea[]", "JSON", {'{"\\\\x00ff","\\\\x",NULL}': '["\\\\x00ff","\\\\x",null]'}
    yield "date[]", "JSON", {"{infinity,0044-03-15 BC}": '["infinity","0044-03-15 BC"]'}
    yield (
        "timestamptz[]",
        "JSON",
        {"{2020-01-01 00:00:00.5+02,infinity,NULL}": ('["2019-12-31 22:00:00.5+00","infinity",null]')},
    )
    yield "time[]", "JSON", {"{24:00:00}": '["24:00:00"]'}
    yield "interval[]", "JSON", {"{1 mon -1 day,-00:00:01}": '["P1M-1D","PT-1S"]'}
    yield "money[]", "JSON", {'{"-1234.50",0.01}': '["-$1,234.50","$0.01"]'}
    yield (
        "json[]",
        "JSON",
        {
            '{"{\\"a\\": \\"\\\\ud800\\"}","null",NULL,"[1, 2]"}': (
                '["{\\"a\\": \\"\\\\ud800\\"}","null",null,"[1, 2]"]'
            )
        },
    )
    yield "jsonb[]", "JSON", {'{"{\\"a\\":1}",1}': '["{\\"a\\": 1}","1"]'}
    yield ("pair[]", "JSON", {'{"(1,\\"a \\"\\"b\\")",NULL,"(,)"}': '["(1,\\"a \\"\\"b\\")",null,"(,)"]'})
    yield "int4range[]", "JSON", {'{"[1,2]",empty,"(,)"}': '["[1,3)","empty","(,)"]'}
    yield "inet[]", "JSON", {"{10.0.0.1,10.0.0.1/8}": '["10.0.0.1","10.0.0.1/8"]'}
    yield "bit(3)[]", "JSON", {"{101,000}": '["101","000"]'}
    yield "box[]", "VARCHAR", {"{(1,1),(0,0);(2,2),(1,1)}": "{(1,1),(0,0);(2,2),(1,1)}", "{}": "{}"}
    yield "point[]", "JSON", {'{"(1,2)",NULL}': '["(1,2)",null]'}


def _others() -> Iterator[tuple[str, str, Values]]:
    """Types that land as their PostgreSQL text."""
    inputs: dict[str, tuple[str, ...] | dict[str, str | Dead]] = {
        "inet": ("10.0.0.1", "10.0.0.1/24", "::1", "::ffff:1.2.3.4/64"),
        "cidr": ("10.0.0.0/8", "10.0.0.1/32", "::/0"),
        "macaddr": ("08:00:2b:01:02:03",),
        "macaddr8": ("08:00:2b:01:02:03:04:05",),
        "bit(3)": ("101", "000"),
        "varbit": ("", "0", "1" * 100),
        "int4range": {"[1,10]": "[1,11)", "empty": "empty", "(,)": "(,)"},
        "numrange": ("[1.10,NaN)", "(-Infinity,Infinity]"),
        "daterange": {"[2020-01-01,infinity]": "[2020-01-01,infinity]"},
        "tstzrange": {"[2020-01-01 00:00:00+02,)": '["2019-12-31 22:00:00+00",)'},
        "float_range": ("[1e-45,Infinity)", "[-0,0.1]"),
        "int4multirange": {"{[1,3),[2,5),[8,8]}": "{[1,5),[8,9)}", "{}": "{}"},
        "tsvector": ("'a':1 'it''s':2A,3", ""),
        "tsquery": ("'a' & !'b c'",),
        "point": ("(1.5,-2)", "(NaN,Infinity)", "(1e-45,-0)"),
        "line": ("{1,2,3}",),
        "lseg": ("[(1,2),(3,4)]",),
        "box": ("(1,1),(0,0)",),
        "path": ("[(1,2),(3,4)]", "((1,2),(3,4))"),
        "polygon": ("((1,2),(3,4),(5,6))",),
        "circle": ("<(1,2),3>",),
        "pg_lsn": ("FFFFFFFF/FFFFFFFF", "0/0"),
        "xid8": ("18446744073709551615",),
        "xid": ("4294967295",),
        "tid": ("(0,1)",),
        "regclass": {"pg_class": "pg_class", '"Odd Name"': 'public."Odd Name"', "123456": "123456"},
        "regtype": {"integer[]": "integer[]", "mood": "public.mood"},
        "int2vector": ("1 2 3", ""),
        "pg_snapshot": ("10:20:10,14",),
        "jsonpath": ('$."a"?(@ > 1)',),
        "refcursor": ("a b",),
        "vector(3)": ("[1,-0.5,1e-10]",),
    }
    for type_, values in inputs.items():
        yield type_, "VARCHAR", values if isinstance(values, dict) else _same(*values)


def _cases() -> Iterator[Case]:
    dead_row = 1000
    for section in (_numbers(), _times(), _texts(), _domains(), _arrays(), _others()):
        for type_, warehouse, values in section:
            row = 0
            for text, expected in values.items():
                sql = f"({text})" if isinstance(text, Expression) else literal(text)
                if isinstance(expected, Dead):
                    dead_row += 1
                    yield Case(dead_row, type_, sql, warehouse, expected)
                else:
                    row += 1
                    yield Case(row, type_, sql, warehouse, expected)
            yield Case(0, type_, "NULL", warehouse, None)


CASES = tuple(_cases())


def statements() -> Iterator[str]:
    """What to run at the source, in order: types, the table, later changes, then the rows."""
    yield from SETUP
    yield create_table()
    yield from LATER
    yield from inserts()


def create_table() -> str:
    """The statement that makes the table of all types; ``id`` is its key."""
    types = dict.fromkeys(case.type for case in CASES)
    columns = ", ".join(f"{identifier(type_)} {type_}" for type_ in types)
    return f"CREATE TABLE {identifier(TABLE)} (id integer PRIMARY KEY, {columns})"


def inserts() -> Iterator[str]:
    """The statements that fill it, one for each row."""
    first = {case.type: case for case in CASES if case.row == 1}
    for row, group in groupby(sorted(CASES, key=lambda case: case.row), lambda case: case.row):
        values = {case.type: case.literal for case in group}
        if row > 1000:  # a bad value among good ones
            values = {type_: case.literal for type_, case in first.items()} | values
        names = ", ".join(identifier(name) for name in ("id", *values))
        literals = ", ".join(values.values())
        yield f"INSERT INTO {identifier(TABLE)} ({names}) VALUES ({row}, {literals})"
