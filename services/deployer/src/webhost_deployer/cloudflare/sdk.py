"""Calls through Cloudflare's official SDK; this folder's `api` and `namespaces` say which.

Guarantees: every call respects the rate limit that all deployers share, and is made once: retries
are the saga's job. Every failure is a ProviderError that says whether the same call may succeed
later.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

import httpx
from cloudflare import (
    APIConnectionError,
    APIStatusError,
    AsyncCloudflare,
    CloudflareError,
    RateLimitError,
)
from webhost_contracts.artifacts import ModuleKind, kind_of

from webhost_deployer.cloudflare.rate_limiter import RateLimiter
from webhost_deployer.cloudflare.scripts import Script, secret
from webhost_deployer.provider import ProviderError

TIMEOUT_S = 30.0
BLOCKED_S = 300
"""How long Cloudflare refuses every call of a token that made too many."""

MODULE_TYPES: dict[ModuleKind, str] = {
    "javascript": "application/javascript+module",
    "json": "application/javascript+module",
    "text": "text/plain",
    "wasm": "application/wasm",
}
"""The content type of a module's file. One of JSON is uploaded as a script that exports it."""

DUPLICATE_ROUTE = "10020"
NO_SUCH_SCRIPT = "10007"
SCRIPT_NOT_SEEN_YET = "10019"
TRANSIENT_STATUS = frozenset({403, 408, 409, 425, 429})
"""403 was seen right after uploads that had succeeded."""

MOST_SECRETS = 100
"""How many secrets one call can change."""

T = TypeVar("T")


class Missing(ProviderError):
    """What was called for does not exist."""


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

    async def call(self, endpoint: str, call: Callable[[], Awaitable[T]]) -> T:
        """Make one call when the rate limit allows it. Raises Missing or ProviderError."""
        await self._limit.acquire()
        try:
            return await call()
        except RateLimitError as error:
            said = error.response.headers.get("retry-after", "")
            seconds = int(said) if said.isdigit() else BLOCKED_S
            await self._limit.block(min(seconds, BLOCKED_S))
            _raise(endpoint, error)
        except CloudflareError as error:
            _raise(endpoint, error)
        except (AttributeError, TypeError) as error:
            # The SDK does not validate responses.
            raise ProviderError(endpoint, None, "Unreadable answer.", transient=True) from error

    async def delete(self, endpoint: str, call: Callable[[], Awaitable[Any]]) -> None:
        """Make a call that removes what may be gone already. Raises ProviderError."""
        with suppress(Missing):
            await self.call(endpoint, call)


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


def _raise(endpoint: str, error: CloudflareError) -> NoReturn:
    if not isinstance(error, APIStatusError):
        cause = error.__cause__ if isinstance(error, APIConnectionError) else None
        message = f"No usable answer: {cause or error}"
        raise ProviderError(endpoint, None, message, transient=True) from error
    status = error.status_code
    said = error.errors[0] if error.errors else None
    code = str(said.code) if said is not None and said.code is not None else str(status)
    message = str(said.message) if said is not None and said.message else f"HTTP {status}"
    transient = status >= 500 or status in TRANSIENT_STATUS or code == SCRIPT_NOT_SEEN_YET
    if code == DUPLICATE_ROUTE:
        transient = False
    kind = Missing if status == 404 or code == NO_SUCH_SCRIPT else ProviderError
    raise kind(endpoint, code, message, transient=transient or said is None) from error


async def _refuse_pages(response: httpx.Response) -> None:
    """Refuse an HTML page in place of an answer; the SDK turns this into a connection error."""
    if response.headers.get("content-type", "").startswith("text/html"):
        raise httpx.RemoteProtocolError(f"HTTP {response.status_code} with a page of HTML")
