"""What every kind of PostgreSQL value becomes in the warehouse, by batch and by changes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import duckdb
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pyops.demo.server import Server
from pyops.errors import OperationError
from pyops.records import CHANGE_COLUMNS, Run
from pyops.sql import identifier, literal
from pyops.staging.postgres_types import array_to_json
from tests.pyops.conftest import TEST_DATA, Lab, Sql, _database, examples, execute
from tests.pyops.type_cases import CASES, TABLE, Case, Dead, statements

# Every case of a dead letter is one on purpose: their share is no reason to stop.
LENIENT: dict[str, Any] = {"max_dead_letter_rate": 1}
FULL: dict[str, Any] = {"mode": "full", "primary_key": ["id"]} | LENIENT
DEAD_LETTERS = "SELECT key, column_name, value, reason, payload FROM pyops.dead_letters"

# Where each test lands a table of hundreds of values, few examples are many values.
few_examples = settings(
    max_examples=examples(3),
    derandomize=True,
    phases=[Phase.generate],  # to shrink a table of values takes long and shows little
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.data_too_large],
)


@dataclass(frozen=True)
class Landed:
    """The table of all types in the warehouse, as DuckDB's text, and its dead letters by key."""

    types: dict[str, str]
    rows: dict[int, dict[str, str | None]]
    dead: dict[int, tuple[str, str | None, str, str]]


def land(directory: Path, dsn: str) -> Landed:
    lab = Lab(directory, dsn)
    [run] = lab.extract({TABLE: FULL})
    return look(lab, f"raw.{identifier(TABLE)}", run)


def look(lab: Lab, target: str, run: Run) -> Landed:
    own = {"_load_id", "_loaded_at", *CHANGE_COLUMNS}
    types = {n: type_ for n, type_, *_ in lab.rows(f"DESCRIBE {target}") if n not in own}
    columns = ", ".join(f"{identifier(name)}::VARCHAR" for name in types if name != "id")
    rows = lab.rows(f"SELECT id, {columns} FROM {target}")
    dead = [(*row[:-1], _without_position(row[-1])) for row in lab.rows(DEAD_LETTERS)]
    assert (run.rows_written, run.rows_dead_lettered) == (len(rows), len(dead))
    return Landed(
        types,
        {row[0]: dict(zip(types, row, strict=True)) for row in rows},
        {int(json.loads(key)["id"]): (column, *rest) for key, column, *rest in dead},
    )


def _without_position(payload: str) -> str:
    row = {name: text for name, text in json.loads(payload).items() if name not in CHANGE_COLUMNS}
    return json.dumps(row)


@pytest.fixture(scope="module")
def typed_dsn(server: Server) -> Iterator[str]:
    """The libpq URI of a database with the table of all types."""
    with contextmanager(_database)(server, "") as dsn:
        with closing(adbc.connect(dsn, autocommit=True)) as connection:
            for statement in statements():
                connection.execute(statement).close()
        yield dsn


@pytest.fixture(scope="module", params=["by batch", "by a copy", "by changes"])
def landed(
    request: pytest.FixtureRequest, server: Server, typed_dsn: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Landed]:
    folder = tmp_path_factory.mktemp("types")
    if request.param == "by batch":
        yield land(folder, typed_dsn)
        return
    with contextmanager(_database)(server, "") as dsn:
        lab, tables = Lab(folder, dsn), {TABLE: {"mode": "cdc"}}
        with closing(adbc.connect(dsn, autocommit=True)) as connection:
            for statement in statements():
                connection.execute(statement).close()
                if request.param == "by changes" and statement.startswith('CREATE TABLE "every'):
                    lab.capture(tables)
        run = next(run for run in lab.capture(tables) if run.rows_read)
        yield look(lab, f'raw."{TABLE}__changes"', run)


@pytest.mark.parametrize("case", [c for c in CASES if not isinstance(c.expected, Dead)], ids=str)
def test_value_lands_as_it_is(landed: Landed, case: Case) -> None:
    """Behaviours 31, 32, 33 and 34."""
    assert landed.types[case.type] == case.warehouse
    assert landed.rows[case.row][case.type] == case.expected


