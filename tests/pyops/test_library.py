"""The library as those who embed it find it."""

from __future__ import annotations

import ast
import logging
import subprocess
import sys
from pathlib import Path

import pytest

import pyops
from pyops.errors import PyopsError
from tests.pyops.conftest import Lab, Sql


def test_every_public_name_is_imported_for_type_checkers_and_comes_when_it_is_asked_for() -> None:
    source = Path(pyops.__file__ or "").read_text("utf-8")
    imported = {
        alias.name: node.module
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pyops.")
        for alias in node.names
    }
    assert imported == pyops._HOMES
    for name in pyops.__all__:
        assert getattr(pyops, name).__name__ == name
    assert set(pyops.__all__) <= set(dir(pyops))
    with pytest.raises(AttributeError, match="no attribute 'extrakt'"):
        pyops.extrakt  # noqa: B018


@pytest.mark.parametrize("program", ["import pyops", "import pyops.cli.app"])
def test_what_takes_long_is_not_imported_before_it_is_needed(program: str) -> None:
    heavy = ["duckdb", "pyarrow", "numpy", "pydantic", "rich", "adbc_driver_manager", "dbt"]
    check = f"{program}, sys; print([n for n in {heavy} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_types_are_published() -> None:
    assert (Path(pyops.__file__ or "").parent / "py.typed").exists()


def test_several_items_carry_their_errors_and_raise_them_when_asked(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE good AS SELECT 1 AS id")
    lab.configure({"good": {"mode": "full"}, "gone": {"mode": "full"}})
    good, gone = pyops.extract(pyops.Project.load(lab.directory))
    good.raise_for_error()
    with pytest.raises(PyopsError, match=r"there is no table public\.gone"):
        gone.raise_for_error()


def test_what_goes_on_is_logged_for_whoever_listens(lab: Lab, sql: Sql, caplog: pytest.LogCaptureFixture) -> None:
    sql("CREATE TABLE t (id bigint PRIMARY KEY)")
    with caplog.at_level(logging.INFO, logger="pyops"):
        lab.capture({"t": {"mode": "cdc"}})
    assert any("_src created at" in line for line in caplog.messages)
