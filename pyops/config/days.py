"""A range of days."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Self


@dataclass(frozen=True)
class Days:
    """A range of days, both included."""

    first: date
    last: date

    @classmethod
    def of(cls, first: str, last: str) -> Self:
        return cls(date.fromisoformat(first), date.fromisoformat(last))

    @property
    def end(self) -> date:
        """The day behind the range."""
        return self.last + timedelta(days=1)
