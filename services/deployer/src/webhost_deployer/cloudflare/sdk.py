"""Calls through Cloudflare's official SDK; this folder's `api` and `namespaces` say which.

Guarantees: every call respects the rate limit that all deployers share, and is made once: retries
are the saga's job. Every failure is a ProviderError that says whether the same call may succeed
later.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any, Generic, TypeVar

import httpx
import msgspec
from cloudflare import (
    APIConnectionError,
    APIStatusError,
    AsyncCloudflare,
    CloudflareError,
    RateLimitError,
)
from prometheus_client import Histogram
from webhost_contracts.artifacts import ModuleKind, kind_of
from webhost_kit.process import tracing
from webhost_kit.process.metrics import STEP_S

from webhost_deployer.cloudflare.failures import (
    BLOCKED_S,
    Missing,
    refusal,
    retry_after_s,
    unreadable,
)
from webhost_deployer.cloudflare.rate_limiter import RateLimiter
from webhost_deployer.cloudflare.scripts import Script, secret
from webhost_deployer.cloudflare.spans import call_span
from webhost_deployer.provider import ProviderError

TIMEOUT_S = 30.0

MODULE_TYPES: dict[ModuleKind, str] = {
    "javascript": "application/javascript+module",
    "json": "application/javascript+module",
    "text": "text/plain",
    "wasm": "application/wasm",
}
"""The content type of a module's file. One of JSON is uploaded as a script that exports it."""

MOST_SECRETS = 100
"""How many secrets one call can change."""

_waited = Histogram(
    "webhost_deployer_cloudflare_wait_seconds",
    "Seconds that a call to Cloudflare's API waited for the limit that all deployers share",
    buckets=STEP_S,
)
_requests = Histogram(
    "webhost_deployer_cloudflare_request_duration_seconds",
    "Seconds of calls to Cloudflare's API, by class of status; `none` where no answer came, "
    "`401`, `403` and `429` where the token or the account is refused",
    ["status"],
    buckets=STEP_S,
)

REFUSED = ("401", "403", "429")
"""Statuses of their own in the metric: what is refused is not what is called for."""

R = TypeVar("R")


class _Answer(msgspec.Struct, Generic[R]):
    """A success. The SDK does not validate answers: an empty one would be an empty listing."""

    success: bool
    result: R


class _Done(msgspec.Struct):
    success: bool


D = TypeVar("D", bound=_Answer[Any] | _Done)


