"""The command line: parses, calls, prints; data goes to stdout, all else to stderr."""

import inspect
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyops.cli.options import (
    COMMON,
    ISO,
    AnySources,
    Day,
    DryRun,
    Everything,
    FailIfLag,
    Families,
    First,
    Last,
    Name,
    Rest,
    Retained,
    Sources,
    Stage,
    StagedDay,
    StagedRun,
    Tables,
    Whole,
)
from pyops.errors import PyopsError, UsageError

if TYPE_CHECKING:  # what a command needs it imports: ``pyops --help`` must not wait for it
    from pyops.config.days import Days
    from pyops.config.project import Project
    from pyops.progress import Listener

HELP = "Lands PostgreSQL, files and changes in a DuckDB warehouse, for dbt to model."


def _group(text: str) -> typer.Typer:
    return typer.Typer(help=text, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


app, slot, dlq, breaker = (
    _group(HELP),
    _group("Replication slots of the sources of changes."),
    _group("Dead letters: rows that could not be landed."),
    _group("Circuit breakers: sources that are left alone after too many failures."),
)
app.add_typer(slot, name="slot")
app.add_typer(dlq, name="dlq")
app.add_typer(breaker, name="breaker")


def command(group: typer.Typer, shows: str, name: str | None = None) -> Callable[[Callable[..., Any]], None]:
    """Makes a command of a function; ``render``'s function ``shows`` prints what it returns."""

    def register(function: Callable[..., Any]) -> None:
        def run(*, project_dir: Path, config: str, as_json: bool, **options: Any) -> None:
            from pyops.cli import render, terminal
            from pyops.config.load import load

            with terminal.Terminal() as shown:
                if "listener" in known:
                    options["listener"] = shown
                done = function(load(project_dir, config), **options)
            if code := getattr(render, shows)(done, as_json=as_json):
                raise typer.Exit(code)

        known = inspect.signature(function).parameters
        parameters = [item for name, item in known.items() if name not in {"project", "listener"}]
        parameters += [
            inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=value, annotation=type_)
            for key, (type_, value) in COMMON.items()
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {item.name: item.annotation for item in parameters}
        group.command(name or function.__name__, help=function.__doc__)(run)

    return register


@app.callback(help=HELP)
def options(debug: Annotated[bool, typer.Option(help="Show the stack trace of an error.")] = False) -> None:
    """Takes the options of all commands; ``main`` looks at them itself."""


@command(app, "extractions")
def extract(
    project: "Project",
    listener: "Listener",
    tables: Tables = None,
    *,
    day: Annotated[Day, typer.Option("--date", formats=ISO, help="Land this day again.")] = None,
    first: First = None,
    last: Last = None,
    full_refresh: Whole = False,
    stage: Stage = False,
    dry_run: DryRun = False,
) -> Any:
    """Land tables in the warehouse: read, stage, publish."""
    from pyops.commands.extract import extract

    days = _days(day, first, last)
    if days and full_refresh:
        raise UsageError("--full-refresh and a range of days exclude each other")
    how = {"full_refresh": full_refresh, "stage_only": stage, "dry_run": dry_run}
    return extract(project, tables or (), days=days, listener=listener, **how)


@command(app, "extractions")
def validate(
    project: "Project",
    listener: "Listener",
    tables: Tables = None,
    *,
    check: Families = (),  # type: ignore[assignment]
    run_id: StagedRun = None,
    day: StagedDay = None,
) -> Any:
    """Evaluate the gates of staged tables; change nothing."""
    from pyops.commands.validate import validate
    from pyops.quality.gates import CHECKS

    for family in check:
        if family not in CHECKS:
            raise UsageError(f"there is no check {family!r}", hint=f"one of: {', '.join(CHECKS)}")
    on = day and day.date()
    return validate(project, tables or (), checks=check, run_id=run_id, day=on, listener=listener)


@command(app, "extractions")
def publish(
    project: "Project", listener: "Listener", tables: Tables = None, *, run_id: StagedRun = None, day: StagedDay = None
) -> Any:
    """Validate and publish staged tables."""
    from pyops.commands.publish import publish

    return publish(project, tables or (), run_id=run_id, day=day and day.date(), listener=listener)


@command(app, "backfilled")
def backfill(
    project: "Project",
    listener: "Listener",
    table: Name,
    *,
    first: Annotated[datetime, typer.Option("--from", formats=ISO, help="The first day to land again.")],
    last: Annotated[datetime, typer.Option("--to", formats=ISO, help="The last of them.")],
    build: Annotated[bool, typer.Option("--dbt", help="Then build what depends on the table.")] = False,
    stop_on_error: Annotated[bool, typer.Option("--stop-on-error", help="Stop at the first day that fails.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Begin again; forget the days landed before.")] = False,
) -> Any:
    """Land a range of days again, each by itself; the same command goes on where it was stopped."""
    from pyops.commands.backfill import backfill

    days = _days(None, first, last)
    assert days is not None
    how = {"force": force, "stop_on_error": stop_on_error, "build": build}
    return backfill(project, table, days, listener=listener, **how)


@command(app, "reconciliation")
def reconcile(
    project: "Project",
    table: Name,
    *,
    apply: Annotated[bool, typer.Option("--apply", help="Land what differs, delete what is gone.")] = False,
) -> Any:
    """Compare a table with its source, row by row; exit 1 where they differ."""
    from pyops.commands.reconcile import reconcile

    return reconcile(project, table, apply=apply)


@command(app, "captures")
def cdc(
    project: "Project",
    listener: "Listener",
    sources: Sources = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", help="Keep going until stopped.")] = False,
    interval: Rest = None,
) -> Any:
    """Land changes until caught up with where the sources are now."""
    from pyops.commands import cdc
    from pyops.config.units import duration

    if interval and not follow:
        raise UsageError("--interval means nothing without --follow", hint="add --follow")
    rest = _parsed("--interval", duration, interval or "5s")
    if follow:
        return cdc.follow(project, sources or (), interval=rest, listener=listener)
    return cdc.capture(project, sources or (), listener=listener)


@command(app, "captures")
def snapshot(
    project: "Project",
    listener: "Listener",
    table: Annotated[str, typer.Argument(help="The cdc table, as source.table or table.")],
) -> Any:
    """Copy one cdc table again and follow it from there."""
    from pyops.commands.snapshot import snapshot

    return [snapshot(project, table, listener=listener)]


@command(app, "compactions")
def compact(project: "Project", tables: Retained = None, *, dry_run: DryRun = False) -> Any:
    """Fold changes older than a table's retention, and applied by dbt, into one row a key."""
    from pyops.commands.compact import compact

    return compact(project, tables or (), dry_run=dry_run)


@command(app, "erasure")
def erase(
    project: "Project",
    table: Name,
    *,
    key: Annotated[list[str], typer.Option("--key", help="The key's value; once for each of its columns.")],
    dry_run: DryRun = False,
) -> Any:
    """Remove all that is kept of one key: in raw, dead letters, staging and dbt's tables."""
    from pyops.commands.erase import erase

    return erase(project, table, key, dry_run=dry_run)


@command(slot, "slots", "status")
def slot_status(project: "Project", sources: Sources = None, *, fail_if_lag: FailIfLag = None) -> Any:
    """Show where each slot stands, what it keeps at the source, and what holds it back."""
    return _slots(project, sources or (), fail_if_lag)


@command(slot, "line", "drop")
def drop_slot(project: "Project", source: Annotated[str, typer.Argument(help="The source.")]) -> Any:
    """Drop a source's slot and publication; the next cdc run re-snapshots every table."""
    from pyops.commands.slot import drop

    drop(project, source)
    return f"{source}: slot dropped; what was landed stays"


@command(app, "summary")
def run(project: "Project", listener: "Listener") -> Any:
    """Extract, land changes, then dbt build: one command, one exit code."""
    from pyops.commands.run import run

    return run(project, listener=listener)


@command(app, "overview")
def status(project: "Project", *, fail_if_lag: FailIfLag = None) -> Any:
    """Show each table's last run, rows, watermark or slot, and what holds it back."""
    from pyops.commands.breaker import breaker_status
    from pyops.commands.status import status

    slots = _slots(project, (), fail_if_lag)
    return status(project), slots, breaker_status(project)


@command(breaker, "breakers", "status")
def show_breakers(project: "Project", sources: AnySources = None) -> Any:
    """Show which sources are left alone for now, and until when."""
    from pyops.commands.breaker import breaker_status

    return breaker_status(project, sources or ())


@command(breaker, "breakers", "reset")
def reset_breakers(project: "Project", sources: AnySources = None) -> Any:
    """Close breakers at once: the next run tries their sources."""
    from pyops.commands.breaker import breaker_reset

    return breaker_reset(project, sources or ())


@command(dlq, "letters", "list")
def list_letters(project: "Project", tables: Tables = None, *, everything: Everything = False) -> Any:
    """List dead letters: where each came from and why; no values."""
    from pyops.commands.dlq import dead_letters

    return dead_letters(project, tables or (), everything=everything)


@command(dlq, "whole_letters", "show")
def show_letters(project: "Project", ids: Annotated[list[int], typer.Argument(help="Numbers of dead letters.")]) -> Any:
    """Show dead letters with their values and whole rows."""
    from pyops.commands.dlq import dead_letters

    return dead_letters(project, ids=ids)


@command(dlq, "replay", "replay")
def replay_letters(
    project: "Project",
    table: Name,
    *,
    ids: Annotated[list[int] | None, typer.Option("--id", help="Only this dead letter; repeatable.")] = None,
) -> Any:
    """Land the open dead letters of a table that can be landed now."""
    from pyops.commands.dlq import replay

    return replay(project, table, ids=ids or ())


@command(dlq, "purged", "purge")
def purge_letters(project: "Project", tables: Tables = None, *, everything: Everything = False) -> Any:
    """Delete closed dead letters; with --all open ones too: their rows are given up."""
    from pyops.commands.dlq import purge

    return purge(project, tables or (), everything=everything)


def _slots(project: "Project", sources: Sequence[str], fail_if_lag: str | None) -> Any:
    """The slots, and those that are too far behind."""
    from pyops.commands.slot import lagging, slot_status
    from pyops.config.units import size

    limit = None if fail_if_lag is None else _parsed("--fail-if-lag", size, fail_if_lag)
    found = slot_status(project, sources)
    return found, lagging(project, found, limit)


def _parsed(option: str, parse: Callable[[str], Any], text: str) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None


def _days(day: datetime | None, first: datetime | None, last: datetime | None) -> "Days | None":
    from pyops.config.days import Days

    if day and (first or last):
        raise UsageError("--date is one day, --from and --to are a range: give one or the other")
    if bool(first) != bool(last):
        raise UsageError("--from and --to go together")
    if first and last and last < first:
        raise UsageError("--to is before --from")
    first, last = day or first, day or last
    return Days(first.date(), last.date()) if first and last else None


class _Lines(logging.Handler):
    """Prints what the package logs to stderr, a line each."""

    def emit(self, record: logging.LogRecord) -> None:
        from pyops.cli.terminal import stderr

        stderr().print(record.getMessage(), markup=False)


def complain(message: str, hint: str = "") -> None:
    """Prints an error to stderr, and what to do."""
    typer.echo(f"error: {message}", err=True)
    if hint:
        typer.echo(f"  fix: {hint}", err=True)


def main() -> None:
    """Runs the command line; an error is a line or two on stderr and an exit code.

    0 done; 1 failed; 2 usage or configuration; 75 worth another try; 130 and 143 stopped by SIGINT and SIGTERM. A
    second signal ends it at once, which is as safe.
    """
    received: list[int] = []

    def stop(number: int, _: FrameType | None) -> None:
        received.append(number)
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_DFL)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) != signal.SIG_IGN:  # as it is behind a shell's &
        signal.signal(signal.SIGINT, stop)
    logger = logging.getLogger("pyops")
    logger.setLevel(logging.INFO)
    logger.handlers = [_Lines()]
    mount_demo(sys.argv[1:])
    try:
        app()
    except PyopsError as error:
        if "--debug" in sys.argv:
            raise
        complain(str(error), error.hint)
        sys.exit(error.exit_code)
    except (SystemExit, KeyboardInterrupt) as end:
        if isinstance(end, KeyboardInterrupt) or end.code == 130:
            complain("stopped; published data is kept")
            sys.exit(128 + (received or [signal.SIGINT])[0])
        raise
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        complain(
            f"pyops did not expect this: {type(error).__name__}",
            "run it again as pyops --debug ... for the stack trace, which may show rows",
        )
        sys.exit(1)


def mount_demo(arguments: Sequence[str]) -> None:
    """Adds the commands of the demo, which nothing else knows of, where they may be asked for."""
    if arguments[:1] in ([], ["demo"], ["--help"]):
        from pyops.demo.cli import app as demo

        app.add_typer(demo, name="demo")
