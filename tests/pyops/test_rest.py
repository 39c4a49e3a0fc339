"""HTTP APIs as a source, against a real server: every row lands once, as it is written, or its table fails."""

import gzip
import json
import logging
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from pyops import Days, Project, extract, load, reconcile
from pyops.errors import OperationError, PyopsError, TransientError, UsageError
from pyops.records import Run
from pyops.sources.protocol import open_source
from tests.pyops.conftest import Lab

SECRETS = ("t0ken", "pa55", "k3y", "s3cret", "hush")


@dataclass
class Call:
    """What was asked."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str = ""


@dataclass
class Reply:
    """What is answered; ``cut`` leaves out so many of the bytes that were announced."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0

    @property
    def content(self) -> bytes:
        if isinstance(self.body, bytes):
            return self.body
        return (self.body if isinstance(self.body, str) else json.dumps(self.body)).encode()


Route = Callable[[Call], Any]


def always(answer: Any) -> Route:
    """A route that answers one thing."""
    return lambda call: answer


class Api:
    """A server whose routes a test sets, and what it was asked."""

    def __init__(self) -> None:
        self.routes: dict[str, Route] = {}
        self.calls: list[Call] = []
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                query = {name: values[0] for name, values in parse_qs(url.query).items()}
                call = Call(url.path, query, {k.lower(): v for k, v in self.headers.items()}, body)
                api.calls.append(call)
                answered = api.routes[url.path](call)
                reply = answered if isinstance(answered, Reply) else Reply(answered)
                self.send_response(reply.status)
                size = str(len(reply.content))
                headers = {"Content-Type": "application/json", "Content-Length": size, "Connection": "close"}
                for name, value in (headers | reply.headers).items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.content[: len(reply.content) - reply.cut])
                self.close_connection = True

            do_POST = do_GET  # noqa: N815 (its name there)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (its name there)
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server.server_port}"

    def asked(self, *names: str) -> list[tuple[str | None, ...]]:
        """Some parameters of each call."""
        return [tuple(call.query.get(name) for name in names) for call in self.calls]


@pytest.fixture
def api() -> Iterator[Api]:
    """A server of the test's own."""
    running = Api()
    yield running
    running.server.shutdown()
    running.server.server_close()


@dataclass(frozen=True)
class RestLab(Lab):
    """A project whose only source, `src`, is the test's API."""

    def configure_api(self, table: dict[str, Any], **source: Any) -> Project:
        settings = {"type": "rest", "base_url": self.dsn, "retry": {"base_delay": "1ms", "max_delay": "20ms"}}
        settings |= {"tables": {"t": {"path": "/t", "mode": "full", **table}}, **source}
        text = yaml.safe_dump({"sources": {"src": settings}}, sort_keys=False)
        (self.directory / "pyops.yml").write_text(text, "utf-8")
        return load(self.directory)

    def land(self, table: dict[str, Any] | None = None, *, options: dict[str, Any] | None = None, **source: Any) -> Run:
        return self._runs(extract(self.configure_api(table or {}, **source), **(options or {})))[0]

    def fail(self, table: dict[str, Any] | None = None, **source: Any) -> PyopsError:
        """The error of an extraction that must not end well; it tells no secret."""
        with pytest.raises(PyopsError) as caught:
            self.land(table, **source)
        told = f"{caught.value} {caught.value.hint}"
        assert not [secret for secret in SECRETS if secret in told]
        assert "?" not in str(caught.value)
        return caught.value

    @property
    def ids(self) -> list[Any]:
        return [int(row[0]) for row in self.rows("SELECT id FROM raw.t ORDER BY id::BIGINT")]


@pytest.fixture
def lab(tmp_path: Path, api: Api) -> RestLab:
    return RestLab(tmp_path, api.url)


def ids(first: int, last: int) -> list[dict[str, Any]]:
    return [{"id": number} for number in range(first, last + 1)]


# Rows and values


def test_rows_of_one_page_land_exactly_as_they_are_written(lab: RestLab, api: Api) -> None:
    """Behaviour 37: 1.10 stays 1.10, big integers stay whole, what is nested lands as its JSON."""
    body = '[{"id": 1, "n": 1.10, "big": 123456789012345678901234567890, "in": {"a": [1.50, "é"]}, "no": null},\n'
    body += ' {"id": 2, "n": -0, "late": "x", "flag": true, "e": 1E400}]'
    api.routes["/t"] = lambda call: body
    run = lab.land()
    assert (run.rows_read, run.rows_written, run.status) == (2, 2, "succeeded")
    found = lab.rows('SELECT id, n, big, "in", "no", late, flag, e FROM raw.t ORDER BY id')
    assert found == [
        ("1", "1.10", "123456789012345678901234567890", '{"a":[1.50,"é"]}', None, None, None, None),
        ("2", "-0", None, None, None, "x", "true", "1E400"),
    ]
    assert lab.rows("SELECT * EXCLUDE (_load_id, _loaded_at) FROM raw.t LIMIT 0") == []
    assert {name for (name,) in lab.rows("SELECT column_name FROM (DESCRIBE raw.t)")} >= {"_load_id", "id"}


