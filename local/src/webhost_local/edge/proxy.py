"""Forwarding one HTTP request, chunk by chunk in both directions.

Guarantees: nothing is buffered, decoded or compressed; a client that goes away cancels the call
upstream; hop-by-hop headers stay on their hop. An upstream that fails after its head was sent
leaves the response unfinished, so that the client notices.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, MutableMapping
from typing import Any

import aiohttp
from multidict import CIMultiDict
from yarl import URL

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection te trailer transfer-encoding upgrade expect "
    b"proxy-authenticate proxy-authorization".split()
)
NO_AUTO_HEADERS = ("Accept", "Accept-Encoding", "Content-Type", "User-Agent")

log = logging.getLogger("webhost.edge.proxy")


class UpstreamAway(Exception):
    """The upstream could not be reached, or gave no answer. `sent`: it may have seen the call."""

    def __init__(self, *, sent: bool) -> None:
        super().__init__("upstream away")
        self.sent = sent


def _kept(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
    headers = list(headers)
    dropped = HOP_BY_HOP | {
        token.strip().lower()
        for name, value in headers
        if name.lower() == b"connection"
        for token in value.split(b",")
    }
    return [(name.lower(), value) for name, value in headers if name.lower() not in dropped]


def target(base: str, scope: Scope) -> URL:
    """The request's path and query, byte for byte, at another base address."""
    path = scope["raw_path"].decode("latin-1")
    query = scope["query_string"].decode("latin-1")
    return URL(f"{base}{path}?{query}" if query else f"{base}{path}", encoded=True)


class Exchange:
    """One request as ASGI hands it over; its body can be taken once."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self._receive = receive
        self._send = send
        self._first: Message | None = None
        self._body_done = asyncio.Event()
        self._disconnected = False

    async def forward(self, session: aiohttp.ClientSession, base: str) -> None:
        """Answer from `base`. Raises UpstreamAway while nothing was answered yet."""
        if self._first is None:
            self._first = await self._receive()
        if self._first["type"] == "http.disconnect":
            return
        work = asyncio.ensure_future(self._exchange(session, base))
        watch = asyncio.ensure_future(self._disconnect())
        try:
            await asyncio.wait((work, watch), return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                work.cancel()
            await work
        except asyncio.CancelledError:
            if not watch.done() or watch.cancelled():
                raise
        finally:
            work.cancel()
            watch.cancel()

    async def _disconnect(self) -> None:
        await self._body_done.wait()
        while not self._disconnected:
            message = await self._receive()
            self._disconnected = message["type"] == "http.disconnect"

    async def _body(self) -> AsyncIterator[bytes]:
        message = self._first
        while message is not None:
            if message["type"] == "http.disconnect":
                self._disconnected = True
                self._body_done.set()
                raise ConnectionResetError
            if chunk := message.get("body", b""):
                yield chunk
            message = await self._receive() if message.get("more_body") else None
        self._body_done.set()

    def _data(self) -> bytes | AsyncIterator[bytes] | None:
        assert self._first is not None
        if self._first.get("more_body"):
            return self._body()
        self._body_done.set()
        return self._first.get("body") or None

    async def _exchange(self, session: aiohttp.ClientSession, base: str) -> None:
        headers = CIMultiDict(
            (name.decode("latin-1"), value.decode("latin-1"))
            for name, value in _kept(self.scope["headers"])
        )
        try:
            response = await session.request(
                self.scope["method"],
                target(base, self.scope),
                headers=headers,
                data=self._data(),
                allow_redirects=False,
                skip_auto_headers=NO_AUTO_HEADERS,
            )
        except aiohttp.ClientConnectorError:
            raise UpstreamAway(sent=False) from None
        except (aiohttp.ClientError, ConnectionError) as error:
            log.warning("upstream gave no answer: %r", error)
            raise UpstreamAway(sent=True) from None
        try:
            await self._answer(response)
        finally:
            # Not `release`: an unfinished answer must end the call upstream.
            response.close()

    async def _answer(self, response: aiohttp.ClientResponse) -> None:
        await self._send(
            {
                "type": "http.response.start",
                "status": response.status,
                "headers": _kept(response.raw_headers),
            }
        )
        try:
            async for chunk in response.content.iter_any():
                await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
        except (aiohttp.ClientError, ConnectionError):
            log.warning("upstream broke off in the middle of an answer")
            return
        await self._send({"type": "http.response.body", "body": b""})
