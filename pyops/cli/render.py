"""What a person or a script sees: progress on stderr, results on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table as Grid

from pyops.cli.app import complain
from pyops.errors import TransientError, worst

if TYPE_CHECKING:
    from pyops.circuit import BreakerStatus
    from pyops.commands.backfill import Backfill
    from pyops.commands.cdc import Capture
    from pyops.commands.compact import Compaction
    from pyops.commands.erase import Erasure
    from pyops.commands.extract import Extraction
    from pyops.commands.reconcile import Reconciliation
    from pyops.commands.run import Summary
    from pyops.commands.slot import SlotStatus
    from pyops.commands.status import TableStatus
    from pyops.errors import Outcome, PyopsError
    from pyops.records import DeadLetter


def extractions(done: Sequence[Extraction], *, as_json: bool) -> int:
    if as_json:
        return _json({"tables": [_extraction(item) for item in done]}, _worst(done))
    for item in done:
        if item.query:
            run = item.run
            since = f" from {run.lower_bound} on" if run.lower_bound else ""
            print(f"{item.table}: {run.mode}, would {run.write_pattern} into", end=" ")
            print(f"{'.'.join(item.table.target)}{since}\n    {item.query}")
        for gate in item.gates:
            if gate.status in {"warned", "dead_lettered"} or item.run.status == "staged":
                print(f"{item.table}: {gate.gate} {gate.status}: {gate.message}")
    if landed := [item.run for item in done if item.run.status == "succeeded"]:
        print(
            f"{len(landed)} of {len(done)} tables landed:"
            f" {sum(run.rows_written for run in landed):,} rows written,"
            f" {sum(run.rows_dead_lettered for run in landed):,} dead letters"
        )
    return _worst(done)


def _extraction(item: Extraction) -> dict[str, Any]:
    hint = _about(item.error) if item.error else {}
    query = {"query": item.query} if item.query else {}
    gates = {"gates": [asdict(result) for result in item.gates]} if item.gates else {}
    return {"table": str(item.table), **asdict(item.run), **hint, **query, **gates}


def backfilled(done: Backfill, *, as_json: bool) -> int:
    code = _worst(done.failed) if done.failed else int(not done.dbt_succeeded)
    if as_json:
        failed = [{"day": item.day, **_error(item)} for item in done.failed]
        return _json({**vars(done), "table": str(done.table), "days": vars(done.days), "failed": failed}, code)
    counts = {
        "landed": len(done.landed), "landed before": done.done_before, "without a file": len(done.without_file),
        "failed": len(done.failed), "not tried": done.not_tried,
    }  # fmt: skip
    said = ", ".join(f"{count:,} {word}" for word, count in counts.items() if count)
    print(f"{done.table}: days from {done.days.first} to {done.days.last}: {said}")
    for day in done.without_file:
        print(f"  {day} has no file")
    for item in done.failed:
        print(f"  {item.day} failed: {item.error}\n    fix: {item.error.hint}")
    if done.failed:
        print("  the same command lands the days that are left")
    if done.dbt is not None:
        print(_built(done.dbt))
    return code


def _built(counts: Mapping[str, int]) -> str:
    words = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"dbt      {words or 'nothing ran'}"


def captures(done: Sequence[Capture], *, as_json: bool) -> int:
    if as_json:
        return _json({"sources": [_capture(item) for item in done]}, _worst(done))
    for item in done:
        print(f"{item.source}: {_captured(item)}")
    return _worst(done)


def _captured(item: Capture) -> str:
    landed = [run for run in item.runs if run.status == "succeeded"]
    copied = [run for run in landed if run.mode == "snapshot"]
    changes = sum(run.rows_written for run in landed if run.mode == "cdc")
    parts = [f"{changes:,} changes landed"]
    if copied:
        rows = sum(run.rows_written for run in copied)
        parts.insert(0, f"{len(copied)} tables copied ({rows:,} rows)")
    if letters := sum(run.rows_dead_lettered for run in landed):
        parts.append(f"{letters:,} DEAD LETTERS: see pyops dlq list")
    return ("failed; before that " if item.error else "") + ", ".join(parts)


def _capture(item: Capture) -> dict[str, Any]:
    return {"source": item.source, "runs": [asdict(run) for run in item.runs], **_error(item)}


def compactions(done: Sequence[Compaction], *, as_json: bool) -> int:
    if as_json:
        found = [{**vars(item), "run": item.run and asdict(item.run), "error": None, **_error(item)} for item in done]
        return _json({"tables": found}, _worst(done))
    if not done:
        print("no table has a retention: nothing to compact")
    for item in done:
        if item.error:
            print(f"{item.table}: failed: {item.error}\n  fix: {item.error.hint}")
            continue
        would_have = "has" if item.run else "would have"
        print(
            f"{item.table}: {item.rows_before:,} rows before, {would_have} {item.rows_after:,};"
            f" changes before {item.older_than:%Y-%m-%d %H:%M} (UTC) are folded"
        )
        if item.held_back_by:
            print(f"  some wait for dbt build to apply them: {', '.join(item.held_back_by)}")
    return _worst(done)


def erasure(done: Erasure, *, as_json: bool) -> int:
    """Prints what was erased; nothing of the key itself."""
    if as_json:
        return _json({**asdict(done), "is_empty": done.is_empty})
    lines = [f"{done.table}: {count:,} rows of {name}" for name, count in done.rows.items()]
    if done.dead_letters or done.staging_files:
        letters = f"{done.dead_letters:,} dead letters, {done.staging_files} staging files"
        lines.append(f"{done.table}: {letters}")
    if done.is_empty:
        lines.append(f"{done.table}: no rows found for this key")
    elif done.run:
        lines.append("  erased; what is left in unused parts of the file: see docs/retention.md")
    else:
        lines.append("  all that would be erased")
    if done.unreadable_letters:
        lines.append(
            f"  {done.unreadable_letters:,} dead letters of the table have no key that can be read:"
            " look at them with pyops dlq"
        )
    if done.rebuild:
        lines.append(f"  then build what was made from it: {done.rebuild}")
    if done.by_hand:
        lines.append(
            f"  cannot be built again without loss: {', '.join(done.by_hand)}: tag what holds the"
            f" key there with meta pyops_key_of: {done.table}.<column>, run dbt parse, erase again"
        )
    print("\n".join(lines))
    return 0


Slots = tuple["Sequence[SlotStatus]", "Sequence[SlotStatus]"]  # all, and those too far behind


def slots(found: Slots, *, as_json: bool) -> int:
    """Prints where each slot stands, and complains of those too far behind."""
    if as_json:
        return _json({"slots": [asdict(slot) for slot in found[0]]}, _lagging(found))
    columns = ["source", "slot", "position", "lag", "seconds", "log kept", "last change (UTC)"]
    grid = _grid(columns, right={"lag", "seconds", "log kept"})
    for slot in found[0]:
        seconds = "-" if slot.lag_seconds is None else f"{slot.lag_seconds:,.0f}"
        grid.add_row(
            *(slot.source, slot.slot, slot.position or "-", _bytes(slot.lag_bytes), seconds),
            *(_bytes(slot.kept_bytes), _time(slot.last_change_at)),
        )
    _console().print(grid)
    for slot in found[0]:
        said = [slot.problem] if slot.problem else []
        if slot.held_back_by:
            said.append(f"its log is kept for {', '.join(slot.held_back_by)}")
        for line in [*said, *slot.warnings]:
            print(f"{slot.source}: {line}")
    return _lagging(found)


def _lagging(found: Slots) -> int:
    for item in found[1]:
        lag = f"{item.lag_bytes or 0:,} bytes behind, above the limit"
        complain(f"{item.source}: {item.problem or lag}")
    return 1 if found[1] else 0


def overview(found: tuple[Sequence[TableStatus], Slots, Sequence[BreakerStatus]], *, as_json: bool) -> int:
    tables, of_slots, of_breakers = found
    if as_json:
        known = {"tables": [asdict(x) for x in tables], "slots": [asdict(x) for x in of_slots[0]]}
        known["breakers"] = [asdict(x) for x in of_breakers]
        return _json(known, _lagging(of_slots))
    columns = ["table", "mode", "rows", "last run", "ended (UTC)", "watermark", "dead letters"]
    grid = _grid(columns, right={"rows", "dead letters"})
    for table in tables:
        rows_there = "-" if table.rows is None else f"{table.rows:,}"
        grid.add_row(
            *(table.table, table.mode, rows_there, table.last_status or "never"),
            *(_time(table.last_finished_at), table.watermark or "-", f"{table.dead_letters:,}"),
        )
    _console().print(grid)
    for table in tables:
        if table.last_error:
            print(f"{table.table}: {table.last_error}")
        if table.held_back_by:
            print(f"{table.table}: its watermark waits for {', '.join(table.held_back_by)}")
    for breaker in of_breakers:
        if breaker.state != "closed":
            until = f" until {_time(breaker.until)} (UTC)"
            print(f"{breaker.source}: its circuit breaker is {breaker.state}{until}, after {breaker.failures} failures")
    if not of_slots[0]:
        return 0
    print()
    return slots(of_slots, as_json=False)


def _bytes(count: int | None) -> str:
    if count is None:
        return "-"
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.{0 if units[0] == 'B' else 1}f} {units[0]}"


def _time(at: datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else "-"


def letters(found: Sequence[DeadLetter], *, as_json: bool) -> int:
    """Prints dead letters without anything that stood in a row."""
    if as_json:
        hidden = {"value", "payload", "key"}
        known = [{k: v for k, v in asdict(x).items() if k not in hidden} for x in found]
        return _json({"dead_letters": known})
    grid = _grid(["id", "table", "where", "column", "reason", "status"], right={"id"})
    for letter in found:
        where = f"{letter.file}:{letter.line}" if letter.file else "-"
        table = f"{letter.source}.{letter.table_name}"
        column = letter.column_name or "-"
        grid.add_row(str(letter.letter_id), table, where, column, letter.reason, letter.status)
    _console().print(grid)
    return 0


def whole_letters(found: Sequence[DeadLetter], *, as_json: bool) -> int:
    if as_json:
        return _json({"dead_letters": [asdict(letter) for letter in found]})
    for letter in found:
        for name, value in asdict(letter).items():
            print(f"{name:<12} {'-' if value is None else value}")
        print()
    return 0


def replay(done: Extraction, *, as_json: bool) -> int:
    if as_json:
        return _json(_extraction(done))
    run = done.run
    print(f"{done.table}: {run.rows_read} dead letters tried, {run.rows_written} rows landed")
    return 0


def purged(count: int, *, as_json: bool) -> int:
    return _json({"purged": count}) if as_json else line(f"{count} dead letters deleted")


def line(text: str, *, as_json: bool = False) -> int:
    print(text)
    return 0


def reconciliation(found: Reconciliation, *, as_json: bool) -> int:
    code = 0 if found.is_equal or (found.run and not found.duplicates) else 1
    if as_json:
        return _json({**asdict(found), "is_equal": found.is_equal}, code)
    print(
        f"{found.table}: {found.source_rows:,} rows at the source,"
        f" {found.warehouse_rows:,} in the warehouse; {found.missing:,} missing,"
        f" {found.extra:,} extra, {found.different:,} different,"
        f" {found.dead_letters:,} dead letters"
    )
    if found.duplicates:
        print(f"  {found.duplicates:,} rows of the source share their primary_key with another row")
    if found.run is not None:
        print(f"  applied: {found.run.rows_written:,} rows written, {found.extra:,} deleted")
    elif not found.is_equal:
        print(f"  apply it with: pyops reconcile {found.table} --apply")
    return code


def summary(done: Summary, *, as_json: bool) -> int:
    if as_json:
        tables = [_extraction(item) for item in done.extractions]
        sources = [_capture(item) for item in done.captures]
        kept = {k: v for k, v in vars(done).items() if k not in {"extractions", "captures"}}
        return _json({"tables": tables, "sources": sources, **kept}, done.exit_code)
    runs = [item.run for item in done.extractions]
    failed = sum(run.status != "succeeded" for run in runs)
    print(
        f"extract  {len(runs) - failed} tables landed, {failed} failed:"
        f" {sum(run.rows_written for run in runs):,} rows written,"
        f" {sum(run.rows_dead_lettered for run in runs):,} dead letters"
        f"  {done.extract_seconds:.1f} s"
    )
    for capture in done.captures:
        print(f"cdc      {capture.source}: {_captured(capture)}  {done.capture_seconds:.1f} s")
    if done.dbt is None:
        print("dbt      not run: marts stay as they were until every table lands")
    else:
        print(f"{_built(done.dbt)}  {done.dbt_seconds:.1f} s")
    return done.exit_code


def _worst(done: Sequence[Outcome]) -> int:
    return worst(item.error for item in done)


def _error(item: Outcome) -> dict[str, Any]:
    return {"error": str(item.error), **_about(item.error)} if item.error else {}


def _about(error: PyopsError) -> dict[str, Any]:
    """What an orchestrator may branch on."""
    return {"hint": error.hint, "transient": isinstance(error, TransientError), "error_class": type(error).__name__}


def breakers(found: Sequence[BreakerStatus], *, as_json: bool) -> int:
    if as_json:
        return _json({"breakers": [asdict(item) for item in found]})
    grid = _grid(["source", "breaker", "failures", "until (UTC)"], right={"failures"})
    for item in found:
        grid.add_row(item.source, item.state, str(item.failures), _time(item.until))
    _console().print(grid)
    return 0


def _grid(columns: Iterable[str], *, right: set[str]) -> Grid:
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    return grid


def _console() -> Console:
    # A pipe has no width: cut nothing there.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _json(value: Mapping[str, Any], code: int = 0) -> int:
    print(json.dumps(value, default=str))
    return code
