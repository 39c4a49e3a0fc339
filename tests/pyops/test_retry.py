"""A source that does not answer: it is tried again, and left alone when that does not help."""

from __future__ import annotations

import fcntl
import json
import re
import socket
import threading
import time
from contextlib import closing, suppress
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from pyops import OperationError, PyopsError, TransientError, UsageError, capture, extract, load
from pyops.circuit import Breaker
from pyops.commands.breaker import breaker_reset, breaker_status
from pyops.errors import SourceError, worst
from pyops.failures import of_connection, of_query
from pyops.retry import Policy, retrying
from pyops.sources.postgres.session import with_timeouts
from tests.pyops.conftest import Lab, Sql

NOWHERE = "postgresql://me@127.0.0.1:1/none"
QUICK = {"attempts": 3, "base_delay": "10ms"}


class Proxy:
    """Passes bytes on to a server; cuts the first connections after so many bytes from it."""

    def __init__(self, dsn: str, *, cuts: int, after: int) -> None:
        query = parse_qs(urlsplit(dsn).query)
        self._path = f"{query['host'][0]}/.s.PGSQL.{query['port'][0]}"
        self.cuts, self._after = cuts, after
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.dsn = f"postgresql://postgres@127.0.0.1:{port}{urlsplit(dsn).path}"
        self._open = [self._listener]
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # it was closed
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._path)
            self._open += [client, server]
            threading.Thread(target=self._pump, args=(client, server, None), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, self._after), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, left: int | None) -> None:
        try:
            while data := source.recv(65536):
                if left is not None and self.cuts > 0 and (left := left - len(data)) < 0:
                    self.cuts -= 1
                    break
                target.sendall(data)
        except OSError:  # the other side is gone
            pass
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)  # which wakes whoever waits for more


