from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

from pyops.demo import events, traffic
from pyops.demo.events import Written
from tests.pyops.conftest import execute

PURCHASES = """
    SELECT id, user_id, amount_cents::bigint, (ordered_at AT TIME ZONE 'UTC')::date::text
    FROM orders WHERE invoice_no !~ '^[AC]' AND amount_cents > 0 ORDER BY id
"""


def lines_of(path: Path) -> list[str]:
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def fault(line: str) -> str | None:
    """What is wrong with a line, or None."""
    try:
        event = json.loads(line)
    except ValueError:
        return "cut off" if line.startswith('{"event_id"') else "not JSON"
    if "event_id" not in event:
        return "no event_id"
    return "wrong type" if event.get("amount") == "n/a" else None


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_history_has_the_events_that_the_readme_states(shop_dsn: str, tmp_path: Path) -> None:
    written = events.write(shop_dsn, tmp_path / "events")
    assert written == Written(files=305, lines=116_335)
    faults: Counter[str] = Counter()
    seen: dict[str, list[tuple[str, str]]] = {}  # by event_id: line and file's day
    for path in sorted((tmp_path / "events").iterdir()):
        lines = lines_of(path)
        found = [fault(line) for line in lines]
        faults.update(kind for kind in found if kind)
        assert sum(kind is not None for kind in found) <= len(lines) / 250
        for line, kind in zip(lines, found, strict=True):
            if kind is None:
                seen.setdefault(json.loads(line)["event_id"], []).append((line, path.name[:10]))
    assert faults == {"cut off": 74, "not JSON": 77, "no event_id": 76, "wrong type": 83}

    # A repeated event is the same to the byte.
    assert all(len({line for line, _ in copies}) == 1 for copies in seen.values())
    distinct: list[tuple[dict[str, Any], str]] = [(json.loads(copies[0][0]), copies[0][1]) for copies in seen.values()]
    assert Counter(event["event_type"] for event, _ in distinct) == {"view": 63_006, "cart": 31_384, "purchase": 19_958}
    assert sum(len(copies) - 1 for copies in seen.values()) == 1_677
    assert sum(len({day for _, day in copies}) > 1 for copies in seen.values()) == 497
    assert sum(day > event["event_at"][:10] for event, day in distinct) == 1_161

    # What was bought is what was ordered, on its day; the last day's late ones are still to come.
    bought = {
        (event["order_id"], event["user_id"], round(event["amount"] * 100), event["event_at"][:10])
        for event, _ in distinct
        if event["event_type"] == "purchase"
    }
    ordered = set(execute(shop_dsn, PURCHASES))
    assert bought < ordered
    assert {day for *_, day in ordered - bought} == {"2011-12-09"}


def test_same_shop_gives_the_same_bytes_and_what_is_there_is_left_alone(shop_dsn: str, tmp_path: Path) -> None:
    folder = tmp_path / "events"
    events.write(shop_dsn, folder)
    whole = contents(folder)
    times = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert events.write(shop_dsn, folder) == Written(files=0, lines=0)
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == times

    for day in ("2010-12-01", "2011-01-05", "2011-12-09"):
        (folder / f"{day}.jsonl.gz").unlink()
    assert events.write(shop_dsn, folder).files == 3
    assert contents(folder) == whole

    own = folder / "2012-01-01.jsonl.gz"
    own.write_bytes(gzip.compress(b"{}\n"))
    events.remove(folder)
    assert list(folder.iterdir()) == [own]
    own.unlink()
    events.remove(folder)
    assert not folder.exists()


def test_traffic_adds_a_file_a_day_however_it_is_split(new_shop: Callable[[], str], tmp_path: Path) -> None:
    def go_on(dsn: str, folder: Path, days: int) -> None:
        def end_day(day: date) -> None:
            assert events.write(dsn, folder).files == 1, day

        traffic.commit_days(dsn, days=days, seed=7, on_day=end_day)

    whole, parts = new_shop(), new_shop()
    events.write(whole, tmp_path / "whole")
    history = contents(tmp_path / "whole")
    (tmp_path / "parts").mkdir()
    for name, content in history.items():
        (tmp_path / "parts" / name).write_bytes(content)
    go_on(whole, tmp_path / "whole", 3)
    go_on(parts, tmp_path / "parts", 1)
    go_on(parts, tmp_path / "parts", 2)
    added = contents(tmp_path / "whole")
    assert added == contents(tmp_path / "parts")
    assert added.keys() - history.keys() == {f"2011-12-{day}.jsonl.gz" for day in (10, 11, 12)}
    # The first of them has what the history's last day sent late.
    first = lines_of(tmp_path / "whole" / "2011-12-10.jsonl.gz")
    days = {json.loads(line)["event_at"][:10] for line in first if fault(line) is None}
    assert days == {"2011-12-09", "2011-12-10"}
