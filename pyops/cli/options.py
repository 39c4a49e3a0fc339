"""The options and arguments that several commands share."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done; write nothing.")]
Sources = Annotated[list[str] | None, typer.Argument(help="Sources; all that have cdc tables if none.")]
AnySources = Annotated[list[str] | None, typer.Argument(help="Sources; all if none.")]
FailIfLag = Annotated[
    str | None, typer.Option(help="Exit 1 if a slot is further behind than this, like 1GB.", metavar="SIZE")
]
Tables = Annotated[list[str] | None, typer.Argument(help="Tables, as source.table or table; all if none.")]
Name = Annotated[str, typer.Argument(help="The table, as source.table or table.")]
Day = datetime | None
ISO = ["%Y-%m-%d"]
First = Annotated[Day, typer.Option("--from", formats=ISO, help="Land the days from this one on again.")]
Last = Annotated[Day, typer.Option("--to", formats=ISO, help="The last of them.")]
Whole = Annotated[bool, typer.Option(help="Read the tables whole and swap them; watermarks start over.")]
Stage = Annotated[bool, typer.Option("--stage", help="Stop after staging; validate and publish go on.")]
Families = Annotated[list[str], typer.Option(help="Only this family of gates, like nulls; repeatable.")]
Rest = Annotated[str | None, typer.Option(help="With --follow: the rest between two looks; 5s if not given.")]
Retained = Annotated[list[str] | None, typer.Argument(help="cdc tables; all that have a retention if none.")]
StagedRun = Annotated[str | None, typer.Option("--run", help="Only what this run has staged.")]
StagedDay = Annotated[Day, typer.Option("--date", formats=ISO, help="Only what was staged of this day.")]
Everything = Annotated[bool, typer.Option("--all", help="Open and closed ones.")]
Folder = Annotated[Path, typer.Option(help="The folder that holds pyops.yml and dbt_project.yml.")]
COMMON = {  # of every command
    "project_dir": (Annotated[Path, typer.Option(help="The folder of pyops.yml and dbt_project.yml.")], Path()),
    "config": (Annotated[str, typer.Option(help="The configuration in it.")], "pyops.yml"),
    "as_json": (Annotated[bool, typer.Option("--json", help="Print one line of JSON.")], False),
}
