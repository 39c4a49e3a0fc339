"""Reading pyops.yml: its variables, its words, and what is wrong with them."""

import os
import re
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pyops.config.model import (
    Config,
    DeadLetters,
    Expectation,
    Gates,
    Limit,
    Reference,
    Source,
    Warehouse,
)
from pyops.config.project import Project, Table
from pyops.errors import UsageError
from pyops.words import did_you_mean


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
        return f"unknown key {where!r}", did_you_mean(last, known) or f"known: {', '.join(known)}"
    if error["type"] in {"literal_error", "union_tag_invalid"}:
        context = error["ctx"]
        known = re.findall(r"'([^']+)'", context.get("expected") or context["expected_tags"])
        nearest = did_you_mean(str(context.get("tag", error["input"])), known)
        where = f"{where}.type" if "tag" in context else where
        return f"{where}: unknown word", nearest or f"it is one of: {', '.join(known)}"
    if error["type"] == "dict_type":
        return f"{where}: is a mapping", f"write {last}: {{a name: what holds for it}}"
    if error["type"] == "missing" and "gates" in location:
        known = _known_keys(location, source)
        return f"{where!r} is missing", f"this gate is a mapping of: {', '.join(known)}"
    if error["type"] in {"missing", "union_tag_not_found"}:
        where = f"{where}.type" if error["type"] != "missing" else where
        needs = "a source needs type, tables and dsn if it is postgres; a table its mode"
        return f"{where!r} is missing", f"{needs}, and path and format if it is of files"
    reason = str(error.get("ctx", {}).get("error", error["msg"]))
    return f"{where}: {reason}", ""


_SOURCES: dict[str, tuple[type[BaseModel], type[BaseModel]]] = {  # each kind, and its tables
    get_args(kind.model_fields["type"].annotation)[0]: (
        kind,
        get_args(kind.model_fields["tables"].annotation)[1],
    )
    for kind in get_args(get_args(Source)[0])
}


_GATES: dict[str, type[BaseModel]] = {"expect": Expectation, "references": Reference}


def _known_keys(location: list[str], source: str) -> list[str]:
    section: type[BaseModel] = Config
    match location:
        case ["warehouse", _]:
            section = Warehouse
        case ["dead_letters", _]:
            section = DeadLetters
        case ["sources", _, _]:
            section = _SOURCES[source][0]
        case ["sources", _, "tables", _, _]:
            section = _SOURCES[source][1]
        case ["sources", _, "tables", _, "gates", _]:
            section = Gates
        case ["sources", _, "tables", _, "gates", gate, *_]:
            section = _GATES.get(gate, Limit)
    return [field.alias or name for name, field in section.model_fields.items()]


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
