"""The command line: parses, calls, prints. Data goes to stdout, everything else to stderr."""

import signal
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from pyops.config.days import Days
from pyops.config.load import load
from pyops.config.units import duration, size
from pyops.errors import PyopsError, UsageError

if TYPE_CHECKING:
    from pyops.commands.slot import SlotStatus

app = typer.Typer(
    help="Lands PostgreSQL in a DuckDB warehouse, for dbt to model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

ProjectDir = Annotated[
    Path, typer.Option(help="The folder that holds pyops.yml and dbt_project.yml.")
]
ConfigFile = Annotated[str, typer.Option("--config", help="The configuration, in that folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be done; write nothing anywhere.")
]
Sources = Annotated[
    list[str] | None, typer.Argument(help="Sources; all that have cdc tables if none.")
]
FailIfLag = Annotated[
    str | None,
    typer.Option(help="Exit 1 if a slot is further behind than this, like 1GB.", metavar="SIZE"),
]
Tables = Annotated[
    list[str] | None, typer.Argument(help="Tables, as source.table or table; all if none.")
]


@app.callback()
def options(
    debug: Annotated[bool, typer.Option(help="Show the stack trace of an error.")] = False,
) -> None:
    """Lands PostgreSQL in a DuckDB warehouse, for dbt to model."""


@app.command()
def extract(
    tables: Tables = None,
    *,
    day: Annotated[
        datetime | None, typer.Option("--date", formats=["%Y-%m-%d"], help="Land this day again.")
    ] = None,
    first: Annotated[
        datetime | None,
        typer.Option("--from", formats=["%Y-%m-%d"], help="Land the days from this one on again."),
    ] = None,
    last: Annotated[
        datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="The last of those days.")
    ] = None,
    full_refresh: Annotated[
        bool, typer.Option(help="Read the tables whole and swap them; watermarks start over.")
    ] = False,
    stage: Annotated[
        bool, typer.Option("--stage", help="Stop after staging; validate and publish go on.")
    ] = False,
    dry_run: DryRun = False,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Land tables in the warehouse: read, stage, publish."""
    from pyops.cli.render import Terminal, print_extractions
    from pyops.commands.extract import extract as extract_tables

    days = _days(day, first, last)
    if days and full_refresh:
        raise UsageError("--full-refresh and a range of days exclude each other")
    project = load(project_dir, config_file)
    with Terminal() as terminal:
        done = extract_tables(
            project,
            tables or (),
            days=days,
            full_refresh=full_refresh,
            stage_only=stage,
            dry_run=dry_run,
            listener=terminal,
        )
    print_extractions(done, as_json=as_json)
    _exit(max((item.error.exit_code for item in done if item.error), default=0))


@app.command()
def validate(
    tables: Tables = None,
    *,
    check: Annotated[
        list[str] | None, typer.Option(help="Only this family of gates, like nulls; repeatable.")
    ] = None,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Hold staged tables against their gates; change nothing."""
    from pyops.cli.render import Terminal, print_extractions
    from pyops.commands.validate import validate as validate_staged
    from pyops.quality.gates import CHECKS

    for family in check or ():
        if family not in CHECKS:
            raise UsageError(f"there is no check {family!r}", hint=f"one of: {', '.join(CHECKS)}")
    project = load(project_dir, config_file)
    with Terminal() as terminal:
        done = validate_staged(project, tables or (), checks=check or (), listener=terminal)
    print_extractions(done, as_json=as_json)
    _exit(max((item.error.exit_code for item in done if item.error), default=0))


@app.command()
def publish(
    tables: Tables = None,
    *,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Validate and publish staged tables."""
    from pyops.cli.render import Terminal, print_extractions
    from pyops.commands.publish import publish as publish_staged

    project = load(project_dir, config_file)
    with Terminal() as terminal:
        done = publish_staged(project, tables or (), listener=terminal)
    print_extractions(done, as_json=as_json)
    _exit(max((item.error.exit_code for item in done if item.error), default=0))


@app.command()
def reconcile(
    table: Annotated[str, typer.Argument(help="The table, as source.table or table.")],
    *,
    apply: Annotated[
        bool, typer.Option("--apply", help="Land what differs, delete what is gone.")
    ] = False,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Compare a table with its source, row by row; exit 1 where they differ."""
    from pyops.cli.render import print_reconciliation
    from pyops.commands.reconcile import reconcile as reconcile_table

    found = reconcile_table(load(project_dir, config_file), table, apply=apply)
    print_reconciliation(found, as_json=as_json)
    _exit(0 if found.is_equal or apply else 1)


@app.command()
def cdc(
    sources: Sources = None,
    *,
    follow: Annotated[bool, typer.Option("--follow", help="Keep going until stopped.")] = False,
    interval: Annotated[str, typer.Option(help="The rest between two runs, like 5s.")] = "5s",
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Land changes until caught up with where the sources are now."""
    from pyops.cli.render import Terminal, print_captures
    from pyops.commands.cdc import capture
    from pyops.commands.cdc import follow as follow_changes

    try:
        rest = duration(interval)
    except ValueError as error:
        raise UsageError(f"--interval: {error}") from None
    project = load(project_dir, config_file)
    with Terminal() as terminal:
        if follow:
            done = follow_changes(project, sources or (), interval=rest, listener=terminal)
        else:
            done = capture(project, sources or (), listener=terminal)
    print_captures(done, as_json=as_json)
    _exit(max((item.error.exit_code for item in done if item.error), default=0))


@app.command()
def snapshot(
    table: Annotated[str, typer.Argument(help="The cdc table, as source.table or table.")],
    *,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Copy one cdc table anew and follow it from there."""
    from pyops.cli.render import Terminal, print_captures
    from pyops.commands.snapshot import snapshot as copy

    project = load(project_dir, config_file)
    with Terminal() as terminal:
        done = copy(project, table, listener=terminal)
    print_captures([done], as_json=as_json)
    _exit(done.error.exit_code if done.error else 0)


@app.command()
def compact(
    tables: Annotated[
        list[str] | None, typer.Argument(help="cdc tables; all that have a retention if none.")
    ] = None,
    *,
    dry_run: DryRun = False,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Fold changes older than a table's retention, and applied by dbt, into one row a key."""
    from pyops.cli.render import print_compactions
    from pyops.commands.compact import compact as fold

    project = load(project_dir, config_file)
    done = fold(project, tables or (), dry_run=dry_run)
    print_compactions(done, as_json=as_json)
    _exit(max((item.error.exit_code for item in done if item.error), default=0))


@app.command()
def erase(
    table: Annotated[str, typer.Argument(help="The table, as source.table or table.")],
    *,
    key: Annotated[
        list[str], typer.Option("--key", help="The key's value; once for each of its columns.")
    ],
    dry_run: DryRun = False,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Remove all that is kept of one key: in raw, dead letters, staging and dbt's tables."""
    from pyops.cli.render import print_erasure
    from pyops.commands.erase import erase as erase_key

    project = load(project_dir, config_file)
    print_erasure(erase_key(project, table, key, dry_run=dry_run), as_json=as_json)


slot = typer.Typer(help="Replication slots of the sources of changes.", no_args_is_help=True)
app.add_typer(slot, name="slot")


@slot.command("status")
def slot_status(
    sources: Sources = None,
    *,
    fail_if_lag: FailIfLag = None,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Show where each slot stands, what it keeps at the source, and what holds it back."""
    from pyops.cli.render import print_slots
    from pyops.commands import slot as slots

    limit = _size(fail_if_lag)
    project = load(project_dir, config_file)
    found = slots.slot_status(project, sources or ())
    print_slots(found, as_json=as_json)
    _fail_if_lagging(slots.lagging(project, found, limit))


@slot.command("drop")
def drop_slot(
    source: Annotated[str, typer.Argument(help="The source.")],
    *,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Drop a source's slot and publication; the next cdc run copies every table anew."""
    from pyops.commands import slot as slots

    slots.drop(load(project_dir, config_file), source)
    typer.echo(f"{source}: slot dropped; what was landed stays")


@app.command()
def run(
    *,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Extract, land changes, then dbt build: one command, one exit code."""
    from pyops.cli.render import Terminal, print_summary
    from pyops.commands.run import run as run_all

    project = load(project_dir, config_file)
    with Terminal() as terminal:
        summary = run_all(project, listener=terminal)
    print_summary(summary, as_json=as_json)
    _exit(summary.exit_code)


@app.command()
def status(
    *,
    fail_if_lag: FailIfLag = None,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Show each table's last run, rows, watermark or slot, and what holds it back."""
    from pyops.cli.render import print_status
    from pyops.commands import slot as slots
    from pyops.commands.status import status as look_up

    limit = _size(fail_if_lag)
    project = load(project_dir, config_file)
    found = slots.slot_status(project)
    print_status(look_up(project), found, as_json=as_json)
    _fail_if_lagging(slots.lagging(project, found, limit))


dlq = typer.Typer(help="Dead letters: rows that could not be landed.", no_args_is_help=True)
app.add_typer(dlq, name="dlq")


@dlq.command("list")
def list_letters(
    tables: Tables = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Also those that are open no more.")
    ] = False,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """List dead letters: where each came from and why; no values."""
    from pyops.cli.render import print_letters
    from pyops.commands.dlq import dead_letters

    project = load(project_dir, config_file)
    print_letters(
        dead_letters(project, tables or (), everything=everything), as_json=as_json, values=False
    )


@dlq.command("show")
def show_letters(
    ids: Annotated[list[int], typer.Argument(help="Numbers of dead letters.")],
    *,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Show dead letters with their values and whole rows."""
    from pyops.cli.render import print_letters
    from pyops.commands.dlq import dead_letters

    project = load(project_dir, config_file)
    print_letters(dead_letters(project, ids=ids), as_json=as_json, values=True)


@dlq.command("replay")
def replay_letters(
    table: Annotated[str, typer.Argument(help="The table, as source.table or table.")],
    *,
    ids: Annotated[
        list[int] | None, typer.Option("--id", help="Only this letter; repeatable.")
    ] = None,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Land the open dead letters of a table that can be landed now."""
    from pyops.cli.render import print_replay
    from pyops.commands.dlq import replay

    project = load(project_dir, config_file)
    print_replay(replay(project, table, ids=ids or ()), as_json=as_json)


@dlq.command("purge")
def purge_letters(
    tables: Tables = None,
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="Also the open ones: their rows are given up.")
    ] = False,
    as_json: Json = False,
    project_dir: ProjectDir = Path(),
    config_file: ConfigFile = "pyops.yml",
) -> None:
    """Delete dead letters that are open no more."""
    from pyops.cli.render import print_purged
    from pyops.commands.dlq import purge

    project = load(project_dir, config_file)
    print_purged(purge(project, tables or (), everything=everything), as_json=as_json)


def _days(day: datetime | None, first: datetime | None, last: datetime | None) -> Days | None:
    if day and (first or last):
        raise UsageError("--date is one day, --from and --to are a range: give one or the other")
    if bool(first) != bool(last):
        raise UsageError("--from and --to go together")
    if day:
        return Days(day.date(), day.date())
    if not (first and last):
        return None
    if last < first:
        raise UsageError("--to is before --from")
    return Days(first.date(), last.date())


def _size(text: str | None) -> int | None:
    try:
        return None if text is None else size(text)
    except ValueError as error:
        raise UsageError(f"--fail-if-lag: {error}") from None


def _fail_if_lagging(found: "Sequence[SlotStatus]") -> None:
    for status in found:
        lag = f"{status.lag_bytes or 0:,} bytes behind, which is more than it may be"
        _complain(f"{status.source}: {status.problem or lag}")
    _exit(1 if found else 0)


def _exit(code: int) -> None:
    if code:
        raise typer.Exit(code)


def mount_demo() -> None:
    """Adds the commands of the demo, which the rest of pyops knows nothing of."""
    from pyops.demo.cli import app as demo

    app.add_typer(demo, name="demo")


def main() -> None:
    """Runs the command line; an error is a line or two on stderr and an exit code.

    Exit codes: 0 done; 1 the data or the operation failed; 2 usage or configuration; 130 and 143
    stopped by SIGINT (Ctrl-C) and SIGTERM. A second signal ends it at once, which is as safe.
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
    mount_demo()
    try:
        app()
    except PyopsError as error:
        if _debugging():
            raise
        _complain(str(error), error.hint)
        sys.exit(error.exit_code)
    except (SystemExit, KeyboardInterrupt) as end:
        if isinstance(end, KeyboardInterrupt) or end.code == 130:
            _complain("stopped: what was published stays, all else is as it was before")
            sys.exit(128 + (received or [signal.SIGINT])[0])
        raise
    except Exception as error:
        if _debugging():
            raise
        _complain(
            f"pyops did not expect this: {type(error).__name__}",
            "run it again as pyops --debug ... for the stack trace, which may show rows",
        )
        sys.exit(1)


def _debugging() -> bool:
    return "--debug" in sys.argv


def _complain(message: str, hint: str = "") -> None:
    typer.echo(f"error: {message}", err=True)
    if hint:
        typer.echo(f"  fix: {hint}", err=True)
