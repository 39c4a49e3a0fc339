"""JSON lines: what keeping bad rows costs the good ones.

Usage: python -m bench.files [--rows N] [--rounds N]

Lands the same good rows three times: typed strictly with dead letters, as pyops does; with one bad
row among a thousand; and as bare texts, where nothing can be a dead letter.
"""

import argparse
import time
from pathlib import Path

import yaml

from bench.harness import median, print_table, spread, temporary_folder
from pyops import extract, load

_TYPES = {"id": "BIGINT", "at": "TIMESTAMP", "amount": "DECIMAL(12,2)", "user": "INTEGER"}


def main() -> None:
    """Runs it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=500_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with temporary_folder() as folder:
        _write(folder / "good.jsonl", options.rows, bad=0)
        _write(folder / "bad.jsonl", options.rows, bad=1000)
        kinds = {
            "bare texts": ("good.jsonl", {}),
            "typed, no bad row": ("good.jsonl", _TYPES),
            "typed, 0.1 % bad rows": ("bad.jsonl", _TYPES),
        }
        seconds: dict[str, list[float]] = {kind: [] for kind in kinds}
        for number in range(options.rounds):
            for kind, (name, types) in kinds.items():
                project = folder / f"{number}-{len(kind)}"
                seconds[kind].append(_land(project, folder / name, types))
        megabytes = (folder / "good.jsonl").stat().st_size / 1e6
    base = median(seconds["bare texts"])
    print(f"\n{options.rows:,} JSON lines, {megabytes:.0f} MB; median of {options.rounds} rounds\n")
    print_table(
        ["", "seconds", "to bare texts", "MB/s"],
        [
            [kind, f"{median(t):.2f}", spread(t), f"{median(t) / base:.2f}", f"{megabytes / median(t):.0f}"]
            for kind, t in seconds.items()
        ],
    )


def _write(path: Path, rows: int, *, bad: int) -> None:
    with path.open("w") as file:
        for n in range(rows):
            amount = '"n/a"' if bad and n % bad == 0 else f"{n % 9999}.{n % 100:02}"
            file.write(
                f'{{"id": {n}, "at": "2024-01-01T10:00:{n % 60:02}.123Z", "amount": {amount},'
                f' "user": {n % 5000}, "note": "event {n}", "page": {{"path": "/p/{n % 99}"}}}}\n'
            )


def _land(project: Path, source: Path, types: dict[str, str]) -> float:
    project.mkdir()
    (project / source.name).symlink_to(source)
    table = {"path": source.name, "format": "jsonl", "mode": "full", "types": types}
    document = {"sources": {"f": {"type": "files", "tables": {"t": table}}}}
    (project / "pyops.yml").write_text(yaml.safe_dump(document))
    began = time.monotonic()
    (done,) = extract(load(project))
    seconds = time.monotonic() - began
    if done.error is not None:
        raise done.error
    return seconds


if __name__ == "__main__":
    main()
