"""One lifecycle of a run: whatever becomes of it and of its process, it becomes a row.

A run that commits is recorded by its commit, any other here, or as a note beside the staging files
while the warehouse is not to be had. One that was killed leaves its staging file.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pyops.errors import BusyError, GateError, PyopsError
from pyops.records import GateResult, Run, ended
from pyops.staging.file import Stage, discard, sweep
from pyops.warehouse.protocol import Commit, Warehouse


@dataclass
class Recording:
    """A run on its way: what is known of it so far, to be recorded however it ends."""

    warehouse: Warehouse
    run: Run
    gates: tuple[GateResult, ...] = ()
    is_recorded: bool = False

    def note(self, **figures: Any) -> None:
        self.run = replace(self.run, **figures)

    def end(self, status: str) -> Run:
        """Ends a run that has nothing to commit."""
        self.run = ended(self.run, status, None)
        return self.run

    def commit(self, stage: Stage | None, commit: Commit) -> Run:
        """Commits with this run, which is recorded by that."""
        done = self.warehouse.commit(stage, replace(commit, run=self.run, gates=self.gates))
        assert done is not None
        self.run, self.is_recorded = done, True
        return done


@dataclass(frozen=True)
class Recorder:
    """Records runs in a warehouse; ``staging`` is the folder of the staging files."""

    warehouse: Warehouse
    staging: Path
    is_dry: bool = False  # records nothing

    @contextmanager
    def recording(self, run: Run) -> Iterator[Recording]:
        """The lifecycle of a run; what is raised inside is recorded and goes on to the caller."""
        recording = Recording(self.warehouse, run, is_recorded=self.is_dry)
        try:
            yield recording
            if not recording.is_recorded and recording.run.status == "running":
                recording.end("succeeded")
        except KeyboardInterrupt:
            self._fail(recording, "cancelled", "it was stopped before it ended")
            if not self.is_dry:  # until here the file has told of the run
                path = self.staging / f"{run.run_id}.duckdb"
                discard(self.staging, [path] if path.exists() else [])
            raise
        except GateError as error:
            recording.gates = error.results
            self._fail(recording, "rejected", str(error))
            raise
        except PyopsError as error:
            self._fail(recording, "refused" if isinstance(error, BusyError) else "failed", str(error))
            raise
        except BaseException as error:
            self._fail(recording, "failed", type(error).__name__)
            raise
        if not recording.is_recorded:
            self.record(recording.run, gates=recording.gates)

    def _fail(self, recording: Recording, status: str, error: str) -> None:
        recording.run = ended(recording.run, status, error)
        if not recording.is_recorded:
            self.record(recording.run, gates=recording.gates)

    def record(self, *runs: Run, gates: tuple[GateResult, ...] = ()) -> None:
        """Adds runs that committed nothing; as notes, where the warehouse cannot be written."""
        try:
            self.warehouse.record(runs, gates, in_haste=True)
        except PyopsError:
            # On a full disk there may be no room for a note: the failure itself is told anyway.
            with suppress(OSError):
                self.staging.mkdir(parents=True, exist_ok=True)
                for run in runs:
                    note = self.staging / f"{run.run_id}.json"
                    note.write_text(run.to_json(), "utf-8")

    def settle(self) -> None:
        """Records what earlier processes could not, and deletes what they left."""
        dead = sweep(self.staging)
        notes = sorted(self.staging.glob("*.json"))
        killed = [_killed(path, run) for path, run in dead]
        noted = [run for run in map(_noted, notes) if run is not None]
        self.warehouse.record([*killed, *noted])
        discard(self.staging, [path for path, _ in dead])
        for path in notes:
            path.unlink(missing_ok=True)


def _killed(path: Path, run: Run | None) -> Run:
    error = "the process was killed before it ended"
    if run is None:
        return Run(path.stem, None, None, None, None, "killed", None, error=error)
    return replace(run, status="killed", error=error)


def _noted(path: Path) -> Run | None:
    try:
        return Run.from_json(path.read_text("utf-8"))
    except FileNotFoundError:  # another process was quicker
        return None
    except (ValueError, TypeError, KeyError):  # cut short by whatever ended that process
        return Run(path.stem, None, None, None, None, "failed", None, error="its note is broken")