def test_one_object_is_one_row_and_a_selector_leads_to_the_rows(lab: RestLab, api: Api) -> None:
    api.routes["/t"] = lambda call: {"id": 7, "data": {"items": ids(1, 3), "a/b": {"id": 9}}}
    lab.land({"columns": ["id"]})
    assert lab.ids == [7]
    lab.land({"data_selector": "data.items"})
    assert lab.ids == [1, 2, 3]
    lab.land({"data_selector": "$.data.a/b"})
    assert lab.ids == [9]


def test_values_are_typed_strictly_and_what_does_not_fit_is_a_dead_letter(lab: RestLab, api: Api) -> None:
    """Behaviour 37."""
    rows = [{"id": n, "amount": "12.30", "at": "2024-01-02T03:04:05+02:00"} for n in range(300)]
    rows[7]["amount"] = 1.005
    api.routes["/t"] = lambda call: [*rows, "no object"]
    run = lab.land({"types": {"id": "BIGINT", "amount": "DECIMAL(10,2)", "at": "TIMESTAMP"}, "primary_key": ["id"]})
    assert (run.rows_read, run.rows_written, run.rows_dead_lettered) == (301, 299, 2)
    assert lab.rows('SELECT DISTINCT amount, "at" FROM raw.t') == [(Decimal("12.30"), datetime(2024, 1, 2, 1, 4, 5))]
    found = lab.rows("SELECT key, column_name, value, payload, file, line FROM pyops.dead_letters ORDER BY key")
    assert found[0][:3] == ('{"id":"7"}', "amount", "1.005")
    assert found[1][3:] == ('"no object"', "/t", None)


def test_the_same_bad_row_is_one_dead_letter_however_often_it_is_read(lab: RestLab, api: Api) -> None:
    rows: list[Any] = [*ids(1, 300), "bad"]
    api.routes["/t"] = lambda call: [{**row, "at": 1} if isinstance(row, dict) else row for row in rows]
    table = {"mode": "incremental", "cursor": "at", "start_param": "since", "primary_key": "id"}
    lab.land(table)
    rows.insert(0, {"id": 0})
    lab.land(table)
    assert lab.rows("SELECT count(*) FROM pyops.dead_letters") == [(1,)]


def test_an_empty_answer_is_an_empty_table(lab: RestLab, api: Api) -> None:
    api.routes["/t"] = lambda call: []
    lab.land({"primary_key": "id", "types": {"id": "BIGINT"}})
    assert lab.rows("SELECT count(*) FROM raw.t") == [(0,)]


def test_masked_and_excluded_columns_are_landed_nowhere(lab: RestLab, api: Api) -> None:
    api.routes["/t"] = lambda call: [{"id": n, "mail": "a@b", "note": "hush"} for n in range(200)] + ["hush"]
    lab.land({"mask": ["mail"], "exclude": ["note"]}, mask_salt="x")
    assert lab.rows("SELECT count(DISTINCT mail), min(len(mail)) FROM raw.t") == [(1, 64)]
    assert "hush" not in str(lab.rows("FROM pyops.dead_letters")) + str(lab.rows("FROM raw.t"))


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            Reply("<html>log in, hush</html>", headers={"Content-Type": "text/html"}),
            "answers 200 with text/html, which",
        ),
        (Reply("", 204), "answers 204 with application/json, which is no JSON"),
        (Reply('[{"id": 1}, {"id": NaN}]'), "which is no JSON: line 1, column 20"),
        (Reply('[{"id": 1}, {"i'), "which is no JSON"),
        (Reply(b'[{"id": "\xff"}]'), "not utf-8"),
        (Reply({"error": "hush", "data": None}), "null at data"),
        (Reply({"items": []}), "nothing at data"),
        (Reply({"data": 5}), "a single value at data"),
    ],
)
def test_what_is_no_page_of_rows_fails_the_table(lab: RestLab, api: Api, reply: Reply, message: str) -> None:
    """Nothing of it is taken for an empty table, and nothing of its body is told."""
    api.routes["/t"] = lambda call: {"data": ids(1, 2)}
    lab.land({"data_selector": "data"})
    api.routes["/t"] = lambda call: reply
    error = lab.fail({"data_selector": "data"})
    assert f"{api.url}/t" in str(error)
    assert message in str(error)
    assert error.exit_code == 1
    assert not isinstance(error, TransientError)
    assert lab.ids == [1, 2]


