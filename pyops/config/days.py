"""A range of days."""

from collections.abc import Iterator
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

    def __iter__(self) -> Iterator[date]:
        return (self.first + timedelta(n) for n in range((self.last - self.first).days + 1))

    @property
    def end(self) -> date:
        """The day behind the range."""
        return self.last + timedelta(days=1)