def test_table_that_was_cut_in_mid_read_is_read_again_and_what_was_whole_stays(
    lab: Lab, sql: Sql, dsn: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Behaviour 39: with those not read yet, in one new snapshot; each attempt is a row, and a line."""
    sql("CREATE TABLE a (id integer PRIMARY KEY)")
    sql("INSERT INTO a VALUES (1)")
    sql("CREATE TABLE b (id integer PRIMARY KEY, v text)")
    sql("INSERT INTO b SELECT n, repeat('x', 100) FROM generate_series(1, 60000) AS n")
    sql("CREATE TABLE c (id integer PRIMARY KEY)")
    caplog.set_level("INFO", logger="pyops")
    proxy = Proxy(dsn, cuts=1, after=3_000_000)
    cut = Lab(lab.directory, proxy.dsn)
    project = cut.configure({name: {"mode": "full"} for name in "abc"}, retry=QUICK)
    with closing(proxy):
        done = extract(project)
    assert [item.error for item in done] == [None] * 3
    assert proxy.cuts == 0
    assert lab.rows("SELECT count(*) FROM raw.b") == [(60000,)]
    recorded = lab.rows("SELECT table_name, status FROM pyops.runs ORDER BY started_at")
    assert recorded[0] == ("a", "succeeded")
    assert recorded.count(("a", "succeeded")) == 1
    assert ("b", "failed") in recorded
    assert "attempt 2 of 3, again in" in caplog.text


def test_capture_whose_connection_breaks_goes_on(lab: Lab, sql: Sql, dsn: str) -> None:
    """Behaviour 39: a copy that was cut is made again, and nothing is there twice."""
    sql("CREATE TABLE t (id integer PRIMARY KEY, v text)")
    sql("INSERT INTO t SELECT n, repeat('x', 100) FROM generate_series(1, 60000) AS n")
    proxy = Proxy(dsn, cuts=1, after=3_000_000)
    with closing(proxy):
        [done] = capture(Lab(lab.directory, proxy.dsn).configure({"t": {"mode": "cdc"}}, retry=QUICK))
    done.raise_for_error()
    assert proxy.cuts == 0
    assert lab.rows("SELECT count(*), count(DISTINCT id) FROM raw.t__changes WHERE _op = 'r'")[0][1] == 60000
    assert "failed" in [run.status for run in done.runs]


def test_source_that_stays_away_is_left_alone_until_its_breaker_lets_one_try(lab: Lab, sql: Sql) -> None:
    """Behaviour 40: over processes; with the exit code of what may pass; data's failures do not count."""
    settings = {"retry": {"attempts": 1}, "breaker": {"failures": 2, "reset": "1s"}}
    sql("CREATE TABLE t (id integer PRIMARY KEY, v integer)")
    away = Lab(lab.directory, NOWHERE).configure({"t": {"mode": "full"}}, **settings)
    for _ in range(2):
        [item] = extract(away)
        assert "connection" in str(item.error)
    [item] = extract(away)
    assert item.error is not None
    assert re.search(r"src: its circuit breaker is open until .* \(UTC\): it has failed 2 times", str(item.error))
    assert item.error.exit_code == 75
    assert "pyops breaker reset src" in item.error.hint
    assert [status.state for status in breaker_status(away)] == ["open"]
    assert breaker_reset(away, ["src"])[0].state == "closed"
    assert "connection" in str(extract(away)[0].error)
    assert "connection" in str(extract(away)[0].error)
    time.sleep(1.1)
    assert "connection" in str(extract(away)[0].error)  # the one that may try has failed: open again
    assert "is open until" in str(extract(away)[0].error)
    time.sleep(1.1)
    back = lab.configure({"t": {"mode": "full"}}, **settings)
    assert extract(back)[0].error is None
    assert breaker_status(back)[0].state == "closed"
    for _ in range(3):  # a table that is not there is no failure of its source
        [item] = extract(lab.configure({"nothere": {"mode": "full"}}, **settings))
        assert isinstance(item.error, OperationError)
    assert breaker_status(back)[0].failures == 0
    with pytest.raises(UsageError, match="there is no source 'srk'"):
        breaker_status(back, ["srk"])


def test_capture_that_an_open_breaker_refuses_is_a_run_too(lab: Lab, sql: Sql) -> None:
    """Behaviours 40 and 41: it is told, and `pyops status` shows it."""
    sql("CREATE TABLE t (id integer PRIMARY KEY)")
    settings = {"retry": {"attempts": 1}, "breaker": {"failures": 1, "reset": "1m"}}
    away = Lab(lab.directory, NOWHERE).configure({"t": {"mode": "cdc"}}, **settings)
    for _ in range(2):
        [done] = capture(away)
    assert "is open until" in str(done.error)
    assert [run.status for run in done.runs] == ["failed"]
    errors = [error for (error,) in lab.rows("SELECT error FROM pyops.runs ORDER BY started_at")]
    assert ["is open until" in error for error in errors] == [False, True]


def test_dry_run_moves_no_breaker(lab: Lab) -> None:
    """Behaviour 42: it writes nothing anywhere."""
    settings = {"retry": {"attempts": 1}, "breaker": {"failures": 1, "reset": "1m"}}
    away = Lab(lab.directory, NOWHERE).configure({"t": {"mode": "full"}}, **settings)
    for _ in range(2):
        assert "connection" in str(extract(away, dry_run=True)[0].error)
    assert not (lab.directory / ".pyops").exists()


def test_one_process_tries_while_a_breaker_is_half_open(tmp_path: Path) -> None:
    """Behaviour 40: the others are refused, and one that was killed meanwhile stands in nobody's way."""
    breaker = Breaker(tmp_path, "src", 1, timedelta(seconds=0))
    with pytest.raises(SourceError), breaker.guarding():
        raise SourceError("away")
    with (tmp_path / "src.probe").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(TransientError, match="is open"), breaker.guarding():
            pytest.fail("it was let through")
    (tmp_path / "src.json").write_text(json.dumps({"state": "half-open", "failures": 1}), "utf-8")
    with breaker.guarding():
        pass
    assert breaker.status().state == "closed"


def test_try_that_was_stopped_leaves_its_breaker_as_it_was(tmp_path: Path) -> None:
    """Behaviours 40 and 45: Ctrl-C says nothing of the source."""
    breaker = Breaker(tmp_path, "src", 1, timedelta(seconds=0))
    with pytest.raises(SourceError), breaker.guarding():
        raise SourceError("away")
    with pytest.raises(KeyboardInterrupt), breaker.guarding():
        raise KeyboardInterrupt
    assert (breaker.status().state, breaker.status().failures) == ("open", 1)


def test_state_of_a_breaker_that_was_cut_short_is_a_closed_one(tmp_path: Path) -> None:
    """Behaviour 40: a file that a crash left is no reason to refuse anything."""
    (tmp_path / "src.json").write_text('{"state": "op', "utf-8")
    breaker = Breaker(tmp_path, "src", 1, timedelta(minutes=1))
    with breaker.guarding():
        pass
    assert breaker.status().state == "closed"


def test_waits_grow_up_to_a_ceiling_and_follow_what_the_source_asks_for() -> None:
    """Behaviour 39."""
    waits: list[float] = []
    asked = iter([None, None, 30.0, 1.5])

    def fail() -> None:
        error = SourceError("busy")
        error.retry_after = next(asked, None)
        raise error

    with pytest.raises(SourceError):
        retrying(Policy(attempts=6, base_delay=1, max_delay=4), "src", waits.append)(fail)
    assert 1 <= waits[0] <= 1.5
    assert 2 <= waits[1] <= 2.5
    assert waits[2:4] == [4, 1.5]
    assert waits[4] == 4


@pytest.mark.parametrize(
    ("state", "passes"),
    [
        *(("55P03", True), ("55006", True), ("57P01", True), ("40P01", True)),
        *(("55000", False), ("57P04", False), ("42P01", False)),
    ],
)  # fmt: skip
def test_what_passes_is_told_by_the_class_of_its_state(state: str, passes: bool) -> None:
    """Behaviour 39: not by wording."""
    assert isinstance(of_query(state, "ERROR: something"), TransientError) is passes


@pytest.mark.parametrize(
    ("said", "passes"),
    [
        ("could not receive data from server: Connection reset by peer", True),
        ("SSL connection has been closed unexpectedly", True),
        ("[libpq] Failed to execute query: server closed the connection unexpectedly", True),
        ('missing "=" after "x" in connection info string', False),
        ('invalid URI query parameter: "zzz"', False),
        ('invalid integer value "z" for connection option "port"', False),
    ],
)
def test_connection_that_breaks_while_it_is_made_passes_and_a_bad_dsn_does_not(said: str, passes: bool) -> None:
    """Behaviour 39: a cut in the driver's first queries is no mistake of the DSN."""
    assert isinstance(of_connection(said, "dsn"), SourceError) is passes


def test_peer_that_accepts_and_never_answers_is_given_up(lab: Lab) -> None:
    """Behaviour 39: after the time that libpq is given, ten seconds if the DSN says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        dsn = f"postgresql://me@127.0.0.1:{silent.getsockname()[1]}/db?connect_timeout=2"
        [item] = extract(Lab(lab.directory, dsn).configure({"t": {"mode": "full"}}, retry={"attempts": 1}))
    assert isinstance(item.error, SourceError)
    assert "connect_timeout=10" in with_timeouts("postgresql://me@host/db")
    assert with_timeouts("host=x connect_timeout=3").count("connect_timeout") == 1


def test_exit_code_of_several_items_is_that_which_needs_somebody_first() -> None:
    """An orchestrator tries 75 again, and nothing else."""
    usage, failed, passing = UsageError("u"), OperationError("f"), SourceError("t")
    assert worst([None]) == 0
    assert worst([passing, None]) == 75
    assert worst([passing, failed]) == 1
    assert worst([failed, usage, passing]) == 2


def test_misspelt_keys_of_retry_and_breaker_are_refused(lab: Lab) -> None:
    """With the nearest word."""
    lab.configure({"t": {"mode": "full"}})
    for wrong, near in (("breaker: {failure: 3}", "failures"), ("retry: {attempt: 3}", "attempts")):
        path = lab.directory / "pyops.yml"
        path.write_text(f"sources:\n  src:\n    type: postgres\n    dsn: x\n    {wrong}\n    tables: {{}}\n", "utf-8")
        with pytest.raises(PyopsError) as raised:
            load(lab.directory)
        assert near in raised.value.hint