def test_a_gzipped_a_chunked_and_a_latin_1_page_land(lab: RestLab, api: Api) -> None:
    body = json.dumps([{"id": 1, "v": "é"}], ensure_ascii=False)
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body.encode()) + b"0\r\n\r\n"
    replies = [
        Reply(gzip.compress(body.encode()), headers={"Content-Encoding": "gzip"}),
        Reply(body.encode("latin-1"), headers={"Content-Type": "application/json; charset=latin-1"}),
        Reply(chunks, headers={"Content-Length": "", "Transfer-Encoding": "chunked"}),
        Reply(b"\xef\xbb\xbf" + body.encode()),
    ]
    for reply in replies:
        api.routes["/t"] = always(reply)
        lab.land()
        assert lab.rows("SELECT id, v FROM raw.t") == [("1", "é")]


# Pages


def served(api: Api, rows: list[dict[str, Any]], *, size: int = 10, base: int = 0, most: int = 1000) -> Route:
    """A route that gives a table page by page, whichever way it is asked."""

    def answer(call: Call) -> Reply:
        ask = call.query
        if "limit" in ask:
            first, last = int(ask["offset"]), int(ask["offset"]) + min(int(ask["limit"]), most)
        else:
            first = (int(ask["page"]) - base) * size if "page" in ask else int(ask.get("at", ask.get("cursor", 0)))
            last = first + size
        body: dict[str, Any] = {"data": rows[first:last], "total": len(rows)}
        headers = {}
        if last < len(rows):
            body |= {"next": f"/t?at={last}", "cursors": {"next": last}}
            headers["Link"] = f'</t?at=0>; rel="first", <{api.url}/t?at={last}>; title="a, b"; rel="next last"'
        return Reply(body, headers=headers)

    return answer


PAGINATORS: dict[str, dict[str, Any]] = {
    "json_link": {"type": "json_link", "next_url_path": "next"},
    "header_link": {"type": "header_link"},
    "cursor": {"type": "cursor", "cursor_path": "cursors.next", "cursor_param": "cursor"},
    "page_number": {"type": "page_number", "base_page": 1},
    "offset": {"type": "offset", "limit": 7},
    "offset_capped": {"type": "offset", "limit": 500},
}


@pytest.mark.parametrize("name", PAGINATORS)
@pytest.mark.parametrize("count", [0, 1, 20, 35])
def test_every_page_lands_by_every_paginator(lab: RestLab, api: Api, name: str, count: int) -> None:
    api.routes["/t"] = served(api, ids(1, count), base=1, most=7)
    table = {"data_selector": "data", "paginator": PAGINATORS[name], "types": {"id": "BIGINT"}, "primary_key": "id"}
    run = lab.land({**table, "params": {"x": "a b&c"}})
    assert (lab.ids, run.rows_read) == (list(range(1, count + 1)), count)
    assert api.calls[0].query["x"] == "a b&c"


def test_a_short_page_after_full_ones_is_the_last(lab: RestLab, api: Api) -> None:
    api.routes["/t"] = served(api, ids(1, 25))
    lab.land({"data_selector": "data", "paginator": {"type": "offset", "limit": 10}})
    assert api.asked("offset", "limit") == [("0", "10"), ("10", "10"), ("20", "10")]


def test_a_single_page_with_a_link_to_the_next_is_refused(lab: RestLab, api: Api) -> None:
    api.routes["/t"] = served(api, ids(1, 25))
    assert "/t has a further page" in str(lab.fail({"data_selector": "data", "paginator": "single_page"}))


def test_a_first_page_without_its_link_is_warned_of(lab: RestLab, api: Api, caplog: pytest.LogCaptureFixture) -> None:
    api.routes["/t"] = lambda call: {"data": ids(1, 2), "next": None}
    for path, warned in (("nxt", True), ("next", False)):
        caplog.clear()
        lab.land({"data_selector": "data", "paginator": {"type": "json_link", "next_url_path": path}})
        assert ("the first page has no nxt" in caplog.text) == warned


