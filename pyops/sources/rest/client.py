"""One API over HTTP: who asks, what its failures mean, and which of them are tried again.

No message has more of an address than host and path: what follows a ``?`` may be a secret or a row's value.
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Any

import httpx

from pyops.config.model import RestSource
from pyops.config.rest import ApiKeyAuth, BasicAuth, BearerAuth, ClientCredentials
from pyops.errors import DataError, OperationError, SourceError
from pyops.interrupt import interruptible
from pyops.retry import retrying
from pyops.sources.files.lines import LONGEST

_REDIRECTS = 5
_PASSING = {408, 425, 429}  # and what begins with 5
for _name in ("httpx", "httpcore"):  # whose records have whole addresses and headers
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True)
class Answer:
    """A whole answer that was no failure; ``content`` is decompressed."""

    status: int
    content_type: str
    charset: str
    content: bytes
    next_link: str | None  # of the Link header


def address(base_url: str, path: str, params: Mapping[str, str]) -> httpx.URL:
    """The address of a path below a base."""
    return httpx.URL(f"{base_url.rstrip('/')}/{path.lstrip('/')}").copy_merge_params(params)


def shown(url: httpx.URL) -> str:
    """An address as messages have it."""
    return f"{url.scheme}://{url.netloc.decode()}{url.path}"


class Api:
    """An API, with its authorization and its connections."""

    def __init__(self, name: str, config: RestSource, sleep: Callable[[float], None] = time.sleep) -> None:
        self._name, self._config, self._sleep = name, config, sleep
        read, connect = config.read_timeout.total_seconds(), config.connect_timeout.total_seconds()
        self._base = httpx.URL(config.base_url)
        self._token, self._expires = "", 0.0
        headers = httpx.Headers({"Accept": "application/json", "User-Agent": "pyops"})
        headers.update(config.headers)
        self._client = httpx.Client(headers=headers, timeout=httpx.Timeout(read, connect=connect))

    def get(self, url: httpx.URL) -> Answer:
        """Asks for one page; what may pass is tried again."""
        self._require_same_origin(url, f"{self._name}: a next link")
        return retrying(self._config.retry.policy, self._name, self._sleep)(
            lambda: interruptible(lambda: self._get(url), cancel=None)
        )

    def _require_same_origin(self, url: httpx.URL, what: str) -> None:
        """Refuses an address of another server, which must not learn the authorization."""
        if (url.scheme, url.host, url.port) != (self._base.scheme, self._base.host, self._base.port):
            raise OperationError(
                f"{what} leads to {url.scheme}://{url.netloc.decode()}, and base_url to"
                f" {self._base.scheme}://{self._base.netloc.decode()}: the authorization is not sent there",
                hint="set base_url to the address that the API itself uses",
            )

    def close(self) -> None:
        self._client.close()

    def _get(self, url: httpx.URL) -> Answer:
        renewed = False
        for _ in range(_REDIRECTS + 1):
            asked, headers = self._authorized(url)
            with _explained(url), self._client.stream("GET", asked, headers=headers) as response:
                if response.status_code == 401 and self._token and not renewed:
                    self._token, renewed = "", True  # it may have been revoked
                elif response.has_redirect_location:
                    url = url.join(response.headers["location"])
                    self._require_same_origin(url, f"{shown(asked)}: its redirect ({response.status_code})")
                else:
                    _require_success(response)
                    charset = response.charset_encoding or "utf-8"
                    kind = response.headers.get("content-type", "no content type").partition(";")[0]
                    return Answer(response.status_code, kind, charset, _content(response), _next_link(response))
        raise OperationError(f"{shown(url)}: more than {_REDIRECTS} redirects", hint="check base_url and path")

    def _authorized(self, url: httpx.URL) -> tuple[httpx.URL, dict[str, str]]:
        match self._config.auth:
            case BearerAuth(token=token):
                return url, {"Authorization": f"Bearer {token}"}
            case BasicAuth(username=username, password=password):
                request = next(httpx.BasicAuth(username, password).auth_flow(httpx.Request("GET", url)))
                return url, {"Authorization": request.headers["Authorization"]}
            case ApiKeyAuth(location="query", name=name, api_key=key):
                return url.copy_set_param(name, key), {}
            case ApiKeyAuth(name=name, api_key=key):
                return url, {name: key}
            case ClientCredentials() as credentials:
                return url, {"Authorization": f"Bearer {self._access_token(credentials)}"}
        return url, {}

    def _access_token(self, credentials: ClientCredentials) -> str:
        if self._token and time.monotonic() < self._expires:
            return self._token
        url = httpx.URL(credentials.access_token_url)
        data = {"grant_type": "client_credentials", "client_id": credentials.client_id}
        data |= {"client_secret": credentials.client_secret, **credentials.access_token_request_data}
        with _explained(url), self._client.stream("POST", url, data=data) as response:
            _require_success(response)
            content = _content(response)
        try:
            granted: dict[str, Any] = json.loads(content)
            self._token = str(granted["access_token"])
            self._expires = time.monotonic() + max(float(granted.get("expires_in") or 3600) - 30, 0)
        except (ValueError, KeyError, TypeError):
            raise OperationError(
                f"{shown(url)}: its answer has no access_token", hint="check access_token_url of `auth` in pyops.yml"
            ) from None
        return self._token


def _content(response: httpx.Response) -> bytes:
    parts, size = [], 0
    for part in response.iter_bytes():
        parts.append(part)
        if (size := size + len(part)) > LONGEST:
            raise DataError(
                f"{shown(response.url)}: a page of more than {LONGEST >> 20} MB", hint="ask for smaller pages"
            )
    return b"".join(parts)


def _next_link(response: httpx.Response) -> str | None:
    """The address of the next page by the Link header (RFC 8288)."""
    links = response.links.items()
    return next((link["url"] for rel, link in links if "next" in (rel or "").lower().split()), None)


def _require_success(response: httpx.Response) -> None:
    status = response.status_code
    if 200 <= status < 300:
        return
    reason = next((f" {known.phrase}" for known in HTTPStatus if known == status), "")
    what = f"{shown(response.url)} answers {status}{reason}"
    if status in _PASSING or status >= 500:
        error = SourceError(what, hint="run the same command again; the API is busy or broken")
        error.retry_after = _wait_asked_for(response.headers.get("retry-after", ""))
        raise error
    if status in {401, 403}:
        raise OperationError(what, hint="check auth of the source in pyops.yml, and its rights")
    raise OperationError(what, hint="check base_url, path and params in pyops.yml")


def _wait_asked_for(text: str) -> float | None:
    """The seconds of a Retry-After header: a number, or a date (RFC 9110); None if it says neither."""
    if text.strip().isdecimal():
        return float(text)
    try:
        return max((parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0)
    except (ValueError, TypeError):  # a date without a zone cannot be compared
        return None


@contextmanager
def _explained(url: httpx.URL) -> Iterator[None]:
    """Turns httpx's errors into pyops's own; their messages may quote headers and addresses."""
    try:
        yield
    except httpx.ConnectTimeout:
        raise _unreachable(url, "no connection in time") from None
    except httpx.TimeoutException:
        raise _unreachable(url, "no answer in time") from None
    except httpx.TransportError as error:
        if "CERTIFICATE_VERIFY_FAILED" in str(error):
            raise OperationError(
                f"{shown(url)}: its certificate is not trusted", hint="name its authority in SSL_CERT_FILE"
            ) from None
        if isinstance(error, httpx.LocalProtocolError | httpx.UnsupportedProtocol):
            raise OperationError(f"{shown(url)}: invalid request", hint="check headers and base_url") from None
        words = "connection refused" if "refused" in str(error) else "the connection broke"
        raise _unreachable(url, "cannot connect" if "not known" in str(error) else words) from None
    except httpx.DecodingError:
        raise _unreachable(url, "its answer is damaged: it cannot be decompressed") from None
    except (httpx.HTTPError, httpx.InvalidURL):
        raise OperationError(f"{shown(url)}: invalid request or redirect", hint="check base_url and path") from None


def _unreachable(url: httpx.URL, what: str) -> SourceError:
    return SourceError(f"{shown(url)}: {what}", hint="is the API running, and reachable from here?")
