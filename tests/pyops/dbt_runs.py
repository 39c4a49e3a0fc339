"""Projects of the tests, dbt run on them, and what came of it."""

import io
import json
import shutil
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

import duckdb
import pytest
from dbt.cli.main import dbtRunner

from pyops.dbt import release

PROJECT = Path(__file__).parents[2]
NEEDED = [
    *("dbt_project.yml", "profiles.yml", "packages.yml", "pyops.yml", "dbt_packages", "data"),
    *("models", "macros", "seeds", "snapshots", "tests/generic", "tests/singular"),
]


# Of the shop's invoices: its first days and its last ones, which hold all that the documents name.
FEW_DAYS = "invoice_date < '2010-12-03' OR invoice_date >= '2011-12-01'"


def copy_project(folder: Path, days: str = "") -> None:
    """Copies what of the project is needed to run it, without the demo's files of events.

    Args:
        folder: Where to.
        days: A condition that leaves only some of the shop's invoices.
    """
    for name in NEEDED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, folder / name, ignore=shutil.ignore_patterns("events"))
        else:
            shutil.copy(PROJECT / name, folder / name)
    if days:
        keep_days(folder / "data", days)


def keep_days(data: Path, days: str) -> Path:
    """Writes the invoices that meet a condition to a folder; returns the file."""
    file = data / "online_retail.parquet"
    whole = duckdb.read_parquet(str(PROJECT / "data" / file.name))
    whole.filter(days).write_parquet(str(file))
    return file


class DbtError(AssertionError):
    """dbt failed before it ran any node; the message is all that it printed."""


def run_dbt(project: Path, *arguments: str, source: Path | None = None) -> dict[str, Any]:
    """Runs dbt, in this process, on the project's own `warehouse.duckdb`.

    What failed is for the caller to look at; no artifact of this invocation is an error here.

    Args:
        project: The folder of the warehouse and of `target/`.
        arguments: dbt's.
        source: The project's files, where they are in another folder.

    Returns:
        Each node's result, by its name.
    """
    results = project / "target" / "run_results.json"
    results.unlink(missing_ok=True)
    where = [f"--{kind}-dir={source or project}" for kind in ("project", "profiles")]
    where += [f"--target-path={project / 'target'}", "--log-level-file=none"]
    printed = io.StringIO()
    with chdir(project), pytest.MonkeyPatch.context() as patch, redirect_stdout(printed):
        # A path that is the same in every folder, so that what was parsed in one counts in all.
        patch.setenv("PYOPS_WAREHOUSE", "warehouse.duckdb")
        done = dbtRunner().invoke([*arguments, *where])
        release()
    if not results.exists():
        if not done.success:
            raise DbtError(f"{printed.getvalue()}\n{done.exception}")
        return {}
    nodes = json.loads(results.read_text("utf-8"))["results"]
    # model.<package>.<name>, test.<package>.<name>.<hash>
    return {node["unique_id"].split(".")[2]: node for node in nodes}


class Parsed:
    """The project, parsed once, and run as often as need be on the `warehouse.duckdb` of a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.warehouse = folder / "warehouse.duckdb"
        self.manifest: Any = None
        self.manifest = self.invoke("parse")
        compiled = self.invoke("compile", "--full-refresh")
        #: By model, in the order in which dbt builds them: its relation, and its query from nothing.
        models = [result.node for result in compiled.results if result.node.resource_type == "model"]
        self.queries = {model.name: (model.relation_name, model.compiled_code) for model in models}

    def invoke(self, *arguments: str) -> Any:
        """Runs dbt; a node that fails fails the test."""
        where = [f"--{kind}-dir={PROJECT}" for kind in ("project", "profiles")]
        where += [f"--target-path={self.folder / 'target'}", "--log-level-file=none"]
        with chdir(self.folder), pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYOPS_WAREHOUSE", "warehouse.duckdb")
            done = dbtRunner(manifest=self.manifest).invoke(["--quiet", *arguments, *where])
            release()
        assert done.success, done.exception or done.result
        return done.result

    def stale(self) -> list[str]:
        """The models that hold other rows than their query gives; each reads what is built of the others."""
        with duckdb.connect(self.warehouse, read_only=True) as connection:
            return [
                name
                for name, (relation, query) in self.queries.items()
                for one, other in ((f"FROM {relation}", query), (query, f"FROM {relation}"))
                if connection.execute(f"({one}) EXCEPT ALL ({other})").fetchall()
            ]


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
    document = {"nodes": found, "sources": {"source.p.log": {"schema": "RAW", "identifier": "T__changes"}}}
    (folder / "target").mkdir(exist_ok=True)
    (folder / "target" / "manifest.json").write_text(json.dumps(document), "utf-8")
    (folder / "dbt_project.yml").write_text("name: p", "utf-8")