@pytest.mark.parametrize(
    ("paginator", "body"),
    [
        ({"type": "json_link"}, lambda ask, n: {"data": ids(n, n), "next": "/t?page=1"}),
        ({"type": "json_link"}, lambda ask, n: {"data": ids(1, 1), "next": f"/t?page={n % 2}"}),
        ({"type": "cursor"}, lambda ask, n: {"data": ids(n, n), "cursors": {"next": "same"}}),
        ({"type": "page_number"}, lambda ask, n: {"data": ids(1, 3)}),
        ({"type": "offset", "limit": 3}, lambda ask, n: {"data": ids(1, 3)}),
    ],
)
def test_pages_that_go_in_circles_are_refused(
    lab: RestLab, api: Api, paginator: dict[str, Any], body: Callable[[dict[str, str], int], Any]
) -> None:
    api.routes["/t"] = lambda call: body(call.query, len(api.calls))
    error = lab.fail({"data_selector": "data", "paginator": paginator})
    assert "its pages go in circles" in str(error)
    assert (error.exit_code, isinstance(error, TransientError)) == (1, False)
    assert len(api.calls) <= 4


def test_more_pages_than_max_pages_are_refused(lab: RestLab, api: Api) -> None:
    api.routes["/t"] = served(api, ids(1, 30))
    table = {"data_selector": "data", "paginator": PAGINATORS["json_link"]}
    assert "/t has more than 2 pages" in str(lab.fail({**table, "max_pages": 2}))
    lab.land({**table, "max_pages": 3})


def test_a_link_or_redirect_to_another_host_is_refused_and_gets_no_authorization(lab: RestLab, api: Api) -> None:
    other = Api()
    other.routes["/t"] = lambda call: []
    auth = {"type": "bearer", "token": "t0ken"}
    for reply in (
        Reply({"data": [], "next": f"{other.url}/t?page=hush"}),
        Reply("", 302, {"Location": f"{other.url}/t?page=hush"}),
        Reply({"data": [], "next": f"//localhost:{api.server.server_port}/t"}),
    ):
        api.routes["/t"] = always(reply)
        error = lab.fail({"data_selector": "data", "paginator": "json_link"}, auth=auth)
        assert "the authorization is not sent there" in str(error)
    assert other.calls == []
    other.server.server_close()


def test_a_redirect_within_the_api_is_followed_with_its_authorization(lab: RestLab, api: Api) -> None:
    api.routes["/t"] = lambda call: Reply("", 308, {"Location": "/t/"})
    api.routes["/t/"] = lambda call: ids(1, 2)
    lab.land(auth={"type": "bearer", "token": "t0ken"})
    assert [call.headers["authorization"] for call in api.calls] == ["Bearer t0ken"] * 2
    api.routes["/t/"] = lambda call: Reply("", 302, {"Location": "/t"})
    assert "more than 5 redirects" in str(lab.fail())


@pytest.mark.parametrize("next_", [{"href": "/t?page=2"}, ["/t"], True])
def test_what_leads_to_no_page_is_refused(lab: RestLab, api: Api, next_: Any) -> None:
    api.routes["/t"] = lambda call: {"data": ids(1, 2), "next": next_}
    assert "next is no text that leads to a page" in str(lab.fail({"data_selector": "data", "paginator": "json_link"}))


def test_row_that_comes_again_on_the_next_page_counts_once(lab: RestLab, api: Api) -> None:
    pages = [
        [{"id": 1, "at": 1, "v": "a"}, {"id": 2, "at": 2, "v": "b"}],
        [{"id": 2, "at": 2, "v": "b"}, {"id": 1, "at": 10, "v": "c"}],
        [],
    ]
    api.routes["/t"] = lambda call: pages[int(call.query["page"])]
    table = {"paginator": "page_number", "primary_key": "id"}
    incremental = {**table, "mode": "incremental", "cursor": "at", "start_param": "since"}
    run = lab.land(incremental)  # numbers without a type: 10 is newer than 9 and 2
    assert lab.rows("SELECT * EXCLUDE (_load_id, _loaded_at) FROM raw.t ORDER BY id") == [
        ("1", "10", "c"),
        ("2", "2", "b"),
    ]
    assert (run.rows_read, run.rows_written) == (4, 2)
    assert "same primary key (id)" in str(lab.fail({**table, "target": "raw.other"}))
    pages[1].pop()
    lab.land({**table, "target": "raw.other"})
    assert lab.rows("SELECT count(*) FROM raw.other") == [(2,)]


# Authorization


