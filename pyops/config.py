"""pyops.yml: what to land, from where, how. Reading it touches no server and no warehouse."""

import difflib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from pyops.errors import UsageError

Mode = Literal["full", "incremental", "partition"]
Write = Literal["append", "delete_insert", "merge", "swap"]

WRITES: Mapping[Mode, tuple[Write, ...]] = {  # the first is the default
    "full": ("swap", "merge", "delete_insert"),
    "incremental": ("merge", "append", "delete_insert"),
    "partition": ("delete_insert",),
}
RESERVED_COLUMNS = ("_load_id", "_loaded_at", "_fault")

_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


def _duration(value: object) -> object:
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)", value.strip())
    if match is None:
        raise ValueError("is no duration: write a number and ms, s, m, h or d, like 10m")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def _names(value: object) -> object:
    return [value] if isinstance(value, str) else value


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Lookback = Annotated[timedelta | int, BeforeValidator(_duration)]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Gates(_Section):
    """What staged rows must pass before they are published."""


class TableConfig(_Section):
    """How one table is landed, whatever its source.

    Attributes:
        mode: ``full`` reads the table whole, ``incremental`` what lies beyond its watermark,
            ``partition`` the days it is asked for.
        write: How the load is written to the target; the default follows the mode.
        target: Where it lands, ``schema.table``; ``raw.<table>`` if not given.
        primary_key: What identifies a row.
        partition_by: The column whose days are replaced (``partition``).
        columns: The only columns to land; all if empty.
        exclude: Columns that never leave the source.
        mask: Columns that leave the source only as a hash.
        on_schema_change: ``evolve`` follows the source's columns, ``fail`` stops before reading.
        max_dead_letter_rate: Beyond this share of dead letters the load fails.
        gates: What staged rows must pass before they are published.
    """

    mode: Mode
    write: Write | None = None
    target: str | None = None
    primary_key: Names = ()
    partition_by: str | None = None
    columns: Names = ()
    exclude: Names = ()
    mask: Names = ()
    on_schema_change: Literal["evolve", "fail"] = "evolve"
    max_dead_letter_rate: Annotated[float, Field(ge=0, le=1)] = 0.01
    gates: Gates = Gates()

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        if self.write is not None and self.write not in WRITES[self.mode]:
            allowed = ", ".join(WRITES[self.mode])
            yield f"mode {self.mode} cannot write by {self.write}; it can by: {allowed}"
        if (self.mode == "partition") != (self.partition_by is not None):
            yield "mode partition and partition_by go together: the column whose days are replaced"
        if self.replaces_by_key and not self.primary_key:
            yield (
                f"{self.write_pattern} needs a primary_key: without one it could only append,"
                " and a row read twice would be there twice"
            )
        if self.columns and self.exclude:
            yield "columns and exclude are two ways to say one thing: keep one"
        needed = {*self.primary_key, *self._ordering_columns}
        if lost := sorted(needed & set(self.exclude) or (needed - set(self.columns or needed))):
            yield f"the load itself needs column {', '.join(lost)}: it cannot be left out"
        if hidden := sorted(self._ordering_columns & set(self.mask)):
            yield f"column {', '.join(hidden)} orders the load: it cannot be masked"
        if self.target is not None and len(self.target.split(".")) != 2:
            yield "target is a schema and a table, like raw.orders"

    @property
    def _ordering_columns(self) -> set[str]:
        return {self.partition_by} if self.partition_by else set()

    @property
    def write_pattern(self) -> Write:
        """The write pattern, chosen or following the mode."""
        return self.write or WRITES[self.mode][0]

    @property
    def replaces_by_key(self) -> bool:
        """Whether a load replaces the rows that have its keys, rather than days or everything."""
        return self.write_pattern == "merge" or (
            self.write_pattern == "delete_insert" and self.mode == "incremental"
        )


