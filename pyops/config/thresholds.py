"""The gates of a table in pyops.yml."""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, field_validator, model_validator

from pyops.config.sections import Duration, Section, under

OnFail = Literal["fail", "warn", "dead_letter"]
_T = TypeVar("_T")


def _limit(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError(f"invalid number {str(value).lower()!r}")  # noqa: TRY004 (for pydantic)
    return under("threshold", value)


class Limit(Section, Generic[_T]):
    """A gate's threshold, and what happens beyond it if that is not the table's ``on_fail``."""

    threshold: _T
    on_fail: OnFail | None = None


class Expectation(Section):
    """A condition in SQL that every row must meet; NULL meets it, as in SQL's CHECK."""

    check: str = Field(min_length=1)
    on_fail: OnFail | None = None


class Reference(Section):
    """The warehouse column, ``schema.table.column``, in which a column's values must be found."""

    to: str
    on_fail: OnFail | None = None

    @field_validator("to")
    @classmethod
    def _has_three_parts(cls, value: str) -> str:
        if not re.fullmatch(r"[^.]+\.[^.]+\.[^.]+", value):
            raise ValueError(f"invalid reference {value!r}: write schema, table and column, like raw.users.id")
        return value

    @property
    def table(self) -> tuple[str, str]:
        schema, name, _ = self.to.split(".")
        return schema, name

    @property
    def column(self) -> str:
        return self.to.rpartition(".")[2]


_Rate = Annotated[float, Field(ge=0, le=1)]
_MaxRate = Annotated[Limit[_Rate], BeforeValidator(_limit)]
_MaxAge = Annotated[Limit[Duration], BeforeValidator(_limit)]
_MinRows = Annotated[Limit[Annotated[int, Field(ge=0)]], BeforeValidator(_limit)]
_Within = Annotated[Limit[Annotated[float, Field(ge=0, allow_inf_nan=False)]], BeforeValidator(_limit)]
_Expect = Annotated[Expectation, BeforeValidator(lambda value: under("check", value))]
_Reference = Annotated[Reference, BeforeValidator(lambda value: under("to", value))]


class Gates(Section):
    """What staged rows must pass; a gate is a threshold, or a mapping with ``on_fail``."""

    min_rows: _MinRows | None = None
    max_null_rate: dict[str, _MaxRate] = {}
    max_duplicate_rate: dict[str, _MaxRate] = {}
    max_age: dict[str, _MaxAge] = {}
    row_count_within: _Within | None = None
    expect: dict[str, _Expect] = {}
    references: dict[str, _Reference] = {}
    on_fail: OnFail = "fail"

    @model_validator(mode="after")
    def _is_coherent(self) -> Self:
        of_all_rows: dict[str, Iterable[Limit[Any] | None]] = {
            "min_rows": [self.min_rows],
            "max_duplicate_rate": self.max_duplicate_rate.values(),
            "max_age": self.max_age.values(),
            "row_count_within": [self.row_count_within],
        }
        for gate, limits in of_all_rows.items():
            if any(limit and (limit.on_fail or self.on_fail) == "dead_letter" for limit in limits):
                raise ValueError(
                    f"{gate} cannot dead_letter: it judges all rows together;"
                    " give it its own on_fail: {threshold: ..., on_fail: fail}"
                )
        for columns in self.max_duplicate_rate:
            if not all(split_columns(columns)):
                raise ValueError(f"max_duplicate_rate: invalid columns {columns!r}: join names by commas")
        return self


def split_columns(names: str) -> list[str]:
    """The column names that are joined by commas."""
    return [name.strip() for name in names.split(",")]