@pytest.mark.parametrize(
    ("auth", "sent"),
    [
        ({"type": "bearer", "token": "t0ken"}, ("authorization", "Bearer t0ken")),
        ({"type": "http_basic", "username": "u", "password": "pa55"}, ("authorization", "Basic dTpwYTU1")),
        ({"type": "api_key", "name": "X-Key", "api_key": "k3y"}, ("x-key", "k3y")),
        ({"type": "api_key", "name": "key", "api_key": "k3y", "location": "query"}, ("", "k3y")),
    ],
)
def test_every_page_is_asked_for_with_the_authorization_and_no_message_has_it(
    lab: RestLab, api: Api, caplog: pytest.LogCaptureFixture, auth: dict[str, str], sent: tuple[str, str]
) -> None:
    caplog.set_level(logging.DEBUG)
    api.routes["/t"] = served(api, ids(1, 30))
    table = {"data_selector": "data", "paginator": "json_link", "params": {"secret": "hush"}}
    lab.land(table, auth=auth, headers={"X-More": "s3cret"})
    assert [call.headers.get(sent[0]) or call.query.get("key") for call in api.calls] == [sent[1]] * 3
    assert {call.headers["x-more"] for call in api.calls} == {"s3cret"}
    api.routes["/t"] = lambda call: Reply({"hush": 1}, 503)
    lab.fail(table, auth=auth, headers={"X-More": "s3cret"})
    assert "503" in caplog.text
    assert not [secret for secret in (*SECRETS, "dTpwYTU1") if secret in caplog.text]


def test_client_credentials_get_a_token_and_a_new_one_when_it_expires_or_is_revoked(lab: RestLab, api: Api) -> None:
    granted = iter(["one", "two", "three", "four"])
    api.routes["/token"] = lambda call: {"access_token": next(granted), "expires_in": 3600}
    pages = served(api, ids(1, 30))
    good = ["one"]

    def answer(call: Call) -> Any:
        if len([c for c in api.calls if c.path == "/t"]) == 2:
            good[:] = ["two"]  # and `one` is revoked
        return pages(call) if call.headers["authorization"] == f"Bearer {good[0]}" else Reply("", 401)

    api.routes["/t"] = answer
    auth = {"type": "oauth2_client_credentials", "access_token_url": f"{api.url}/token", "client_id": "me"}
    auth |= {"client_secret": "s3cret", "access_token_request_data": {"scope": "read"}}  # type: ignore[dict-item]
    table = {"data_selector": "data", "paginator": "json_link", "types": {"id": "BIGINT"}}
    lab.land(table, auth=auth)
    assert lab.ids == list(range(1, 31))
    tokens = [call for call in api.calls if call.path == "/token"]
    assert len(tokens) == 2
    assert parse_qs(tokens[0].body) == {
        "grant_type": ["client_credentials"],
        "client_id": ["me"],
        "client_secret": ["s3cret"],
        "scope": ["read"],
    }
    good[:] = ["no such"]
    assert "401" in str(lab.fail(table, auth=auth))
    for reply, message in ((Reply({"hush": 1}), "no access_token"), (Reply("", 400), "/token answers 400")):
        api.routes["/token"] = always(reply)
        assert message in str(lab.fail(table, auth=auth))


# Failures


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_what_may_pass_is_tried_again(lab: RestLab, api: Api, status: int) -> None:
    """Behaviour 39."""
    api.routes["/t"] = lambda call: ids(1, 2) if len(api.calls) == 4 else Reply("", status)
    lab.land()
    assert lab.ids == [1, 2]
    api.routes["/t"] = lambda call: Reply("", status)
    error = lab.fail()
    assert isinstance(error, TransientError)
    assert str(status) in str(error)
    assert len(api.calls) == 8


@pytest.mark.parametrize(("status", "hint"), [(401, "check auth"), (403, "check auth"), (404, "path"), (422, "params")])
def test_what_does_not_pass_fails_at_once(lab: RestLab, api: Api, status: int, hint: str) -> None:
    """Behaviour 39."""
    api.routes["/t"] = lambda call: Reply({"why": "hush"}, status)
    error = lab.fail({"params": {"q": "hush"}})
    assert isinstance(error, OperationError)
    assert not isinstance(error, TransientError)
    assert f"{api.url}/t answers {status}" in str(error)
    assert hint in error.hint
    assert len(api.calls) == 1


@pytest.mark.parametrize("as_date", [False, True])
def test_the_wait_that_the_api_asks_for_is_kept_up_to_max_delay(
    lab: RestLab, api: Api, caplog: pytest.LogCaptureFixture, as_date: bool
) -> None:
    """Behaviour 39."""
    caplog.set_level(logging.INFO)
    later = datetime.now(UTC) + timedelta(hours=1)
    asked = format_datetime(later, usegmt=True) if as_date else "3600"
    api.routes["/t"] = lambda call: ids(1, 1) if len(api.calls) == 2 else Reply("", 429, {"Retry-After": asked})
    began = time.monotonic()
    lab.land(retry={"attempts": 2, "base_delay": "1ms", "max_delay": "400ms"})
    assert 0.4 <= time.monotonic() - began < 5
    assert [r.getMessage() for r in caplog.records if "attempt" in r.getMessage()] == [
        f"src: {api.url}/t answers 429 Too Many Requests (attempt 2 of 2, again in 0.4 s)"
    ]


