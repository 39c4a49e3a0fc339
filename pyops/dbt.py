"""dbt: its manifest, as far as we need it, and a build in this process."""

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from pyops.errors import OperationError, UsageError
from pyops.records import Relation

_log = logging.getLogger(__name__)
KEY_TAG = "pyops_key_of"  # the meta of a column: `source.table.column`
_MADE_ANEW = {"view", "ephemeral", "table", "external"}  # by every build, from what is there then
_STORED = {"table", "incremental", "snapshot", "seed"}


@dataclass(frozen=True)
class Node:
    """A model, snapshot or seed."""

    name: str
    materialized: str
    relation: Relation
    parents: tuple[str, ...]  # the unique ids of what it reads
    may_be_refreshed: bool  # whether ``--full-refresh`` builds it again
    # The columns tagged as a key of a raw table, by the tag ``source.table.column``.
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
    def read(cls, directory: Path) -> Self:
        """Reads ``target/manifest.json``; where there is no dbt project, nothing has been built."""
        if not (directory / "dbt_project.yml").exists():
            return cls()
        target = directory / os.environ.get("DBT_TARGET_PATH", "target")
        path = target / "manifest.json"
        try:
            found = json.loads(path.read_text("utf-8"))
            nodes = {
                name: _node(node)
                for name, node in found["nodes"].items()
                if node["resource_type"] in {"model", "snapshot", "seed"}
            }
            sources = {name: _relation(node["schema"], node["identifier"]) for name, node in found["sources"].items()}
        except FileNotFoundError:
            raise OperationError(
                f"{path} is not there: what dbt has built from the raw tables is not known", hint="run dbt build"
            ) from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise OperationError(f"{path} is no manifest that can be read", hint="run dbt build") from None
        return cls(nodes, sources)

    def rememberers(self, relation: Relation) -> list[Node]:
        """The nodes that remember what they read of a raw table, or of what is made anew of it."""
        return [node for node in self._below([relation], through=_MADE_ANEW) if node.remembers]

    def descendants(self, relations: Collection[Relation]) -> list[Node]:
        """Every node that raw tables have a part in, in dbt's order of names."""
        return list(self._below(relations, through=None))

    def _below(self, relations: Collection[Relation], *, through: Collection[str] | None) -> Iterator[Node]:
        wanted = {_relation(*relation) for relation in relations}
        reached = {name for name, relation in self.sources.items() if relation in wanted}
        seen: set[str] = set()
        while reached:
            children = {
                name for name, node in self.nodes.items() if name not in seen and reached.intersection(node.parents)
            }
            seen |= children
            reached = {name for name in children if through is None or self.nodes[name].materialized in through}
        for name in sorted(seen):
            yield self.nodes[name]


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


def require_project(directory: Path) -> None:
    """Refuses a folder without a dbt project."""
    if not (directory / "dbt_project.yml").exists():
        raise UsageError(
            f"there is no dbt_project.yml in {directory.resolve()}",
            hint="see --project-dir; to land tables only, use pyops extract",
        )


def build(directory: Path, environment: Mapping[str, str], *selected: str) -> tuple[dict[str, int], bool]:
    """Runs ``dbt build``, of all nodes or those selected; returns how many ended in each status, and if all is well."""
    from dbt.cli.main import dbtRunner

    os.environ.update(environment)
    folder = str(directory.resolve())
    chosen = ["--select", *selected] if selected else []
    with redirect_stdout(sys.stderr):  # dbt's lines are a log; stdout is for the summary
        outcome = dbtRunner().invoke(["build", "--project-dir", folder, "--profiles-dir", folder, *chosen])
    release()
    if outcome.exception is not None:
        _log.error("dbt: %s", outcome.exception)
    results = getattr(outcome.result, "results", [])
    return dict(Counter(str(node.status) for node in results)), outcome.success


def release() -> None:
    """Closes the connection that dbt-duckdb would keep until the process ends."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    if (environment := getattr(DuckDBConnectionManager, "_ENV", None)) is not None:
        environment.close()
        DuckDBConnectionManager.close_all_connections()  # type: ignore[no-untyped-call]
