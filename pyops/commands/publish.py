"""``pyops publish``: validates what is staged once more, and publishes it."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from pyops.commands.extract import Extraction
from pyops.commands.invocation import Invocation
from pyops.commands.staged import each_staged, nothing_staged
from pyops.config.project import Project, Table
from pyops.errors import PyopsError
from pyops.progress import Listener
from pyops.quality.validate import validate
from pyops.records import ended
from pyops.staging.file import Stage
from pyops.warehouse.protocol import Commit


def publish(
    project: Project,
    names: Sequence[str] = (),
    *,
    run_id: str | None = None,
    day: date | None = None,
    listener: Listener | None = None,
) -> list[Extraction]:
    """Validates and publishes what is staged, of all tables or those named; or of one run, or one day.

    There is one result for each staged load, failed ones too.
    """
    invocation = Invocation(project, listener)
    invocation.settle()

    def step(table: Table, path: Path | None) -> Extraction:
        begun = invocation.begun(table, table.config.mode, table.config.write_pattern)
        if path is None:
            error = nothing_staged(table)
            return Extraction(table, ended(begun, "failed", str(error)), error)
        recording, failure = None, None
        try:
            with invocation.recording(begun) as recording:
                stage, staged, commit = Stage.reopen(path)
                with stage:
                    now = vars(recording.run)
                    own = ("run_id", "invocation_id", "status", "started_at", "host", "pid")
                    recording.run = replace(staged, **{name: now[name] for name in own})
                    state = invocation.warehouse.states([table])[table]
                    load = Commit.from_json(commit)
                    validate(recording, stage, table, load, recent_rows=state.recent_rows)
                    recording.commit(stage, load)
                    stage.kept = False
        except PyopsError as error:
            failure = error
        assert recording is not None
        return Extraction(table, recording.run, failure, gates=recording.gates)

    return each_staged(invocation, names, step, run_id=run_id, day=day)