def test_waits_grow_and_have_jitter(lab: RestLab, api: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    api.routes["/t"] = lambda call: Reply("", 503, {"Retry-After": "soon"})
    lab.fail(retry={"attempts": 4, "base_delay": "100ms", "max_delay": "300ms"})
    waits = [float(found) for found in re.findall(r"again in (\S+) s", caplog.text)]
    assert len(waits) == 3
    assert 0.1 <= waits[0] <= 0.2 <= waits[1] <= 0.3 == waits[2]


def test_a_body_cut_short_is_read_again(lab: RestLab, api: Api) -> None:
    api.routes["/t"] = lambda call: Reply(ids(1, 2), cut=9 * (len(api.calls) < 3))
    lab.land()
    assert (lab.ids, len(api.calls)) == ([1, 2], 3)
    api.routes["/t"] = lambda call: Reply(ids(1, 2), cut=9)
    assert isinstance(lab.fail(), TransientError)
    damaged = gzip.compress(json.dumps(ids(1, 2)).encode())[:-8] + b"x" * 8
    api.routes["/t"] = lambda call: Reply(damaged, headers={"Content-Encoding": "gzip"})
    assert isinstance(lab.fail(), TransientError)


def test_no_connection_a_reset_one_and_no_answer_are_worth_another_try(tmp_path: Path) -> None:
    """Behaviour 39."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        connections = []

        def reset() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                connections.append(connection)
                if len(connections) <= 2:  # closed with a reset
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    connection.close()

        threading.Thread(target=reset, daemon=True).start()
        lab = RestLab(tmp_path, f"http://127.0.0.1:{port}")
        retry = {"attempts": 2, "base_delay": "1ms"}
        broke = lab.fail(retry=retry)
        silent = lab.fail(retry=retry, read_timeout="100ms")
        server.shutdown(socket.SHUT_RDWR)  # or `accept` takes one more
    refused = lab.fail(retry=retry)
    for error, message in ((broke, "the connection broke"), (silent, "no answer in time"), (refused, "refused")):
        assert isinstance(error, TransientError)
        assert message in str(error)
    assert len(connections) == 4
    for connection in connections:
        connection.close()


def test_a_page_that_is_too_large_is_refused_before_it_is_read_whole(
    lab: RestLab, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pyops.sources.rest.client.LONGEST", 1 << 20)
    api.routes["/t"] = lambda call: Reply(b"[" + b" " * (3 << 20) + b"]")
    assert "a page of more than 1 MB" in str(lab.fail())


# What is new

INCREMENTAL: dict[str, Any] = {
    "mode": "incremental",
    "cursor": "at",
    "start_param": "since",
    "primary_key": ["id"],
    "paginator": "page_number",
}


def since(rows: list[dict[str, Any]], *, size: int = 2) -> Route:
    """A table in no order of its cursor, from a bound on, page by page."""

    def answer(call: Call) -> Any:
        wanted = [row for row in rows if row["at"] >= call.query.get("since", "")]
        page = int(call.query["page"])
        return wanted[page * size : (page + 1) * size]

    return answer


def bound(lab: RestLab) -> str | None:
    [(value,)] = lab.rows("SELECT bound FROM pyops.watermarks")
    return str(value) if value is not None else None


@pytest.mark.parametrize("types", [{}, {"at": "TIMESTAMP"}])
def test_a_run_asks_from_the_largest_cursor_landed_as_it_was_written(
    lab: RestLab, api: Api, types: dict[str, str]
) -> None:
    rows = [{"id": n, "at": f"2024-01-0{at}T00:00:00Z", "v": 1} for n, at in enumerate([3, 9, 1, 5, 2])]
    api.routes["/t"] = since(rows)
    table = {**INCREMENTAL, "types": types}
    lab.land(table)
    assert api.asked("since", "page") == [(None, "0"), (None, "1"), (None, "2"), (None, "3")]
    assert bound(lab) == "2024-01-09T00:00:00Z"
    rows += [{"id": 9, "at": "2024-01-09T00:00:00Z", "v": 1}]
    rows[0] |= {"at": "2024-01-09T01:00:00+00:30", "v": 2}
    api.calls.clear()
    run = lab.land(table)
    assert api.asked("since")[0] == ("2024-01-09T00:00:00Z",)
    assert (run.rows_read, run.rows_written, run.rows_unchanged) == (3, 2, 1)
    assert lab.rows("SELECT id, v FROM raw.t ORDER BY id") == [
        *(("0", "2"), ("1", "1"), ("2", "1"), ("3", "1"), ("4", "1"), ("9", "1"))
    ]
    assert bound(lab) == "2024-01-09T01:00:00+00:30"
    api.calls.clear()
    lab.land(table, options={"full_refresh": True})
    assert api.asked("since")[0] == (None,)


def test_nothing_new_leaves_table_and_watermark_as_they_are(lab: RestLab, api: Api) -> None:
    rows = [{"id": 1, "at": "2024-01-01"}]
    api.routes["/t"] = since(rows)
    table = {**INCREMENTAL, "types": {"at": "DATE", "id": "BIGINT"}}
    lab.land(table)
    before = lab.rows('SELECT id, "at", _load_id FROM raw.t')
    rows.clear()
    assert lab.land(table).rows_written == 0
    assert (lab.rows('SELECT id, "at", _load_id FROM raw.t'), bound(lab)) == (before, "2024-01-01")


def test_the_watermark_moves_only_when_all_pages_were_read(lab: RestLab, api: Api) -> None:
    rows = [{"id": n, "at": at} for n, at in enumerate(["2024-01-09", "2024-01-02", "2024-01-03"])]
    whole = since(rows)
    api.routes["/t"] = since([{"id": 7, "at": "2024-01-01"}])
    lab.land(INCREMENTAL)
    api.routes["/t"] = lambda call: Reply("", 500) if call.query["page"] == "1" else whole(call)
    lab.fail(INCREMENTAL)
    assert (lab.ids, bound(lab)) == ([7], "2024-01-01")
    api.routes["/t"] = whole
    lab.land(INCREMENTAL)
    assert (lab.ids, bound(lab)) == ([0, 1, 2, 7], "2024-01-09")


def test_neither_a_dead_letter_nor_a_time_to_come_moves_the_watermark(lab: RestLab, api: Api) -> None:
    rows: list[dict[str, Any]] = [{"id": n, "at": "2024-01-01", "n": n} for n in range(300)]
    rows[5] |= {"at": "2024-02-01", "n": "x"}
    rows[6] |= {"at": "2999-01-01"}
    rows[7] |= {"at": None}
    api.routes["/t"] = lambda call: rows if call.query["page"] == "0" else []
    for types in ({"n": "BIGINT"}, {"n": "BIGINT", "at": "DATE"}):
        run = lab.land({**INCREMENTAL, "types": types}, options={"full_refresh": True})
        assert (bound(lab), run.rows_dead_lettered, run.null_cursors) == ("2024-01-01", 1, 1)


def test_another_cursor_or_another_mask_is_refused_until_a_full_refresh(lab: RestLab, api: Api) -> None:
    api.routes["/t"] = lambda call: [{"id": 1, "at": "1", "b": "2"}] if call.query["page"] == "0" else []
    lab.land(INCREMENTAL)
    for change in ({"cursor": "b"}, {"exclude": ["b"]}):
        error = lab.fail({**INCREMENTAL, **change})
        assert isinstance(error, UsageError)
        assert "--full-refresh" in error.hint
    lab.land({**INCREMENTAL, "cursor": "b"}, options={"full_refresh": True})
    assert bound(lab) == "2"


def test_reconcile_reads_everything_and_finds_what_no_run_could(lab: RestLab, api: Api) -> None:
    """Behaviour 7."""
    rows = [{"id": n, "at": f"2024-01-0{n}", "v": 1} for n in range(1, 6)]
    api.routes["/t"] = since(rows)
    lab.land(INCREMENTAL)
    del rows[1]
    rows[0]["v"] = 2
    rows.insert(0, {"id": 9, "at": "2023-01-01", "v": 1})
    lab.land(INCREMENTAL)
    rows.append(rows[-1])  # on the next page too
    project = lab.configure_api(INCREMENTAL)
    found = reconcile(project, "t", apply=True)
    assert (found.missing, found.extra, found.different, found.duplicates) == (1, 1, 1, 0)
    assert (lab.ids, bound(lab)) == ([1, 3, 4, 5, 9], "2024-01-05")
    assert reconcile(project, "t").is_equal
    with pytest.raises(UsageError, match="without a primary_key"):
        reconcile(lab.configure_api({"paginator": "page_number"}), "t")


# At work


def test_planning_sends_nothing_and_shows_the_request_without_values(lab: RestLab, api: Api) -> None:
    paginator = {"type": "offset", "limit": 5}
    project = lab.configure_api({**INCREMENTAL, "paginator": paginator, "params": {"q": "hush"}})
    [planned] = extract(project, dry_run=True)
    assert planned.query == f"GET {api.url}/t with q, offset, limit"
    assert api.calls == []


def test_days_are_refused(lab: RestLab, api: Api) -> None:
    [done] = extract(lab.configure_api(INCREMENTAL), days=Days.of("2024-01-01", "2024-01-02"))
    assert isinstance(done.error, UsageError)
    assert "an API is not asked for days" in str(done.error)
    assert api.calls == []


def test_check_asks_for_one_page_of_each_table(lab: RestLab, api: Api) -> None:
    project = lab.configure_api({"data_selector": "data", "paginator": "json_link"})
    for rows, failed in (({"data": ids(1, 10), "next": "/t?page=2"}, False), ({"items": []}, True)):
        api.routes["/t"] = always(rows)
        with open_source(project, "src") as source:
            assert bool(source.check(project.tables())) == failed
    assert len(api.calls) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_request_and_a_wait_long_before_their_time(
    lab: RestLab, api: Api, number: signal.Signals
) -> None:
    """Behaviour 45."""
    release = threading.Event()
    api.routes["/t"] = lambda call: release.wait(30) and []
    lab.configure_api({}, retry={"attempts": 5, "base_delay": "30s"})
    for route in (api.routes["/t"], lambda call: Reply("", 503)):
        api.routes["/t"] = route
        asked = len(api.calls)
        started = subprocess.Popen(
            [sys.executable, "-m", "pyops", "extract"],
            cwd=lab.directory,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        while len(api.calls) == asked:
            time.sleep(0.02)
        time.sleep(0.3)
        sent = time.monotonic()
        started.send_signal(number)
        _, told = started.communicate(timeout=10)
        assert time.monotonic() - sent < 8  # of 30
        assert started.returncode == (130 if number == signal.SIGINT else 143)
        assert b"Traceback" not in told
        release.set()
    assert lab.rows("SELECT DISTINCT status FROM pyops.runs") == [("cancelled",)]


def test_memory_follows_a_page_and_not_their_number(lab: RestLab, api: Api) -> None:
    pages: list[str] = []
    for number in range(12):
        pages.append(json.dumps([{"id": n, "p": number, "v": "x" * 1000} for n in range(4000)]))
    script = "import resource, pyops; pyops.extract(pyops.Project.load('.'))[0].raise_for_error();"
    script += "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    taken = []
    for most in (2, 12):
        answers = dict(enumerate(pages[:most]))
        api.routes["/t"] = lambda call: answers.get(int(call.query["page"]), "[]")  # noqa: B023 (of this round)
        lab.configure_api({"paginator": "page_number", "types": {"id": "BIGINT"}})
        argv = [sys.executable, "-c", script]
        done = subprocess.run(argv, cwd=lab.directory, capture_output=True, text=True, check=True)
        assert lab.rows("SELECT count(*), count(DISTINCT p) FROM raw.t") == [(4000 * most, most)]
        taken.append(int(done.stdout))
    assert taken[1] - taken[0] < 100_000  # and not the 40 MB more, some copies of each


# Configuration


@pytest.mark.parametrize(
    ("table", "source", "message", "hint"),
    [
        ({"mode": "partition", "partition_by": "d"}, {}, "cannot be landed by mode partition", ""),
        ({"mode": "incremental", "primary_key": "id", "cursor": "at"}, {}, "needs a cursor and a start_param", ""),
        ({**INCREMENTAL, "write": "append"}, {}, "an API cannot append", ""),
        ({"cursor": "at"}, {}, "mean nothing to mode full", ""),
        ({"path": "/t?key=hush"}, {}, "parameters go into params", ""),
        ({"data_selector": "data[*]"}, {}, "joined by dots", ""),
        ({"paginator": "jsonlink"}, {}, "paginator.type: unknown word 'jsonlink'", "'json_link'?"),
        ({"paginator": {"type": "cursor", "cursor_pth": "x"}}, {}, "cursor_pth'", "'cursor_path'?"),
        ({"paginator": {"type": "offset"}}, {}, "paginator.limit' is missing", ""),
        ({}, {"auth": {"type": "bearer", "token": "t0ken\n"}}, "auth.token: a header holds printable ASCII", ""),
        ({}, {"auth": {"token": "t0ken"}}, "auth.type' is missing", "http_basic"),
        ({}, {"auth": {"type": "bearer", "token": "t0ken", "nme": "x"}}, "auth.nme", "token"),
        ({}, {"base_url": "https://u:pa55@h/"}, "no user, password", ""),
        ({}, {"base_url": "example.com"}, "base_url: write http:// or https://", ""),
        ({}, {"retry": {"attempts": 0}}, "attempts: should be greater than or equal to 1", ""),
    ],
)
def test_what_cannot_be_asked_is_refused_with_the_way_out(
    lab: RestLab, table: dict[str, Any], source: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(UsageError) as caught:
        lab.configure_api(table, **source)
    assert message in str(caught.value)
    assert hint in caught.value.hint
    assert not [secret for secret in SECRETS if secret in f"{caught.value} {caught.value.hint}"]
