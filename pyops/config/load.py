"""Reading pyops.yml: its variables, its words, and what is wrong with them."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pyops.config.model import CircuitBreaker, Config, DeadLetters, Retry, Source, SourceConfig, Warehouse
from pyops.config.project import Project, Table
from pyops.config.rest import NESTED
from pyops.config.thresholds import Expectation, Gates, Limit, Reference
from pyops.errors import UsageError
from pyops.words import did_you_mean


def load(directory: Path, file: str = "pyops.yml") -> Project:
    """Reads a project's configuration: what ``Project.load`` does."""
    document = _read(directory, file)
    try:
        config = Config.model_validate(_expand(document.content, document, ()))
    except ValidationError as invalid:
        location, message, hint = _explain(dict(invalid.errors(include_url=False)[0]))
        raise document.error(location, message, hint=hint) from None
    project = Project(directory, config)
    _refuse_shared_targets(project, document)
    return project


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader, but a duplicate key is an error and not a silent choice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"duplicate key {key.value!r}"
                    raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)


@dataclass(frozen=True)
class _Document:
    """What a file says, and where it says it."""

    path: Path
    content: Any
    root: yaml.Node | None

    def error(self, location: Sequence[str], message: str, *, hint: str) -> UsageError:
        """The error of what stands at a location, with the file and the line."""
        node, line = self.root, 1
        for part in location:
            pairs = node.value if isinstance(node, yaml.MappingNode) else []
            found = [(key, value) for key, value in pairs if key.value == part]
            if not found:
                break  # it is missing, or a bare value that stands for a mapping
            key, node = found[-1]
            line = key.start_mark.line + 1
        return UsageError(f"{self.path}: {message} (line {line})", hint=hint)


def _read(directory: Path, file: str) -> _Document:
    path = directory / file
    try:
        loader = _StrictLoader(path.read_text("utf-8"))
        root = loader.get_single_node()
        return _Document(path, loader.construct_document(root) if root else None, root)
    except FileNotFoundError:
        raise UsageError(
            f"no {path.name} in this folder ({path.parent.resolve()})",
            hint="run pyops in the project's folder, or give --project-dir or --config",
        ) from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="see --project-dir and --config") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{path}: not UTF-8", hint="save it as UTF-8") from error
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise UsageError(f"{path}: invalid YAML: {problem}{where}", hint="fix the YAML") from error


def _expand(value: Any, document: _Document, location: tuple[str, ...]) -> Any:
    """Expands ``${VAR}`` and ``${VAR:-default}`` in every text of a document."""
    if isinstance(value, dict):
        return {key: _expand(value[key], document, (*location, str(key))) for key in value}
    if isinstance(value, list):
        return [_expand(item, document, location) for item in value]
    if not isinstance(value, str):
        return value

    def variable(match: re.Match[str]) -> str:
        found = os.environ.get(match[1]) or match[2]
        if found is None:
            raise document.error(
                location,
                f"{'.'.join(location)}: the environment variable {match[1]} is not set",
                hint=f"set it, or give it a default: ${{{match[1]}:-...}}",
            )
        return found

    return re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", variable, value)


def _explain(error: dict[str, Any]) -> tuple[list[str], str, str]:
    """Where pydantic found a problem, the problem in plain words, and a hint."""
    location = [str(part) for part in error["loc"]]
    kind, kinds = _kind_of(location)
    where, given, context = ".".join(location), error["input"], error.get("ctx", {})
    match error["type"]:
        case "extra_forbidden":
            known = _keys(_section(location[:-1], kind))
            nearest = did_you_mean(location[-1], known)
            return location, f"unknown key {where!r}", nearest or f"known: {', '.join(known)}"
        case "literal_error" | "union_tag_invalid" as problem:
            word = context.get("tag", given)
            known = re.findall(r"'([^']+)'", context.get("expected") or context["expected_tags"])
            if problem == "union_tag_invalid":
                location.append("type")
            nearest = did_you_mean(str(word), known) or f"it is one of: {', '.join(known)}"
            return location, f"{'.'.join(location)}: unknown word {word!r}", nearest
        case "union_tag_not_found":
            return location, f"'{where}.type' is missing", f"it is one of: {', '.join(kinds)}"
        case "missing":
            section = _section(location[:-1], kind)
            keys = [name for name, field in section.model_fields.items() if field.is_required()]
            hint = f"required here: {', '.join(keys)}"
            if "gates" in location:
                hint = f"the keys of this gate: {', '.join(_keys(section))}"
            return location, f"{where!r} is missing", hint
        case "dict_type":
            hint = f"write {location[-1]}: {{a name: what holds for it}}"
            return location, f"{where}: must be a mapping", hint
        case "model_type" | "model_attributes_type":
            hint = f"its keys: {', '.join(_keys(_section(location, kind)))}"
            return location, f"{where or 'the file'}: must be a mapping", hint
    reason = str(context.get("error", error["msg"]))
    if "error" not in context:  # pydantic's words; a text may be a misplaced secret
        shown = isinstance(given, int | float) or error["type"].endswith("_parsing")
        reason = reason.removeprefix("Input ") + f", not {given!r}" * shown
    return location, f"{where}: {reason}", ""


def _kind_of(location: list[str]) -> tuple[str, list[str]]:
    """The kind of what stands at a location, and its kinds; takes their names, which pydantic puts in, out of it."""
    kind, kinds = "", list[str](_SOURCES)
    if location[:1] == ["sources"] and len(location) > 2 and location[2] in _SOURCES:
        kind = location.pop(2)
    for key, above in (("auth", ["sources"]), ("paginator", ["sources", "tables"])):
        if location[: 2 * len(above) : 2] == above and location[2 * len(above) :][:1] == [key]:
            kinds = list(NESTED[key])
            if location[2 * len(above) + 1 :] and location[2 * len(above) + 1] in kinds:
                kind = location.pop(2 * len(above) + 1)
    return kind, kinds


_SOURCES: dict[str, tuple[type[BaseModel], type[BaseModel]]] = {  # each kind, and its tables
    get_args(kind.model_fields["type"].annotation)[0]: (kind, get_args(kind.model_fields["tables"].annotation)[1])
    for kind in get_args(get_args(Source)[0])
}
_GATES: dict[str, type[BaseModel]] = {"expect": Expectation, "references": Reference}


def _section(location: list[str], kind: str) -> type[BaseModel]:
    match location:
        case ["warehouse"]:
            return Warehouse
        case ["dead_letters"]:
            return DeadLetters
        case ["sources", _, ("auth" as key)] | ["sources", _, "tables", _, ("paginator" as key)] if kind in NESTED[key]:
            return NESTED[key][kind]
        case ["sources", _, "breaker"]:
            return CircuitBreaker
        case ["sources", _, "retry"]:
            return Retry
        case ["sources", _]:
            return _SOURCES[kind][0] if kind else SourceConfig
        case ["sources", _, "tables", _]:
            return _SOURCES[kind][1]
        case ["sources", _, "tables", _, "gates"]:
            return Gates
        case ["sources", _, "tables", _, "gates", gate, *_]:
            return _GATES.get(gate, Limit)
    return Config


def _keys(section: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in section.model_fields.items()]


def _refuse_shared_targets(project: Project, document: _Document) -> None:
    owners: dict[str, Table] = {}
    for table in project.tables():
        target = ".".join(table.target).lower()
        other = owners.setdefault(target, table)
        if other is not table:
            raise document.error(
                ["sources", table.source, "tables", table.name],
                f"{other} and {table} would both land in {target}",
                hint="give one of them another target",
            )
