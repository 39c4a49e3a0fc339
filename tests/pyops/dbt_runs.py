"""Projects of the tests, dbt run on them, and what came of it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb

PROJECT = Path(__file__).parents[2]
NEEDED = [
    *("dbt_project.yml", "profiles.yml", "packages.yml", "pyops.yml", "dbt_packages", "data"),
    *("models", "macros", "seeds", "snapshots", "tests/generic", "tests/singular"),
]


def copy_project(folder: Path) -> None:
    """Copies what of the project is needed to run it, without the demo's files of events."""
    for name in NEEDED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("events"))
        else:
            shutil.copy(PROJECT / name, folder / name)


def run_dbt(project: Path, *arguments: str, cwd: Path | None = None) -> dict[str, dict[str, Any]]:
    """Runs dbt on the project's own `warehouse.duckdb`; returns each node's result by its name.

    Its artifacts go to `target/` of `project`, also where `cwd` is another project's folder. What
    failed is for the caller to look at; no artifact of this invocation is an error here.
    """
    results = project / "target" / "run_results.json"
    results.unlink(missing_ok=True)
    done = subprocess.run(
        [Path(sys.executable).with_name("dbt"), *arguments],
        cwd=cwd or project,
        env={
            **os.environ,
            "PYOPS_WAREHOUSE": str(project / "warehouse.duckdb"),
            "DBT_TARGET_PATH": str(project / "target"),
            "DBT_LOG_PATH": str(project / "logs"),
        },
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    if not results.exists():
        assert done.returncode == 0, done.stdout
        return {}
    nodes = json.loads(results.read_text("utf-8"))["results"]
    # model.<package>.<name>, test.<package>.<name>.<hash>
    return {node["unique_id"].split(".")[2]: node for node in nodes}


def ask(project: Path, query: str) -> list[tuple[Any, ...]]:
    """Asks the warehouse of the project."""
    with duckdb.connect(project / "warehouse.duckdb") as connection:
        return connection.execute(query).fetchall()


def put_manifest(folder: Path, *nodes: tuple[str, str, str, dict[str, Any]]) -> None:
    """Writes the manifest of a dbt project, where dbt itself would add nothing.

    Args:
        folder: The project.
        nodes: Name, materialization, the one it reads (`log` is `raw.t__changes`), and what it has
            besides: `full_refresh`, and for each tagged column its tag.
    """
    found = {
        f"model.p.{name}": {
            "name": name,
            "alias": name,
            "schema": "models",
            "resource_type": "snapshot" if kind == "snapshot" else "model",
            "config": {"materialized": kind, "full_refresh": more.get("full_refresh")},
            "columns": {
                column: {"name": column, "config": {"meta": {"pyops_key_of": tag}}}
                for column, tag in more.items()
                if column != "full_refresh"
            },
            "depends_on": {"nodes": ["source.p.log" if reads == "log" else f"model.p.{reads}"]},
        }
        for name, kind, reads, more in nodes
    }
    document = {
        "nodes": found,
        "sources": {"source.p.log": {"schema": "RAW", "identifier": "T__changes"}},
    }
    (folder / "target").mkdir(exist_ok=True)
    (folder / "target" / "manifest.json").write_text(json.dumps(document), "utf-8")
    (folder / "dbt_project.yml").write_text("name: p", "utf-8")
