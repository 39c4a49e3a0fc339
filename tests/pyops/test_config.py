"""pyops.yml: what it may say, and what is said of what it may not."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from pyops import Project, UsageError, load
from pyops.config.load import _SOURCES
from pyops.config.model import WRITES, DeadLetters, PostgresSource, Warehouse
from pyops.config.thresholds import Expectation, Gates, Limit, Reference

TABLE: dict[str, Any] = {"mode": "full"}
MERGE: dict[str, Any] = {"mode": "incremental", "cursor": "at", "primary_key": ["id"]}


def refusal(folder: Path, table: dict[str, Any], **top: Any) -> UsageError:
    source = {"type": "postgres", "dsn": "postgresql://u:hidden@h/d", "tables": {"t": table}}
    document = {"sources": {"src": source}, **top}
    (folder / "pyops.yml").write_text(yaml.safe_dump(document))
    with pytest.raises(UsageError) as caught:
        load(folder)
    assert "hidden" not in f"{caught.value} {caught.value.hint}"
    return caught.value


@pytest.mark.parametrize(
    ("table", "message", "hint"),
    [
        ({**MERGE, "primry_key": "id"}, "t.primry_key", "did you mean 'primary_key'?"),
        ({"mode": "incremetal"}, "mode: unknown word 'incremetal' (line 6)", "'incremental'?"),
        ({**TABLE, "write": "upsert"}, "write: unknown word 'upsert' (line 7)", "merge"),
        ({**TABLE, "write": "append"}, "mode full cannot write by append", ""),
        ({"mode": "incremental", "primary_key": "id"}, "needs a cursor", ""),
        ({"mode": "incremental", "cursor": "at"}, "merge needs a primary_key", ""),
        ({**MERGE, "write": "append", "lookback": "1h"}, "append takes no lookback", ""),
        ({**MERGE, "write": "append", "on_null_cursor": "include"}, "append cannot include", ""),
        ({**TABLE, "cursor": "at"}, "mean nothing to mode full", ""),
        ({"mode": "partition"}, "partition_by go together", ""),
        ({**MERGE, "lookback": "ten minutes"}, "invalid duration 'ten minutes'", ""),
        ({**MERGE, "exclude": ["id"]}, "the load itself needs column id", ""),
        ({**MERGE, "columns": ["id"]}, "the load itself needs column at", ""),
        ({**MERGE, "mask": ["at"]}, "column at orders the load", ""),
        ({**TABLE, "columns": ["a"], "exclude": ["b"]}, "keep one", ""),
        ({**TABLE, "target": "orders"}, "invalid target 'orders': write schema and table", ""),
        ({}, "'sources.src.tables.t.mode' is missing (line 5)", "mode"),
        ({**TABLE, "max_dead_letter_rate": 2}, "rate: should be less than or equal to 1, not 2", ""),
        ({**TABLE, "exclude": {"a": 1}}, "exclude: should be a valid tuple (line", ""),
    ],
)
def test_what_cannot_be_done_is_refused_with_the_way_out(
    tmp_path: Path, table: dict[str, Any], message: str, hint: str
) -> None:
    """Behaviour 6, and every other combination that would lose rows or double them."""
    error = refusal(tmp_path, table)
    assert message in str(error)
    assert hint in error.hint


@pytest.mark.parametrize(
    ("top", "message", "hint"),
    [
        ({"warehous": {}}, "unknown key 'warehous'", "did you mean 'warehouse'?"),
        ({"warehouse": {"pth": "x"}}, "unknown key 'warehouse.pth'", "did you mean 'path'?"),
        ({"sources": {"s": {"type": "postgres", "dns": ""}}}, "'sources.s.dsn'", ""),
        ({"sources": {"s": {"type": "postgress", "dsn": "", "tables": {}}}}, "s.type", "'postgres'?"),
    ],
)
def test_unknown_word_anywhere_is_refused_with_the_nearest_known_one(
    tmp_path: Path, top: dict[str, Any], message: str, hint: str
) -> None:
    error = refusal(tmp_path, TABLE, **top)
    assert message in str(error)
    assert hint in error.hint


def test_every_mode_and_write_pattern_that_is_named_together_is_accepted(tmp_path: Path) -> None:
    needs: dict[str, dict[str, Any]] = {
        "full": {"primary_key": "id"},
        "incremental": {"cursor": "at", "primary_key": "id"},
        "partition": {"partition_by": "day"},
        "cdc": {},
    }
    tables = {
        f"{mode}_{write}": {"mode": mode, "write": write, **needs[mode]}
        for mode, writes in WRITES.items()
        for write in writes
    }
    source = {"type": "postgres", "dsn": "demo", "tables": tables}
    (tmp_path / "pyops.yml").write_text(yaml.safe_dump({"sources": {"src": source}}))
    assert len(load(tmp_path).tables()) == len(tables)


def test_variables_are_expanded_with_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = """
    sources:
      src: {type: postgres, dsn: "${PYOPS_TEST_DSN}", mask_salt: "${PYOPS_NONE:-a-b}", tables: {}}
    """
    (tmp_path / "pyops.yml").write_text(text)
    with pytest.raises(UsageError, match=r"src\.dsn: .* PYOPS_TEST_DSN is not set \(line 3\)"):
        load(tmp_path)
    monkeypatch.setenv("PYOPS_TEST_DSN", "host=h: #'x")
    source = load(tmp_path).config.sources["src"]
    assert isinstance(source, PostgresSource)
    assert (source.dsn, source.mask_salt) == ("host=h: #'x", "a-b")
    assert "host=h" not in repr(source)


TWO_TABLES = """
sources:
  src:
    type: postgres
    dsn: demo
    tables:
      a: &a
        mode: full
        max_dead_letter_rate: 0
      b:
        <<: *a
        target: raw.c
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (TWO_TABLES.replace(": 0", ": 1.5"), "a.max_dead_letter_rate: should be less than or equal"),
        (TWO_TABLES.replace("raw.c", "[1]"), "b.target: should be a valid string"),
        (TWO_TABLES.replace("raw.c", "${PYOPS_NONE}"), "b.target: the environment variable"),
        (TWO_TABLES.replace("demo", "[hidden]"), "sources.src.dsn: should be a valid string"),
        ("\nsources: postgres://u:hidden@h/d", "sources: must be a mapping (line 2)"),
    ],
)
def test_message_names_the_line_and_no_secret(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "pyops.yml").write_text(text)
    with pytest.raises(UsageError) as caught:
        load(tmp_path)
    key = message.partition(":")[0].rpartition(".")[2]
    [line] = [n for n, line in enumerate(text.split("\n"), 1) if f"{key}:" in line]
    assert message in str(caught.value)
    assert str(caught.value).endswith(f"(line {line})")
    assert "hidden" not in f"{caught.value} {caught.value.hint}"


