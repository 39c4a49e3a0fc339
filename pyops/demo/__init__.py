"""The sample shop in an embedded PostgreSQL server: `pyops demo`."""

from __future__ import annotations

from pathlib import Path

from pyops.demo.server import Server
from pyops.errors import OperationError

__all__ = ["DATABASE", "dsn", "server_of"]

DATABASE = "shop"


def server_of(project_dir: Path) -> Server:
    """The demo's server of a project, running or not."""
    return Server(project_dir.resolve() / ".pyops" / "demo" / "postgres")


def dsn(project_dir: Path) -> str:
    """The libpq URI of the shop of a project's running demo.

    Raises:
        OperationError: the demo does not run.
    """
    server = server_of(project_dir)
    if not server.is_running():
        raise OperationError("the demo does not run", hint="start it with: pyops demo up")
    return server.dsn(DATABASE)
