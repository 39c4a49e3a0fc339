"""Rules for the dbt project that dbt-bouncer.yml cannot ask for, on dbt's manifest."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from dbt_common.clients.jinja import get_environment
from jinja2 import nodes

from pyops.dbt import Manifest
from tests.pyops.dbt_runs import PROJECT

Node = dict[str, Any]

# Keys, text, numbers, flags, dates, times, and what pyops adds.
ORDER = ["key", "text", "number", "boolean", "date", "timestamp", "underscore"]
NUMBER = r"(big|small|tiny|huge)?int|integer|decimal|numeric|double|float|real"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Node:
    target = tmp_path_factory.mktemp("target")
    dbt = str(Path(sys.executable).parent / "dbt")
    options = ["--quiet", "--target", "lint", "--target-path", str(target)]
    subprocess.run([dbt, "parse", *options], cwd=PROJECT, check=True)
    found: Node = json.loads((target / "manifest.json").read_text("utf-8"))
    return found


def ours(manifest: Node, *kinds: str) -> Iterator[Node]:
    """Everything of some kinds that this project, not a package of it, defines."""
    for group in ("nodes", "sources", "macros", "unit_tests"):
        for node in manifest[group].values():
            if node["package_name"] == "pyops" and node["resource_type"] in kinds:
                yield node


def singular(manifest: Node) -> list[Node]:
    return [node for node in ours(manifest, "test") if "test_metadata" not in node]


def unique(manifest: Node, model: Node) -> list[set[str]]:
    """The sets of columns that a test holds to be unique together."""
    found = []
    for test in ours(manifest, "test"):
        what = test.get("test_metadata")
        if what and test["attached_node"] == model["unique_id"] and "unique" in what["name"]:
            given = what["kwargs"].get("arguments", what["kwargs"])
            found.append(set(given.get("combination_of_columns") or [given["column_name"]]))
    return found


def kind(column: Node, keys: list[set[str]]) -> str | None:
    """Where a column belongs, by its name and declared type; None if nothing tells.

    What is unique only together with others may stand with the keys or with its kind.
    """
    name, data_type = column["name"], column.get("data_type") or ""
    if re.search(r"^([^_].*_)?id$", name) or {name} in keys:
        return "key"
    if any(name in key for key in keys):
        return None
    by_name = [
        (r"^_", "underscore"),
        (r"^(is|has)_", "boolean"),
        (r"_date$", "date"),
        (r"_at$", "timestamp"),
        (r"_(count|cents|number)$", "number"),
    ]
    by_type = [
        (rf"^({NUMBER})\b", "number"),
        (r"^(varchar|text|string)\b", "text"),
        (r"^(boolean|date|timestamp)\b", data_type.lower()),
    ]
    named = (place for pattern, place in by_name if re.search(pattern, name))
    typed = (place for pattern, place in by_type if re.search(pattern, data_type, re.I))
    return next(named, None) or next(typed, None)


def arguments(macro: Node) -> set[str]:
    """The names of a macro's or a generic test's arguments."""
    definition = get_environment().parse(macro["macro_sql"]).find(nodes.Macro)
    assert definition
    return {argument.name for argument in definition.args}


def test_every_column_is_described(manifest: Node) -> None:
    """Behaviour 47: sources, seeds and snapshots too."""
    found = list(ours(manifest, "model", "seed", "snapshot", "source"))
    assert [node["name"] for node in found if not node["columns"]] == []
    bare = [
        f"{node['name']}.{column['name']}"
        for node in found
        for column in node["columns"].values()
        if not column["description"].strip()
    ]
    assert bare == []


def test_every_seed_and_snapshot_says_its_grain_and_has_a_tested_key(manifest: Node) -> None:
    found = list(ours(manifest, "seed", "snapshot"))
    grain = [node["name"] for node in found if not node["description"].startswith("One row per ")]
    assert grain == []
    tested = {
        test["attached_node"]
        for test in ours(manifest, "test")
        if "unique" in test.get("test_metadata", {}).get("name", "")
    }
    assert [node["name"] for node in found if node["unique_id"] not in tested] == []


def test_columns_go_by_kind(manifest: Node) -> None:
    wrong = []
    for model in ours(manifest, "model"):
        of_model = unique(manifest, model)
        kinds = [(kind(column, of_model), name) for name, column in model["columns"].items()]
        known = [(ORDER.index(place), name) for place, name in kinds if place]
        for (place, name), (following, after) in pairwise(known):
            if following < place:
                wrong.append(f"{model['name']}: {after} belongs before {name}")
    assert wrong == []


def test_every_model_belongs_to_a_group_that_has_an_owner(manifest: Node) -> None:
    owners = {group["name"]: group["owner"].get("email") for group in manifest["groups"].values()}
    assert [node["name"] for node in ours(manifest, "model") if not owners.get(node["group"])] == []


def test_properties_are_beside_what_they_describe(manifest: Node) -> None:
    """Models are held to it by dbt-bouncer; a macro dispatches to macros in its own file."""
    apart = []
    for node in ours(manifest, "seed", "snapshot", "macro", "test"):
        if "test_metadata" in node or "__" in node["name"]:
            continue
        beside = Path(node["original_file_path"]).with_suffix(".yml")
        if (node["patch_path"] or "").removeprefix("pyops://") != beside.as_posix():
            apart.append(f"{node['name']} is not described in {beside}")
    assert apart == []


def test_a_file_holds_one_macro_of_its_name_and_describes_its_arguments(manifest: Node) -> None:
    wrong = []
    for macro in ours(manifest, "macro"):
        name = macro["name"].removeprefix("test_")
        if name.split("__")[-1] != Path(macro["original_file_path"]).stem:
            wrong.append(f"{macro['name']} is in {macro['original_file_path']}")
        if "__" in name:
            continue
        described = {each["name"] for each in macro["arguments"] if each["description"]}
        # What dbt itself passes to every generic test needs no description.
        given = {"model", "column_name"} if name != macro["name"] else set()
        taken = arguments(macro)
        wrong += [f"{macro['name']}: {each} is not described" for each in taken - given - described]
        wrong += [f"{macro['name']} takes no {each}" for each in described - taken]
        if not macro["description"].strip():
            wrong.append(f"{macro['name']} is not described")
    assert wrong == []


def test_singular_tests_are_named_as_assertions(manifest: Node) -> None:
    assert singular(manifest)
    assert [test["name"] for test in singular(manifest) if not test["name"].startswith("assert_")] == []


def test_every_test_with_logic_of_its_own_says_what_it_holds(manifest: Node) -> None:
    tests = [*singular(manifest), *ours(manifest, "unit_test")]
    assert [test["name"] for test in tests if not (test["description"] or "").strip()] == []


def test_what_is_stored_of_users_is_found_by_an_erasure(manifest: Node, tmp_path: Path) -> None:
    """On what dbt itself writes: tags, what reads a log and remembers it, what is made of it."""
    (tmp_path / "target").mkdir()
    (tmp_path / "target" / "manifest.json").write_text(json.dumps(manifest), "utf-8")
    for name in ("dbt_project.yml", "pyops.yml"):
        (tmp_path / name).write_text((PROJECT / name).read_text("utf-8"), "utf-8")
    lineage = Manifest.read(tmp_path)
    tagged = {node.name for node in lineage.nodes.values() if "shop.users.id" in node.keys}
    assert "dim_users" in tagged
    readers = {node.name for node in lineage.rememberers(("raw", "orders__changes"))}
    assert readers
    assert "fct_orders" not in readers, "it reads what remembers the log, not the log"
    below = {node.name for node in lineage.descendants([("raw", "products")])}
    assert {"stg_products", "products_snapshot", "dim_products"} <= below