def test_tables_of_every_kind_answer_the_same_questions(tmp_path: Path) -> None:
    files = {"path": "x", "format": "csv", "types": {"a": "int"}, "mode": "full", "target": "raw.f"}
    sources = {
        "p": {"type": "postgres", "dsn": "demo", "tables": {"t": MERGE}},
        "f": {"type": "files", "mask_salt": "s", "tables": {"t": files}},
        "d": {"type": "debezium", "tables": {"t": {"path": "y", "types": {"a": "int"}}}},
    }
    (tmp_path / "pyops.yml").write_text(yaml.safe_dump({"sources": sources}, sort_keys=False))
    project = Project.load(tmp_path)
    answers = [
        (
            project.config.sources[table.source].mask_salt,
            dict(table.config.declared_types),
            table.config.cursor_column,
            table.target,
        )
        for table in project.tables()
    ]
    assert answers == [
        ("", {}, "at", ("raw", "t")),
        ("s", {"a": "INTEGER"}, None, ("raw", "f")),
        ("", {"a": "INTEGER"}, None, ("raw", "t__changes")),
    ]
    assert len({*project.tables(), *Project.load(str(tmp_path)).tables()}) == len(sources)


def test_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    (tmp_path / "pyops.yml").write_text("sources: {}\nwarehouse: {}\nsources: {}\n")
    with pytest.raises(UsageError, match=r"duplicate key 'sources' \(line 3\)"):
        load(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        *(b"sources: [", b"\xff\xfe", b"just text", b"", b"{1: 2}"),
        *(b"\x00", b"? [a]\n: b", b"a: 2001-99-99", b"!!map a"),
    ],
)
def test_file_that_is_no_configuration_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pyops.yml").write_bytes(content)
    with pytest.raises(UsageError):
        load(tmp_path)


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no pyops.yml in this folder \(/.*\)$"):
        load(tmp_path)


def test_two_tables_with_one_target_are_refused(tmp_path: Path) -> None:
    source = {"type": "postgres", "dsn": "demo", "tables": {"t": TABLE}}
    document = {"sources": {"a": source, "b": {**source, "tables": {"t": dict(TABLE)}}}}
    (tmp_path / "pyops.yml").write_text(yaml.safe_dump(document))
    with pytest.raises(UsageError, match=r"a\.t and b\.t would both land in raw\.t \(line 11\)"):
        load(tmp_path)


def test_tables_are_selected_by_either_name(tmp_path: Path) -> None:
    a = {"type": "postgres", "dsn": "demo", "tables": {"t": TABLE, "u": TABLE}}
    b = {"type": "postgres", "dsn": "demo", "tables": {"t": {**TABLE, "target": "raw.b_t"}}}
    (tmp_path / "pyops.yml").write_text(yaml.safe_dump({"sources": {"a": a, "b": b}}))
    project = load(tmp_path)
    assert [str(t) for t in project.select([])] == ["a.t", "a.u", "b.t"]
    assert [str(t) for t in project.select(["u", "b.t", "a.u"])] == ["a.u", "b.t"]
    with pytest.raises(UsageError, match=r"'t' means both a\.t and b\.t"):
        project.select(["t"])
    with pytest.raises(UsageError, match=r"no table 'a\.v'") as caught:
        project.select(["a.v"])
    assert caught.value.hint.startswith("did you mean")


@given(st.recursive(st.none() | st.text() | st.integers(), lambda s: st.dictionaries(st.text(), s)))
def test_no_document_whatever_ends_in_anything_but_a_refusal(document: object) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pyops.yml").write_text(yaml.safe_dump(document), "utf-8")
        with pytest.raises(UsageError):
            load(Path(folder))


def test_every_key_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text("utf-8")
    sections: list[type[BaseModel]] = [Warehouse, DeadLetters, Gates, Limit, Expectation, Reference]
    for section in (*sections, *(part for kind in _SOURCES.values() for part in kind)):
        for name, field in section.model_fields.items():
            assert re.search(rf"`{field.alias or name}`|^ *{name}:", text, re.MULTILINE), name
