"""What a person or a script sees: progress on stderr, results on stdout."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table as Grid

from pyops.commands.cdc import Capture
from pyops.commands.compact import Compaction
from pyops.commands.erase import Erasure
from pyops.commands.extract import Extraction
from pyops.commands.reconcile import Reconciliation
from pyops.commands.run import Summary
from pyops.commands.slot import SlotStatus
from pyops.commands.status import TableStatus
from pyops.errors import PyopsError
from pyops.records import DeadLetter, Run
from pyops.records import TableId as Table


class Terminal:
    """A listener that shows bars on a terminal, and a line for each table anywhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:,.0f} rows"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._bars: dict[Table, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def pause(self) -> None:
        """Takes the bars away, for another program's output."""
        self._progress.stop()

    def note(self, message: str) -> None:
        """Prints a line."""
        self._console.print(message, markup=False)

    def reading(self, table: Table, rows: int, estimated_rows: int) -> None:
        """Moves a table's bar."""
        if table not in self._bars:
            total = max(estimated_rows, rows) if estimated_rows > 0 else None
            self._bars[table] = self._progress.add_task(str(table), total=total)
        self._progress.update(self._bars[table], completed=rows)

    def finished(self, table: Table, run: Run, error: PyopsError | None) -> None:
        """Prints what came of a table."""
        if table in self._bars:
            self._progress.remove_task(self._bars.pop(table))
        if error is None:
            self.note(f"{table!s:<24} {_counts(run)}")
        else:
            self.failed(str(table), error)

    def failed(self, source: str, error: PyopsError) -> None:
        """Prints why a table or a source has failed, and what to do."""
        self._console.print(f"{source:<24} failed: {error}", markup=False, style="red")
        if error.hint:
            self.note(f"{'':<24}    fix: {error.hint}")


def _counts(run: Run) -> str:
    parts = [f"{run.rows_read:>9,} read", f"{run.rows_written:>9,} written"]
    if run.rows_unchanged:
        parts.append(f"{run.rows_unchanged:,} unchanged")
    if run.null_cursors:
        parts.append(f"{run.null_cursors:,} without a cursor")
    if run.rows_dead_lettered:
        parts.append(f"{run.rows_dead_lettered:,} DEAD LETTERS: see pyops dlq list")
    return ", ".join(parts) + f"  {run.seconds:6.1f} s"


def print_extractions(done: Sequence[Extraction], *, as_json: bool) -> None:
    """Prints the result of an extraction."""
    if as_json:
        _print_json({"tables": [_extraction(item) for item in done]})
        return
    for item in done:
        if item.query:
            run = item.run
            since = f" from {run.lower_bound} on" if run.lower_bound else ""
            print(f"{item.table}: {run.mode}, would {run.write_pattern} into", end=" ")
            print(f"{'.'.join(item.table.target)}{since}\n    {item.query}")
        for gate in item.gates:
            if gate.status in {"warned", "dead_lettered"} or item.run.status == "staged":
                print(f"{item.table}: {gate.gate} {gate.status}: {gate.message}")
    landed = [item.run for item in done if item.run.status == "succeeded"]
    if landed:
        print(
            f"{len(landed)} of {len(done)} tables landed:"
            f" {sum(run.rows_written for run in landed):,} rows written,"
            f" {sum(run.rows_dead_lettered for run in landed):,} dead letters"
        )


def _extraction(item: Extraction) -> dict[str, Any]:
    hint = {"hint": item.error.hint} if item.error else {}
    query = {"query": item.query} if item.query else {}
    gates = {"gates": [asdict(result) for result in item.gates]} if item.gates else {}
    return {"table": str(item.table), **asdict(item.run), **hint, **query, **gates}


def print_captures(done: Sequence[Capture], *, as_json: bool) -> None:
    """Prints the result of landing changes."""
    if as_json:
        _print_json({"sources": [_capture(item) for item in done]})
        return
    for item in done:
        print(f"{item.source}: {_captured(item)}")


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
    error = {"error": str(item.error), "hint": item.error.hint} if item.error else {}
    return {"source": item.source, "runs": [asdict(run) for run in item.runs], **error}


