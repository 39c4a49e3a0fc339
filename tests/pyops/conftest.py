"""A real PostgreSQL for the tests: one server for the session, one database for each test."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import adbc_driver_postgresql.dbapi as adbc
import duckdb
import pytest
import yaml
from hypothesis import settings

from pyops.commands.cdc import capture
from pyops.commands.extract import Extraction, extract
from pyops.config.load import load
from pyops.config.project import Project
from pyops.demo import shop
from pyops.demo.server import Server
from pyops.records import Run

Sql = Callable[..., list[tuple[Any, ...]]]
Connect = Callable[[], adbc.Connection]

# Documents of others, each with its licence.
TEST_DATA = Path(__file__).parents[1] / "data"

# What a test server loses when the machine loses power does not matter. Commits stay synchronous:
# a change that was committed but not flushed yet is not in the stream, and tests wait for none.
UNSAFE = {"fsync": "off", "full_page_writes": "off"}

# `make test-servers` names another PostgreSQL than the embedded one: the folder of its programs.
INSTALLED = Path(os.environ["TEST_POSTGRES"]) if "TEST_POSTGRES" in os.environ else None
needs_18 = pytest.mark.skipif(INSTALLED is not None, reason="PostgreSQL 18 is the first to have it")

_numbers = itertools.count(1)

# `make test-deep` chooses the second one.
settings.register_profile("quick", deadline=None)
settings.register_profile("deep", deadline=None, max_examples=2000)
settings.load_profile("quick")

# A shell has what it starts in the background ignore it, and so would all that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)


def examples(count: int) -> int:
    """How many examples a property is tried on: many more by `make test-deep`."""
    return 20 * count if settings.get_current_profile_name() == "deep" else count


# To connect takes longer than most statements: sessions stay open until their test ends.
_sessions: dict[str, adbc.Connection] = {}


def execute(dsn: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    """Runs one statement in autocommit and returns its rows, if it has any."""
    if threading.current_thread() is threading.main_thread():
        return _execute(_session(dsn), statement, *parameters)
    with closing(adbc.connect(dsn, autocommit=True)) as connection:
        return _execute(connection, statement, *parameters)


def _execute(connection: adbc.Connection, statement: str, *parameters: object) -> list[Any]:
    with closing(connection.cursor()) as cursor:
        # By default every query becomes a COPY, which SHOW, EXPLAIN and RETURNING cannot be.
        cursor.adbc_statement.set_options(**{"adbc.postgresql.use_copy": "false"})
        cursor.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []


def _session(dsn: str) -> adbc.Connection:
    if dsn in _sessions:
        try:
            _execute(_sessions[dsn], "SELECT 1")
            return _sessions[dsn]
        except adbc.Error:  # the server was restarted, or the test ended the session
            _sessions.pop(dsn).close()
    _sessions[dsn] = adbc.connect(dsn, autocommit=True)
    return _sessions[dsn]


def close_sessions(*, keep: str = "") -> None:
    """Closes the sessions that `execute` keeps, all but that of one DSN."""
    for dsn in _sessions.keys() - {keep}:
        _sessions.pop(dsn).close()


@contextmanager
def _running_server() -> Iterator[Server]:
    # Not tmp_path: sockets want short paths, and where root runs this, pgserver must get in.
    folder = Path(tempfile.mkdtemp(prefix="pyops-test-"))
    folder.chmod(0o711)
    server = Server(folder / "data", INSTALLED)
    try:
        server.start(UNSAFE)
        yield server
    finally:
        close_sessions()
        server.remove()
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A running server that ends with the session."""
    with _running_server() as running:
        yield running


@pytest.fixture
def own_server() -> Iterator[Server]:
    """A server of the test's own, to be stopped."""
    with _running_server() as running:
        yield running


