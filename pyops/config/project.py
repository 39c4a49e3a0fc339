"""A project: its folder, its configuration, its tables by name."""

from dataclasses import dataclass, field
from pathlib import Path

from pyops.config.model import Config, DebeziumTable, FilesTable, PostgresSource, PostgresTable
from pyops.errors import UsageError
from pyops.words import did_you_mean


@dataclass(frozen=True)
class Table:
    """One table of the configuration with the names it goes by."""

    source: str
    name: str
    config: PostgresTable | FilesTable | DebeziumTable = field(hash=False)  # it holds mappings

    def __str__(self) -> str:
        return f"{self.source}.{self.name}"

    @property
    def postgres(self) -> PostgresTable:
        """The configuration of a table that is known to be PostgreSQL's."""
        assert isinstance(self.config, PostgresTable)
        return self.config

    @property
    def files(self) -> FilesTable:
        """The configuration of a table that is known to be of files."""
        assert isinstance(self.config, FilesTable)
        return self.config

    @property
    def debezium(self) -> DebeziumTable:
        """The configuration of a table that is known to be of Debezium's events."""
        assert isinstance(self.config, DebeziumTable)
        return self.config

    @property
    def target(self) -> tuple[str, str]:
        """Schema and name of the table in the warehouse."""
        schema, name = (self.config.target or "").split(".") if self.config.target else ("raw", "")
        return schema, (name or self.name) + "__changes" * (self.config.mode == "cdc")


@dataclass(frozen=True)
class Project:
    """A project folder and its configuration."""

    directory: Path
    config: Config

    @property
    def warehouse_path(self) -> Path:
        """The DuckDB file; a relative path is relative to the project."""
        return self.directory / self.config.warehouse.path

    @property
    def state_directory(self) -> Path:
        """Where staging files and the demo live."""
        return self.directory / ".pyops"

    @property
    def staging_directory(self) -> Path:
        """Where the staging files are."""
        return self.state_directory / "staging"

    def postgres(self, source: str) -> PostgresSource:
        """The configuration of a source that is known to be PostgreSQL."""
        settings = self.config.sources[source]
        assert isinstance(settings, PostgresSource)
        return settings

    def dsn(self, source: str) -> str:
        """A source's DSN; that of the embedded server if it says ``demo``.

        Raises:
            OperationError: The embedded server is not running or not installed.
        """
        dsn = self.postgres(source).dsn
        if dsn == "demo":
            from pyops.demo import dsn as demo_dsn

            return demo_dsn(self.directory)
        return dsn

    def tables(self) -> list[Table]:
        """Every configured table, in the order of the file."""
        return [
            Table(source, name, table)
            for source, settings in self.config.sources.items()
            for name, table in settings.tables.items()
        ]

    def select(self, names: list[str] | tuple[str, ...]) -> list[Table]:
        """The tables called ``source.table`` or ``table``; every table if no name is given.

        Raises:
            UsageError: A name that is not configured, or that several sources have.
        """
        tables = self.tables()
        chosen = []
        for name in names:
            found = [t for t in tables if name in (str(t), t.name)]
            if not found:
                known = [str(t) for t in tables]
                raise UsageError(
                    f"there is no table {name!r} in the configuration",
                    hint=did_you_mean(name, known) or f"configured are: {', '.join(known)}",
                )
            if len(found) > 1:
                both = " and ".join(map(str, found))
                raise UsageError(f"{name!r} means both {both}", hint="write source.table")
            chosen.append(found[0])
        return list(dict.fromkeys(chosen)) if names else tables