def print_compactions(done: Sequence[Compaction], *, as_json: bool) -> None:
    """Prints what compaction has made of each log."""
    if as_json:
        _print_json({"tables": [_compaction(item) for item in done]})
        return
    if not done:
        print("no table has a retention: nothing to compact")
    for item in done:
        if item.error:
            print(f"{item.table}: failed: {item.error}")
            print(f"  fix: {item.error.hint}")
            continue
        would_have = "has" if item.run else "would have"
        print(
            f"{item.table}: {item.rows_before:,} rows before, {would_have} {item.rows_after:,};"
            f" changes before {item.older_than:%Y-%m-%d %H:%M} (UTC) are folded"
        )
        if item.held_back_by:
            print(f"  some wait for dbt build to apply them: {', '.join(item.held_back_by)}")


def _compaction(item: Compaction) -> dict[str, Any]:
    run = asdict(item.run) if item.run else None
    error = {"error": str(item.error), "hint": item.error.hint} if item.error else {}
    return {**vars(item), "run": run, "error": None, **error}


def print_erasure(done: Erasure, *, as_json: bool) -> None:
    """Prints what was erased; nothing of the key itself."""
    if as_json:
        _print_json({**asdict(done), "is_empty": done.is_empty})
        return
    for name, count in done.rows.items():
        print(f"{done.table}: {count:,} rows of {name}")
    if done.dead_letters or done.staging_files:
        print(
            f"{done.table}: {done.dead_letters:,} dead letters, {done.staging_files} staging files"
        )
    if done.is_empty:
        print(f"{done.table}: nothing of it is there")
    elif done.run:
        print("  erased; what is left in unused parts of the file: see docs/retention.md")
    else:
        print("  all that would be erased")
    if done.unreadable_letters:
        print(
            f"  {done.unreadable_letters:,} dead letters of the table have no key that can be read:"
            " look at them with pyops dlq"
        )
    if done.rebuild:
        print(f"  then build what was made from it: {done.rebuild}")
    if done.by_hand:
        print(
            f"  cannot be built anew without loss: {', '.join(done.by_hand)}: tag what holds the"
            f" key there with meta pyops_key_of: {done.table}.<column>, run dbt parse, erase again"
        )


def print_slots(slots: Sequence[SlotStatus], *, as_json: bool) -> None:
    """Prints where each slot stands."""
    if as_json:
        _print_json({"slots": [asdict(slot) for slot in slots]})
        return
    columns = ["source", "slot", "position", "lag", "seconds", "log kept", "last change (UTC)"]
    grid = _grid(columns, right={"lag", "seconds", "log kept"})
    for slot in slots:
        grid.add_row(
            slot.source,
            slot.slot,
            slot.position or "-",
            _bytes(slot.lag_bytes),
            "-" if slot.lag_seconds is None else f"{slot.lag_seconds:,.0f}",
            _bytes(slot.kept_bytes),
            f"{slot.last_change_at:%Y-%m-%d %H:%M:%S}" if slot.last_change_at else "-",
        )
    _console().print(grid)
    for slot in slots:
        if slot.problem:
            print(f"{slot.source}: {slot.problem}")
        if slot.held_back_by:
            print(f"{slot.source}: its log is kept for {', '.join(slot.held_back_by)}")
        for warning in slot.warnings:
            print(f"{slot.source}: {warning}")


def _bytes(count: int | None) -> str:
    if count is None:
        return "-"
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1024 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.{0 if units[0] == 'B' else 1}f} {units[0]}"


def print_letters(letters: Sequence[DeadLetter], *, as_json: bool, values: bool) -> None:
    """Prints dead letters; without ``values``, nothing that stood in a row."""
    hidden = () if values else ("value", "payload", "key")
    if as_json:
        known = [{k: v for k, v in asdict(x).items() if k not in hidden} for x in letters]
        _print_json({"dead_letters": known})
    elif values:
        for letter in letters:
            for name, value in asdict(letter).items():
                print(f"{name:<12} {'-' if value is None else value}")
            print()
    else:
        grid = _grid(["id", "table", "where", "column", "reason", "status"], right={"id"})
        for letter in letters:
            where = f"{letter.file}:{letter.line}" if letter.file else "-"
            table = f"{letter.source}.{letter.table_name}"
            grid.add_row(
                *(str(letter.letter_id), table, where, letter.column_name or "-"),
                *(letter.reason, letter.status),
            )
        _console().print(grid)


