"""From one page to the next. Pure functions."""

from collections.abc import Callable
from dataclasses import dataclass

import httpx

from pyops.config.rest import CursorPages, HeaderLink, JsonLink, Offset, PageNumber, Paginator, SinglePage
from pyops.errors import OperationError


@dataclass(frozen=True)
class Page:
    """What a page that was read says about the next one."""

    rows: int
    digest: bytes  # of its body
    value: str | None = None  # what the body has at ``value_path``; None for nothing
    link: str | None = None  # of the Link header


def value_path(paginator: Paginator) -> str:
    """Where a page's body leads to the next one, keys joined by dots; empty if it does not."""
    match paginator:
        case JsonLink(next_url_path=path) | CursorPages(cursor_path=path):
            return path
    return ""


def first(paginator: Paginator, url: httpx.URL) -> httpx.URL:
    """The address of the first page."""
    match paginator:
        case PageNumber(base_page=number, page_param=name):
            return url.copy_set_param(name, number)
        case Offset(limit=limit, offset_param=offset, limit_param=name):
            return url.copy_merge_params({offset: 0, name: limit})
    return url


def following(paginator: Paginator, url: httpx.URL, page: Page, *, largest: int) -> httpx.URL | None:
    """The address of the page after this one; ``largest`` is the most rows of a page so far."""
    match paginator:
        case SinglePage():
            if page.link:
                raise OperationError(
                    f"{url.path} has a further page, by its Link header: a single_page would leave its rows out",
                    hint="set paginator: {type: header_link} in pyops.yml",
                )
        case JsonLink():
            return _joined(url, page.value)
        case HeaderLink():
            return _joined(url, page.link)
        case CursorPages(cursor_param=name):
            return url.copy_set_param(name, page.value) if page.value else None
        case PageNumber(page_param=name):
            return url.copy_set_param(name, int(url.params[name]) + 1) if page.rows else None
        case Offset(limit=limit, offset_param=name):
            # A server may have a limit of its own: a short page is the last one only where there were full ones.
            if page.rows == 0 or page.rows < limit <= largest:
                return None
            return url.copy_set_param(name, int(url.params[name]) + page.rows)
    return None


def _joined(url: httpx.URL, link: str | None) -> httpx.URL | None:
    try:
        return url.join(link) if link else None
    except httpx.InvalidURL:  # which quotes it
        raise OperationError(f"{url.path}: its next link is no address", hint="check paginator in pyops.yml") from None


def walk(paginator: Paginator, start: httpx.URL, most: int, read: Callable[[httpx.URL, int], Page]) -> None:
    """Reads page after page; what leads back to a page that was read is refused."""
    url: httpx.URL | None = start
    seen, largest, number = set[object](), 0, 0
    while url is not None:
        number += 1
        if number > most:
            raise OperationError(
                f"{url.path} has more than {most:,} pages", hint="if it has so many, raise max_pages in pyops.yml"
            )
        page = None if str(url) in seen else read(url, number)
        if page is None or (page.rows and page.digest in seen):
            raise OperationError(
                f"{url.path}: page {number} is one that was read already: its pages go in circles",
                hint="check paginator in pyops.yml: does the API take these parameters?",
            )
        seen |= {str(url), page.digest}
        largest = max(largest, page.rows)
        url = following(paginator, url, page, largest=largest)
