"""Progress: what a command tells its caller while it works; the rest is in the log."""

from pyops.errors import PyopsError
from pyops.records import Run, TableId


class Listener:
    """Told what goes on, as often as it goes on; does nothing of its own."""

    def pause(self) -> None:
        """Another program is about to print."""

    def failed(self, source: str, error: PyopsError) -> None:
        """A source has failed, not one of its tables."""

    def reading(self, table: TableId, rows: int, estimated_rows: int) -> None:
        """Rows read so far; the estimate is -1 where there is none."""

    def finished(self, table: TableId, run: Run, error: PyopsError | None) -> None:
        """A table is done, well or not."""
