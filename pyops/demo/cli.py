"""The commands of `pyops demo`."""

from __future__ import annotations

import fcntl
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyops.demo import DATABASE, dsn, events, server_of, shop, traffic
from pyops.errors import OperationError, PyopsError

if TYPE_CHECKING:
    from rich.table import Table

app = typer.Typer(
    help="A sample shop in a real PostgreSQL server that runs from this project's folder.", no_args_is_help=True
)

ProjectDir = Annotated[
    Path, typer.Option("--project-dir", exists=True, file_okay=False, help="The folder that holds pyops.yml.")
]


@app.command()
def up(project_dir: ProjectDir = Path()) -> None:
    """Start PostgreSQL, load the shop (25,900 real orders of a year), write its web events.

    What is done already is skipped.
    """
    began = time.monotonic()
    data = shop.find_data(project_dir)
    server = server_of(project_dir)
    with _progress() as say, _alone(project_dir):
        say("Starting PostgreSQL ...")
        server.start()
        say("Loading the shop ...")
        shop.create_database(server.dsn(), DATABASE)
        loaded = shop.load(server.dsn(DATABASE), data)
        say("Writing the web events ...")
        if loaded:  # files of an earlier shop
            events.remove(events.folder_of(project_dir))
        written = events.write(server.dsn(DATABASE), events.folder_of(project_dir))
        summary = shop.summarize(server.dsn(DATABASE))
    seconds = time.monotonic() - began
    done = f"and the shop is loaded ({seconds:.1f} s)." if loaded else "and the shop was already loaded."
    typer.echo(f"PostgreSQL {summary.version} runs {done}")
    _show_rows(summary)
    _show_written(written)
    typer.echo(f"DSN   {server.dsn(DATABASE)}\n")
    typer.echo("Next  pyops run                      land it and build the models")
    typer.echo("      pyops demo traffic --days 7    add a week of changes")


@app.command("traffic")
def commit_traffic(
    days: Annotated[int, typer.Option(min=1, help="How many days to add.")] = 1,
    seed: Annotated[int, typer.Option(help="The same seed makes the same changes, another one others.")] = 1,
    project_dir: ProjectDir = Path(),
) -> None:
    """Commit further days: orders, shipments, cancellations, prices, users who come and go.

    Continues after the last day in the database: a day is eleven transactions and a file of events.
    """
    began = time.monotonic()
    target = dsn(project_dir)
    written = []
    with _progress() as say, _alone(project_dir):

        def end_day(day: date) -> None:
            # At once: the next day changes this day's orders.
            written.append(events.write(target, events.folder_of(project_dir)))
            say(f"Committed {day}")

        done = traffic.commit_days(target, days=days, seed=seed, on_day=end_day)
    table = _table("event", "times")
    for event, times in done.counts.items():
        table.add_row(event, f"{times:,}")
    span = str(done.first_day) if days == 1 else f"{done.first_day} to {done.last_day}"
    typer.echo(f"Committed {span} in {done.transactions:,} transactions ({time.monotonic() - began:.1f} s).")
    _print(table)
    _show_written(*written)
    typer.echo("Next  pyops run    land what changed")


@app.command()
def status(
    project_dir: ProjectDir = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object instead.")] = False,
) -> None:
    """Show whether the demo is running, its DSN, and its rows."""
    server = server_of(project_dir)
    running = server.is_running()
    target = server.dsn(DATABASE) if running else None
    summary = _summary_if_loaded(server.dsn(), target) if target else None
    if as_json:
        found = asdict(summary) if summary else {}
        typer.echo(json.dumps({"running": running, "dsn": target} | found, default=str, indent=2))
    elif target is None:
        kept = "; its data are kept" if server.data_directory.exists() else ""
        typer.echo(f"The demo is not running{kept}.\n\nNext  pyops demo up")
    elif summary is None:
        typer.echo("PostgreSQL is running, but the shop is not loaded.\n\nNext  pyops demo up")
    else:
        typer.echo(
            f"PostgreSQL {summary.version} is running. The shop takes"
            f" {summary.size_bytes / 1e6:,.0f} MB; its last order is of {summary.last_order_date}."
        )
        _show_rows(summary)
        typer.echo(f"DSN   {target}")


@app.command()
def down(
    project_dir: ProjectDir = Path(),
    delete: Annotated[bool, typer.Option("--delete", help="Delete the data as well.")] = False,
) -> None:
    """Stop PostgreSQL; data and files of events are kept unless --delete is given."""
    server = server_of(project_dir)
    if not server.data_directory.parent.exists():
        typer.echo("This folder has no demo.")
        return
    with _alone(project_dir):
        running = server.is_running()
        if delete:
            server.remove()
            events.remove(events.folder_of(project_dir))
        else:
            server.stop()
    stopped = "PostgreSQL is stopped" if running else "PostgreSQL was not running"
    if delete:
        typer.echo(f"{stopped}, and the demo's data are deleted.")
    else:
        typer.echo(f"{stopped}; the demo's data are kept.\n")
        typer.echo("Next  pyops demo up               start it again")
        typer.echo("      pyops demo down --delete    delete the data")


def _summary_if_loaded(admin_dsn: str, target: str) -> shop.Summary | None:
    if not shop.has_database(admin_dsn, DATABASE):
        return None
    try:
        return shop.summarize(target)
    except PyopsError:
        return None


@contextmanager
def _alone(project_dir: Path) -> Iterator[None]:
    """Waits for other commands that change this project's demo."""
    folder = server_of(project_dir).data_directory.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "lock").open("w")
    except PermissionError as error:
        raise OperationError(
            f"no permission to write to {folder}", hint="run the command as the user who started the demo"
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """Gives a function that shows a step on stderr: in place on a terminal, else as a line."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda message: typer.echo(message, err=True)
        return
    with console.status("Waiting for another demo command ...") as line:
        yield line.update


def _table(name: str, number: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(name)
    table.add_column(number, justify="right")
    return table


def _show_rows(summary: shop.Summary) -> None:
    table = _table("table", "rows")
    for name, rows in summary.rows.items():
        table.add_row(name, f"{rows:,}")
    _print(table)


def _show_written(*written: events.Written) -> None:
    files, lines = sum(one.files for one in written), sum(one.lines for one in written)
    if files:
        typer.echo(f"Files {files:,} of web events, {lines:,} lines, in data/events")


def _print(table: Table) -> None:
    from rich.console import Console

    Console().print(table)
