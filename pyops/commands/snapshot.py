"""``pyops snapshot``: re-snapshots one cdc table."""

from datetime import timedelta

from pyops.commands.cdc import Capture, land_source
from pyops.commands.invocation import Invocation
from pyops.config.project import Project
from pyops.errors import UsageError
from pyops.progress import Listener


def snapshot(
    project: Project, name: str, *, patience: timedelta | None = None, listener: Listener | None = None
) -> Capture:
    """Copies one cdc table again and follows it from there; its log says that it starts over."""
    table = project.select([name])[0]
    if table.config.mode != "cdc":
        raise UsageError(f"{table} is landed by mode {table.config.mode}", hint=f"run pyops extract {table}")
    invocation = Invocation(project, listener)
    invocation.settle()
    options = {"patience": patience} if patience is not None else {}
    return land_source(invocation, table.source, again=table, **options)