@pytest.mark.parametrize("case", [c for c in CASES if isinstance(c.expected, Dead)], ids=str)
def test_value_without_a_faithful_place_is_a_dead_letter(landed: Landed, case: Case) -> None:
    """Behaviours 31, 32 and 37."""
    assert isinstance(case.expected, Dead)
    column, value, reason, _ = landed.dead[case.row]
    assert (column, value) == (case.type, case.expected.value)
    assert case.expected.reason in reason
    assert case.row not in landed.rows


def test_rows_are_either_landed_or_dead_lettered(landed: Landed) -> None:
    """Behaviour 37: one bad value takes its own row away, and no neighbour."""
    bad = {case.row for case in CASES if isinstance(case.expected, Dead)}
    assert set(landed.dead) == bad
    assert set(landed.rows) == {case.row for case in CASES} - bad


def test_payload_of_a_dead_letter_is_the_whole_row_as_json(landed: Landed) -> None:
    """Behaviour 37."""
    as_shown = {
        case.type: case.expected
        for case in CASES
        if case.row == 1 and case.warehouse not in {"JSON", "BLOB", "DECIMAL(38,38)", "DECIMAL(5,5)"}
    }
    as_sent = {"bytea": "\\x", "numeric(5,5)": "0.00001", "bool[]": "{t,f,NULL}"}
    for row, (column, value, _, payload) in landed.dead.items():
        values = json.loads(payload)
        assert list(values) == list(landed.types)
        assert values.items() >= (as_shown | as_sent | {"id": str(row), column: value}).items()


ODD_SETTINGS = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kathmandu",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "lc_monetary": "POSIX",
    "search_path": "public",
    "client_encoding": "LATIN1",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "transform_null_equals": "on",
    "xmloption": "document",
    "default_transaction_isolation": "serializable",
}


@pytest.mark.parametrize("level", ["database", "role"])
def test_settings_of_database_and_role_change_no_value(
    server: Server, typed_dsn: str, landed: Landed, tmp_path: Path, level: str
) -> None:
    """Behaviours 31, 32 and 33."""
    [(database,)] = execute(typed_dsn, "SELECT current_database()")
    execute(server.dsn(), "CREATE ROLE odd SUPERUSER LOGIN")
    target = f"DATABASE {database}" if level == "database" else "ROLE odd"
    try:
        for name, value in ODD_SETTINGS.items():
            execute(server.dsn(), f"ALTER {target} SET {name} = {literal(value)}")
        dsn = typed_dsn.replace("//postgres@", "//odd@")
        assert execute(dsn, "SHOW extra_float_digits") == [("-15",)]
        assert land(tmp_path, dsn) == landed
    finally:
        execute(server.dsn(), f"ALTER DATABASE {database} RESET ALL")
        execute(server.dsn(), "DROP ROLE odd")


