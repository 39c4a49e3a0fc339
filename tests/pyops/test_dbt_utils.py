"""The stand-in for dbt_utils: what the project calls of the real one, and nothing else."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from dbt_common.clients.jinja import get_environment
from jinja2 import nodes

from tests.pyops.dbt_runs import PROJECT, ask, run_dbt

STAND_IN = PROJECT / "offline" / "dbt_utils"

# The heads of the real macros, as dbt_utils 1.3 has them. A macro that the project begins to call
# is added here first, from the real package's source.
REAL = """
{% test accepted_range(
    model, column_name, min_value=none, max_value=none, inclusive=true
) %}{% endtest %}
{% test expression_is_true(model, expression, column_name=none) %}{% endtest %}
{% test unique_combination_of_columns(
    model, combination_of_columns, quote_columns=false
) %}{% endtest %}
{% macro generate_surrogate_key(field_list) %}{% endmacro %}
{% macro date_spine(datepart, start_date, end_date) %}{% endmacro %}
"""

Signatures = dict[str, list[tuple[str, Any]]]


def parsed(jinja: str) -> nodes.Template:
    return get_environment(None, capture_macros=False).parse(jinja)


def signatures(jinja: str) -> Signatures:
    """The macros defined in a text; each argument with its default, `...` where it has none."""
    found = {}
    for macro in parsed(jinja).find_all(nodes.Macro):
        names = [argument.name for argument in macro.args]
        required: list[Any] = [...] * (len(names) - len(macro.defaults))
        defaults = [default.as_const() for default in macro.defaults]
        found[macro.name.removeprefix("dbt_macro__")] = list(zip(names, required + defaults, strict=True))
    return found


def calls(jinja: str) -> Iterator[tuple[str, int, list[str]]]:
    """The calls of dbt_utils in a text: macro, positional arguments, names of the others."""
    for call in parsed(jinja).find_all(nodes.Call):
        macro = call.node
        if isinstance(macro, nodes.Getattr) and macro.node == nodes.Name("dbt_utils", "load"):
            assert call.dyn_args is None, f"{macro.attr} is called with *arguments"
            assert call.dyn_kwargs is None, f"{macro.attr} is called with **arguments"
            yield macro.attr, len(call.args), [argument.key for argument in call.kwargs]


def call_sites(manifest: dict[str, Any]) -> Iterator[tuple[str, str, int, list[str]]]:
    """Where the project calls dbt_utils: the caller, then what `calls` says."""
    nodes_and_macros = [*manifest["nodes"].values(), *manifest["macros"].values()]
    for item in nodes_and_macros:
        if item["package_name"] != "pyops":
            continue
        if test := item.get("test_metadata"):  # of YAML: its code calls with **arguments
            if test["namespace"] == "dbt_utils":
                yield item["unique_id"], f"test_{test['name']}", 0, list(test["kwargs"])
        else:
            for call in calls(item.get("raw_code") or item.get("macro_sql") or ""):
                yield item["unique_id"], *call


def test_project_calls_what_the_real_package_has_and_the_stand_in_has_no_more(tmp_path: Path) -> None:
    run_dbt(tmp_path, "parse", "--target", "lint", source=PROJECT)
    manifest = json.loads((tmp_path / "target" / "manifest.json").read_text("utf-8"))
    real = signatures(REAL)
    used = set()
    for caller, macro, positional, named in call_sites(manifest):
        assert macro in real, f"{caller} calls dbt_utils.{macro}: is it in dbt_utils 1.3?"
        names = [name for name, _ in real[macro]]
        assert positional <= len(names), f"{caller}: dbt_utils.{macro} takes {names}"
        given = {*names[:positional], *named}
        assert given <= set(names), f"{caller}: dbt_utils.{macro} takes {names}"
        required = {name for name, default in real[macro] if default is ...}
        assert given >= required, f"{caller}: dbt_utils.{macro} needs {required}"
        used.add(macro)
    sources = [file.read_text("utf-8") for file in sorted(STAND_IN.rglob("*.sql"))]
    assert signatures("\n".join(sources)) == real
    assert set(real) == used, "the stand-in has what the project calls, and no more"


KEYS = """
select
    case_name,
    {{ dbt_utils.generate_surrogate_key(['id', 'name', 'on_date']) }} as three,
    {{ dbt_utils.generate_surrogate_key(['name']) }} as one
from (
    values
        ('whole', 1, 'a-b', date '2011-12-09'),
        ('null in the middle', 1, null, date '2011-12-09'),
        ('nulls', null, null, null),
        ('empty text', 1, '', null),
        ('separator in a value', 1, 'a', null)
) as cases (case_name, id, name, on_date)
"""
SPINE = "{{{{ dbt_utils.date_spine('{}', \"date '{}'\", \"date '{}'\") }}}}"
MODELS = {
    "keys": KEYS,
    "no_fields": "select {{ dbt_utils.generate_surrogate_key([]) }} as no_fields",
    "days": SPINE.format("day", "2012-02-27", "2012-03-02"),
    "one_day": SPINE.format("day", "2012-02-29", "2012-03-01"),
    "months": SPINE.format("month", "2011-11-15", "2012-02-01"),
    "no_day": SPINE.format("day", "2012-03-01", "2012-03-01"),
}


class Built(NamedTuple):
    """A project that was built: each model's result is told by its name."""

    folder: Path
    results: dict[str, dict[str, Any]]

    def rows(self, model: str) -> list[tuple[Any, ...]]:
        return ask(self.folder, f"FROM {model} ORDER BY ALL")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """A project of its own whose models call the stand-in, built once."""
    folder = tmp_path_factory.mktemp("stand_in")
    shutil.copytree(STAND_IN, folder / "dbt_packages" / "dbt_utils")
    for name in ("packages.yml", "profiles.yml"):
        shutil.copy(PROJECT / name, folder)
    (folder / "dbt_project.yml").write_text("{name: cases, profile: pyops}")
    (folder / "models").mkdir()
    for name, sql in MODELS.items():
        (folder / "models" / f"{name}.sql").write_text(sql)
    return Built(folder, run_dbt(folder, "--quiet", "run"))


def test_surrogate_key_tells_nulls_from_texts(built: Built) -> None:
    def key(text: str) -> str:
        return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()

    null = "_dbt_utils_surrogate_key_null_"
    assert built.rows("keys") == [
        ("empty text", key(f"1--{null}"), key("")),
        ("null in the middle", key(f"1-{null}-2011-12-09"), key(null)),
        ("nulls", key(f"{null}-{null}-{null}"), key(null)),
        ("separator in a value", key(f"1-a-{null}"), key("a")),
        ("whole", key("1-a-b-2011-12-09"), key("a-b")),
    ]


def test_date_spine_ends_before_its_end(built: Built) -> None:
    days = [(datetime(2012, 2, day),) for day in (27, 28, 29)]
    assert built.rows("days") == [*days, (datetime(2012, 3, 1),)]
    assert built.rows("one_day") == [(datetime(2012, 2, 29),)]
    months = [(datetime(2011, 11, 15),), (datetime(2011, 12, 15),), (datetime(2012, 1, 15),)]
    assert built.rows("months") == months


def test_key_of_nothing_and_spine_of_no_days_fail_as_the_real_ones_do(built: Built) -> None:
    results = built.results.items()
    failed = {name: node["message"] for name, node in results if node["status"] == "error"}
    assert set(failed) == {"no_fields", "no_day"}
    assert "syntax error" in failed["no_fields"]
    assert "upper bound must be positive" in failed["no_day"]
