"""The command line as its users and their scripts see it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import pyops
from pyops.cli import app as cli
from tests.pyops.conftest import Lab, Sql


def command(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "FORCE_COLOR"}
    return subprocess.run(
        [sys.executable, "-m", "pyops", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_public_name_is_there_and_documented() -> None:
    for name in pyops.__all__:
        assert getattr(pyops, name).__doc__, name


@pytest.mark.parametrize(
    "name", ["", "extract", "run", "status", "cdc", "snapshot", "slot status", "slot drop", "demo", "demo up"]
)
def test_every_command_has_help(name: str) -> None:
    cli.mount_demo([])
    outcome = CliRunner().invoke(cli.app, [*name.split(), "--help"])
    assert outcome.exit_code == 0
    assert "Usage" in outcome.output


def test_result_is_one_line_of_json_and_the_rest_goes_to_stderr(lab: Lab, sql: Sql) -> None:
    sql("CREATE TABLE good (id bigint PRIMARY KEY)")
    sql("INSERT INTO good VALUES (1), (2)")
    lab.configure({"good": {"mode": "full"}, "gone": {"mode": "full"}})
    done = command(lab.directory, "extract", "--json")
    assert done.returncode == 1
    good, gone = json.loads(done.stdout)["tables"]
    assert (good["table"], good["status"], good["rows_written"]) == ("src.good", "succeeded", 2)
    assert (gone["status"], gone["error"]) == ("failed", "there is no table public.gone at the source")
    assert "names are case-sensitive" in gone["hint"]
    assert "src.gone" in done.stderr
    assert "fix:" in done.stderr

    done = command(lab.directory, "status", "--json")
    assert done.returncode == 0
    good, gone = json.loads(done.stdout)["tables"]
    assert (good["rows"], good["last_status"], gone["last_status"]) == (2, "succeeded", "failed")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["extract", "god"], "did you mean 'src.good'?"),
        (["extract", "--date", "2020-01-01", "--from", "2020-01-01"], "one or the other"),
        (["extract", "--from", "2020-01-01"], "--from and --to go together"),
        (["extract", "--from", "2020-01-02", "--to", "2020-01-01"], "--to is before --from"),
        (["extract", "--full-refresh", "--date", "2020-01-01"], "exclude each other"),
        (["extract", "good", "--date", "2020-01-01"], "no days to choose from"),
        (["extract", "--date", "yesterday"], "yesterday"),
        (["extract", "--wat"], "--wat"),
        (["run"], "no dbt_project.yml"),
        (["--config", "other.yml", "status"], "--config"),
        (["status", "--config", "other.yml"], "other.yml"),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(
    lab: Lab, sql: Sql, arguments: list[str], message: str
) -> None:
    sql("CREATE TABLE good (id bigint PRIMARY KEY)")
    lab.configure({"good": {"mode": "full"}})
    done = command(lab.directory, *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_error_that_nobody_expected_has_a_stack_trace_only_with_debug(lab: Lab) -> None:
    lab.configure({})
    broken = "import pyops.cli.app, pyops.commands.status as s, sys; s.open_warehouse = None; "
    for flags, traced in ([], False), (["--debug"], True):
        program = f"sys.argv = {['pyops', *flags, 'status']}; pyops.cli.app.main()"
        done = subprocess.run(
            [sys.executable, "-c", broken + program], cwd=lab.directory, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1
        assert ("Traceback" in done.stderr) == traced
        assert "TypeError" in done.stderr


def test_status_names_what_holds_a_watermark_back(lab: Lab, sql: Sql) -> None:
    table = {"mode": "incremental", "cursor": "at", "primary_key": ["id"]}
    sql("CREATE TABLE t (id bigint PRIMARY KEY, at bigint)")
    sql("INSERT INTO t VALUES (1, 1)")
    lab.configure({"t": table})
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, lab.dsn], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout
    assert holder.stdin
    try:
        pid = holder.stdout.readline().decode().strip()
        assert command(lab.directory, "extract").returncode == 0
        said = command(lab.directory, "status").stdout
        assert f"its watermark waits for process {pid}" in said
    finally:
        holder.communicate(b"\n")
    command(lab.directory, "extract")
    assert "waits for" not in command(lab.directory, "status").stdout


HOLDER = """
import sys, adbc_driver_postgresql.dbapi as adbc
with adbc.connect(sys.argv[1]) as connection, connection.cursor() as cursor:
    cursor.execute("SELECT pg_backend_pid()")
    print(cursor.fetchone()[0], flush=True)
    sys.stdin.readline()
"""