def test_setting_that_blinds_the_driver_is_refused(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE t AS SELECT 1 AS id")
    [(database,)] = sql("SELECT current_database()")
    sql(f"ALTER DATABASE {database} SET quote_all_identifiers = on")
    with pytest.raises(OperationError, match="quote_all_identifiers is on"):
        lab.extract({"t": FULL})


def test_text_of_a_database_in_another_encoding_lands_in_utf8(server: Server, tmp_path: Path) -> None:
    """Behaviour 34."""
    make = contextmanager(_database)
    with make(server, "TEMPLATE template0 LOCALE 'C' ENCODING 'LATIN1'") as dsn:
        # As ASCII: this session's encoding is the database's.
        execute(dsn, "CREATE TABLE t AS SELECT 1 AS id, U&'\\00e9 \\00ff' AS U&\"\\00e9\"")
        lab = Lab(tmp_path, dsn)
        lab.extract({"t": FULL})
        assert lab.rows('SELECT "é" FROM raw.t') == [("é ÿ",)]


def test_database_without_an_encoding_is_refused(server: Server, tmp_path: Path) -> None:
    """Behaviour 34: its bytes may be any text."""
    make = contextmanager(_database)
    with make(server, "TEMPLATE template0 LOCALE 'C' ENCODING 'SQL_ASCII'") as dsn:
        execute(dsn, "CREATE TABLE t AS SELECT 1 AS id")
        with pytest.raises(OperationError, match="SQL_ASCII"):
            Lab(tmp_path, dsn).extract({"t": FULL})


def test_row_without_a_primary_key_is_a_dead_letter(lab: Lab, sql: Sql) -> None:
    """Behaviour 37."""
    sql("CREATE TABLE t (id int, part text, at timestamptz, amount numeric(10,2))")
    sql(
        "INSERT INTO t VALUES (1, 'a', '2020-01-01 00:00+00', 1), (NULL, 'b', 'infinity', 'NaN'),"
        " (2, NULL, '2020-01-02 00:00+00', 2), (3, 'c', '2020-01-03 00:00+00', 'NaN')"
    )
    merge = {"mode": "full", "write": "merge", "primary_key": ["id", "part"]} | LENIENT
    for expected in (1, 0):
        [run] = lab.extract({"t": merge})
        assert (run.rows_dead_lettered, run.rows_written) == (3, expected)
    assert lab.rows("SELECT id, part FROM raw.t") == [(1, "a")]
    letters = lab.rows(
        "SELECT source, table_name, key::JSON, column_name, value, reason, payload::JSON,"
        " run_id IN (SELECT run_id FROM pyops.runs), load_id = 1"
        " FROM pyops.dead_letters ORDER BY payload"
    )
    assert len(letters) == 3
    payloads = [json.loads(letter[6]) for letter in letters]
    assert payloads == [
        {"id": "2", "part": None, "at": "2020-01-02 00:00:00", "amount": "2.00"},
        {"id": "3", "part": "c", "at": "2020-01-03 00:00:00", "amount": "NaN"},
        {"id": None, "part": "b", "at": "infinity", "amount": "NaN"},
    ]
    for letter, payload in zip(letters, payloads, strict=True):
        assert letter[:2] == ("src", "t")
        assert json.loads(letter[2]) == {"id": payload["id"], "part": payload["part"]}
        assert letter[7:] == (True, True)
    assert [letter[3:5] for letter in letters] == [("part", None), ("amount", "NaN"), ("id", None)]
    assert [letter[5] for letter in letters][::2] == ["a primary key cannot be NULL"] * 2


def _naughty_strings() -> list[str]:
    strings: list[str] = json.loads((TEST_DATA / "blns" / "blns.json").read_text("utf-8"))
    return strings


def test_naughty_strings_land_as_they_are(lab: Lab, sql: Sql) -> None:
    """Behaviour 34."""
    strings = _naughty_strings()
    assert len(strings) == 515
    sql("CREATE TABLE t (id int PRIMARY KEY, s text, a text[], j json, n numeric(5,2))")
    sql(
        "INSERT INTO t SELECT i, s, ARRAY[s, '', NULL, s || ','], to_json(s),"
        " CASE WHEN i % 2 = 0 THEN 'NaN' ELSE i::numeric / 100 END"
        " FROM json_array_elements_text($1::text::json) WITH ORDINALITY AS e (s, i)",
        json.dumps(strings),
    )
    lab.extract({"t": FULL})
    landed = lab.rows("SELECT id, s, a, j FROM raw.t ORDER BY id")
    assert [row[0] for row in landed] == list(range(1, 516, 2))
    for id_, text, array, document in landed:
        assert text == strings[id_ - 1]
        assert json.loads(array) == [text, "", None, text + ","]
        assert json.loads(document) == text
    dead = {int(payload["id"]): payload["s"] for payload in _payloads(lab)}
    assert dead == {id_: strings[id_ - 1] for id_ in range(2, 516, 2)}


def _payloads(lab: Lab) -> list[dict[str, str]]:
    return [json.loads(payload) for (payload,) in lab.rows("SELECT payload FROM pyops.dead_letters")]


def test_text_of_ten_megabytes_lands_or_is_dead_lettered_whole(lab: Lab, sql: Sql) -> None:
    """Behaviour 34."""
    sql("CREATE TABLE t (id int PRIMARY KEY, s text, b bytea, n numeric(5,2))")
    sql(
        "INSERT INTO t SELECT i, s, convert_to(s, 'UTF8'), (ARRAY[1, numeric 'NaN'])[i]"
        " FROM (SELECT i, repeat('\U0001f600\"\\', 1700000) || i AS s"
        " FROM generate_series(1, 2) AS i) AS x"
    )
    lab.extract({"t": {**FULL, "exclude": ["b"]}})
    text = '\U0001f600"\\' * 1_700_000
    assert len((text + "1").encode()) > 10_000_000
    assert lab.rows("SELECT s FROM raw.t") == [(text + "1",)]
    assert [payload["s"] for payload in _payloads(lab)] == [text + "2"]


NAMES = (
    "Capitals",
    'a"quote"',
    "it's",
    "dotted.name",
    "two  blanks ",
    "select",
    "é" * 31 + "x",  # 63 bytes
    "%",
    "%s %(a)s",
    "$1",
    "{}",
    "{name}",
    "?",
    "\U0001f600",
    "e\u0301",
    "tab\tnew\nline",
    "back\\slash",
    "-- comment; /*",
    "*",
    "0",
    "rowid",
    "token",
    "rows",
    "arrived",
    "warehouse",
    "t",
    "r",
    "NULL",
    "_seq",
    "COLUMNS(*)",
    "\u202eabc",
)
TABLE_NAMES = (*NAMES[:8], "\U0001f600", "NULL", "rows", "pyops.runs", "raw")


def test_any_column_name_lands(lab: Lab, sql: Sql) -> None:
    """Behaviour 28."""
    key = 'the "Key".id'
    rows = range(len(NAMES) + 1)  # in row 0 all is well, in row i column i is not
    for table, type_, good in (("numbers", "numeric(10,2)", "{}.5"), ("arrays", "text[]", "{{{}}}")):
        columns = ", ".join(f"{identifier(name)} {type_}" for name in NAMES)
        sql(f"CREATE TABLE {table} ({identifier(key)} int PRIMARY KEY, {columns})")
        values = [[str(row), *(good.format(n) for n in range(len(NAMES)))] for row in rows]
        for row in rows[1:]:
            values[row][row] = "NaN" if table == "numbers" else "{}"
        listed = ", ".join(f"({', '.join(map(literal, row))})" for row in values)
        sql(f"INSERT INTO {table} VALUES {listed}")
    merge = {"mode": "full", "write": "merge", "primary_key": [key]} | LENIENT
    for _ in range(2):
        lab.extract({"numbers": merge, "arrays": merge})
    landed = ", ".join(map(identifier, NAMES))
    assert lab.rows(f"SELECT {landed} FROM raw.numbers") == [tuple(Decimal(f"{n}.5") for n in range(len(NAMES)))]
    assert lab.rows(f"SELECT {landed} FROM raw.arrays ORDER BY {identifier(key)}") == [
        tuple("[]" if n + 1 == row else f'["{n}"]' for n in range(len(NAMES))) for row in rows
    ]
    letters = lab.rows("SELECT key, column_name, payload FROM pyops.dead_letters")
    assert {column: json.loads(found) for found, column, _ in letters} == {
        name: {key: str(row)} for row, name in enumerate(NAMES, 1)
    }
    assert all(list(json.loads(payload)) == [key, *NAMES] for *_, payload in letters)


def test_names_that_duckdb_cannot_tell_apart_are_refused(lab: Lab, sql: Sql) -> None:
    """Behaviour 28."""
    sql('CREATE TABLE t AS SELECT 1 AS id, 2 AS "Id"')
    with pytest.raises(OperationError, match="Id cannot be landed: id differs from it only by case"):
        lab.extract({"t": {"mode": "full"}})
    lab.extract({"t": {"mode": "full", "exclude": ["Id"]}})
    assert lab.rows("SELECT id FROM raw.t") == [(1,)]


def test_cost_of_a_wide_table_grows_with_its_columns_not_with_their_square(lab: Lab, sql: Sql) -> None:
    sql(f"CREATE TABLE t (id int, {', '.join(f'n{n} numeric(5,2)' for n in range(300))})")
    sql("INSERT INTO t (id, n0, n299) VALUES (1, 1, 1), (2, 1, 'NaN')")
    [run] = lab.extract({"t": FULL})
    assert (run.rows_written, run.rows_dead_lettered) == (1, 1)
    assert run.seconds is not None
    assert run.seconds < 20  # the square takes minutes


def test_any_table_name_lands(lab: Lab, sql: Sql) -> None:
    """Behaviour 28."""
    schema = 'odd "schema".x'
    sql(f"CREATE SCHEMA {identifier(schema)}")
    for i, name in enumerate(TABLE_NAMES):
        sql(f"CREATE TABLE {identifier(schema)}.{identifier(name)} AS SELECT {i} AS id")
    lab.extract({name: {"mode": "full", "schema": schema} for name in TABLE_NAMES})
    union = " UNION ALL ".join(f"SELECT id FROM raw.{identifier(name)}" for name in TABLE_NAMES)
    assert lab.rows(f"{union} ORDER BY id") == [(i,) for i in range(len(TABLE_NAMES))]


def test_partitioned_tables_views_and_generated_columns_land(lab: Lab, sql: Sql) -> None:
    """Behaviour 28."""
    sql(
        "CREATE TABLE p (id int, kept int GENERATED ALWAYS AS (id * 2) STORED,"
        " made int GENERATED ALWAYS AS (id * 3) VIRTUAL, gone int) PARTITION BY RANGE (id)"
    )
    sql("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)")
    sql(
        "CREATE TABLE p2 (made int GENERATED ALWAYS AS (id * 3) VIRTUAL, gone int, id int,"
        " kept int GENERATED ALWAYS AS (id * 2) STORED)"
    )
    sql("ALTER TABLE p ATTACH PARTITION p2 FOR VALUES FROM (10) TO (20)")
    sql("ALTER TABLE p DROP COLUMN gone")
    sql("INSERT INTO p VALUES (1), (11)")
    sql("CREATE VIEW v AS SELECT id, kept::numeric(5,1) AS kept FROM p")
    sql("CREATE MATERIALIZED VIEW m AS SELECT * FROM v")
    lab.extract({name: {"mode": "full"} for name in ("p", "v", "m")})
    assert lab.rows("SELECT id, kept, made FROM raw.p ORDER BY 1") == [(1, 2, 3), (11, 22, 33)]
    for name in ("v", "m"):
        query = f"SELECT id, kept, typeof(kept) FROM raw.{name}"
        assert lab.rows(query + " ORDER BY 1") == [(1, Decimal(2), "DECIMAL(5,1)"), (11, Decimal(22), "DECIMAL(5,1)")]


@few_examples
@given(
    st.lists(
        st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1).filter(
            lambda name: len(name.encode()) <= 63
        ),
        min_size=30,
        max_size=60,
        unique_by=str.lower,
    )
)
def test_any_name_of_any_characters_lands(lab: Lab, names: list[str]) -> None:
    """Behaviour 28."""
    columns = ", ".join(f"{n} AS {identifier(name)}" for n, name in enumerate(names))
    execute(lab.dsn, "DROP TABLE IF EXISTS t")
    execute(lab.dsn, f"CREATE TABLE t AS SELECT {columns}")
    lab.extract({"t": {"mode": "full"}})
    described = [name for name, *_ in lab.rows("DESCRIBE raw.t")]
    assert described == [*names, "_load_id", "_loaded_at"]
    [values] = lab.rows("SELECT * EXCLUDE (_load_id, _loaded_at) FROM raw.t")
    assert list(values) == list(range(len(names)))


