"""How an API is asked: its authorization and its pages, in the words of dlt's REST source."""

import re
from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field

from pyops.config.sections import Section, under


def _is_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        is_whole = parts.scheme in {"http", "https"} and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_whole = False
    if not is_whole or parts.username is not None or parts.query or parts.fragment:
        raise ValueError("write http:// or https://, host and path; no user, password, ? or #")
    return value


def _is_sendable(value: str) -> str:
    if not re.fullmatch(r"[\x20-\x7e]*", value) or value != value.strip():
        raise ValueError("a header holds printable ASCII only, without line breaks or blanks around it")
    return value


def _is_dotted(value: str) -> str:
    path = value.removeprefix("$").removeprefix(".")
    if path and not re.fullmatch(r"[^.\[\]*?]+(\.[^.\[\]*?]+)*", path):
        raise ValueError("write the keys that lead there, joined by dots, like data.items")
    return path


Url = Annotated[str, AfterValidator(_is_url)]
HeaderText = Annotated[str, AfterValidator(_is_sendable)]
Dotted = Annotated[str, AfterValidator(_is_dotted)]
_Key = Annotated[Dotted, Field(min_length=1)]


class BearerAuth(Section):
    """A token in the Authorization header."""

    type: Literal["bearer"]
    token: HeaderText = Field(repr=False)


class BasicAuth(Section):
    """A user and a password."""

    type: Literal["http_basic"]
    username: str
    password: str = Field(repr=False)


class ApiKeyAuth(Section):
    """A key in a header or a parameter of its own."""

    type: Literal["api_key"]
    name: HeaderText = "Authorization"
    api_key: HeaderText = Field(repr=False)
    location: Literal["header", "query"] = "header"


class ClientCredentials(Section):
    """A token that another address gives for a client's id and secret."""

    type: Literal["oauth2_client_credentials"]
    access_token_url: Url
    client_id: str
    client_secret: str = Field(repr=False)
    access_token_request_data: dict[str, str] = Field({}, repr=False)


class SinglePage(Section):
    """The first answer has all rows."""

    type: Literal["single_page"] = "single_page"


class JsonLink(Section):
    """Each page's body has the address of the next one."""

    type: Literal["json_link"]
    next_url_path: _Key = "next"


class HeaderLink(Section):
    """Each page's Link header has the address of the next one (RFC 8288)."""

    type: Literal["header_link"]


class CursorPages(Section):
    """Each page's body has a word that asks for the next one."""

    type: Literal["cursor"]
    cursor_path: _Key = "cursors.next"
    cursor_param: str = "cursor"


class PageNumber(Section):
    """Pages have numbers."""

    type: Literal["page_number"]
    base_page: int = 0
    page_param: str = "page"


class Offset(Section):
    """Pages begin so many rows behind the first one."""

    type: Literal["offset"]
    limit: int = Field(gt=0)
    offset_param: str = "offset"
    limit_param: str = "limit"


_Auth = BearerAuth | BasicAuth | ApiKeyAuth | ClientCredentials
_Paginator = SinglePage | JsonLink | HeaderLink | CursorPages | PageNumber | Offset
Auth = Annotated[_Auth, Field(discriminator="type")]
Paginator = Annotated[
    Annotated[_Paginator, Field(discriminator="type")],
    BeforeValidator(lambda value: under("type", value)),  # a word alone is its type
]
NESTED: dict[str, dict[str, type[Section]]] = {  # the classes of each key that has a ``type`` of its own
    key: {get_args(kind.model_fields["type"].annotation)[0]: kind for kind in get_args(kinds)}
    for key, kinds in (("auth", _Auth), ("paginator", _Paginator))
}
