"""A proxy before the local edge that counts each case's calls, and faults what is asked for.

Each case has an address of its own, for its calls to the API and for those to Workers.
"""

import asyncio
import re
import socket
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum

import aiohttp
from aiohttp import web
from webhost_kit.clock import now_ms

from tests.support.edge import Edge

ID = re.compile(r"[0-9a-z]{26}|[0-9a-f]{32}|(customers|ins)[-_][0-9a-f]+")


class Fault(StrEnum):
    """What goes wrong with one call.

    `done` says that the edge does what it was asked, and that its answer does not arrive.
    """

    TOO_MANY_SECONDS = "429 with Retry-After"
    TOO_MANY = "429 without Retry-After"
    ERROR = "500"
    UNAVAILABLE = "503 that is not JSON"
    PAGE = "200 with a page of HTML"
    FORBIDDEN_PAGE = "403 with a page of HTML"
    FORBIDDEN_UNSAID = "403 without a code"
    CUT = "a connection that ends before the call"
    SILENT = "no answer, nothing done"
    LOST = "done, the connection ends before the answer"
    LATE = "done, no answer in time"
    HOLLOW = "done, an answer without a result"
    GARBLED = "done, an answer that is cut off"
    TOKEN_INVALID = "401 code 10000"
    TOKEN_FORBIDDEN = "403 code 10000"
    TOKEN_UNAUTHORIZED = "403 code 9109"
    FULL = "the script limit"

    @property
    def is_permanent(self) -> bool:
        """Whether a deploy may fail by one such answer."""
        return self in (
            Fault.TOKEN_INVALID,
            Fault.TOKEN_FORBIDDEN,
            Fault.TOKEN_UNAUTHORIZED,
            Fault.FULL,
        )


REFUSALS = {
    Fault.TOO_MANY_SECONDS: (429, 971),
    Fault.TOO_MANY: (429, 971),
    Fault.ERROR: (500, 10013),
    Fault.FORBIDDEN_UNSAID: (403, None),
    Fault.TOKEN_INVALID: (401, 10000),
    Fault.TOKEN_FORBIDDEN: (403, 10000),
    Fault.TOKEN_UNAUTHORIZED: (403, 9109),
    Fault.FULL: (403, 10037),
}
PAGES = {Fault.UNAVAILABLE: 503, Fault.PAGE: 200, Fault.FORBIDDEN_PAGE: 403}
DONE = (Fault.LOST, Fault.LATE, Fault.HOLLOW, Fault.GARBLED)
RETRY_AFTER_S = 1


@dataclass
class Line:
    """What goes to Cloudflare for one case, at `address`. From call `at` on, `calls` of them are
    faulted. `host` is where its Workers are, with a domain of the installation's own.
    """

    host: str
    fault: Fault | None = None
    at: int = 0
    calls: int = 1
    made: list[str] = field(default_factory=list)
    made_at_ms: list[int] = field(default_factory=list)
    struck: str | None = None
    struck_at_ms: int = 0
    address: str = ""

    @property
    def api_base_url(self) -> str:
        return f"http://{self.address}/client/v4"

    def next_fault(self, call: str) -> Fault | None:
        """Count this call; say what goes wrong with it."""
        self.made.append(call)
        self.made_at_ms.append(now_ms())
        number = len(self.made)
        if self.fault is None or not self.at <= number < self.at + self.calls:
            return None
        self.struck, self.struck_at_ms = self.struck or call, now_ms()
        return self.fault


class FaultyCloudflare:
    """The proxy."""

    def __init__(self, edge: Edge, session: aiohttp.ClientSession) -> None:
        self._edge = edge
        self._session = session
        self._lines: dict[str, Line] = {}
        self._runner = web.ServerRunner(
            web.Server(self._handle), handler_cancellation=True, shutdown_timeout=1
        )

    async def start(self) -> None:
        await self._runner.setup()

    async def close(self) -> None:
        await self._runner.cleanup()

    @asynccontextmanager
    async def line(self, line: Line) -> AsyncGenerator[Line]:
        """Let this case's calls through, and its faults happen, until the block ends."""
        listener = socket.create_server(("127.0.0.1", 0))
        line.address = "{}:{}".format(*listener.getsockname())
        self._lines[line.address] = line
        site = web.SockSite(self._runner, listener)
        await site.start()
        try:
            yield line
        finally:
            await site.stop()
            del self._lines[line.address]

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        body = await request.read()
        assert request.transport is not None
        line = self._lines["{}:{}".format(*request.transport.get_extra_info("sockname"))]
        host = request.headers["Host"]
        if host == line.address:
            path = request.raw_path.removeprefix("/client/v4")
            url = self._edge.api_base_url + path
            call = f"{request.method} {request.path.removeprefix('/client/v4')}"
            host = url.split("/")[2]
        else:
            url = self._edge.origin + request.raw_path
            call = f"{request.method} {host}{request.path}"
        fault = line.next_fault(ID.sub("*", call))
        if fault is None or fault in DONE:
            headers = {k: v for k, v in request.headers.items() if k.lower() != "host"}
            async with self._session.request(
                request.method, url, data=body, headers=headers | {"Host": host}
            ) as answered:
                answer = web.Response(
                    status=answered.status,
                    body=await answered.read(),
                    headers={"Content-Type": answered.headers.get("Content-Type", "")},
                )
            if fault is None:
                return answer
        return await self._faulted(request, fault)

    async def _faulted(self, request: web.BaseRequest, fault: Fault) -> web.StreamResponse:
        if fault in REFUSALS:
            status, code = REFUSALS[fault]
            answer = web.json_response(
                {"success": False, "errors": [{"code": code, "message": fault}], "result": None},
                status=status,
            )
            if fault is Fault.TOO_MANY_SECONDS:
                answer.headers["Retry-After"] = str(RETRY_AFTER_S)
            return answer
        if fault in PAGES:
            return web.Response(status=PAGES[fault], text="<h1>522</h1>", content_type="text/html")
        if fault is Fault.HOLLOW:
            return web.json_response({"success": True, "errors": [], "result": {}})
        if fault is Fault.GARBLED:
            return web.Response(text='{"success": true, "resu', content_type="application/json")
        if fault in (Fault.SILENT, Fault.LATE):
            await asyncio.sleep(60)  # until the caller has given up
        assert request.transport is not None
        request.transport.abort()
        return web.Response()


@asynccontextmanager
async def faulty_cloudflare(edge: Edge) -> AsyncGenerator[FaultyCloudflare]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), auto_decompress=False
    ) as session:
        proxy = FaultyCloudflare(edge, session)
        await proxy.start()
        try:
            yield proxy
        finally:
            await proxy.close()
