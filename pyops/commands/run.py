"""``pyops run``: extracts, lands changes, then builds and tests the dbt project, in one process."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from pyops import dbt
from pyops.commands.cdc import Capture, capture
from pyops.commands.extract import Extraction, extract
from pyops.commands.invocation import open_warehouse
from pyops.config.project import Project
from pyops.errors import worst
from pyops.progress import Listener


@dataclass(frozen=True)
class Summary:
    """What came of a run; ``dbt`` counts nodes by status, None if dbt was not run."""

    extractions: Sequence[Extraction]
    extract_seconds: float
    captures: Sequence[Capture] = ()
    capture_seconds: float = 0.0
    dbt: dict[str, int] | None = None
    dbt_seconds: float = 0.0
    exit_code: int = 0


def run(project: Project, *, listener: Listener | None = None) -> Summary:
    """Extracts every table, lands the changes of the cdc tables, and then runs ``dbt build``.

    If a table or a source fails dbt is not run: marts are built from tables that fit together.
    """
    dbt.require_project(project.directory)
    began = time.monotonic()
    done = extract(project, listener=listener)
    extracted = time.monotonic()
    changes = capture(project, listener=listener)
    captured = time.monotonic()
    summary = Summary(done, extracted - began, changes, captured - extracted)
    if code := worst(item.error for item in [*done, *changes]):
        return replace(summary, exit_code=code)
    if listener:
        listener.pause()
    counts, succeeded = dbt.build(project.directory, open_warehouse(project).dbt_environment())
    return replace(summary, dbt=counts, dbt_seconds=time.monotonic() - captured, exit_code=0 if succeeded else 1)
