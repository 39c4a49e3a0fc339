"""Extraction step by step, for an orchestrator that branches between the steps.

``extract`` with ``stage_only`` leaves a staging file for each table; ``validate`` holds it against
the table's gates, as often as one likes; ``publish`` does so once more and then publishes it.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pyops.commands.extract import Extraction, Listener, Silent
from pyops.config.project import Project, Table
from pyops.errors import OperationError, PyopsError
from pyops.quality.validate import GateError, audit, evaluate
from pyops.records import Run, ended
from pyops.staging.file import Stage, kept
from pyops.warehouse.duckdb import Warehouse
from pyops.warehouse.publication import Load
from pyops.warehouse.publication import publish as publish_load
from pyops.warehouse.recording import History


@dataclass(frozen=True)
class _Steps:
    project: Project
    listener: Listener

    def each(
        self,
        names: Sequence[str],
        step: Callable[[Warehouse, History, Stage, Load, Run], Extraction],
    ) -> list[Extraction]:
        warehouse = Warehouse.of(self.project, on_wait=self.listener.note)
        history = History(warehouse, self.project.staging_directory)
        tables = self.project.select(list(names))
        staged = {
            (run.source, run.table_name): path
            for path, run in reversed(kept(self.project.staging_directory))
        }
        done = []
        for table in tables:
            path = staged.get((table.source, table.name))
            if path is None and not names:
                continue
            done.append(self._one(table, path, warehouse, history, step))
        return done

    def _one(
        self,
        table: Table,
        path: Path | None,
        warehouse: Warehouse,
        history: History,
        step: Callable[[Warehouse, History, Stage, Load, Run], Extraction],
    ) -> Extraction:
        config = table.config
        run = Run.begun(table.source, table.name, config.mode, config.write_pattern)
        try:
            if path is None:
                raise OperationError(
                    f"{table}: nothing is staged", hint=f"run pyops extract {table} --stage first"
                )
            stage, run, load = Stage.reopen(path)
            with stage:
                done = step(warehouse, history, stage, Load.from_json(load, table), run)
        except GateError as error:
            history.record(ended(error.run, "rejected", str(error)), results=error.results)
            done = Extraction(
                table, ended(error.run, "rejected", str(error)), error, "", error.results
            )
        except PyopsError as error:
            done = Extraction(table, ended(run, "failed", str(error)), error)
        self.listener.finished(table, done.run, done.error)
        return done


def validate(
    project: Project,
    names: Sequence[str] = (),
    *,
    checks: Collection[str] = (),
    listener: Listener | None = None,
) -> list[Extraction]:
    """Holds what is staged against its gates; changes nothing.

    Args:
        project: The project.
        names: Tables; every staged one if empty.
        checks: Only these families of gates (``gates.CHECKS``); all of them if empty.
        listener: Told of progress.

    Returns:
        One result for each table, with what every gate said; an error where one has failed.

    Raises:
        UsageError: A name that is not configured.
    """

    def step(
        warehouse: Warehouse, history: History, stage: Stage, load: Load, run: Run
    ) -> Extraction:
        state = warehouse.states([load.table])[load.table]
        results = evaluate(warehouse, stage, load, recent_rows=state.recent_rows, checks=checks)
        failed = any(result.status == "failed" for result in results)
        error = GateError(run, results, table=str(load.table), path=stage.path) if failed else None
        return Extraction(load.table, run, error, gates=tuple(results))

    return _Steps(project, listener or Silent()).each(names, step)


def publish(
    project: Project, names: Sequence[str] = (), *, listener: Listener | None = None
) -> list[Extraction]:
    """Validates and publishes what is staged.

    Args:
        project: The project.
        names: Tables; every staged one if empty.
        listener: Told of progress.

    Returns:
        One result for each table, failed ones too.

    Raises:
        UsageError: A name that is not configured.
    """

    def step(
        warehouse: Warehouse, history: History, stage: Stage, load: Load, run: Run
    ) -> Extraction:
        history.settle()
        state = warehouse.states([load.table])[load.table]
        again = Run.begun(load.table.source, load.table.name, str(run.mode), load.write)
        run = replace(run, run_id=again.run_id, host=again.host, pid=again.pid)
        run, results = audit(warehouse, stage, load, run, recent_rows=state.recent_rows)
        published = publish_load(warehouse, stage, load, run, results)
        stage.kept = False
        return Extraction(load.table, published, gates=results)

    return _Steps(project, listener or Silent()).each(names, step)
