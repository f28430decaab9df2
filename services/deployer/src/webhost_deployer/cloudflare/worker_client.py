"""Calls to what runs at Cloudflare, signed with the deployer's own key: probe and purge.

Consumes: answers from those addresses, whatever sends them: a Worker may be hostile.
Guarantees: the customer's handler never runs for them. An answer is read up to MAX_ANSWER_BYTES,
never decompressed, and everything from the connection to its last byte takes at most TIMEOUT_S.
A refusal's Retry-After is passed on, within bounds.
On replay: both may be repeated.
"""

import asyncio
from http import HTTPStatus

import httpx
import msgspec
from webhost_contracts.invoke import Limits, NamedDeployment
from webhost_contracts.signatures import PLATFORM_SIGNATURE_HEADER, SESSIONS_AUDIENCE
from webhost_kit.clock import now_ms
from webhost_kit.keys import Signer

from webhost_deployer.cloudflare.addresses import PROBE_PATH, PURGE_PATH
from webhost_deployer.cloudflare.failures import retry_after_s
from webhost_deployer.cloudflare.spans import call_span
from webhost_deployer.model import Deployment
from webhost_deployer.provider import ProviderError

TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 64 * 1024
SNIPPET = 300
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding an answer's JSON can raise; the last if it is nested too deeply."""


class _Error(msgspec.Struct):
    code: str
    message: str
    retryable: bool


class _Failure(msgspec.Struct):
    error: _Error


class _Probed(msgspec.Struct, rename="camel"):
    deployment_id: str


class WorkerClient:
    """Calls Workers. `connect_to` (`host:port`) sends all of them there, in plain HTTP."""

    def __init__(self, signer: Signer, connect_to: str | None) -> None:
        self._signer = signer
        self._connect_to = connect_to
        self._client = httpx.AsyncClient(timeout=httpx.Timeout(None), trust_env=False)

    async def probe(
        self, base_url: str, deployment: Deployment, limits: Limits | None = None
    ) -> None:
        """See that this deployment answers below `base_url`. Raises ProviderError."""
        url = base_url + PROBE_PATH
        named = NamedDeployment(
            user_id=deployment.user_id,
            agent_id=deployment.agent_id,
            key_version=deployment.plan.key_version,
            key_generation=deployment.plan.key_generation,
            limits=limits,
        )
        asked = msgspec.json.encode({"deployment": named})
        body = await self._post(url, deployment.id, asked)
        try:
            answered = msgspec.json.decode(body, type=_Probed).deployment_id
        except UNREADABLE:
            answered = None
        if answered != deployment.id:
            # The route may not have propagated everywhere yet.
            raise ProviderError(
                f"POST {url}", None, "Another Worker answers at this address.", transient=True
            )

    async def purge(self, base_url: str, agent_id: str) -> None:
        """Remove all sessions of the agent. Raises ProviderError."""
        body = msgspec.json.encode({"agentId": agent_id})
        await self._post(base_url + PURGE_PATH, SESSIONS_AUDIENCE, body)

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def _post(self, url: str, audience: str, body: bytes) -> bytes:
        address = httpx.URL(url)
        headers = {
            "Accept-Encoding": "identity",
            "Content-Type": "application/json",
            "Host": address.host,
            PLATFORM_SIGNATURE_HEADER: self._signer.header(now_ms(), audience, body),
        }
        if self._connect_to is not None:
            host, _, port = self._connect_to.rpartition(":")
            address = address.copy_with(scheme="http", host=host, port=int(port))
        endpoint = f"POST {url}"
        with call_span(f"POST {httpx.URL(url).path}", httpx.URL(url).host) as span:
            try:
                async with (
                    asyncio.timeout(TIMEOUT_S),
                    self._client.stream("POST", address, content=body, headers=headers) as response,
                ):
                    answer = await _read(endpoint, response)
            except TimeoutError as error:
                raise _no_answer(endpoint, f"it took over {TIMEOUT_S:.0f} s") from error
            except httpx.HTTPError as error:
                raise _no_answer(endpoint, type(error).__name__) from error
            span.set("http.response.status_code", response.status_code)
            if response.status_code == HTTPStatus.OK:
                return answer
            wait_s = retry_after_s(response.headers.get("Retry-After")) or 0
            raise _refused(endpoint, response.status_code, answer, wait_s)


async def _read(endpoint: str, response: httpx.Response) -> bytes:
    """Return the answer's bytes as they came. Raises ProviderError for too many, or compressed."""
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _no_answer(endpoint, "it was compressed")
    answer = bytearray()
    async for part in response.aiter_raw():
        answer += part
        if len(answer) > MAX_ANSWER_BYTES:
            raise _no_answer(endpoint, f"it was over {MAX_ANSWER_BYTES // 1024} KiB")
    return bytes(answer)


def _no_answer(endpoint: str, reason: str) -> ProviderError:
    return ProviderError(endpoint, None, f"No answer: {reason}", transient=True)


def _refused(endpoint: str, status: int, answer: bytes, wait_s: int) -> ProviderError:
    """Tell the platform's own refusal, which says whether to retry, from an intermediary's."""
    try:
        error = msgspec.json.decode(answer, type=_Failure).error
    except UNREADABLE:
        message = answer[:SNIPPET].decode("utf-8", "replace") or "No body."
        return ProviderError(endpoint, str(status), message, transient=True, retry_after_s=wait_s)
    broken = error.code == "RUNTIME_ERROR" and not error.retryable
    return ProviderError(
        endpoint, error.code, error.message, transient=not broken, retry_after_s=wait_s
    )
