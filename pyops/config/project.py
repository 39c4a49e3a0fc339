"""A project: its folder, its configuration, its tables by name."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Self

from pyops.config.model import Config, DebeziumTable, FilesTable, PostgresSource, PostgresTable, RestTable, TableConfig
from pyops.errors import OperationError, UsageError
from pyops.records import TableId
from pyops.words import did_you_mean


@dataclass(frozen=True)
class Table(TableId):
    """A table by name, with its configuration."""

    config: TableConfig = field(hash=False, compare=False)

    @classmethod
    def of(cls, source: str, name: str, config: TableConfig) -> Self:
        """A source's table, with the target that its configuration names."""
        schema, _, target = (config.target or f"raw.{name}").partition(".")
        return cls(source, name, (schema, target + "__changes" * (config.mode == "cdc")), config)

    def require(self, names: Iterable[str | None], there: Iterable[str], where: str) -> None:
        """Refuses columns that are not there, with the nearest one as a hint."""
        for name in names:
            if name and name not in there:
                raise OperationError(
                    f"{self}: there is no column {name} {where}",
                    hint=did_you_mean(name, there) or f"there are: {', '.join(there)}",
                )

    def landed_as(self, salt: str) -> str:
        """The keys that say what a landed row looks like, as JSON: to change one changes no landed row."""
        config = self.config
        mask = [*sorted(config.mask), *([sha256(salt.encode()).hexdigest()[:8]] if config.mask else [])]
        keys = {"columns": sorted(config.columns), "exclude": sorted(config.exclude), "mask": mask}
        return json.dumps({**keys, "primary_key": config.primary_key, "types": dict(config.declared_types)})

    def refuse_changes(self, landed_as: str | None, salt: str) -> None:
        """Refuses to land beside rows that were landed by another configuration."""
        before, now = (json.loads(text or "{}") for text in (landed_as, self.landed_as(salt)))
        if changed := [key for key in before if before[key] != now.get(key)]:
            raise UsageError(
                f"{self}: {', '.join(changed)} changed in pyops.yml since it was landed: the rows that are"
                " there would stay as they are",
                hint=f"pyops extract {self} --full-refresh lands it anew",
            )

    def refuse_other_cursor(self, cursor: str | None) -> None:
        """Refuses to go on from a watermark of another column."""
        if cursor not in (None, self.config.cursor_column):
            raise UsageError(
                f"{self}: its watermark is of column {cursor}, the configuration says {self.config.cursor_column}",
                hint="run it once with --full-refresh",
            )

    @property
    def postgres(self) -> PostgresTable:
        assert isinstance(self.config, PostgresTable)
        return self.config

    @property
    def files(self) -> FilesTable:
        assert isinstance(self.config, FilesTable)
        return self.config

    @property
    def rest(self) -> RestTable:
        assert isinstance(self.config, RestTable)
        return self.config

    @property
    def debezium(self) -> DebeziumTable:
        assert isinstance(self.config, DebeziumTable)
        return self.config


@dataclass(frozen=True)
class Project:
    """A project folder and its configuration."""

    directory: Path
    config: Config

    @classmethod
    def load(cls, directory: str | Path = ".", file: str = "pyops.yml") -> "Project":
        """Reads a project folder's configuration; what is wrong with it is a UsageError."""
        from pyops.config.load import load  # it imports this module

        return load(Path(directory), file)

    @property
    def warehouse_path(self) -> Path:
        """The DuckDB file; a relative path is relative to the project."""
        return self.directory / self.config.warehouse.path

    @property
    def state_directory(self) -> Path:
        return self.directory / ".pyops"

    @property
    def staging_directory(self) -> Path:
        return self.state_directory / "staging"

    def postgres(self, source: str) -> PostgresSource:
        settings = self.config.sources[source]
        assert isinstance(settings, PostgresSource)
        return settings

    def dsn(self, source: str) -> str:
        """A source's DSN; that of the embedded server if it says ``demo``, which must run."""
        dsn = self.postgres(source).dsn
        if dsn == "demo":
            from pyops.demo import dsn as demo_dsn

            return demo_dsn(self.directory)
        return dsn

    def tables(self) -> list[Table]:
        """Every configured table, in the order of the file."""
        return [
            Table.of(source, name, table)
            for source, settings in self.config.sources.items()
            for name, table in settings.tables.items()
        ]

    def cdc_tables(self, source: str) -> list[Table]:
        return [t for t in self.tables() if t.source == source and t.config.mode == "cdc"]

    def select(self, names: list[str] | tuple[str, ...]) -> list[Table]:
        """The tables named ``source.table`` or ``table``; every table if no name is given."""
        tables = self.tables()
        chosen = []
        for name in names:
            found = [t for t in tables if name in (str(t), t.name)]
            if not found:
                known = [str(t) for t in tables]
                raise UsageError(
                    f"there is no table {name!r} in the configuration",
                    hint=did_you_mean(name, known) or f"configured tables: {', '.join(known)}",
                )
            if len(found) > 1:
                both = " and ".join(map(str, found))
                raise UsageError(f"{name!r} means both {both}", hint="write source.table")
            chosen.append(found[0])
        return list(dict.fromkeys(chosen)) if names else tables
