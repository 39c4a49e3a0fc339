"""Which files there are."""

import glob
import os
import re
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from pyops.config.days import Days
from pyops.errors import DataError, NoFileError


@dataclass(frozen=True)
class File:
    """A file by its name relative to the project, with its bytes on disk and the day it names."""

    path: Path
    name: str
    day: date | None
    size: int
    changed_ns: int  # ctime: whatever is done to a file changes it, and nobody can set it


class Found(tuple[File, ...]):
    """Files sorted by name, the requested days that have none, and the days of names by the pattern."""

    missing: tuple[date, ...] = ()
    shape: re.Pattern[str] = re.compile("")

    def day_of(self, name: str) -> date | None:
        match = self.shape.fullmatch(name)
        return _day(match["date"], name) if match and "date" in match.groupdict() else None


def find(project_dir: Path, path_pattern: str, days: Days | None = None) -> Found:
    """Finds files by a glob with ``**`` and ``{date}`` (YYYY-MM-DD); none is a DataError."""
    shape = re.compile(_regex(path_pattern))
    pattern = path_pattern.replace("{date}", "-".join(["[0-9]" * n for n in (4, 2, 2)]))
    _require_listable(project_dir, pattern)
    found, seen = [], set[str]()
    for name in sorted(set(glob.glob(pattern, root_dir=project_dir, recursive=True))):
        path, match = project_dir / name, shape.fullmatch(name)
        if match is None or path.is_dir() or os.path.realpath(path) in seen:
            continue  # two different days in one name; or the same file by another way
        if not path.is_file():
            raise DataError(
                f"{name} cannot be read: a link that leads nowhere, or no regular file",
                hint="remove it, or put the file in its place: it is not taken for absent",
            )
        seen.add(os.path.realpath(path))
        day = _day(match["date"], name) if "date" in match.groupdict() else None
        if day is None or days is None or days.first <= day <= days.last:
            stat = path.stat()
            found.append(File(path, Path(name).as_posix(), day, stat.st_size, stat.st_ctime_ns))
    files = Found(found)
    files.shape = shape
    if days is not None and "{date}" in path_pattern:
        present = {file.day for file in files}
        files.missing = tuple(day for day in days if day not in present)
    if not files:
        when = "" if days is None else f" for {days.first}"
        when += f" to {days.last}" if days is not None and days.last != days.first else ""
        raise NoFileError(
            f"no file matches {path_pattern}{when}",
            hint="nothing was removed: a day without rows needs an empty file"
            if when
            else "`path` in pyops.yml is relative to the project",
        )
    return files


def _require_listable(project_dir: Path, pattern: str) -> None:
    """Refuses a folder that cannot be listed, whose files a glob would take for absent."""
    parts = Path(pattern).parts
    for depth in range(1, len(parts)):
        for name in glob.glob(str(Path(*parts[:depth])), root_dir=project_dir, recursive=True):
            path = project_dir / name
            if path.is_dir() and not os.access(path, os.R_OK | os.X_OK):
                raise DataError(f"{name}: the folder cannot be listed", hint="give this user the right to")


def _day(text: str, name: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise DataError(f"{name}: invalid date {text!r}", hint="rename the file: {date} is YYYY-MM-DD") from None


def _regex(pattern: str) -> str:
    """A glob pattern with ``{date}`` as a regular expression."""
    tokens = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
    parts, dates = [], 0
    for token in re.findall(r"\{date\}|\*\*/|\*\*|\*|\?|\[!?\]?[^\]]*\]|.", pattern, re.DOTALL):
        if token == "{date}":
            parts.append("(?P=date)" if dates else r"(?P<date>[0-9]{4}-[0-9]{2}-[0-9]{2})")
            dates += 1
        elif len(token) > 1 and token[0] == "[":
            parts.append("[" + token[1:].replace("!", "^", 1).replace("\\", r"\\"))
        else:
            parts.append(tokens.get(token, re.escape(token)))
    return "".join(parts)
