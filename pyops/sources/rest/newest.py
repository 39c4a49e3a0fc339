"""Which of an API's rows are the newest, and the watermark that follows."""

from typing import Any

from pyops.interrupt import interruptible
from pyops.records import utc_now
from pyops.sql import columns as listed
from pyops.sql import identifier
from pyops.staging import casts
from pyops.staging.file import Stage
from pyops.staging.postgres_types import newest_first

_TIMES = {"DATE", "TIMESTAMP"}


class Cursor:
    """A cursor's values: as they were written, to be sent back like that, and as they were typed.

    To be made before the rows are typed. A text is compared as what all of its column are: numbers, times, or texts.
    """

    def __init__(self, stage: Stage, column: str) -> None:
        self._stage, self.column = stage, column
        query(stage, f"CREATE TABLE cursors AS SELECT DISTINCT {identifier(column)} AS written FROM arrived")

    def newest_first(self) -> str:
        """The SQL of the order; a row without a cursor comes last."""
        name = identifier(self.column)
        match self._kind():
            case "number":
                return newest_first(self.column)
            case "time":
                return f"{self._typed(name)} DESC NULLS LAST"
        return f"{name} DESC NULLS LAST"

    def largest(self) -> str | None:
        """The text of the largest that was landed; a time that is yet to come would hide what comes before it."""
        name, type_ = identifier(self.column), self._stage.columns[self.column]
        is_past = f"({self._typed(name)})::TIMESTAMP <= ?" if self._kind() == "time" else "true"
        parameters = [utc_now()] * (self._kind() == "time")
        newest = (
            f"SELECT {name} FROM rows WHERE {name} IS NOT NULL AND {is_past} ORDER BY {self.newest_first()} LIMIT 1"
        )
        typed = "written" if type_ == "VARCHAR" else casts.conversion("written", type_)[0]
        found = query(self._stage, f"SELECT written FROM cursors WHERE {typed} = ({newest}) LIMIT 1", *parameters)
        return str(found[0][0]) if found else None

    def _typed(self, name: str) -> str:
        return casts.conversion(name, "TIMESTAMP")[0] if self._stage.columns[self.column] == "VARCHAR" else name

    def _kind(self) -> str:
        type_, name = self._stage.columns[self.column], identifier(self.column)
        if type_ != "VARCHAR":
            return "time" if type_ in _TIMES else ""
        are_numbers = rf"bool_and(regexp_full_match({name}, '-?\d+(\.\d+)?'))"
        are_times = f"bool_and({casts.conversion(name, 'TIMESTAMP')[0]} IS NOT NULL)"
        [(numbers, times)] = query(self._stage, f"SELECT {are_numbers}, {are_times} FROM rows WHERE {name} IS NOT NULL")
        return "number" if numbers else "time" if times else ""


def keep_newest(stage: Stage, table: str, key: tuple[str, ...], cursor: Cursor | None) -> int:
    """Leaves one row a key: those that came again just as they were count once; returns how many went."""
    counts = f"SELECT count(*), count(DISTINCT ({listed(key)},)) FROM rows"
    [(before, distinct)] = query(stage, counts)
    if before == distinct:
        return 0
    query(stage, "CREATE OR REPLACE TABLE rows AS SELECT DISTINCT * FROM rows")
    newest_by, order = (cursor.column, cursor.newest_first()) if cursor else (None, "")
    stage.keep_newest(key, newest_by, table=table, order=order)
    return int(before - query(stage, counts)[0][0])


def query(stage: Stage, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """Asks the staging file, in a way that a signal can end."""
    connection = stage.connection
    return interruptible(lambda: connection.execute(statement, parameters).fetchall(), cancel=connection.interrupt)
