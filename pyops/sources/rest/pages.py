"""The rows of an API's pages in a staging file, as texts exactly as they are written."""

import logging
from dataclasses import dataclass
from hashlib import blake2b

import duckdb
import httpx

from pyops.config.project import Table
from pyops.errors import DataError, OperationError
from pyops.interrupt import interruptible
from pyops.sources.files import json_faults
from pyops.sources.files.arrive import ARRIVED, REFUSED, refuse
from pyops.sources.files.json import Document, Rows, land_elements, parse
from pyops.sources.files.lines import without_mark
from pyops.sources.protocol import Progress
from pyops.sources.rest.client import Answer, Api, shown
from pyops.sources.rest.pagination import Page, value_path, walk
from pyops.sql import json_pointer

_log = logging.getLogger(__name__)


@dataclass
class Pages:
    """Reads pages into the new tables ``arrived`` and, for what is no row, ``refused``."""

    api: Api
    table: Table
    connection: duckdb.DuckDBPyConnection
    progress: Progress = lambda rows, size: None
    rows: int = 0  # refused ones too
    bytes: int = 0

    def __post_init__(self) -> None:
        self.connection.execute(ARRIVED)
        self.connection.execute(REFUSED)
        self.landed = Rows(self.connection)
        self.path = value_path(self.table.rest.paginator)

    def read(self, start: httpx.URL) -> None:
        """Reads all pages, from the first one on."""
        walk(self.table.rest.paginator, start, self.table.rest.max_pages, self.page)

    def page(self, url: httpx.URL, number: int) -> Page:
        """Reads one page."""
        answer = self.api.get(url)
        name = f"{shown(url)} (page {number})"

        def land() -> Document:
            document = self._document(answer, url, name)
            _, refused = land_elements(self.landed, document, name)
            refuse(self.connection, url.path, refused, hides=self.table.config.hides_columns)
            return document

        document = interruptible(land, cancel=self.connection.interrupt)
        self.rows += len(document.elements)
        self.bytes += len(answer.content)
        self.progress(self.rows, self.bytes)
        if number == 1 and self.path and self.rows and document.value_kind is None:
            _log.warning("%s: the first page has no %s: if there are more, check paginator", self.table, self.path)
        digest = blake2b(answer.content, digest_size=16).digest()
        return Page(len(document.elements), digest, self._value(document, name), answer.next_link)

    def _document(self, answer: Answer, url: httpx.URL, name: str) -> Document:
        selector = self.table.rest.data_selector
        content = without_mark(answer.content, name)
        try:
            text = content.decode(answer.charset)
        except (UnicodeDecodeError, LookupError):
            raise DataError(f"{name}: not {answer.charset}", hint="nothing was landed; JSON is UTF-8") from None
        at, value_at = _pointer(selector), _pointer(self.path)
        document = parse(self.connection, text, len(content), at=at, value_at=value_at)
        if document is None:
            is_json = text.lstrip(" \t\r\n")[:1] in {"{", "["}
            fault = f": {json_faults.describe(text)}" if is_json else ""
            raise OperationError(
                f"{shown(url)} answers {answer.status} with {answer.content_type}, which is no JSON{fault}",
                hint="check base_url, path and auth in pyops.yml: a page for people often asks them to log in",
            )
        if document.kind not in {"ARRAY", "OBJECT"}:
            where = f"at {selector}" if selector else "in its body"
            found = {None: "nothing", "NULL": "null"}.get(document.kind, "a single value")
            raise DataError(
                f"{name}: {found} {where}, where a list or an object of rows was expected",
                hint="check data_selector in pyops.yml; an error in the body may stand there instead of rows",
            )
        return document

    def _value(self, document: Document, name: str) -> str | None:
        """What leads to the next page, if something does."""
        if document.value_kind in {"OBJECT", "ARRAY"} or (
            document.value_kind == "BOOLEAN" and document.value == "true"
        ):
            raise DataError(f"{name}: {self.path} is no text that leads to a page", hint="check paginator in pyops.yml")
        return document.value if document.value_kind != "BOOLEAN" else None


def _pointer(dotted: str) -> str:
    return "".join(json_pointer(key) for key in dotted.split(".")) if dotted else ""
