"""The sample shop in an embedded PostgreSQL server: `pyops demo`."""

from __future__ import annotations

from pathlib import Path

from pyops.demo.server import Server
from pyops.errors import OperationError

__all__ = ["DATABASE", "dsn", "server_of"]

DATABASE = "shop"


def server_of(project_dir: Path) -> Server:
    """The server of a project's demo, running or not."""
    return Server(project_dir.resolve() / ".pyops" / "demo" / "postgres")


def dsn(project_dir: Path) -> str:
    """The libpq URI of the shop in a project's running demo."""
    server = server_of(project_dir)
    if not server.is_running():
        raise OperationError("the demo is not running", hint="start it with: pyops demo up")
    return server.dsn(DATABASE)