class PostgresTable(TableConfig):
    """How one PostgreSQL table is landed.

    Attributes:
        schema_: The table's schema at the source.
        cursor: The column whose growth tells what is new (``incremental``).
        lookback: How far below the watermark every run reads again: a duration for cursors that
            are times, a number for those that are numbers.
        on_null_cursor: Rows without a cursor are read by every run, or fail it.
    """

    schema_: str = Field("public", alias="schema")
    cursor: str | None = None
    lookback: Lookback | None = None
    on_null_cursor: Literal["include", "fail"] | None = None

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.mode == "incremental" and self.cursor is None:
            yield "mode incremental needs a cursor: the column that grows with every change"
        if self.mode != "incremental" and (self.cursor or self.lookback or self.on_null_cursor):
            yield f"cursor, lookback and on_null_cursor mean nothing to mode {self.mode}"
        if self.write_pattern == "append" and self.lookback is not None:
            yield "append takes no lookback: what is read twice would be there twice"
        if self.write_pattern == "append" and self.on_null_cursor == "include":
            yield "append cannot include rows without a cursor: every run would add them again"

    @property
    def _ordering_columns(self) -> set[str]:
        return super()._ordering_columns | ({self.cursor} if self.cursor else set())


class PostgresSource(_Section):
    """A PostgreSQL database and the tables landed from it.

    Attributes:
        dsn: libpq's URI or keywords; ``demo`` is the embedded server.
        mask_salt: What masked values are hashed with: without one, guessing undoes the hash.
    """

    type: Literal["postgres"]
    dsn: str = Field(repr=False)
    mask_salt: str = Field("", repr=False)
    tables: dict[str, PostgresTable]


class FilesTable(TableConfig):
    """How files become a table.

    Attributes:
        path: Where they are, relative to the project: a path, a glob, with ``{date}`` in it for
            mode ``partition``. A further ``.gz`` or ``.zst`` says that they are compressed.
        format: What they hold.
        types: The DuckDB type of a column, by name; what is not named lands as the text it is.
    """

    path: str
    format: Literal["csv", "jsonl", "json", "parquet"]
    types: dict[str, str] = {}

    def _problems(self) -> Iterator[str]:
        yield from super()._problems()
        if self.mode == "incremental":
            yield "files know no cursor: give them mode full or partition"
        if (self.mode == "partition") != ("{date}" in self.path):
            yield "mode partition and a {date} in the path go together: they say whose day it is"


class FilesSource(_Section):
    """Files and the tables landed from them.

    Attributes:
        mask_salt: What masked values are hashed with: without one, guessing undoes the hash.
    """

    type: Literal["files"]
    mask_salt: str = Field("", repr=False)
    tables: dict[str, FilesTable]


Source = Annotated[PostgresSource | FilesSource, Field(discriminator="type")]


class Warehouse(_Section):
    """The DuckDB file, and how long a run waits for whoever holds it."""

    path: Path = Path("warehouse.duckdb")
    lock_timeout: Duration = timedelta(minutes=1)


class Config(_Section):
    """The whole of pyops.yml."""

    warehouse: Warehouse = Warehouse()
    sources: dict[str, Source]


@dataclass(frozen=True)
class Table:
    """One table of the configuration with the names it goes by."""

    source: str
    name: str
    config: PostgresTable | FilesTable

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
    def target(self) -> tuple[str, str]:
        """Schema and name of the table in the warehouse."""
        schema, name = (self.config.target or "").split(".") if self.config.target else ("raw", "")
        return schema, name or self.name


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

    def dsn(self, source: str) -> str:
        """A source's DSN; that of the embedded server if it says ``demo``.

        Raises:
            OperationError: The embedded server is not running or not installed.
        """
        settings = self.config.sources[source]
        assert isinstance(settings, PostgresSource)
        dsn = settings.dsn
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
                    hint=_nearest(name, known) or f"configured are: {', '.join(known)}",
                )
            if len(found) > 1:
                both = " and ".join(map(str, found))
                raise UsageError(f"{name!r} means both {both}", hint="write source.table")
            chosen.append(found[0])
        return list(dict.fromkeys(chosen)) if names else tables