class Sdk:
    """The SDK's client for one account, and the way to call it."""

    def __init__(
        self, api_token: str, base_url: str | None, account_id: str, limit: RateLimiter
    ) -> None:
        self.account_id = account_id
        self._limit = limit
        # No retries by the SDK, no answers that are not JSON.
        self.client = AsyncCloudflare(
            api_token=api_token,
            base_url=base_url,
            max_retries=0,
            timeout=TIMEOUT_S,
            http_client=httpx.AsyncClient(
                timeout=TIMEOUT_S,
                trust_env=False,
                event_hooks={"response": [_refuse_pages]},
            ),
        )

    async def close(self) -> None:
        """Close every connection."""
        await self.client.close()

    async def call(
        self,
        endpoint: str,
        call: Callable[[], Awaitable[Any]],
        result: type[R],
        *,
        after_upload: bool = False,
    ) -> R:
        """Make one call when the rate limit allows it; return its result.

        `call` is one of the SDK's with a raw response; `after_upload` is for `failures.refusal`.
        Raises Missing or ProviderError.
        """
        return self._decoded(
            endpoint, await self._answer(endpoint, call, after_upload), _Answer[result]
        ).result

    async def do(
        self,
        endpoint: str,
        call: Callable[[], Awaitable[Any]],
        *,
        after_upload: bool = False,
    ) -> None:
        """Make one call whose effect matters, and not what it says. Raises as `call` does."""
        self._decoded(endpoint, await self._answer(endpoint, call, after_upload), _Done)

    async def delete(self, endpoint: str, call: Callable[[], Awaitable[Any]]) -> None:
        """Make a call that removes what may be gone already. Raises ProviderError."""
        with suppress(Missing):
            await self.do(endpoint, call)

    async def _answer(
        self, endpoint: str, call: Callable[[], Awaitable[Any]], after_upload: bool
    ) -> bytes:
        with call_span(endpoint, "api.cloudflare.com") as span:
            began_s = monotonic()
            await self._limit.acquire()
            _waited.observe(monotonic() - began_s)
            span.event("allowed")
            return await self._answered(endpoint, call, after_upload, span)

    async def _answered(
        self,
        endpoint: str,
        call: Callable[[], Awaitable[Any]],
        after_upload: bool,
        span: tracing.Span,
    ) -> bytes:
        began_s, status = monotonic(), "none"
        try:
            answer = await call()
            status = "2xx"
            span.set("http.response.status_code", answer.status_code)
            return answer.content if isinstance(answer, httpx.Response) else await answer.read()
        except APIStatusError as error:
            status = str(error.status_code)
            if status not in REFUSED:
                status = f"{error.status_code // 100}xx"
            span.set("http.response.status_code", error.status_code)
            if isinstance(error, RateLimitError):
                seconds = retry_after_s(error.response.headers.get("Retry-After"))
                await self._limit.block(BLOCKED_S if seconds is None else seconds)
            first = error.errors[0] if error.errors else None
            code = None if first is None or first.code is None else str(first.code)
            message = None if first is None or not first.message else str(first.message)
            raise refusal(
                endpoint, error.status_code, code, message, after_upload=after_upload
            ) from error
        except CloudflareError as error:
            cause = error.__cause__ if isinstance(error, APIConnectionError) else None
            said = str(cause or "") or type(cause or error).__name__
            raise ProviderError(
                endpoint, None, f"No usable answer: {said}", transient=True
            ) from error
        except (AttributeError, TypeError) as error:
            raise unreadable(endpoint) from error
        finally:
            _requests.labels(status).observe(monotonic() - began_s)

    def _decoded(self, endpoint: str, body: bytes, kind: type[D]) -> D:
        try:
            answer = msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise unreadable(endpoint) from error
        if not answer.success:
            raise unreadable(endpoint)
        return answer


def metadata_of(script: Script) -> dict[str, Any]:
    """Return the metadata of a script's upload; the SDK types neither `props` nor `limits`."""
    metadata: dict[str, Any] = {
        # Nothing that an earlier upload of this name had, such as a secret deleted since.
        "keep_bindings": [],
        "main_module": script.main_module,
        "compatibility_date": script.compatibility_date,
        "compatibility_flags": list(script.compatibility_flags),
        "tags": script.tags,
        "bindings": script.bindings,
    }
    if script.limits:
        metadata["limits"] = dict(script.limits)
    if script.keeps_logs:
        metadata["observability"] = {"enabled": True}
    return metadata


def files_of(script: Script) -> list[tuple[str, bytes, str]]:
    """Return the files of a script's upload."""
    return [
        (name, body, MODULE_TYPES[kind_of(name) or "javascript"])
        for name, body in script.modules.items()
    ]


def patches_of(values: Mapping[str, str | None]) -> list[dict[str, Any]]:
    """Return the JSON merge patches that set these secrets, and remove those that are None."""
    patch = {
        name: value if value is None else secret(name, value) for name, value in values.items()
    }
    names = sorted(patch)
    parts = [names[at : at + MOST_SECRETS] for at in range(0, len(names), MOST_SECRETS)]
    return [{name: patch[name] for name in part} for part in parts]


async def _refuse_pages(response: httpx.Response) -> None:
    """Refuse an HTML page in place of an answer; the SDK turns this into a connection error."""
    if response.headers.get("content-type", "").startswith("text/html"):
        raise httpx.RemoteProtocolError(f"HTTP {response.status_code} with a page of HTML")
