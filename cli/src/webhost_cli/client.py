"""The API as the command line calls it.

Errors: ApiError with the envelope of a non-2xx answer; CommandError (unavailable) without
an answer. Reads, and writes with an idempotency key, are tried again while the API says that it is
unavailable: the key makes a repeated create or deploy the same one.
"""

import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
from httpx_sse import ServerSentEvent, connect_sse

from webhost_cli.errors import ApiError, CommandError, ExitCode

Json = dict[str, Any]

# A little longer than the gateway's own limits on a call, so that its answer is the one seen.
_TIMEOUT = httpx.Timeout(65.0, connect=5.0)
_TRIES = 3
_LONGEST_WAIT_S = 5.0


class Api:
    """One user's calls at one origin. To be closed.

    `shell_bearer` is how the user's shell gets the token, for commands to copy.
    """

    def __init__(
        self,
        origin: str,
        token: str,
        *,
        shell_bearer: str = "$WEBHOST_TOKEN",
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.origin = origin
        self.shell_bearer = shell_bearer
        self._http = httpx.Client(
            base_url=origin,
            headers={"Authorization": f"Bearer {token}", "User-Agent": "webhost-cli"},
            timeout=_TIMEOUT,
            transport=transport,
        )

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **parameters: Any) -> Json:
        """GET; parameters that are None are left out."""
        known = {name: value for name, value in parameters.items() if value is not None}
        return self._send("GET", path, params=known, repeatable=True)

    def text(self, path: str, **parameters: Any) -> str:
        """GET what is no JSON; parameters that are None are left out."""
        known = {name: value for name, value in parameters.items() if value is not None}
        return self._response("GET", path, params=known, repeatable=True).text

    def post(
        self, path: str, body: Mapping[str, Any] | None = None, *, key: str | None = None
    ) -> Json:
        """POST once, whatever happens; `key` is an idempotency key of the caller's."""
        return self._send("POST", path, json=body or {}, headers=_with_key(key))

    def start(self, path: str, body: Mapping[str, Any]) -> Json:
        """POST what creates or starts something, under an idempotency key of its own."""
        key = {"Idempotency-Key": secrets.token_urlsafe(18)}
        return self._send("POST", path, json=body, headers=key, repeatable=True)

    def upload(self, path: str, body: bytes) -> Json:
        """POST bytes as they are, under an idempotency key of its own."""
        headers = {
            "Idempotency-Key": secrets.token_urlsafe(18),
            "Content-Type": "application/octet-stream",
        }
        return self._send("POST", path, content=body, headers=headers, repeatable=True)

    def patch(self, path: str, body: Mapping[str, Any]) -> Json:
        return self._send("PATCH", path, json=body)

    def delete(self, path: str) -> Json:
        """DELETE; an answer without a body is {}."""
        return self._send("DELETE", path)

    def pages(self, path: str, resource: str, **parameters: Any) -> Iterator[Json]:
        """Every item of a list, page by page."""
        cursor: str | None = None
        while True:
            page = self.get(path, limit=100, cursor=cursor, **parameters)
            yield from page[resource]
            if (cursor := page["nextCursor"]) is None:
                return

    def stream(
        self, path: str, body: Mapping[str, Any], *, key: str | None = None
    ) -> Iterator[ServerSentEvent]:
        """POST, and yield each event of the response the moment it arrives."""
        headers = _with_key(key)
        try:
            with connect_sse(self._http, "POST", path, json=body, headers=headers) as source:
                if not source.response.is_success:
                    raise ApiError.from_response(
                        source.response.status_code, source.response.read()
                    )
                # A heartbeat that follows an id is not an event, but is reported as an empty one.
                yield from (event for event in source.iter_sse() if event.data)
        except httpx.TransportError as error:
            raise self._no_answer(error) from error

    def watch(self, path: str, last_id: str | None) -> Iterator[ServerSentEvent]:
        """GET a stream behind the event of this id, and yield each event until it is cut.

        Raises ApiError, and CommandError (UNAVAILABLE) where there is no answer.
        """
        headers = {} if last_id is None else {"Last-Event-ID": last_id}
        try:
            with connect_sse(self._http, "GET", path, headers=headers) as source:
                if not source.response.is_success:
                    raise ApiError.from_response(
                        source.response.status_code, source.response.read()
                    )
                yield from (event for event in source.iter_sse() if event.data)
        except httpx.TransportError as error:
            raise self._no_answer(error) from error

    def _send(self, method: str, path: str, *, repeatable: bool = False, **rest: Any) -> Json:
        response = self._response(method, path, repeatable=repeatable, **rest)
        return response.json() if response.content else {}

    def _response(
        self, method: str, path: str, *, repeatable: bool = False, **rest: Any
    ) -> httpx.Response:
        tries = _TRIES if repeatable else 1
        while True:
            tries -= 1
            try:
                response = self._http.request(method, path, **rest)
            except httpx.TransportError as error:
                if not tries:
                    raise self._no_answer(error) from error
                time.sleep(1)
                continue
            if response.status_code != 503 or not tries:
                return _successful(response)
            time.sleep(_retry_after_s(response))

    def _no_answer(self, error: httpx.TransportError) -> CommandError:
        reason = str(error) or type(error).__name__
        return CommandError(f"no answer from {self.origin}: {reason}", ExitCode.UNAVAILABLE)


def _with_key(key: str | None) -> dict[str, str]:
    return {} if key is None else {"Idempotency-Key": key}


def _successful(response: httpx.Response) -> httpx.Response:
    if not response.is_success:
        raise ApiError.from_response(response.status_code, response.content)
    return response


def _retry_after_s(response: httpx.Response) -> float:
    value = response.headers.get("Retry-After", "1")
    return min(float(value), _LONGEST_WAIT_S) if value.isdigit() else 1.0