def _database(server: Server, options: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    admin = server.dsn()
    execute(admin, f"CREATE DATABASE {name} STRATEGY FILE_COPY {options}")
    try:
        yield server.dsn(name)
    finally:
        close_sessions(keep=admin)
        # A slot belongs to a database and would keep it from being dropped.
        execute(
            admin,
            "SELECT active AND pg_terminate_backend(active_pid, 5000),"
            " pg_drop_replication_slot(slot_name) FROM pg_replication_slots"
            f" WHERE database = '{name}'",
        )
        execute(admin, f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
def dsn(server: Server) -> Iterator[str]:
    """The libpq URI of an empty database of the test's own."""
    yield from _database(server, "")


@pytest.fixture(scope="session")
def shop_template(server: Server) -> str:
    """The name of a database that holds the sample shop's history, to be copied, not used."""
    execute(server.dsn(), "CREATE DATABASE shop_template")
    shop.load(server.dsn("shop_template"), shop.find_data(Path(__file__).parents[2]))
    return "shop_template"


@pytest.fixture
def new_shop(server: Server, shop_template: str) -> Iterator[Callable[[], str]]:
    """`new_shop()` makes one more copy of the shop and returns its libpq URI."""
    with ExitStack() as copies:
        make = contextmanager(_database)
        yield lambda: copies.enter_context(make(server, f"TEMPLATE {shop_template}"))


@pytest.fixture
def shop_dsn(new_shop: Callable[[], str]) -> str:
    """The libpq URI of the test's own copy of the sample shop."""
    return new_shop()


@pytest.fixture
def sql(dsn: str) -> Sql:
    """`sql(statement, *parameters)` runs one statement in the test's database, in autocommit."""
    return lambda statement, *parameters: execute(dsn, statement, *parameters)


@pytest.fixture
def connect(dsn: str) -> Iterator[Connect]:
    """`connect()` opens one more connection, for transactions held open; closed after the test."""
    opened: list[adbc.Connection] = []

    def open_connection() -> adbc.Connection:
        opened.append(adbc.connect(dsn))
        return opened[-1]

    yield open_connection
    for connection in opened:
        connection.close()


@dataclass(frozen=True)
class Lab:
    """A project in a temporary folder whose only source, `src`, is the test's database."""

    directory: Path
    dsn: str

    def configure(self, tables: dict[str, dict[str, Any]], **source: Any) -> Project:
        """Writes pyops.yml for some tables and reads it."""
        settings = {"type": "postgres", "dsn": self.dsn, "tables": tables, **source}
        document = {"warehouse": {"lock_timeout": "1s"}, "sources": {"src": settings}}
        text = yaml.safe_dump(document, sort_keys=False)
        (self.directory / "pyops.yml").write_text(text, "utf-8")
        return load(self.directory)

    def configure_files(self, tables: dict[str, dict[str, Any]], **source: Any) -> Project:
        """Writes pyops.yml for some tables of files, source `web`, and reads it."""
        settings = {"type": "files", "tables": tables, **source}
        document = {"warehouse": {"lock_timeout": "1s"}, "sources": {"web": settings}}
        text = yaml.safe_dump(document, sort_keys=False)
        (self.directory / "pyops.yml").write_text(text, "utf-8")
        return load(self.directory)

    def extract_files(self, tables: dict[str, dict[str, Any]], **options: Any) -> list[Run]:
        """Configures tables of files, extracts them, and returns their runs."""
        return self._runs(extract(self.configure_files(tables), **options))

    def capture(self, tables: dict[str, dict[str, Any]], **source: Any) -> list[Run]:
        """Configures tables, lands their changes, and returns the runs; an error is raised."""
        [done] = capture(self.configure(tables, **source))
        if done.error is not None:
            raise done.error
        return list(done.runs)

    def put(self, name: str, content: str | bytes) -> Path:
        """Writes a file of the project."""
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def extract(self, tables: dict[str, dict[str, Any]], **options: Any) -> list[Run]:
        """Configures tables, extracts them, and returns their runs; an error is raised."""
        return self._runs(extract(self.configure(tables), **options))

    def _runs(self, done: list[Extraction]) -> list[Run]:
        for item in done:
            if item.error is not None:
                raise item.error
        return [item.run for item in done]

    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Asks the warehouse."""
        with duckdb.connect(self.directory / "warehouse.duckdb", read_only=True) as connection:
            return connection.execute(query, list(parameters)).fetchall()

    def write(self, statement: str) -> None:
        """Changes the warehouse behind pyops's back."""
        with duckdb.connect(self.directory / "warehouse.duckdb") as connection:
            connection.execute(statement)


@pytest.fixture
def lab(tmp_path: Path, dsn: str) -> Lab:
    """A project of the test's own on the test's own database."""
    return Lab(tmp_path, dsn)
