"""What a source of tables does, whatever its kind: a third kind is a folder and its keys."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Literal

from pyops.config.days import Days
from pyops.config.project import Project, Table
from pyops.errors import PyopsError, UsageError
from pyops.records import Run
from pyops.retry import ONCE, Policy
from pyops.staging.file import Stage
from pyops.warehouse.protocol import ByKey, CaptureState, Commit, TableState
from pyops.warehouse.recording import Recording

WritePattern = Literal["append", "delete_insert", "merge", "swap"]
Progress = Callable[[int, int], None]  # told rows and bytes so far


@dataclass(frozen=True)
class Request:
    """What an extraction asks for: some days, or everything whatever was read before."""

    days: Days | None = None
    full_refresh: bool = False


@dataclass(frozen=True)
class Plan:
    """One table's extraction, planned; or the error that keeps it from being planned.

    ``asks`` is what the source will be asked for; empty if nothing is new.
    """

    table: Table
    write: WritePattern
    asks: str = ""
    error: PyopsError | None = None
    lower_bound: str | None = None
    upper_bound: str | None = None
    estimated_rows: int = -1

    @property
    def run(self) -> Run:
        config = self.table.config
        return Run.begun(self.table.source, self.table.name, config.mode, self.write)


@dataclass(frozen=True)
class Staged:
    """What is in a staging file: the commit that will publish it, and what was read."""

    commit: Commit
    rows_read: int
    bytes_read: int
    null_cursors: int = 0

    def as_comparison(self, table: Table, state: TableState) -> "Staged":
        """The same of a whole table, to make the target equal to it; the watermark stays."""
        scope = ByKey(table.config.primary_key, skips_unchanged=True, deletes_extra=True)
        [write] = self.commit.writes
        write = replace(write, scope=scope, watermark=None, expects_load=state.last_load)
        return replace(self, commit=replace(self.commit, writes=(write,)))


def require_key(table: Table) -> None:
    """Refuses to compare rows that nothing identifies."""
    if not table.config.primary_key:
        raise UsageError(
            f"{table}: rows without a primary_key cannot be told apart", hint="set primary_key in pyops.yml"
        )


class Source(AbstractContextManager["Source"]):
    """Tables that can be read by batch; a context manager that holds its connection."""

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def plan(self, states: Mapping[Table, TableState], request: Request) -> Sequence[Plan]:
        """Plans tables, given what the warehouse knows of each; a plan carries its error."""

    @abstractmethod
    def stage(self, plan: Plan, stage: Stage, progress: Progress) -> Staged:
        """Reads what was planned into a staging file."""

    @abstractmethod
    def compare(self, table: Table, state: TableState, stage: Stage) -> Staged:
        """Stages the whole table, with the commit that makes the target equal to it."""

    def check(self, tables: Sequence[Table]) -> dict[Table, PyopsError]:
        """What keeps tables from being read, found without reading them."""
        planned = self.plan({table: TableState() for table in tables}, Request())
        return {plan.table: plan.error for plan in planned if plan.error}

    def holders(self) -> Mapping[str, str]:
        """Describes what may hold a watermark back, by the names it waits for."""
        return {}

    def close(self) -> None:
        """Closes what the source holds, if it holds something."""


@dataclass
class Chunk:
    """Changes that become visible at once.

    ``stage`` fills a staging file and returns the commit; without one, ``commit`` notes where the capture stands.
    ``landed`` is the run, once committed. A chunk of one table that fails leaves the others alone.
    """

    mode: Literal["cdc", "snapshot"] = "cdc"
    table: Table | None = None
    stage: Callable[[Stage, Recording], Commit] | None = None
    commit: Commit = field(default_factory=Commit)
    is_run: bool = True  # whether a row of ``pyops.runs`` tells of it
    error: PyopsError | None = None
    landed: Run | None = None


# What the warehouse knows of a source's capture and of its tables, at the moment it is asked.
Look = Callable[[], tuple[CaptureState, Mapping[Table, TableState]]]


class ChangeSource(AbstractContextManager["ChangeSource"]):
    """Tables whose changes are landed; a context manager that holds its connections.

    The driver commits each chunk before it asks for the next: what comes after a ``yield`` may rely
    on the commit, and acknowledge it at the source.
    """

    def __exit__(self, *_: object) -> None:
        self.close()

    @abstractmethod
    def start(self, look: Look) -> Iterator[Chunk]:
        """Gets ready to follow the tables: copies those that are new, checks the others."""

    @abstractmethod
    def changes(self, *, idles: bool = False) -> Iterator[Chunk]:
        """Lands what is committed now. With ``idles``, nothing new writes nothing for a while."""

    def close(self) -> None:
        """Closes what the source holds, if it holds something."""


def open_source(project: Project, name: str, *, policy: Policy = ONCE) -> Source:
    """Opens a source to be read by batch, whatever its kind; ``policy`` is of the connecting alone."""
    kind = import_module(f"pyops.sources.{project.config.sources[name].type}.read")
    tables: Source = kind.Tables(project, name, policy)
    return tables


def open_changes(project: Project, name: str, **options: Any) -> ChangeSource:
    """Opens a source whose changes are landed, whatever its kind."""
    kind = project.config.sources[name].type
    changes: ChangeSource = import_module(f"pyops.cdc.{kind}.capture").Changes(project, name, **options)
    return changes
