"""The house: which room may know which, and how large its parts may become."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "pyops"
# Each room imports only from those after it; what stands in no folder is the root.
ROOMS = (*("cli", "commands", "demo", "cdc", "sources", "quality", "warehouse", "config", "staging"), "root")
# Where two rooms play the same part, their modules share a name.
SAME_PART = {"__init__", "capture", "plan", "protocol", "read", "slot", "snapshot", "validate"}


def modules() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE), ast.parse(path.read_text("utf-8"))


def room_of(path: Path) -> str:
    return path.parts[0] if len(path.parts) > 1 else "root"


def imported(module: ast.Module) -> Iterator[str]:
    """The rooms that a module's imports name, wherever in it they stand."""
    for node in ast.walk(module):
        if isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            continue
        for name in names:
            first, _, rest = name.partition(".")
            if first == "pyops":
                room = rest.split(".")[0]
                yield room if room in ROOMS else "root"


def test_every_room_imports_only_from_the_rooms_below_it() -> None:
    wrong = [
        f"{path} imports {room}"
        for path, module in modules()
        if str(path) not in {"__init__.py", "__main__.py"}  # the ways in
        for room in imported(module)
        if ROOMS.index(room) < ROOMS.index(room_of(path))
        and not (room == "demo" and room_of(path) == "config")  # which knows the word, lazily
    ]
    assert wrong == []


def test_only_the_command_line_and_the_configuration_know_the_demo() -> None:
    knows = {room_of(path) for path, module in modules() if "demo" in imported(module)}
    assert knows <= {"cli", "config", "demo"}


def test_one_name_stands_for_one_thing() -> None:
    named = defaultdict(list)
    for path, _ in modules():
        if path.stem not in SAME_PART and room_of(path) != "demo":
            named[path.stem].append(str(path))
    assert [paths for paths in named.values() if len(paths) > 1] == []


def test_what_a_reader_must_hold_in_mind_stays_small() -> None:
    lines: dict[str, int] = defaultdict(int)
    too_large = []
    for path, module in modules():
        length = (PACKAGE / path).read_text("utf-8").count("\n")
        if length > 420:
            too_large.append(f"{path} has {length} lines")
        if room_of(path) != "demo":
            lines[str(path.parent)] += length
        for node in ast.walk(module):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                if size > (250 if isinstance(node, ast.ClassDef) else 75):
                    too_large.append(f"{path}: {node.name} has {size} lines")
    too_large += [f"{room} has {count} lines" for room, count in lines.items() if count > 2600]
    assert too_large == []
    assert sum(lines.values()) <= 14_500