@settings(max_examples=examples(30))
@given(st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"))))
def test_literal_is_the_text_it_quotes(texts: list[str]) -> None:
    with duckdb.connect() as connection:
        found = connection.execute(f"SELECT [{', '.join(map(literal, texts))}]").fetchone()
    assert found == (texts,)


# The smallest reading of PostgreSQL's text of an array that can be right (manual, 8.15.6).
Number = tuple[str, str]
Element = str | bool | Number | None
Tree = list["Element | Tree"]


def parse_array(text: str, element: str) -> Tree:
    """Reads one character after another; a number is ("number", its digits)."""
    position = text.index("{")

    def array() -> Tree:
        nonlocal position
        position += 1
        items: Tree = []
        while text[position] != "}":
            items.append(array() if text[position] == "{" else scalar())
            if text[position] == ",":
                position += 1
        position += 1
        return items

    def scalar() -> Element:
        nonlocal position
        found = ""
        if text[position] == '"':
            position += 1
            while text[position] != '"':
                position += text[position] == "\\"
                found += text[position]
                position += 1
            position += 1
            return found
        while text[position] not in ",}":
            found += text[position]
            position += 1
        if found == "NULL":
            return None
        if element == "bool":
            return found == "t"
        if element == "numeric" and found.strip("-0123456789.") == "":
            return ("number", found)
        return found

    result = array()
    assert position == len(text)
    return result


def parse_json(text: str) -> Tree:
    def number(digits: str) -> Number:
        return ("number", digits)

    found: Tree = json.loads(text, parse_int=number, parse_float=number)
    return found


def _bare(text: str) -> bool:
    return text.upper() != "NULL" and not set(text) & set('{},"\\ \t\n\r\v\f') and text != ""


any_text = st.text(
    st.one_of(
        st.sampled_from('{}[],"\\ \n\t\r\x01\x7f=:ntfNUL\u0301\u200d'),
        st.characters(exclude_characters="\0", codec="utf-8"),
    ),
    max_size=8,
)


@st.composite
def array_texts(draw: st.DrawFn) -> tuple[str, str]:
    """An element type and a text of an array of it."""
    element = draw(st.sampled_from(["text", "numeric", "bool"]))
    if element == "text":
        value = st.one_of(any_text, st.sampled_from(["NULL", "null", "", "1", "t", "[0:1]={a}"]))
    elif element == "bool":
        value = st.sampled_from(["t", "f"])
    else:
        value = st.one_of(
            st.decimals(allow_nan=False, allow_infinity=False).map(lambda d: f"{d:f}"),
            st.sampled_from(["NaN", "Infinity", "-Infinity", "0", "-0", "0.00"]),
        )

    def scalar() -> str:
        if draw(st.integers(0, 4)) == 0:
            return "NULL"
        text = draw(value)
        if element != "text" or (_bare(text) and draw(st.booleans())):
            return text
        escaped = "".join("\\" + c if c in '"\\' else c for c in text)
        return f'"{escaped}"'

    def array(sizes: list[int]) -> str:
        size, *inner = sizes
        return "{" + ",".join(array(inner) if inner else scalar() for _ in range(size)) + "}"

    sizes = draw(st.one_of(st.just([0]), st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    bounds = "".join(f"[{n}:{n + size - 1}]" for n, size in enumerate(sizes, -1))
    prefix = f"{bounds}=" if sizes != [0] and draw(st.booleans()) else ""
    return element, prefix + array(sizes)


@settings(max_examples=examples(50))
@given(st.lists(array_texts(), min_size=1))
def test_array_is_parsed_like_the_manual_says(arrays: list[tuple[str, str]]) -> None:
    """Behaviour 33."""
    with duckdb.connect() as connection:
        for element in ("text", "numeric", "bool"):
            texts = [text for kind, text in arrays if kind == element]
            parse = f"SELECT {array_to_json('a', element)} FROM (SELECT unnest(?::VARCHAR[]) AS a)"
            found = [parse_json(row[0]) for row in connection.execute(parse, [texts]).fetchall()]
            assert found == [parse_array(text, element) for text in texts]


def _start_over(lab: Lab, definition: str, select: str, values: list[Any]) -> None:
    """Makes table ``t`` anew; ``select`` sees each value as text ``s``. The warehouse is empty."""
    (lab.directory / "warehouse.duckdb").unlink(missing_ok=True)
    execute(lab.dsn, "DROP TABLE IF EXISTS t CASCADE")
    execute(lab.dsn, f"CREATE TABLE t (id int PRIMARY KEY, {definition})")
    execute(
        lab.dsn,
        f"INSERT INTO t SELECT id, {select} FROM json_array_elements_text($1::text::json) WITH ORDINALITY AS e (s, id)",
        json.dumps(values),
    )


@few_examples
@given(st.lists(st.lists(st.lists(st.none() | any_text, min_size=2, max_size=2), max_size=3)))
def test_arrays_of_any_texts_survive_the_round_trip(lab: Lab, arrays: list[Tree]) -> None:
    """Behaviour 33."""
    # jsonb_populate_record is PostgreSQL's own way from JSON to an array.
    row = "jsonb_populate_record(NULL::t, jsonb_build_object('a', s::jsonb))"
    _start_over(lab, "a text[]", f"({row}).a", arrays)
    lab.extract({"t": FULL})
    found = [json.loads(a) for (a,) in lab.rows("SELECT a FROM raw.t ORDER BY id")]
    assert found == arrays


@few_examples
@given(
    st.integers(1, 38).flatmap(lambda p: st.tuples(st.just(p), st.integers(-3, p))),
    st.lists(st.integers(-(10**38) + 1, 10**38 - 1), min_size=200),
)
def test_any_number_survives_the_round_trip(lab: Lab, form: tuple[int, int], integers: list[int]) -> None:
    """Behaviour 31: the warehouse's text of a number is PostgreSQL's."""
    precision, scale = form
    numbers = [f"{n % 10**precision * (1 if n > 0 else -1)}e{-scale}" for n in integers]
    _start_over(
        lab,
        f"n numeric({precision},{scale}), n_text text, u numeric, u_text text, f float8, f_text text",
        "s::numeric, s::numeric::text, s::numeric / 3, (s::numeric / 3)::text, s::float8 / 3, (s::float8 / 3)::text",
        numbers,
    )
    lab.extract({"t": FULL})
    [(rows, wrong)] = lab.rows(
        # DuckDB leaves out the zero before the point where there can be no other digit.
        "SELECT count(*), count(*) FILTER (WHERE u <> u_text OR f <> f_text::DOUBLE"
        " OR regexp_replace(n::VARCHAR, '^(-?)\\.', '\\10.') <> n_text) FROM raw.t"
    )
    assert (rows, wrong) == (len(numbers), 0)


DAY = 86_400_000_000  # in microseconds


@few_examples
@given(
    st.lists(
        # Days from the year 2000: some centuries, and all that PostgreSQL has.
        st.tuples(st.integers(-200_000, 200_000) | st.integers(-2_451_545, 106_751_982), st.integers(0, DAY - 1)),
        min_size=100,
        max_size=300,
    )
)
def test_any_moment_survives_the_round_trip(lab: Lab, moments: list[tuple[int, int]]) -> None:
    """Behaviour 32: landed or dead-lettered, its text is PostgreSQL's."""
    moment = (
        "(timestamp '2000-01-01' + (s::json->>0)::int * interval '1 day'"
        " + (s::json->>1)::bigint * interval '1 microsecond')"
    )
    moments = [*moments, (106_751_982, DAY - 1), (-2_451_545, 0)]  # both ends
    _start_over(
        lab,
        "t timestamp, t_text text, z timestamptz, d date, d_text text",
        f"{moment}, {moment}::text, {moment} AT TIME ZONE 'UTC', {moment}::date, {moment}::date::text",
        moments,
    )
    lab.extract({"t": FULL})
    [(rows, wrong)] = lab.rows(
        "SELECT count(*), count(*) FILTER (WHERE t::VARCHAR <> t_text OR z <> t OR d::VARCHAR <> d_text) FROM raw.t"
    )
    payloads = _payloads(lab)
    assert (rows + len(payloads), wrong) == (len(moments), 0)
    for payload in payloads:
        assert payload["t"] == payload["z"] == payload["t_text"]
        assert payload["d"] == payload["d_text"]
        assert payload["t"].endswith(" BC") or payload["t"] > "294247"
    assert len(payloads) >= 2
