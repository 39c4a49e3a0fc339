"""Random lives: traffic, migrations, kills and rivals in any order end in what the source has."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from random import Random
from typing import Any

import pytest
import yaml

import pyops
from pyops.cdc.postgres import slot, stream
from tests.pyops.change_log import current, events
from tests.pyops.conftest import Sql, examples
from tests.pyops.lives import MODELS, Model, Source
from tests.pyops.test_faults import Command, Project, die, nobody_reads, project, wait_for

__all__ = ["project"]  # a fixture

PACKAGE = str(Path(pyops.__file__).parent)
COUNT = 3 if examples(1) == 1 else 120  # `make test-deep` lives more lives
SEEDS = [int(seed) for seed in os.environ.get("LIVES", "").split()] or range(1, COUNT + 1)
FIXES = r"fix: .*?pyops (slot drop src|snapshot src\.\w+|extract src\.\w+ --full-refresh)"
STEPS = 14


# What a process does to itself


def stop_after(seconds: float, number: int) -> None:
    """Sends a signal to this process in a while."""
    timer = threading.Timer(seconds, os.kill, (os.getpid(), number))
    timer.daemon = True
    timer.start()


def die_in_call(number: int) -> None:
    """Kills this process at its so many-th call of a function of the package, whichever that is."""
    calls = iter(range(number))

    def count(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(PACKAGE) and next(calls, None) is None:
            die()

    sys.setprofile(count)
    threading.setprofile(count)


def small_pieces(messages: int) -> None:
    """Lands changes in chunks of about so many messages."""
    for module in (slot, stream):
        vars(module)["MESSAGES"] = messages
    slot._BATCH_BYTES = 100 * messages


def together(*hooks: Callable[[], None]) -> None:
    for hook in hooks:
        hook()


# Texts that mean the same


def text(value: object) -> str | None:
    if isinstance(value, datetime):
        return f"{value:%Y-%m-%d %H:%M:%S.%f}"
    return None if value is None else str(value)


def plain(value: str | None) -> object:
    """A text, or the number it is."""
    try:
        number = Decimal(value or "")
    except InvalidOperation:
        return value
    return number.normalize() if number.is_finite() else value


def rows_of(rows: Iterable[Iterable[Any]]) -> Counter[tuple[object, ...]]:
    return Counter(tuple(plain(text(value)) for value in row) for row in rows)


@dataclass
class Life:
    """A source, its warehouse, and what happens to them."""

    project: Project
    sql: Sql
    chance: Random
    did: list[str]
    source: Source = field(init=False)
    compared_load: int = 0  # what was landed until then is equal to the source

    def __post_init__(self) -> None:
        self.source = Source(self.project.dsn, self.sql, self.chance, self.did)
        lookback = self.chance.choice([{}, {"lookback": "0s"}])
        tables = {m.name: dict(m.config) | (lookback if m.cursor else {}) for m in MODELS}
        document = {
            "warehouse": {"lock_timeout": "10s"},
            "sources": {"src": {"type": "postgres", "dsn": self.project.dsn, "tables": tables}},
        }
        self.project.directory.mkdir()
        (self.project.directory / "pyops.yml").write_text(yaml.safe_dump(document, sort_keys=False))

    # Commands

    def start(self, command: str, hook: Callable[[], None] | None = None) -> Command:
        first, *more = command.split()
        hooks = [hook] if hook else []
        if self.chance.random() < 0.5:
            hooks.append(functools.partial(small_pieces, self.chance.randint(1, 40)))
        return self.project.start(*more, command=first, hook=functools.partial(together, *hooks))

    def end(self, command: str, started: Command, *, busy: bool = False) -> tuple[int, str]:
        """Waits for a command while the source goes on; what is open there ends before it waits too long."""
        began = time.monotonic()
        while busy and started.process.exitcode is None and time.monotonic() - began < 1:
            self.source.burst()
        started.process.join(1)
        if started.process.exitcode is None:
            self.source.end_open()
        code, output = started.end()
        said = output.replace("\n", "\n#     ")
        self.did.append(f"# {command}: exit {code}\n#     {said}")
        assert "Traceback" not in output
        assert "did not expect" not in output
        assert code in {0, 1, 130, -signal.SIGKILL, -signal.SIGINT}, output
        if code == 1 and not command.startswith("reconcile"):
            assert "fix: " in output
        return code, output

    def run(self, command: str, *, busy: bool = False, hook: Callable[[], None] | None = None) -> tuple[int, str]:
        return self.end(command, self.start(command, hook), busy=busy)

    def landed(self, command: str) -> None:
        """Runs a command until it is done, and whatever it says to run before."""
        for _ in range(6):
            code, output = self.run(command)
            if code == 0:
                return
            for fix in dict.fromkeys(re.findall(FIXES, output)):
                self.run(fix)
        raise AssertionError(f"{command} does not end well, whatever is done")

    # Steps

    def step(self) -> None:
        kinds: dict[Callable[[], None], float] = {
            self.source.burst: 5,
            self.source.migrate: 5,
            self.undisturbed: 4,
            self.stopped: 3,
            self.rivals: 1,
            self.cut_off: 1,
            self.away: 0.7,
            self.started_over: 0.5,
        }
        self.chance.choices(list(kinds), list(kinds.values()))[0]()

    def command(self) -> str:
        commands = ["cdc", "extract", "snapshot", "compact", "reconcile"]
        name = self.chance.choices(commands, [6, 3, 2, 1, 1])[0]
        if name == "snapshot":
            return f"snapshot src.{self.chance.choice([m for m in MODELS if m.is_cdc]).name}"
        if name == "reconcile":
            return f"reconcile src.{self.chance.choice([m for m in MODELS if not m.is_cdc]).name} --apply"
        return name

    def undisturbed(self) -> None:
        self.run(self.command(), busy=self.chance.random() < 0.5)

    def stopped(self) -> None:
        """A command that is killed, or is told to stop."""
        how = self.chance.choice(["call", "call", "kill", "interrupt", "follow"])
        hook = functools.partial(die_in_call, int(10 ** self.chance.uniform(1, 3.9)))
        if how != "call":
            number = signal.SIGINT if how == "interrupt" else signal.SIGKILL
            hook = functools.partial(stop_after, self.chance.uniform(0.05, 1.2), number)
        self.did.append(f"# {how}")
        command = "cdc --follow --interval 50ms" if how == "follow" else self.command()
        self.run(command, busy=self.chance.random() < 0.4, hook=hook)
        if self.chance.random() < 0.5:
            self.settled()

    def settled(self) -> None:
        """Ends what a killed command's sessions may wait for, and waits for their end."""
        self.source.end_open()
        wait_for(lambda: nobody_reads(self.sql), "the sessions of killed commands end")

    def cut_off(self) -> None:
        """A command whose sessions the server ends."""
        command = self.command()
        started = self.start(command)
        time.sleep(self.chance.uniform(0.1, 0.8))
        self.did.append("# its sessions are ended")
        self.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'pyops' AND datname = current_database()"
        )
        self.end(command, started)

    def rivals(self) -> None:
        """Two commands at once."""
        names = [self.command(), self.command()]
        started = [self.start(name) for name in names]
        for name, command in zip(names, started, strict=True):
            self.end(name, command, busy=True)

    def away(self) -> None:
        """A table that has another name for a while."""
        model = self.chance.choice(MODELS)
        self.source.end_open()
        self.source.rename(model, "elsewhere")
        self.run(self.command())
        self.source.back(model, "elsewhere")

    def started_over(self) -> None:
        self.run("slot drop src")
        self.run("cdc", busy=self.chance.random() < 0.5)

    # What must be true when all is quiet

    def check(self) -> None:
        self.settled()
        self.source.nudge()
        self.landed("cdc")
        self.landed("extract")
        for model in MODELS:
            (self._check_log if model.is_cdc else self._check_batch)(model)
        assert self.project.rows("SELECT * FROM pyops.dead_letters WHERE status = 'open'") == []
        code, output = self.run("status")
        assert code == 0, output
        if self.chance.random() < 0.5:
            self.landed("compact")
            for model in MODELS:
                if model.is_cdc:
                    self._is_current(model)
        self.source.unseen.clear()
        [(self.compared_load,)] = self.project.rows("SELECT max(load_id) FROM pyops.loads")

    def differs(self, model: Model, landed: list[dict[str, Any]]) -> str:
        """How rows in the warehouse differ from the source's, in the columns that it has now."""
        names = list(self.source.columns(model))
        here = [{name.lower(): value for name, value in row.items()} for row in landed]
        found = rows_of([row.get(name.lower()) for name in names] for row in here)
        there = rows_of(self.source.rows(model, names))
        return "" if found == there else f"{model.name} {names}: extra {found - there}, missing {there - found}"

    def _log(self, model: Model) -> list[dict[str, Any]]:
        if not model.is_keyless:
            return current(self.project, model.name, model.key)
        rows: list[dict[str, Any]] = []
        for event in events(self.project, model.name):
            rows = [] if event.op == "t" else [*rows, event.row]
        return rows

    def _check_log(self, model: Model) -> None:
        """The log has each event once, in order; folded it is the table, or it was said that it is not."""
        log = f'raw."{model.name}__changes"'
        twice = f"SELECT count(*) - count(DISTINCT (_generation, _lsn, _seq)) FROM {log}"
        assert self.project.rows(twice) == [(0,)], f"{model.name}: an event is there twice"
        self._has_all_events(model, log)
        if found := self.differs(model, self._log(model)):
            assert self._is_told(model), f"in silence: {found}"
            self.landed(f"snapshot src.{model.name}")
            self._is_current(model)

    def _is_current(self, model: Model) -> None:
        found = self.differs(model, self._log(model))
        assert not found, found

    def _copy(self, model: Model) -> tuple[Any, ...]:
        [found] = self.project.rows(
            "SELECT t.generation, t.snapshot_lsn, t.snapshot, t.load_id, l.compacted_lsn IS NOT NULL"
            " FROM pyops.cdc_tables AS t JOIN pyops.change_logs AS l USING (source, table_name) WHERE table_name = ?",
            model.name,
        )
        return found

    def _is_told(self, model: Model) -> bool:
        """Whether rows may differ: what was done cannot be in the stream, or a column came that rows lack."""
        load = self._copy(model)[3] if model.is_cdc else self.compared_load
        told = "SELECT count(*) FROM pyops.schema_changes WHERE table_name = ? AND load_id > ? AND kind = 'added'"
        return model.name in self.source.unseen or self.project.rows(told, model.name, load) != [(0,)]

    def _has_all_events(self, model: Model, log: str) -> None:
        generation, lsn, snapshot, _, is_compacted = self._copy(model)
        columns = ", ".join(f'"{name}"::VARCHAR' for name in model.key)
        landed = [
            (op, tuple(values) if op != "t" else ())
            for op, *values in self.project.rows(
                f"SELECT _op, {columns} FROM {log} WHERE (_generation, _lsn) > ({generation}, {lsn}) AND _op <> 'r'"
                " ORDER BY _generation, _lsn, _seq"
            )
        ]
        had = self.source.events(model, snapshot)
        for key in {key for _, key in [*landed, *had]}:
            here, there = ([op for op, of in each if of in {key, ()}] for each in (landed, had))
            matches = there[len(there) - len(here) :] == here if is_compacted else here == there
            assert matches, f"{model.name} {key}: landed {here}, but had {there}"

    def _check_batch(self, model: Model) -> None:
        def landed() -> list[dict[str, Any]]:
            names = [n for (n,) in self.project.rows(
                "SELECT column_name FROM duckdb_columns() WHERE table_name = ? ORDER BY column_index", model.name
            )]  # fmt: skip
            return [dict(zip(names, row, strict=True)) for row in self.project.rows(f"FROM raw.{model.name}")]

        if model.cursor:  # deletes are not seen
            key = self.sql(f"SELECT id FROM {model.name}")
            found = self.differs(model, [row for row in landed() if (row["id"],) in key])
        else:
            found = self.differs(model, landed())
        assert not found or (model.cursor and self._is_told(model)), f"in silence: {found}"
        code, output = self.run(f"reconcile src.{model.name} --apply")
        if "applied" in output:
            code, output = self.run(f"reconcile src.{model.name}")
        assert code == 0, output
        found = self.differs(model, landed())
        assert not found, found


@pytest.mark.hypothesis
@pytest.mark.parametrize("seed", SEEDS)
def test_any_life_ends_in_the_source(project: Project, sql: Sql, seed: int) -> None:
    """Behaviours 15 to 22, 27, 30, 35 and 45: whatever happens, in whatever order."""
    did: list[str] = []
    life = Life(project, sql, Random(seed), did)
    try:
        for number in range(1, 1 + STEPS):
            did.append(f"# step {number}")
            life.step()
            if number % 7 == 0:
                life.check()
    except BaseException as error:
        did.append(f"# {error!r}")
        print(f"seed {seed}:", *did, sep="\n")  # noqa: T201
        raise
    finally:
        life.source.close()