def print_replay(done: Extraction, *, as_json: bool) -> None:
    """Prints the result of a replay."""
    if as_json:
        _print_json(_extraction(done))
        return
    run = done.run
    print(f"{done.table}: {run.rows_read} dead letters tried, {run.rows_written} rows landed")


def print_purged(count: int, *, as_json: bool) -> None:
    """Prints how many dead letters were deleted."""
    if as_json:
        _print_json({"purged": count})
    else:
        print(f"{count} dead letters deleted")


def print_reconciliation(found: Reconciliation, *, as_json: bool) -> None:
    """Prints how a table differs from its source."""
    if as_json:
        _print_json({**asdict(found), "is_equal": found.is_equal})
        return
    print(
        f"{found.table}: {found.source_rows:,} rows at the source,"
        f" {found.warehouse_rows:,} in the warehouse; {found.missing:,} missing,"
        f" {found.extra:,} extra, {found.different:,} different,"
        f" {found.dead_letters:,} dead letters"
    )
    if found.run is not None:
        print(f"  applied: {found.run.rows_written:,} rows written, {found.extra:,} deleted")
    elif not found.is_equal:
        print(f"  apply it with: pyops reconcile {found.table} --apply")


def print_summary(summary: Summary, *, as_json: bool) -> None:
    """Prints the result of a whole run."""
    if as_json:
        _print_json(
            {
                "tables": [_extraction(item) for item in summary.extractions],
                "sources": [_capture(item) for item in summary.captures],
                "dbt": summary.dbt,
                "extract_seconds": summary.extract_seconds,
                "capture_seconds": summary.capture_seconds,
                "dbt_seconds": summary.dbt_seconds,
                "exit_code": summary.exit_code,
            }
        )
        return
    runs = [item.run for item in summary.extractions]
    failed = sum(run.status != "succeeded" for run in runs)
    print(
        f"extract  {len(runs) - failed} tables landed, {failed} failed:"
        f" {sum(run.rows_written for run in runs):,} rows written,"
        f" {sum(run.rows_dead_lettered for run in runs):,} dead letters"
        f"  {summary.extract_seconds:.1f} s"
    )
    for capture in summary.captures:
        print(f"cdc      {capture.source}: {_captured(capture)}  {summary.capture_seconds:.1f} s")
    if summary.dbt is None:
        print("dbt      not run: marts stay as they were until every table lands")
    else:
        words = ", ".join(f"{count} {status}" for status, count in summary.dbt.items())
        print(f"dbt      {words or 'nothing ran'}  {summary.dbt_seconds:.1f} s")


def print_status(
    tables: Sequence[TableStatus], slots: Sequence[SlotStatus], *, as_json: bool
) -> None:
    """Prints where each table and each slot stands."""
    if as_json:
        _print_json(
            {"tables": [asdict(table) for table in tables], "slots": [asdict(s) for s in slots]}
        )
        return
    columns = ["table", "mode", "rows", "last run", "ended (UTC)", "watermark", "dead letters"]
    grid = _grid(columns, right={"rows", "dead letters"})
    for table in tables:
        grid.add_row(
            table.table,
            table.mode,
            "-" if table.rows is None else f"{table.rows:,}",
            table.last_status or "never",
            f"{table.last_finished_at:%Y-%m-%d %H:%M:%S}" if table.last_finished_at else "-",
            table.watermark or "-",
            f"{table.dead_letters:,}",
        )
    _console().print(grid)
    for table in tables:
        if table.last_error:
            print(f"{table.table}: {table.last_error}")
        if table.held_back_by:
            holders = ", ".join(table.held_back_by)
            print(f"{table.table}: its watermark waits for {holders}")
    if slots:
        print()
        print_slots(slots, as_json=False)


def _grid(columns: Iterable[str], *, right: set[str]) -> Grid:
    grid = Grid(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        grid.add_column(column, justify="right" if column in right else "left", no_wrap=True)
    return grid


def _console() -> Console:
    # A pipe has no width: cut nothing there.
    return Console(highlight=False, width=None if sys.stdout.isatty() else 200)


def _print_json(value: Mapping[str, Any]) -> None:
    print(json.dumps(value, default=str))
