"""What dbt has built from a raw table: its manifest, read as far as that needs."""

import json
import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import duckdb

from pyops.config.project import Project
from pyops.errors import OperationError

KEY_TAG = "pyops_key_of"  # the meta of a column: `source.table.column`

Relation = tuple[str, str]  # schema and name, whatever the database is called

_MADE_ANEW = {"view", "ephemeral", "table", "external"}  # by every build, from what is there then
_STORED = {"table", "incremental", "snapshot", "seed"}


@dataclass(frozen=True)
class Node:
    """A model, snapshot or seed.

    Attributes:
        name: Its name.
        materialized: How dbt materializes it.
        relation: Where it is built.
        parents: The unique ids of what it reads.
        may_be_refreshed: Whether ``--full-refresh`` makes it anew.
        keys: The columns tagged as a key of a raw table, by the tag ``source.table.column``.
    """

    name: str
    materialized: str
    relation: Relation
    parents: tuple[str, ...]
    may_be_refreshed: bool
    keys: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def remembers(self) -> bool:
        """Whether a build keeps what earlier ones have made, and reads only what is new."""
        return self.materialized not in _MADE_ANEW

    @property
    def is_stored(self) -> bool:
        """Whether it is a table of the warehouse, and no view."""
        return self.materialized in _STORED


@dataclass(frozen=True)
class Manifest:
    """The nodes of a dbt project, and the raw tables they come from, by unique id."""

    nodes: Mapping[str, Node] = field(default_factory=dict)
    sources: Mapping[str, Relation] = field(default_factory=dict)

    @classmethod
    def read(cls, project: Project) -> Self:
        """Reads ``target/manifest.json``; where there is no dbt project, nothing has been built.

        Raises:
            OperationError: It is not there, or is no manifest.
        """
        if not (project.directory / "dbt_project.yml").exists():
            return cls()
        target = project.directory / os.environ.get("DBT_TARGET_PATH", "target")
        path = target / "manifest.json"
        try:
            found = json.loads(path.read_text("utf-8"))
            nodes = {
                name: _node(node)
                for name, node in found["nodes"].items()
                if node["resource_type"] in {"model", "snapshot", "seed"}
            }
            sources = {
                name: _relation(node["schema"], node["identifier"])
                for name, node in found["sources"].items()
            }
        except FileNotFoundError:
            raise OperationError(
                f"{path} is not there: what dbt has built from the raw tables is not known",
                hint="run dbt build",
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise OperationError(
                f"{path} is no manifest that can be read", hint="run dbt build"
            ) from None
        return cls(nodes, sources)

    def rememberers(self, relation: Relation) -> list[Node]:
        """The nodes that read a raw table and remember what they have read.

        Through what is made anew by every build, but not beyond one that remembers: what reads
        that does not read the raw table.
        """
        return [node for node in self._below([relation], through=_MADE_ANEW) if node.remembers]

    def descendants(self, relations: Collection[Relation]) -> list[Node]:
        """Every node that raw tables have a part in, in dbt's order of names."""
        return list(self._below(relations, through=None))

    def _below(
        self, relations: Collection[Relation], *, through: Collection[str] | None
    ) -> Iterator[Node]:
        wanted = {_relation(*relation) for relation in relations}
        reached = {name for name, relation in self.sources.items() if relation in wanted}
        seen: set[str] = set()
        while reached:
            children = {
                name
                for name, node in self.nodes.items()
                if name not in seen and reached.intersection(node.parents)
            }
            seen |= children
            reached = {
                name
                for name in children
                if through is None or self.nodes[name].materialized in through
            }
        for name in sorted(seen):
            yield self.nodes[name]


def columns_of(
    connection: duckdb.DuckDBPyConnection, catalog: str, relation: Relation
) -> dict[str, str]:
    """The type of each column of a table, by its name; empty if there is no such table."""
    found = connection.execute(
        "SELECT column_name, data_type FROM duckdb_columns()"
        " SEMI JOIN duckdb_tables() USING (database_name, schema_name, table_name)"
        " WHERE database_name = ?"
        " AND lower(schema_name) = lower(?) AND lower(table_name) = lower(?)"
        " ORDER BY column_index",
        [catalog.strip('"'), *relation],
    ).fetchall()
    return dict(found)


def _relation(schema: str, name: str) -> Relation:
    return schema.lower(), name.lower()


def _node(node: Mapping[str, Any]) -> Node:
    keys: dict[str, list[str]] = {}
    for name, column in node.get("columns", {}).items():
        meta = {**column.get("meta", {}), **column.get("config", {}).get("meta", {})}
        if KEY_TAG in meta:
            keys.setdefault(str(meta[KEY_TAG]), []).append(column.get("name", name))
    config = node["config"]
    is_snapshot = node["resource_type"] == "snapshot"
    return Node(
        node["name"],
        config["materialized"],
        _relation(node["schema"], node["alias"]),
        tuple(node.get("depends_on", {}).get("nodes", ())),
        not is_snapshot and config.get("full_refresh") is not False,
        {tag: tuple(names) for tag, names in keys.items()},
    )
