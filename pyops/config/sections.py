"""What the sections of pyops.yml are made of: their base, and the values that people write."""

from collections.abc import Callable
from datetime import timedelta
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict

from pyops.config.units import duration, size
from pyops.errors import UsageError
from pyops.staging.casts import check_type
from pyops.staging.connect_types import check_type as check_connect_type


def _duration(value: object) -> object:
    return duration(value) if isinstance(value, str) else value


def _names(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _types(check: Callable[[str], str]) -> Callable[[dict[str, str]], dict[str, str]]:
    def normalized(types: dict[str, str]) -> dict[str, str]:
        try:
            return {name: check(type_) for name, type_ in types.items()}
        except UsageError as error:
            raise ValueError(f"{error}; {error.hint}") from None

    return normalized


Duration = Annotated[timedelta, BeforeValidator(_duration)]
Lookback = Annotated[timedelta | int | float, BeforeValidator(_duration)]
Size = Annotated[int, BeforeValidator(lambda value: size(str(value)))]
Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
Types = Annotated[dict[str, str], AfterValidator(_types(check_type))]
ConnectTypes = Annotated[dict[str, str], AfterValidator(_types(check_connect_type))]


class Section(BaseModel):
    """A mapping whose keys are all known."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def under(key: str, value: object) -> object:
    """A value that stands for a mapping with one key."""
    return value if isinstance(value, dict | BaseModel) else {key: value}