def load(directory: Path, file: str = "pyops.yml") -> Project:
    """Reads a project's configuration.

    Args:
        directory: The project folder.
        file: The configuration's path, relative to it.

    Raises:
        UsageError: The file is missing, is no YAML, names an unknown key or variable, or asks for
            what cannot be done; the message says where, and names the nearest known word.
    """
    path = directory / file
    try:
        document = yaml.load(path.read_text("utf-8"), Loader=_StrictLoader)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", hint="see --project-dir and --config"
        ) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8", hint="save it as UTF-8") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "it is no YAML"
        raise UsageError(f"{path}{where}: {problem}", hint="mend the YAML") from error
    try:
        config = Config.model_validate(_expand(document, str(path)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        message, hint = _explain(dict(first))
        raise UsageError(f"{path}: {message}", hint=hint) from None
    project = Project(directory, config)
    _refuse_shared_targets(project)
    return project


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader, but a key written twice is an error and not a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                problem = f"the key {key.value!r} stands here twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _expand(value: Any, path: str) -> Any:
    """Expands ``${VAR}`` and ``${VAR:-default}`` in every text of a document."""
    if isinstance(value, dict):
        return {key: _expand(item, path) for key, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, path) for item in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        found = os.environ.get(match[1]) or match[2]
        if found is None:
            raise UsageError(
                f"{path}: the environment variable {match[1]} is not set",
                hint=f"set it, or give it a default: ${{{match[1]}:-...}}",
            )
        return found

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", variable, value)


def _explain(error: dict[str, Any]) -> tuple[str, str]:
    """One problem found by pydantic, in the words of this file."""
    location = [str(part) for part in error["loc"]]
    if location[:1] == ["sources"] and len(location) > 2 and location[2] in _SOURCES:
        source = location.pop(2)  # pydantic names the kind of source on the way
    else:
        source = "postgres"
    where, last = ".".join(location), (location or [""])[-1]
    if error["type"] == "extra_forbidden":
        known = _known_keys(location, source)
        return f"unknown key {where!r}", _nearest(last, known) or f"known: {', '.join(known)}"
    if error["type"] in {"literal_error", "union_tag_invalid"}:
        context = error["ctx"]
        known = re.findall(r"'([^']+)'", context.get("expected") or context["expected_tags"])
        nearest = _nearest(str(context.get("tag", error["input"])), known)
        where = f"{where}.type" if "tag" in context else where
        return f"{where}: unknown word", nearest or f"it is one of: {', '.join(known)}"
    if error["type"] in {"missing", "union_tag_not_found"}:
        where = f"{where}.type" if error["type"] != "missing" else where
        needs = "a source needs type, tables and dsn if it is postgres; a table its mode"
        return f"{where!r} is missing", f"{needs}, and path and format if it is of files"
    reason = str(error.get("ctx", {}).get("error", error["msg"]))
    return f"{where}: {reason}", ""


_SOURCES: dict[str, tuple[type[BaseModel], type[BaseModel]]] = {
    "postgres": (PostgresSource, PostgresTable),
    "files": (FilesSource, FilesTable),
}


def _known_keys(location: list[str], source: str) -> list[str]:
    section: type[BaseModel] = Config
    match location:
        case ["warehouse", _]:
            section = Warehouse
        case ["sources", _, _]:
            section = _SOURCES[source][0]
        case ["sources", _, "tables", _, _]:
            section = _SOURCES[source][1]
        case ["sources", _, "tables", _, "gates", *_]:
            section = Gates
    return [field.alias or name for name, field in section.model_fields.items()]


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else ""


def _refuse_shared_targets(project: Project) -> None:
    owners: dict[str, Table] = {}
    for table in project.tables():
        target = ".".join(table.target).lower()
        other = owners.setdefault(target, table)
        if other is not table:
            raise UsageError(
                f"{other} and {table} would both land in {target}",
                hint="give one of them another target",
            )
